//! What comes in by a rule, or to an address that is one backend's own, without a mapping (W3, S23): a client's first packets go
//! to the member that the rule's hash chooses, or to that backend, and the packet that completes a handshake waits until the log has the mapping.
//!
//! Never a mapping for a packet that anybody may write in a stranger's name: a connection is proved by
//! whoever acknowledges its backend's answer, a datagram by the answer. `policy::enter` decides; called by `inbound`.

use crate::context::{Back, Exit, Frame};
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::{Link, ShardId};
use crate::judge::Judge;
use crate::judge::opening::First;
use crate::judge::policy::{self, Entry, Proposal, Role};
use crate::lease::LeaseWords;
use crate::record::PublicKey;
use crate::shard::half_open::flow_of;
use crate::wire::{IpPacket, TcpFlags};

impl<W: LeaseWords> Judge<'_, W> {
    /// A packet from outside that no live mapping is for.
    pub(crate) fn enter(
        &mut self,
        authority: Authority,
        (home, key): (ShardId, &PublicKey),
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (at, behind) = (self.cx.at(), self.shards.behind);
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NoForward)?;
        let (role, known) = (Role::of(p), shard.half_open.of(key, at.now_ns).is_some());
        if behind && role == Role::First && !known && shard.half_open.is_full(key.frontend) {
            return Err(DropReason::Flooded);
        }
        let entry = policy::enter(at, shard, authority, key, (role, p.tcp));
        if at.snapshot.rules.inward(key).is_none() || (role == Role::First && !known) {
            policy::note_stranger_hits(at.snapshot, shard, key);
        }
        let entry = entry?;
        let from = Back { exit: Exit { link: Link::Outside, authority }, sender: p.src };
        let mtu = self.egress.mtu(Link::Inside(entry.vnet()))?;
        self.egress.may_go_on(at, from, mtu, p, frame)?;
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NoForward)?;
        match entry {
            Entry::Stranger(to) => self.send_in(authority, to, p, frame),
            Entry::Half { open, known } => {
                if p.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::RST)) {
                    shard.half_open.remove(key);
                } else if !known {
                    shard.half_open.put(at.now_ns, open, None);
                }
                let to = policy::end_of(at.snapshot, &open)?;
                self.send_in(authority, to, p, frame)
            }
            Entry::Park(open) => {
                self.opening().park(home, &flow_of(&open), &First { packet: p, frame, from: Link::Outside })
            }
            Entry::Open { open, adopted } => {
                let backend = at.snapshot.backends.get(&open.backend).ok_or(DropReason::NoMapping)?;
                if adopted {
                    shard.half_open.adopted(key.frontend);
                }
                let proposal = Proposal::of_inward(backend, &open);
                let opened = self.opening().propose(
                    &proposal,
                    &flow_of(&open),
                    &First { packet: p, frame, from: Link::Outside },
                );
                self.egress.counters.attempted(p.proto, &opened);
                opened.map(|_| Verdict::Consumed)
            }
        }
    }
}
