//! Graceful stops and rolling restarts of a simulated cluster, under the stop token (N3).

use control::command::CommandBody;
use engine::ids::NodeId;
use rand::Rng;

use super::healing::Stop;
use super::params::MS;
use super::world::World;

/// How long a node waits for the stop token, and then for its leaderships to be taken.
const TOKEN_WAIT_NS: u64 = 3_000 * MS;
const STOP_WAIT_NS: u64 = 2_500 * MS;

impl World {
    pub(super) fn begin_stop(&mut self, id: NodeId) {
        if self.healing.stopping.contains_key(&id) || !self.nodes.contains_key(&id) {
            return;
        }
        self.healing.stopping.insert(id, Stop::AsksForToken { until_ns: self.now_ns + TOKEN_WAIT_NS });
    }

    /// Takes every stop a step further, and begins the next one of a rolling restart.
    pub(super) fn stop_on(&mut self) -> Result<(), String> {
        let now_ns = self.now_ns;
        if let Some(id) = self.healing.rolling.first().copied()
            && self.healing.stopping.is_empty()
            && now_ns.is_multiple_of(20 * MS)
            && self.unwell().is_none()
            && self.newest().stop_token().is_none()
        {
            self.healing.rolling.remove(&id);
            self.begin_stop(id);
        }
        self.take_back_a_forgotten_token();
        for (id, stop) in self.healing.stopping.clone() {
            match stop {
                Stop::AsksForToken { until_ns } => {
                    let held = self.newest().stop_token().is_some_and(|token| token.holder == id);
                    if !held && now_ns >= until_ns && self.params.rare.operated {
                        // Whoever asks at a bad moment hears no, and lets it be. A member never does: it asks on, or ends.
                        self.healing.stopping.remove(&id);
                        self.healing.gave_up.extend(self.nodes.get(&id).and_then(|node| node.control.incarnation()));
                    } else if held || now_ns >= until_ns {
                        if let Some(node) = self.nodes.get_mut(&id) {
                            node.stop(now_ns);
                        }
                        let until_ns = now_ns + STOP_WAIT_NS;
                        self.healing.stopping.insert(id, Stop::HandsOver { until_ns });
                    } else if now_ns.is_multiple_of(500 * MS)
                        && let Some(node) = self.nodes.get_mut(&id)
                    {
                        node.submit(now_ns, CommandBody::StopTokenTake { node: id, seen: Vec::new() });
                    }
                }
                Stop::HandsOver { until_ns } if now_ns < until_ns => {}
                Stop::HandsOver { .. } | Stop::Done => {
                    self.healing.stopping.remove(&id);
                    let held = self.newest().stop_token().is_some_and(|token| token.holder == id);
                    if !held {
                        // It was taken back meanwhile, or there was never an answer.
                        self.note_losses(&[id]);
                    }
                    if self.nodes.len() == 1 {
                        continue;
                    }
                    if let Some(node) = self.nodes.remove(&id) {
                        self.outcome.stops += 1;
                        let mut store = node.disk.copy();
                        store.process_ends();
                        let until = now_ns + self.chance.random_range(20..600) * MS;
                        self.healing.dead.insert(id, (until, store));
                    }
                }
            }
        }
        Ok(())
    }

    /// Who asked, heard no and lives on without asking may get the token all the same, later: the last order was on its way.
    /// A life that never asked gives back by itself what it gets.
    fn take_back_a_forgotten_token(&mut self) {
        if !self.params.rare.operated || !self.now_ns.is_multiple_of(500 * MS) {
            return;
        }
        let token = self.newest().stop_token();
        let forgotten = token.is_some_and(|token| {
            self.healing.gave_up.contains(&token.incarnation) && !self.healing.stopping.contains_key(&token.holder)
        });
        if forgotten && self.unwell().is_none() {
            self.count("forgotten token taken back");
            self.orders(CommandBody::StopTokenRevoke);
        }
    }
}
