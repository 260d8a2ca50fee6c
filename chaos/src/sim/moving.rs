//! Backends that leave by another right than before while nothing is wrong: the flows that they have go on as they were (D12),
//! so do connections by rules and private ones (W3, W4), and new ones pass by what there is now.

use engine::ids::ShardId;
use engine::record::{Addr, Endpoint, InsideKey, PublicKey, Scenario};

use super::declared::Declared;
use super::params::MS;
use super::traffic::{Flow, REMOTE, REMOTE_PORT};
use super::ways::Way;
use super::world::{World, said};
use crate::invariants::{d12_kept_flows, i25_new_flows};

/// How long a configuration may take to be in use, and flows to pass under it.
const APPLIED_NS: u64 = 200 * MS;
const PASSED_NS: u64 = 1_000 * MS;
/// New flows that must pass after each move.
const FLOWS: usize = 12;
/// The first port of each turn's.
const PORTS: [u16; 2] = [31_000, 32_000];

impl World {
    /// All backends join the pool that are not in it, and all others leave it; and once more, back.
    pub(super) fn move_in_calm(&mut self) -> Result<(), String> {
        if !self.declared.has_ways() {
            return Ok(());
        }
        for (port, turn) in PORTS.into_iter().zip(1..) {
            let ends: Vec<_> = self.calm.iter().map(|flow| self.end_of(flow)).collect();
            let mut wanted = self.declared.clone();
            wanted.move_all();
            self.wanted = Some(wanted);
            self.next_change_ns = self.now_ns;
            self.operate();
            self.pass(APPLIED_NS)?;
            let (old, to_be_kept) = (self.calm.len(), self.to_be_kept(&ends));
            self.calm.iter_mut().for_each(|flow| flow.answered = false);
            self.begin_calm_flows(FLOWS, port);
            self.begin_calm_clients(turn);
            self.begin_calm_peers(turn);
            self.pass(PASSED_NS)?;
            self.clients_were_served().map_err(said)?;
            self.peers_were_heard(turn).map_err(said)?;
            for (at, end) in to_be_kept {
                let now = self.end_of(&self.calm[at]);
                d12_kept_flows::goes_on(end, now, self.calm[at].answered).map_err(said)?;
                self.judge.went_on();
            }
            let new = &self.calm[old..];
            i25_new_flows::check(new.len(), new.iter().filter(|flow| flow.answered).count()).map_err(said)?;
            // Those that had to end are no longer asked about.
            self.calm.retain(|flow| flow.answered);
        }
        Ok(())
    }

    fn pass(&mut self, for_ns: u64) -> Result<(), String> {
        let until = self.now_ns + for_ns;
        while self.now_ns < until {
            self.step()?;
        }
        Ok(())
    }

    /// By what a flow leaves, as the log has it.
    fn end_of(&self, flow: &Flow) -> Option<(ShardId, PublicKey, Scenario)> {
        let end = |ip, port| Endpoint { addr: Addr::from(ip), port };
        let inside = InsideKey { vnet: flow.host.network, endpoint: end(flow.host.ip, flow.port) };
        // An echo has its identifier at both ends.
        let port = if flow.proto == engine::record::Proto::Icmp { 0 } else { REMOTE_PORT };
        self.judge.end_of(flow.proto, inside, end(REMOTE.0, port))
    }

    /// Flows that must go on, and by which end: all but those by ports of a pool that their backend has left for an address of its
    /// own, for another pool, or for nothing.
    fn to_be_kept(
        &self,
        ends: &[Option<(ShardId, PublicKey, Scenario)>],
    ) -> Vec<(usize, (ShardId, PublicKey, Scenario))> {
        let keeps = |(at, end): (usize, &Option<(ShardId, PublicKey, Scenario)>)| {
            let end = (*end)?;
            let host = self.calm[at].host;
            let backend = self.declared.senders().find(|backend| Declared::host(*backend) == host)?;
            let stays = match (end.2, self.declared.way(backend)) {
                (Scenario::Pool, Some(Way::Pool)) => {
                    let frontend = self.newest().allocation().frontends.get(&end.1.frontend);
                    frontend.is_some_and(|frontend| self.declared.leaves_by(backend, frontend.ip))
                }
                (Scenario::Pool, way) => way == Some(Way::Default),
                _ => true,
            };
            stays.then_some((at, end))
        };
        ends.iter().enumerate().filter_map(keeps).collect()
    }
}
