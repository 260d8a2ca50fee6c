//! What the gateway itself says about packets that end here: ICMP errors to their senders, rate limited (RFC 1812
//! 4.3.2.8). Only for packets that a mapping or a backend stands behind, and only under the lease: from inside's gateway
//! address, or from the frontend that was sent to. Never about ICMP errors, later fragments, or packets to many (RFC 1812
//! 4.3.2.7). Refusals are told of only if the configuration says so (R23): they are policy. That a way ends is told of by
//! default (RFC 1812 5.2.7.1).

use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddrV4};

use foldhash::fast::FixedState;

use crate::arp::on_link;
use crate::event::{Authority, DropReason};
use crate::held::Outgoing;
use crate::ids::{ShardId, Side};
use crate::outbound::is_unicast;
use crate::pipeline::{Access, Cx, endpoint, hop_to};
use crate::record::PublicKey;
use crate::shard::LeaseWords;
use crate::snapshot::{Backend, Refusals, Snapshot, TcpReset};
use crate::wire::{
    FRAME_MAX, IpPacket, Notice, Parsed, Proto, TcpFlags, build_notice, build_reset, increment_ttl, parse,
    rewrite_source,
};
use crate::worker::Worker;

const SECOND_NS: u64 = 1_000_000_000;
/// In all, and to one receiver: per second, and at once.
const ALL: (u64, u64) = (1_000, 200);
const EACH: (u64, u64) = (50, 20);
/// The same of corrections of a backend's gateway.
const ALL_CORRECTIONS: (u64, u64) = (1_000, 200);
const EACH_CORRECTION: (u64, u64) = (1, 2);
/// Receivers are told apart by so many buckets.
const BUCKETS: usize = 256;

/// A token bucket, as the time at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_ns: u64,
}

impl Bucket {
    /// When it will be full once a token is taken now; `None`: it is empty.
    fn after(self, now_ns: u64, (per_second, at_once): (u64, u64)) -> Option<u64> {
        let interval = SECOND_NS / per_second;
        let full = self.full_ns.max(now_ns) + interval;
        (full - now_ns <= interval * at_once).then_some(full)
    }
}

/// How much may be said.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Bucket,
    each: Vec<Bucket>,
    rates: [(u64, u64); 2],
    hasher: FixedState,
}

impl Limits {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_rates(seed, [ALL, EACH])
    }

    /// For what backends are told about their gateway.
    pub(crate) fn corrections(seed: u64) -> Self {
        Self::with_rates(seed, [ALL_CORRECTIONS, EACH_CORRECTION])
    }

    fn with_rates(seed: u64, rates: [(u64, u64); 2]) -> Self {
        let each = vec![Bucket::default(); BUCKETS];
        Self { all: Bucket::default(), each, rates, hasher: FixedState::with_seed(seed) }
    }

    pub(crate) fn take(&mut self, now_ns: u64, to: Ipv4Addr) -> bool {
        let place = usize::try_from(self.hasher.hash_one(u32::from(to)) % BUCKETS as u64).expect("small");
        let (all, each) = (self.all.after(now_ns, self.rates[0]), self.each[place].after(now_ns, self.rates[1]));
        let (Some(all), Some(each)) = (all, each) else { return false };
        self.all.full_ns = all;
        self.each[place].full_ns = each;
        true
    }
}

impl Worker {
    /// Tells a backend that its packet, which was not changed yet, opens no flow (R23, RFC 5508 REQ-8). Returns `reason`.
    pub(crate) fn refuse_flow<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        home: ShardId,
        reason: DropReason,
        p: &IpPacket,
        frame: &[u8],
    ) -> DropReason {
        let s = cx.snapshot;
        if s.params.refusals == Refusals::Told
            && let Some(notice) = notice_of(reason)
            && is_unicast(s, p.dst)
            && let Access::Lease(term) = self.access(cx, home)
        {
            let authority = Authority::Lease { shard: home, term };
            self.notify((s, cx.now_ns), (Side::Inside, authority), notice, p, frame);
        }
        reason
    }

    /// Tells a backend that nobody has the next hop of its packet, which was translated already: it is quoted as it was.
    pub(crate) fn tell_unreachable(&mut self, s: &Snapshot, now_ns: u64, outgoing: &mut Outgoing) -> Option<()> {
        let Outgoing { frame, meta, side: Side::Outside, authority, .. } = outgoing else { return None };
        let Authority::Lease { shard, .. } = *authority else { return None };
        let Ok(Parsed::Ip(p)) = parse(frame, meta) else { return None };
        let frontend = *s.frontend_by_ip.get(&p.src)?;
        let remote = endpoint(p.dst, p.dst_port);
        let key = PublicKey { proto: p.proto, frontend, port: p.src_port, remote };
        let table = &self.replica(shard)?.replica.table;
        let inside = table.record(table.find_public(&key)?).inside;
        let ip = inside.addr.ipv4()?;
        rewrite_source(frame, meta, &p, ip, inside.port);
        increment_ttl(frame, p.l3);
        self.notify((s, now_ns), (Side::Inside, *authority), Notice::HostUnreachable, &IpPacket { src: ip, ..p }, frame)
    }

    /// A segment that belongs to no connection known here, of a backend whose rule wants resets (R27): it is told so, as the
    /// remote would (RFC 9293 3.10.7.1). Nothing goes outside. Returns the reason to drop it.
    pub(crate) fn refuse_stray(
        &mut self,
        (s, now_ns): (&Snapshot, u64),
        authority: Authority,
        backend: &Backend,
        p: &IpPacket,
    ) -> DropReason {
        let reason = DropReason::NotFirstPacket;
        let (Some(tcp), Authority::Lease { .. }, TcpReset::On) = (p.tcp, authority, backend.tcp_reset_on_idle) else {
            return reason;
        };
        if tcp.flags.contains(TcpFlags::RST) || p.fragment.is_some() || !self.notice_limits.take(now_ns, p.src) {
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
        self.send_own(s, now_ns, (Side::Inside, p.src), authority, &mut frame);
        reason
    }

    /// Tells the sender of a packet, which arrived on `side` and was not changed yet, why it ends here.
    pub(crate) fn notify(
        &mut self,
        (s, now_ns): (&Snapshot, u64),
        (side, authority): (Side, Authority),
        notice: Notice,
        p: &IpPacket,
        frame: &[u8],
    ) -> Option<()> {
        let Authority::Lease { .. } = authority else { return None };
        let (from, hop) = match side {
            Side::Inside => {
                let here = |ip| s.subnets.iter().find(|n| n.vnet == self.vnet && on_link(n.network, n.prefix_len, ip));
                (here(p.src)?.gateway, p.src)
            }
            Side::Outside => (p.dst, hop_to(s, p.src).ok()?),
        };
        if !self.notice_limits.take(now_ns, p.src) {
            return None;
        }
        let id = self.identifications.take((from, p.src), Proto::Icmp, 1);
        let mut out = [0; FRAME_MAX];
        let packet = frame.get(usize::from(p.l3)..usize::from(p.l3) + usize::from(p.total_len))?;
        let len = build_notice(&mut out, (from, p.src), id, notice, packet);
        self.send_own(s, now_ns, (side, hop), authority, &mut out[..len]);
        Some(())
    }
}

/// What a backend hears if its new flow is refused for this reason: that it may not, or that it has too many.
fn notice_of(reason: DropReason) -> Option<Notice> {
    use DropReason as R;
    let prohibited = [R::NoOutboundPath, R::MartianDestination];
    let exhausted = [R::PortsExhausted, R::TableFull, R::FlowLimit, R::RateLimit, R::HoldLimit];
    if prohibited.contains(&reason) {
        return Some(Notice::Prohibited);
    }
    exhausted.contains(&reason).then_some(Notice::HostUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn one_receiver_s_flood_leaves_something_to_say_to_others() {
        let mut limits = Limits::new(3);
        assert_eq!((0..1000).filter(|_| limits.take(0, A)).count(), 20);
        assert_eq!((0..1000).filter(|_| limits.take(0, B)).count(), 20);
        let said = (1..=10_000).filter(|ms| limits.take(ms * 1_000_000, A)).count();
        assert_eq!(said, 500, "fifty a second, the first ones are gone");
    }

    #[test]
    fn in_all_no_more_is_said_than_a_thousand_a_second() {
        let mut limits = Limits::new(3);
        let all = (0..2000_u32).filter(|n| limits.take(0, Ipv4Addr::from(0x0a00_0000 + n))).count();
        assert_eq!(all, 200);
    }
}
