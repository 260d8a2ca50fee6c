//! Traffic: a flood of new UDP flows, a paced stream that measures round trips, and the echo service that answers it. All
//! of it bounded; sockets belong to the namespace of the calling thread.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

/// Ports of the echo service: each is a remote of its own, so that a lease of ports carries as many flows on each.
pub const ECHO_PORTS: std::ops::Range<u16> = 7_001..7_033;
/// Ports of the flood's remotes. Nobody listens: the sink counts and drops.
pub const FLOOD_PORTS: std::ops::Range<u16> = 10_000..60_000;
/// Source ports of a flood: fewer than the lease of a small pool (1024 ports), since every remote meets all of them.
const FLOOD_SOURCES: u64 = 64;
/// A first packet is held for a second at most.
const REPLY_WITHIN: Duration = Duration::from_secs(1);
/// From one datagram of a flood's flow to the next.
const AFTER: Duration = Duration::from_millis(5);
/// Payload of a flood's datagrams.
const PAYLOAD: &[u8] = b"qnat-bench flood";

/// Answers datagrams on `address` until `stop`.
///
/// # Errors
/// If a port is taken.
pub fn echo(address: Ipv4Addr, stop: &AtomicBool) -> Result<()> {
    let bind = |port| {
        let socket = UdpSocket::bind((address, port)).with_context(|| format!("echo service on {address}:{port}"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let sockets: Vec<UdpSocket> = ECHO_PORTS.map(bind).collect::<Result<_>>()?;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }))?;
        for (socket, state) in sockets.iter().zip(&waiting) {
            if !state.revents().contains(PollFlags::IN) {
                continue;
            }
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // A lost answer is what the other end counts.
                let _lost = socket.send_to(&buffer[..length], from);
            }
        }
    }
    Ok(())
}

/// Round trips of one stream, by the client's own clock.
#[derive(Debug)]
pub struct Trips {
    /// Of the first packet of a flow, nanoseconds.
    pub first: Histogram<u64>,
    /// Of the second packet of the same flow.
    pub later: Histogram<u64>,
    /// Flows whose first packet had no answer within a second.
    pub lost: u64,
}

/// Percentiles of round trips, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TripTimes {
    /// How many.
    pub count: u64,
    /// Half are shorter.
    pub p50_us: f64,
    /// All but a hundredth are shorter.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
}

impl TripTimes {
    /// Of a histogram of nanoseconds.
    #[must_use]
    pub fn of(trips: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        Self {
            count: trips.len(),
            p50_us: us(trips.value_at_quantile(0.5)),
            p99_us: us(trips.value_at_quantile(0.99)),
            max_us: us(trips.max()),
        }
    }
}

/// Opens a new flow every `1/rate` seconds (later, if the one before had no answer yet) towards the echo service, until
/// `stop` or for `bound`. Each flow is a socket, so a source port, of its own, and exchanges two datagrams.
///
/// # Errors
/// If there are no sockets.
pub fn stream(remote: Ipv4Addr, rate: u32, bound: Duration, stop: &AtomicBool) -> Result<Trips> {
    let histogram = || Histogram::new_with_bounds(1, 10_000_000_000, 3).context("histogram");
    let mut trips = Trips { first: histogram()?, later: histogram()?, lost: 0 };
    let began = Instant::now();
    let mut next = began;
    let ports = ECHO_PORTS.cycle();
    for port in ports {
        if stop.load(Ordering::Relaxed) || began.elapsed() >= bound {
            break;
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::from((remote, port)))?;
        socket.set_read_timeout(Some(REPLY_WITHIN))?;
        match exchange(&socket, b"1")? {
            Some(ns) => {
                trips.first.saturating_record(ns);
                if let Some(ns) = exchange(&socket, b"2")? {
                    trips.later.saturating_record(ns);
                }
            }
            None => trips.lost += 1,
        }
        next = (next + Duration::from_secs(1) / rate).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(trips)
}

/// Round trips of a flow that stands, by the client's own clock.
#[derive(Debug)]
pub struct Standing {
    /// Nanoseconds.
    pub trips: Histogram<u64>,
    /// Datagrams without an answer within a second. The next one begins a flow anew, lest a late answer pass for its own.
    pub lost: u64,
}

/// Sends a datagram of one and the same flow `every` so often (later, if the one before had no answer yet) to the echo service,
/// until `stop`.
///
/// # Errors
/// If there is no socket.
pub fn standing(remote: Ipv4Addr, every: Duration, stop: &AtomicBool) -> Result<Standing> {
    let open = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::from((remote, ECHO_PORTS.start)))?;
        socket.set_read_timeout(Some(REPLY_WITHIN))?;
        // That of a first packet is not what a flow that stands has.
        let _first = exchange(&socket, b"0")?;
        Ok(socket)
    };
    let mut all = Standing { trips: Histogram::new_with_bounds(1, 10_000_000_000, 3).context("histogram")?, lost: 0 };
    let (mut socket, mut next) = (open()?, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        match exchange(&socket, b"1")? {
            Some(ns) => all.trips.saturating_record(ns),
            None => (all.lost, socket) = (all.lost + 1, open()?),
        }
        next = (next + every).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(all)
}

fn exchange(socket: &UdpSocket, nonce: &[u8; 1]) -> Result<Option<u64>> {
    let sent = Instant::now();
    socket.send(nonce)?;
    let mut back = [0; 16];
    match socket.recv(&mut back) {
        Ok(length) if back[..length] == *nonce => Ok(Some(u64::try_from(sent.elapsed().as_nanos())?)),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a flood really sent.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Flows whose first datagram was sent.
    pub sent: u64,
    /// In this time.
    pub took: Duration,
    /// Number of the first flow that was not used yet.
    pub next: u64,
}

/// Begins `rate` flows a second for `lasting`, each with a datagram, and sends the others of its `packets` some milliseconds after one another.
/// None was there before: flow `n` is source socket `n mod sources`, remote port by the rest. Paced in slices of a millisecond.
///
/// # Errors
/// If there are no sockets.
pub fn flood(remote: Ipv4Addr, first: u64, (rate, packets): (u32, u32), lasting: Duration) -> Result<Flood> {
    let bind = |_| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    let sockets: Vec<UdpSocket> = (0..FLOOD_SOURCES).map(bind).collect::<Result<_>>()?;
    let send = |number| {
        let (source, port) = flow(number);
        sockets[source].send_to(PAYLOAD, (remote, port)).is_ok()
    };
    let (mut sent, mut number) = (0, first);
    // When the next one of a flow is due, and how many there are still.
    let mut later: VecDeque<(Duration, u64, u32)> = VecDeque::new();
    let began = Instant::now();
    while began.elapsed() < lasting {
        let now = began.elapsed();
        while let Some((_, number, left)) = later.pop_front_if(|(due, ..)| *due <= now) {
            let _lost = send(number);
            later.extend((left > 1).then_some((now + AFTER, number, left - 1)));
        }
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while (sent as f64) < due && began.elapsed() < lasting {
            // What does not fit into the queue of the interface was not offered.
            if send(number) {
                sent += 1;
                later.extend((packets > 1).then_some((now + AFTER, number, packets - 1)));
            }
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Flood { sent, took: began.elapsed(), next: number })
}

/// Source and remote port of flow `number`.
fn flow(number: u64) -> (usize, u16) {
    let ports = FLOOD_PORTS.end - FLOOD_PORTS.start;
    let source = usize::try_from(number % FLOOD_SOURCES).expect("few sources");
    let port = u16::try_from(number / FLOOD_SOURCES % u64::from(ports)).expect("below the number of ports");
    (source, FLOOD_PORTS.start + port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn flows_of_a_flood_differ_until_all_are_used() {
        let all = FLOOD_SOURCES * u64::from(FLOOD_PORTS.end - FLOOD_PORTS.start);
        let seen: BTreeSet<(usize, u16)> = (0..all).map(flow).collect();
        assert_eq!(seen.len() as u64, all);
        assert!(seen.iter().all(|(_, port)| FLOOD_PORTS.contains(port)));
        assert_eq!(flow(all), flow(0));
    }
}
