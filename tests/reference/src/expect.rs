//! What should have left, octet by octet, against what did.

use engine::ids::{Link, Side};

use crate::bed::Left;
use crate::packet::{ETH, ICMP, be16, cut, icmp, ipv4, mend};
use crate::sent::{Packet, to_backend, to_upstream};
use crate::world::{BACKENDS, GATEWAY};

/// Octets of a gateway's own ICMP error at most (RFC 1812 4.3.2.3), less its headers.
const QUOTE_MAX: usize = 576 - 28;

/// What became of a packet, rightly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// It opened a mapping and left.
    Opened,
    /// It left under a mapping.
    Out,
    /// It came in by its own mapping.
    In,
    /// It came in by its receiver's mapping towards somebody else (R6).
    LetIn,
    /// Its port is in use, but not for it.
    Filtered,
    /// Nothing stands behind it.
    Refused,
    /// No port is free towards its remote (S12).
    NoPort,
    /// Its backend has as many flows as it may (R21).
    OverQuota,
    /// It opens flows faster than it may.
    OverRate,
    /// It was turned back inside (R7).
    Turned,
    /// It was to be, but its receiver lets nobody in whom it has not called.
    TurnedAway,
    /// Its hops ran out, or it was too long, and its sender was told (R11, R25).
    Told,
    /// The same, and its sender was not told again.
    Untold,
    /// An error that found the one it is about.
    Error,
    /// The same of a packet that was turned back (R17).
    ErrorTurned,
    /// An error about nothing.
    ErrorRefused,
    /// A fragment that left behind its first (R10).
    Followed,
    /// One that waits for its first.
    Waits,
    /// One that came twice.
    Copy,
    /// One that lies over others.
    Overlap,
    /// One that hides its transport header.
    Tiny,
    /// One whose datagram does not leave.
    Lost,
    /// What a remote begins reached a backend that has an address of its own (S23).
    Begun,
    /// Its backend answered that.
    Answered,
    /// Now it is proved, and has a mapping.
    LetInside,
    /// The backend's guard let it begin nothing (S26).
    Denied,
    /// It came by another network than its source is of.
    Astray,
}

/// What a judge says: what became of the packet, or what should have.
pub type Judged = Result<Outcome, String>;

/// Compares what left with the frame that should have, which is cut if it is longer than the link takes. `fresh`: its IP
/// identification is the translator's own to choose (R20).
pub(crate) fn expect(left: &[Left], link: Link, wanted: &[u8], mtu: u16, fresh: bool) -> Result<(), String> {
    let mut wanted = wanted.to_vec();
    if let (true, Some(first)) = (fresh, left.first()) {
        wanted[ETH + 4..ETH + 6].copy_from_slice(&first.frame[ETH + 4..ETH + 6]);
        if wanted[ETH + 6] & 0x3f == 0 && wanted[ETH + 7] == 0 {
            // Of the IP header alone: a UDP checksum that is none stays none.
            let sum = wanted[ETH + 26..ETH + 28].to_vec();
            mend(&mut wanted);
            wanted[ETH + 26..ETH + 28].copy_from_slice(&sum);
        } else {
            mend(&mut wanted);
        }
    }
    let all = cut(&wanted, mtu);
    let same =
        left.len() == all.len() && left.iter().zip(&all).all(|(left, one)| left.link == link && left.frame == *one);
    if same {
        return Ok(());
    }
    let left: Vec<String> = left.iter().map(|left| format!("{:?} {:02x?}", left.link, left.frame)).collect();
    Err(format!("left {left:?}, wanted {link:?} {all:02x?}"))
}

/// The public port that a frame which left shows.
pub(crate) fn public_port(left: &Left) -> Result<u16, String> {
    let at = if left.frame[ETH + 9] == ICMP { 4 } else { 0 };
    let payload = left.frame.get(ETH + 20..).filter(|payload| payload.len() >= 8).ok_or("a frame cut short")?;
    Ok(be16(payload, at))
}

/// What the gateway says about a packet that ends here.
#[derive(Debug)]
pub(crate) struct Notice {
    link: Link,
    frame: Vec<u8>,
}

/// What there is to say about a packet that arrived on `side` and would go on by a link of this MTU.
pub(crate) fn notice(p: &Packet, side: Side, mtu: u16) -> Option<Notice> {
    let (kind, code, rest) = if p.ttl <= 1 {
        (11, 0, [0; 4])
    } else if p.whole && p.size() > usize::from(mtu) {
        let [high, low] = mtu.to_be_bytes();
        (3, 4, [0, 0, high, low])
    } else {
        return None;
    };
    let about = p.frame(side);
    let quote = &about[ETH..about.len().min(ETH + QUOTE_MAX)];
    let (macs, from, to) = match side {
        Side::Inside => (to_backend(p.backend), GATEWAY, BACKENDS[p.backend]),
        Side::Outside => (to_upstream(), p.public, p.remote),
    };
    let mut frame = ipv4(macs, from, to, ICMP, &icmp(kind, code, rest, quote));
    // Internetwork control (RFC 1812 4.3.2.5).
    frame[ETH + 1] = 0xc0;
    mend(&mut frame);
    Some(Notice { link: p.link(side), frame })
}

impl Notice {
    /// It was said, or nothing was.
    pub(crate) fn judge(&self, left: &[Left]) -> Judged {
        if left.is_empty() {
            return Ok(Outcome::Untold);
        }
        expect(left, self.link, &self.frame, u16::MAX, true)?;
        Ok(Outcome::Told)
    }
}
