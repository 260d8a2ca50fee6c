//! What is measured, and what is sent for it. Pure.

use serde::{Deserialize, Serialize};

use super::traffic::Direction;

/// Flows that the kernel of a member without a switch has room for, and twice as many.
const ROOM: u32 = 131_072;
const BEYOND: u32 = 2 * ROOM;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// TCP streams, Gbit/s.
    Bulk,
    /// One datagram after the other, microseconds.
    Rtt,
    /// Small datagrams, thousands a second.
    Pps,
    /// `iperf3`, `ping` and round trips of datagrams between instances.
    Between,
    /// Small datagrams that the kernel makes and counts, thousands a second.
    Offered,
    /// The same by a member that hangs on its ends without a switch.
    Direct,
    /// The same, of a million flows.
    Million,
    /// The same by a cluster of one member with one worker and with two.
    Crew,
}

impl Work {
    /// The command.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Rtt => "rtt",
            Self::Pps => "pps",
            Self::Between => "between",
            Self::Offered => "offered",
            Self::Direct => "direct",
            Self::Million => "million",
            Self::Crew => "crew",
        }
    }

    /// By a member without switches.
    pub(crate) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Million)
    }

    /// Flows that the kernel of such a member has room for: more than there are, but for one load.
    pub(crate) const fn room(self) -> u32 {
        if matches!(self, Self::Million) { 8 * ROOM } else { ROOM }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    Streams(usize, Direction),
    Iperf(usize),
    Trips,
    Pings,
    Datagrams(usize),
    Offered(u32),
    /// While the configuration changes.
    OfferedAmid(u32),
    OfferedNew,
}

impl Work {
    pub(super) fn loads(self) -> Vec<(String, Load)> {
        let streams = |count, direction, word: &str| {
            let plural = if count == 1 { "" } else { "s" };
            (format!("TCP, {count} stream{plural} {word}"), Load::Streams(count, direction))
        };
        let datagrams = |count| {
            let plural = if count == 1 { "" } else { "s" };
            (format!("UDP, 60 octets, {count} flow{plural}"), Load::Datagrams(count))
        };
        let between = |count| {
            let plural = if count == 1 { "" } else { "s" };
            (format!("iperf3 between instances, {count} stream{plural}"), Load::Iperf(count))
        };
        let offered = |count: u32| {
            let plural = if count == 1 { "" } else { "s" };
            (format!("UDP, 60 octets, {count} flow{plural}, by one processor"), Load::Offered(count))
        };
        let direct = |count: u32| {
            let plural = if count == 1 { "" } else { "s" };
            (format!("UDP, 60 octets, {count} flow{plural}, without a switch"), Load::Offered(count))
        };
        let amid = |count: u32| {
            let load = format!("UDP, 60 octets, {count} flows, without a switch, amid changes of others");
            (load, Load::OfferedAmid(count))
        };
        let trips = |word: &str| (format!("UDP, 1 octet there and back{word}"), Load::Trips);
        match self {
            Self::Bulk => vec![
                streams(1, Direction::Up, "up"),
                streams(1, Direction::Down, "down"),
                streams(8, Direction::Up, "up"),
                streams(8, Direction::Down, "down"),
            ],
            Self::Rtt => vec![trips("")],
            Self::Crew => vec![
                ("UDP, 60 octets, 2,000 flows of two shards".to_owned(), Load::Offered(1_000)),
                ("UDP, 60 octets, each a new flow, two shards".to_owned(), Load::OfferedNew),
            ],
            Self::Pps => vec![datagrams(1), datagrams(100)],
            Self::Offered => vec![
                offered(1),
                offered(10_000),
                offered(50_000),
                ("UDP, 60 octets, each a new flow, by one processor".to_owned(), Load::OfferedNew),
            ],
            Self::Direct => {
                let beyond = "UDP, 60 octets, twice as many flows as the kernel has room for, without a switch";
                let new = "UDP, 60 octets, each a new flow, without a switch";
                vec![
                    direct(1),
                    direct(10_000),
                    direct(100_000),
                    amid(100_000),
                    (beyond.to_owned(), Load::Offered(BEYOND)),
                    (new.to_owned(), Load::OfferedNew),
                ]
            }
            Self::Million => vec![direct(1_000_000), amid(1_000_000)],
            Self::Between => vec![
                between(1),
                between(8),
                ("ping between instances".to_owned(), Load::Pings),
                trips(" between instances"),
            ],
        }
    }
}
