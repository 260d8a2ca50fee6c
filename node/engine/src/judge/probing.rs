//! What the gateway itself asks of backends (S22): packets of probes on their way in, and the answers, which end here.
//!
//! The connections are the driver's; here they are judged as what comes from the platform's address: by the groups of the
//! backend, under the lease of its shard, to its own virtual network. An answer goes to whoever owns that shard, by
//! whatever virtual MAC it came. Nothing of it is a mapping, and nothing to or from that address ever leaves by the
//! outside.

use crate::addresses::endpoint;
use crate::consent::{groups_admit, note_stranger};
use crate::context::{Access, Exit, Frame};
use crate::egress::delivered::Answer;
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::FlowKey;
use crate::ids::{BackendId, Link, VnetId};
use crate::judge::Judge;
use crate::lease::LeaseWords;
use crate::probes::SOURCE;
use crate::record::{InsideKey, Proto};
use crate::wire::{FrameMeta, IpPacket, Parsed, TcpFlags, parse};

impl<W: LeaseWords> Judge<'_, W> {
    /// Sends a segment of a probe's connection; the frame has room for its Ethernet header.
    pub(crate) fn probe(&mut self, id: BackendId, frame: &mut [u8]) -> Result<(), DropReason> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        let backend = s.backends.get(&id).ok_or(DropReason::NoBackend)?;
        let Ok(Parsed::Ip(p)) = parse(frame, &FrameMeta::default()) else { return Err(DropReason::Malformed) };
        if (p.proto, p.src, p.dst) != (Proto::Tcp, SOURCE, backend.ip) {
            return Err(DropReason::Malformed);
        }
        let Access::Here(authority @ Authority::Lease { .. }) = self.shards.access(&self.cx, backend.home) else {
            return Err(DropReason::NotOwner);
        };
        let inside = InsideKey { vnet: backend.vnet, endpoint: endpoint(p.dst, p.dst_port) };
        let flow = FlowKey { proto: p.proto, inside, remote: endpoint(p.src, p.src_port) };
        if p.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN))
            && let Some(shard) = self.shards.replica_mut(backend.home)
        {
            note_stranger(&mut shard.hits, s, id, &flow);
        }
        if !groups_admit(s, id, &flow) {
            return Err(DropReason::SecurityRule);
        }
        let exit = Exit { link: Link::Inside(backend.vnet), authority };
        self.egress.mtu(exit.link)?;
        self.egress.send_own(at, exit, backend.ip, frame);
        Ok(())
    }

    /// What a backend sends to the platform's address: the answer to a probe, or nothing that anybody serves.
    pub(crate) fn take_answer(
        &mut self,
        vnet: VnetId,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let s = self.cx.snapshot;
        let id = *s.backend_by_ip.get(&(vnet, p.src)).ok_or(DropReason::SpoofedSource)?;
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        let begins = |flags: TcpFlags| flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK);
        if p.fragment.is_some() || p.tcp.is_none_or(|tcp| begins(tcp.flags)) {
            return Err(DropReason::PlatformAddress);
        }
        match self.shards.access(&self.cx, backend.home) {
            Access::Here(Authority::Lease { .. }) => {}
            Access::Here(Authority::Grace { .. } | Authority::Forward) => return Err(DropReason::NotOwner),
            Access::Forward(node) => {
                return self.egress.forward(s, Link::Inside(vnet), node, p.eth_src, frame);
            }
            Access::Nothing(reason) => return Err(reason),
        }
        let (from, to) = (usize::from(p.l3), usize::from(p.l3) + usize::from(p.total_len));
        let packet = frame.bytes.get(from..to).ok_or(DropReason::Truncated)?;
        self.egress.delivered.push(Answer { backend: id, port: p.dst_port, packet: packet.into() })?;
        Ok(Verdict::Consumed)
    }
}
