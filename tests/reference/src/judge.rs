//! What must hold of every frame that leaves, whatever came in: where it goes, under whose name, and its checksums. By the
//! naive code of `packet`, and without knowing what was sent.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::event::Authority;
use engine::ids::{Link, Mac, Side};

use crate::bed::{BACKENDS, GATEWAY, Left, PUBLIC, SHARD, lease_of, mac_of, place_of};
use crate::hostile::WHOLE_MIN;
use crate::packet::{ETH, ICMP, Reassembly, TCP, UDP, addresses, be16, checksum, examine, sum};

/// Checks a frame that left by itself, without knowing what came in (I13, I14, R16, R28).
///
/// # Errors
/// Says what is wrong with it.
pub fn check(left: &Left) -> Result<(), String> {
    if left.is_arp() {
        return Ok(());
    }
    if !matches!(left.authority, Authority::Lease { .. }) || left.frame[6..12] != Mac::of_shard(SHARD).0 {
        return Err(format!("an owner sends from its vMAC, by its lease: {:?}", left.authority));
    }
    let shape = examine(&left.frame)?;
    let (source, destination) = addresses(&left.frame);
    let payload = &left.frame[ETH + shape.ip_header..ETH + shape.ip_total];
    let names_inside = |bytes: &[u8]| bytes.windows(4).any(|w| BACKENDS.iter().any(|ip| ip.octets() == w));
    let quotes = shape.fragment.0 == 0 && shape.proto == ICMP && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12));
    if quotes {
        check_quote(left.side(), destination, &payload[8..])?;
    }
    match left.link {
        Link::Outside => {
            if source != PUBLIC || is_inside(destination) {
                return Err(format!("{source} to {destination} left outside"));
            }
            // The quote's addresses and checksums only: what a host wrote behind them is its own affair.
            if quotes && names_inside(&payload[8..payload.len().min(28)]) {
                return Err("an inside address in a quote".into());
            }
            let port = match shape.proto {
                UDP | TCP if shape.fragment.0 == 0 => be16(payload, 0),
                ICMP if !quotes && shape.fragment.0 == 0 => be16(payload, 4),
                _ => return Ok(()),
            };
            if !(0..BACKENDS.len()).any(|place| lease_of(place).contains(&port)) {
                return Err(format!("port {port} is in nobody's lease"));
            }
        }
        Link::Inside(network) => {
            let lives_there = place_of(network, destination).is_some();
            if !lives_there || (is_inside(source) && source != GATEWAY) {
                return Err(format!("{source} to {destination} left by {:?}", left.link));
            }
            if left.frame[..6] != mac_of(left.link, destination) {
                return Err(format!("what is for {destination} went to another host of {:?}", left.link));
            }
        }
    }
    Ok(())
}

/// The hosts of each link, who put fragments together.
#[derive(Debug, Default)]
pub struct Receivers(BTreeMap<Link, Reassembly>);

/// What a frame completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// Nothing, or itself.
    No,
    /// One that came in fragments.
    Datagram,
}

impl Receivers {
    /// R10, I14, I21: fragments that leave never overlap, and make datagrams whose checksums are right.
    ///
    /// # Errors
    /// If they do not.
    pub fn take(&mut self, left: &Left) -> Result<Whole, String> {
        // Stray fragments share one identification, and may follow each other when the first are forgotten.
        if left.is_arp() || be16(&left.frame, ETH + 4) == 0x1234 {
            return Ok(Whole::No);
        }
        let Some(whole) = self.0.entry(left.link).or_default().take(&left.frame)? else {
            return Ok(Whole::No);
        };
        if whole.len() == left.frame.len() || whole.len() < ETH + WHOLE_MIN {
            return Ok(Whole::No);
        }
        examine(&whole).map(|_| Whole::Datagram)
    }
}

/// In the subnet that the bed declares; other private addresses may well lie beyond the outside router.
fn is_inside(ip: Ipv4Addr) -> bool {
    ip.octets()[..3] == GATEWAY.octets()[..3]
}

/// R16: what is complained about is what its sender knows, in a header that is right.
fn check_quote(side: Side, receiver: Ipv4Addr, quote: &[u8]) -> Result<(), String> {
    let header = quote.get(..usize::from(quote.first().map_or(0, |first| first & 15)) * 4);
    let header = header.filter(|header| header.len() >= 20).ok_or("a quote without a header")?;
    if checksum(sum(header, 0)) != 0 {
        return Err("the checksum of a quoted header is wrong".into());
    }
    let at = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    match side {
        _ if at(12) != receiver => Err(format!("{receiver} never sent what is quoted: {}", at(12))),
        Side::Outside if at(16) != PUBLIC => Err(format!("a complaint about a packet to {}", at(16))),
        Side::Outside | Side::Inside => Ok(()),
    }
}
