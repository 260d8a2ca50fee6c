//! Fragments, naively (R10, I21): a datagram's first one is judged like any packet, and the others go where it went.

use engine::ids::{Link, Side};

use crate::bed::Left;
use crate::datagrams::{Datagram, Fate, key_of, part_of};
use crate::expect::{Judged, Outcome, expect};
use crate::model::Model;
use crate::packet::{ETH, ICMP, TCP, addresses, mend};
use crate::sent::Packet;
use crate::world::PUBLIC;

/// A later fragment as it leaves behind the first one, `first`.
fn follow(from: Link, first: &[u8], frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..12].copy_from_slice(&first[..12]);
    out[ETH + 12..ETH + 20].copy_from_slice(&first[ETH + 12..ETH + 20]);
    if from.is_inside() {
        // R20: the identification is the translator's own, and one for all.
        out[ETH + 4..ETH + 6].copy_from_slice(&first[ETH + 4..ETH + 6]);
    }
    out[ETH + 8] -= 1;
    mend(&mut out);
    out
}

impl Model {
    /// Judges what the engine did with a fragment that is not its datagram's first.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub fn judge_later(&mut self, now_ns: u64, from: Link, frame: &[u8], left: &[Left]) -> Judged {
        let world = self.world;
        let datagrams = &mut self.local().datagrams;
        datagrams.forget(now_ns);
        let nothing = |outcome| {
            if left.is_empty() { Ok(outcome) } else { Err(format!("left {left:02x?} instead of nothing: {outcome:?}")) }
        };
        if addresses(frame).0 == PUBLIC {
            return nothing(Outcome::Lost);
        }
        // RFC 1858: it would lie over the header that everything is judged by.
        let part = part_of(frame);
        if part.start < if frame[ETH + 9] == TCP { 20 } else { 8 } {
            return nothing(Outcome::Tiny);
        }
        if frame[ETH + 8] <= 1 {
            return nothing(Outcome::Lost);
        }
        let datagram = datagrams.of(now_ns, key_of(from, frame));
        if let Some(outcome) = datagram.note(part) {
            return nothing(outcome);
        }
        match &datagram.fate {
            Fate::Open => {
                datagram.waiting.push(frame.to_vec());
                nothing(Outcome::Waits)
            }
            Fate::Refused | Fate::Stale => nothing(Outcome::Lost),
            Fate::Like(to, first) => {
                expect(left, *to, &follow(from, first, frame), world.mtu_of(*to), false)?;
                Ok(Outcome::Followed)
            }
        }
    }

    /// Judges what the engine did with a whole packet, or with a datagram's first fragment and those that waited for it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub fn judge(
        &mut self,
        now_ns: u64,
        side: Side,
        p: &Packet,
        table: impl Fn() -> Option<u16>,
        left: &[Left],
    ) -> Judged {
        // Nobody outside has the address that is ours.
        if side == Side::Outside && p.remote == PUBLIC {
            return if left.is_empty() { Ok(Outcome::Refused) } else { Err("our own address came in".into()) };
        }
        let Some(first) = p.first else { return self.judge_one(now_ns, side, p, table, left) };
        let (frame, world) = (p.frame(side), self.world);
        let datagrams = &mut self.local().datagrams;
        datagrams.forget(now_ns);
        if usize::from(first) < p.header() {
            return if left.is_empty() { Ok(Outcome::Tiny) } else { Err("a header in pieces left".into()) };
        }
        let from = p.link(side);
        let key = key_of(from, &frame);
        // Public addresses answer no pings, so that nothing is kept of them (R7).
        if side == Side::Inside && (p.proto, p.remote) == (ICMP, PUBLIC) {
            datagrams.0.iter_mut().filter(|d| d.key == key).for_each(Datagram::refuse);
            return self.judge_one(now_ns, side, p, table, left);
        }
        if let Some(outcome) = datagrams.of(now_ns, key).note(part_of(&frame)) {
            return if left.is_empty() { Ok(outcome) } else { Err(format!("{outcome:?}, but it left")) };
        }
        let inwards = side == Side::Outside || p.remote == PUBLIC;
        let mtu = world.mtu[usize::from(!inwards)];
        let own = left.len().min(crate::packet::cut(&frame, mtu).len());
        let outcome = self.judge_one(now_ns, side, p, table, &left[..own])?;
        let datagram = self.local().datagrams.of(now_ns, key);
        let leaves = !left.is_empty() && outcome != Outcome::Told;
        if !leaves {
            datagram.refuse();
            return if left.len() == own { Ok(outcome) } else { Err("fragments left without their first".into()) };
        }
        let to = left[0].link;
        datagram.fate = Fate::Like(to, left[0].frame.clone());
        let mut rest = &left[own..];
        for waiting in std::mem::take(&mut datagram.waiting) {
            let wanted = follow(from, &left[0].frame, &waiting);
            let (these, others) = rest.split_at(rest.len().min(crate::packet::cut(&wanted, mtu).len()));
            expect(these, to, &wanted, mtu, false)?;
            rest = others;
        }
        if rest.is_empty() { Ok(outcome) } else { Err(format!("too much left: {rest:02x?}")) }
    }

    fn judge_one(
        &mut self,
        now_ns: u64,
        side: Side,
        p: &Packet,
        table: impl Fn() -> Option<u16>,
        left: &[Left],
    ) -> Judged {
        match side {
            Side::Outside if self.is_own(side, p) => self.judge_own_in(now_ns, p, left),
            Side::Inside => self.judge_out(now_ns, p, table, left),
            Side::Outside => self.judge_in(now_ns, p, left),
        }
    }
}
