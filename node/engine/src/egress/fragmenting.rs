//! Packets that are larger than the link that they leave by (R11): refused with the size that fits if they must not be
//! fragmented, else cut in order as they leave. An interface's MTU is this node's own affair and not replicated.

use crate::context::{At, Back, Frame};
use crate::egress::Egress;
use crate::egress::held::{Origin, Outgoing};
use crate::event::DropReason;
use crate::ids::Link;
use crate::wire::{Cut, FrameMeta, Gso, IpPacket, L3, Notice, complete_checksum, may_fragment};

impl Egress {
    /// Whether a packet may go on to where `mtu` octets pass: it has a hop left, and fits or may be cut. Its sender is told by
    /// `back` if not. Before it is rewritten, since it is quoted, and before it is taken note of.
    pub(crate) fn may_go_on(
        &mut self,
        at: At<'_>,
        back: Back,
        mtu: u16,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<(), DropReason> {
        let (notice, reason) = if p.ttl <= 1 {
            (Notice::TimeExceeded, DropReason::TtlExpired)
        } else if p.wire_len(frame.meta) <= mtu || (frame.meta.gso == Gso::None && may_fragment(frame.bytes, p.l3)) {
            return Ok(());
        } else {
            // A super-packet of segments that may be fragmented is refused too: nobody below cuts segments again.
            (Notice::FragmentationNeeded { mtu }, DropReason::TooBig)
        };
        self.notify(at, back, notice, p, frame.bytes);
        Err(reason)
    }

    /// Whether a frame that is about to leave has to be cut.
    pub(crate) fn is_too_long(&self, link: Link, meta: &FrameMeta, frame: &[u8]) -> bool {
        let total = frame.get(16..18).map_or(0, |len| u16::from_be_bytes([len[0], len[1]]));
        meta.gso == Gso::None && self.links.mtu(link).is_some_and(|mtu| total > mtu)
    }

    /// Cuts a frame that is too long: it becomes its first piece, and the others stand first in the queue behind it. One
    /// that fitted when it began to wait, and must not be fragmented, ends here; its sender hears of the link by the next.
    pub(crate) fn cut(&mut self, next: &mut Outgoing) -> Result<(), DropReason> {
        let is_ip = next.frame.get(12..14) == Some(&[8, 0]);
        if !is_ip || !self.is_too_long(next.link, &next.meta, &next.frame) {
            return Ok(());
        }
        if !may_fragment(&mut next.frame, L3) {
            return Err(DropReason::TooBig);
        }
        let mtu = self.mtu(next.link)?;
        let Some(cut) = Cut::of(&mut next.frame, mtu) else { return Ok(()) };
        complete_checksum(&mut next.frame, &mut next.meta);
        for place in (1..cut.pieces()).rev() {
            let mut frame = self.held.spare();
            cut.piece(&next.frame, place, &mut frame);
            let (meta, link, authority, since_ns) = (next.meta, next.link, next.authority, next.since_ns);
            self.held.push_own_first(Outgoing { frame, meta, link, authority, origin: Origin::Own, since_ns });
        }
        let mut first = self.held.spare();
        cut.piece(&next.frame, 0, &mut first);
        self.held.keep(std::mem::replace(&mut next.frame, first));
        Ok(())
    }
}
