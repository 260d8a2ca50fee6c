//! What the gateway itself says about packets that end here: ICMP errors to their senders, rate limited (RFC 1812
//! 4.3.2.8). Only for packets that a mapping or a backend stands behind, and only under the lease: from inside's gateway
//! address, or from the frontend that was sent to. Never about ICMP errors, later fragments, or packets to many (RFC 1812
//! 4.3.2.7). Refusals are told of only if the configuration says so (R23): they are policy. That a way ends is told of by
//! default (RFC 1812 5.2.7.1).

use std::net::SocketAddrV4;

use crate::addresses::{InsideEnd, endpoint, hop_to, is_unicast, subnet_of};
use crate::context::{At, Back, Exit, Frame};
use crate::egress::Egress;
use crate::egress::held::Outgoing;
use crate::event::{Authority, DropReason};
use crate::ids::Link;
use crate::record::PublicKey;
use crate::shard::shards::Shards;
use crate::snapshot::{Backend, Refusals, TcpReset};
use crate::wire::{
    FRAME_MAX, IpPacket, Notice, Parsed, Proto, TcpFlags, build_notice, build_reset, increment_ttl, parse,
    rewrite_source,
};

impl Egress {
    /// Tells a backend that its packet, which was not changed yet, opens no flow (R23, RFC 5508 REQ-8). Returns `reason`.
    pub(crate) fn refuse_flow(
        &mut self,
        at: At<'_>,
        back: Back,
        reason: DropReason,
        p: &IpPacket,
        frame: &Frame<'_>,
    ) -> DropReason {
        if at.snapshot.params.refusals == Refusals::Told
            && let Some(notice) = notice_of(reason)
            && let Link::Inside(vnet) = back.exit.link
            && is_unicast(at.snapshot, vnet, p.dst)
        {
            self.notify(at, back, notice, p, frame.bytes);
        }
        reason
    }

    /// Tells a backend that nobody has the next hop of its packet, which was translated already: it is quoted as it was.
    pub(crate) fn tell_unreachable(&mut self, at: At<'_>, shards: &Shards, outgoing: &mut Outgoing) -> Option<()> {
        let Outgoing { frame, meta, link: Link::Outside, authority, .. } = outgoing else { return None };
        let Authority::Lease { shard, .. } = *authority else { return None };
        let Ok(Parsed::Ip(p)) = parse(frame, meta) else { return None };
        let frontend = *at.snapshot.frontend_by_ip.get(&p.src)?;
        let remote = endpoint(p.dst, p.dst_port);
        let key = PublicKey { proto: p.proto, frontend, port: p.src_port, remote };
        let table = &shards.replica(shard)?.replica.table;
        let record = table.record(table.find_public(&key)?);
        let to = InsideEnd::of(record.inside_key(), at.snapshot.backends.get(&record.backend)?)?;
        rewrite_source(frame, meta, &p, to.ip, to.port);
        increment_ttl(frame, p.l3);
        let quoted = IpPacket { src: to.ip, ..p };
        let back = Back { exit: Exit { link: to.link(), authority: *authority }, sender: to.at };
        self.notify(at, back, Notice::HostUnreachable, &quoted, frame)
    }

    /// A segment that belongs to no connection known here, of a backend whose rule wants resets (R27): it is told so, as the
    /// remote would (RFC 9293 3.10.7.1). Nothing goes outside. Returns the reason to drop it.
    pub(crate) fn refuse_stray(
        &mut self,
        at: At<'_>,
        authority: Authority,
        backend: &Backend,
        p: &IpPacket,
    ) -> DropReason {
        let (reason, link) = (DropReason::NotFirstPacket, Link::Inside(backend.vnet));
        let (Some(tcp), Authority::Lease { .. }, TcpReset::On) = (p.tcp, authority, backend.tcp_reset_on_idle) else {
            return reason;
        };
        if tcp.flags.contains(TcpFlags::RST)
            || p.fragment.is_some()
            || !self.notices.take(at.now_ns, (link, backend.ip))
        {
            return reason;
        }
        let (seq, ack) = if tcp.flags.contains(TcpFlags::ACK) {
            (tcp.ack, None)
        } else {
            let len = tcp.payload_len + u32::from(tcp.flags.contains(TcpFlags::FIN));
            (0, Some(tcp.seq.wrapping_add(len)))
        };
        let (from, to) = (SocketAddrV4::new(p.dst, p.dst_port), SocketAddrV4::new(p.src, p.src_port));
        let mut frame = build_reset(from, to, seq, ack);
        self.send_own(at, Exit { link, authority }, backend.ip, &mut frame);
        reason
    }

    /// Tells the sender of a packet, which arrived by `back` and was not changed yet, why it ends here.
    pub(crate) fn notify(
        &mut self,
        at: At<'_>,
        Back { exit, sender }: Back,
        notice: Notice,
        p: &IpPacket,
        frame: &[u8],
    ) -> Option<()> {
        let Authority::Lease { .. } = exit.authority else { return None };
        let (s, link) = (at.snapshot, exit.link);
        let (from, hop) = match link {
            Link::Inside(vnet) => (subnet_of(s, vnet, sender)?.gateway, sender),
            Link::Outside => (p.dst, hop_to(s, p.src).ok()?),
        };
        if !self.notices.take(at.now_ns, (link, sender)) {
            return None;
        }
        let id = self.identifications.take((from, p.src), Proto::Icmp, 1);
        let mut out = [0; FRAME_MAX];
        let packet = frame.get(usize::from(p.l3)..usize::from(p.l3) + usize::from(p.total_len))?;
        let len = build_notice(&mut out, (from, p.src), id, notice, packet);
        self.send_own(at, exit, hop, &mut out[..len]);
        Some(())
    }
}

/// What a backend hears if its new flow is refused for this reason: that it may not, or that it has too many.
fn notice_of(reason: DropReason) -> Option<Notice> {
    use DropReason as R;
    let prohibited = [
        R::NoOutboundPath,
        R::DefaultOutboundOff,
        R::NoOwnAddress,
        R::MartianDestination,
        R::PrivateDestination,
        R::SecurityRule,
    ];
    let exhausted = [R::PortsExhausted, R::TableFull, R::FlowLimit, R::RateLimit, R::HoldLimit];
    if prohibited.contains(&reason) {
        return Some(Notice::Prohibited);
    }
    exhausted.contains(&reason).then_some(Notice::HostUnreachable)
}
