//! What goes wrong in a simulated world, when, and when it is over.

use consensus::control::storage::memory::Fault;
use engine::ids::NodeId;
use rand::Rng;

use super::healing::Lane;
use super::node::Thread;
use super::params::{Faults, MS};
use super::world::{FAULTS_FROM_NS, FAULTS_UNTIL_NS, World};

impl World {
    /// What the others send to `id` takes long, for a while; its own frames do not.
    fn slow_down(&mut self, id: NodeId, until_ns: u64) {
        let by = self.chance.random_range(5..35) * MS;
        for other in self.ids().filter(|other| *other != id) {
            if self.chance.random_bool(0.6) {
                self.healing.slow.insert((other, id), (until_ns, by));
            }
        }
    }

    /// Whether nothing is wrong any more.
    pub(super) fn faults_are_over(&self) -> bool {
        self.healing.wrong(self.now_ns).is_none()
    }

    /// Whether more may be wrong than one fault, so that service is not promised (I53).
    pub(super) fn is_excused(&self) -> bool {
        let rare = &self.params.rare;
        let several = self.params.faults == Faults::Overlapping || rare.deadly || rare.operated || rare.failing_disks;
        several || self.healing.majority_died
    }

    /// Ends what is over and begins what is due.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        self.heal()?;
        self.stop_on()?;
        if self.now_ns < self.healing.next_ns.max(FAULTS_FROM_NS) || self.now_ns > FAULTS_UNTIL_NS {
            return Ok(());
        }
        if self.params.majority_dies && self.now_ns > FAULTS_UNTIL_NS - 1_000 * MS && !self.healing.majority_died {
            if self.faults_are_over() && self.unwell().is_none() {
                self.healing.majority_died = true;
                return self.majority_dies();
            }
            return Ok(());
        }
        match self.params.faults {
            Faults::OneAtATime => {
                self.healing.next_ns = self.now_ns + 50 * MS;
                if self.faults_are_over() && self.unwell().is_none() {
                    self.healing.next_ns = self.now_ns + self.chance.random_range(200..1_500) * MS;
                    self.begin()?;
                }
            }
            Faults::Overlapping => {
                self.healing.next_ns = self.now_ns + self.chance.random_range(20..900) * MS;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// A duration of some tens of milliseconds as often as one of a second.
    fn while_ns(&mut self) -> u64 {
        let most = [60, 120, 400, 2_000][self.chance.random_range(0..4)];
        self.chance.random_range(20..most) * MS
    }

    /// Some threads do not only wait for a moment: they hang.
    fn hung_ns(&mut self) -> u64 {
        if self.chance.random_bool(0.4) { self.chance.random_range(1_000..5_000) * MS } else { 0 }
    }

    fn begin(&mut self) -> Result<(), String> {
        let id = NodeId(self.chance.random_range(1..=self.params.nodes));
        let whole = self.healing.dead.is_empty() && self.healing.stopping.is_empty() && self.unwell().is_none();
        let until = self.now_ns + self.while_ns();
        let may_die = whole || self.params.rare.deadly && self.nodes.len() > 1;
        match self.chance.random_range(0..19_u32) {
            // A minority only, as a rule: who is lost has to be replaced before the next one may be.
            0..=3 if may_die => self.crash(id),
            4 if whole => {
                self.count("graceful stop");
                self.begin_stop(id);
                self.slow_down(id, self.now_ns + 1_000 * MS);
                Ok(())
            }
            5 if whole && self.chance.random_bool(0.3) => {
                self.count("rolling restart");
                self.healing.rolling = self.ids().collect();
                Ok(())
            }
            6 | 7 => {
                self.count("pause");
                self.hold_up(id, &[Thread::Control, Thread::Flow, Thread::Worker], until);
                Ok(())
            }
            8 => {
                self.count("worker held up");
                let until = until + self.hung_ns();
                self.hold_up(id, &[Thread::Worker], until);
                Ok(())
            }
            9 => {
                self.count("batch held up");
                self.hold_up_a_batch(id, until);
                Ok(())
            }
            10 => {
                self.count("flow thread held up");
                let until = until + self.hung_ns();
                self.hold_up(id, &[Thread::Flow], until);
                Ok(())
            }
            11 => {
                self.count("disk hung");
                self.hold_up(id, &[Thread::Control], until + 1_500 * MS);
                Ok(())
            }
            kind => {
                self.trouble(kind, id, until, whole);
                Ok(())
            }
        }
    }

    /// What goes wrong around a machine rather than in it.
    fn trouble(&mut self, kind: u32, id: NodeId, until_ns: u64, whole: bool) {
        match kind {
            12 => {
                self.unplug(id, until_ns);
            }
            18 => {
                self.swallow(id, until_ns);
            }
            13 => {
                let lane = if self.chance.random_bool(0.5) { Lane::Control } else { Lane::Flow };
                self.count(if lane == Lane::Flow { "flow cut" } else { "control cut" });
                self.cut(id, until_ns + 500 * MS, lane);
            }
            14 if self.params.rare.failing_disks && whole => {
                let steps = self.chance.random_range(0..6);
                let (what, fault) = match steps {
                    0..=2 => ("disk fails to write", Fault::StopsAfter { steps }),
                    _ => ("disk fails to sync", Fault::SyncFails),
                };
                self.count(what);
                if let Some(node) = self.nodes.get(&id) {
                    node.disk.fail(fault);
                }
            }
            14 => {
                self.count("slow link");
                self.slow_down(id, until_ns + 1_500 * MS);
            }
            _ => {
                self.count("cut");
                self.cut(id, until_ns, Lane::All);
            }
        }
    }

    fn unplug(&mut self, id: NodeId, until_ns: u64) {
        self.count("data links down");
        self.slow_down(id, until_ns);
        self.healing.links_down.insert(id, until_ns);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.links_up = false;
        }
    }

    /// The data networks swallow what one node sends and gets; its links stay up.
    fn swallow(&mut self, id: NodeId, until_ns: u64) {
        self.count("data network silent");
        let until_ns = until_ns + self.hung_ns();
        self.healing.swallowed.insert(id, until_ns);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.swallowed = true;
        }
    }

    /// What one node's flow groups have proposed waits, and the node's links flap meanwhile: it leads, loses it, and leads
    /// again.
    fn hold_up_a_batch(&mut self, id: NodeId, until_ns: u64) {
        // Who owns most loses most.
        let busiest = self.nodes.values().max_by_key(|node| node.leaderships()).map(|node| node.id);
        let id = if self.chance.random_bool(0.7) { busiest.unwrap_or(id) } else { id };
        if self.chance.random_bool(0.5) {
            self.hold_up_a_batch_into_a_later_term(id);
            return;
        }
        let until_ns = until_ns + if self.chance.random_bool(0.3) { 2_500 * MS } else { 200 * MS };
        self.hold_up_batch(id, until_ns, 0);
        let flap = self.now_ns + self.chance.random_range(40..90) * MS;
        self.cut(id, flap, Lane::All);
    }

    /// A worker that stands still for long is not elected again (F7); so this one does not. Its node is the only one that can
    /// be: batches that never left it make its log the longest, and of the others one at most is there to vote.
    fn hold_up_a_batch_into_a_later_term(&mut self, id: NodeId) {
        let flap = self.now_ns + self.chance.random_range(50..90) * MS;
        let until_ns = flap + self.chance.random_range(2..70) * MS;
        let after = self.chance.random_range(0..6);
        self.hold_up_batch(id, until_ns, after);
        let others: Vec<NodeId> = self.ids().filter(|other| *other != id).collect();
        let votes = others[self.chance.random_range(0..others.len())];
        for one in self.ids() {
            for other in self.ids().filter(|other| *other != one) {
                let votes = [(id, votes), (votes, id)].contains(&(one, other));
                self.healing.cuts.insert((one, other, Lane::Flow), if votes { flap } else { until_ns });
            }
        }
    }

    fn hold_up_batch(&mut self, id: NodeId, until_ns: u64, after: u32) {
        self.healing.held_up_until_ns = self.healing.held_up_until_ns.max(until_ns);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hold_up_batch(until_ns, after);
        }
    }

    fn hold_up(&mut self, id: NodeId, threads: &[Thread], until_ns: u64) {
        self.healing.held_up_until_ns = self.healing.held_up_until_ns.max(until_ns);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for thread in threads {
            node.hold_up(*thread, until_ns);
        }
    }

    /// From the others, from one other, or one way.
    fn cut(&mut self, id: NodeId, until_ns: u64, lane: Lane) {
        let (out, back) = match self.chance.random_range(0..10) {
            0 | 1 => (true, false),
            2 => (false, true),
            _ => (true, true),
        };
        let others: Vec<NodeId> = self.ids().filter(|other| *other != id).collect();
        let only = self.chance.random_bool(0.25).then(|| others[self.chance.random_range(0..others.len())]);
        for other in others.into_iter().filter(|other| only.is_none_or(|only| only == *other)) {
            for (cut, pair) in [(out, (id, other, lane)), (back, (other, id, lane))] {
                if cut {
                    self.healing.cuts.insert(pair, until_ns);
                }
            }
        }
    }

    fn heal(&mut self) -> Result<(), String> {
        let now_ns = self.now_ns;
        let back: Vec<NodeId> =
            self.healing.dead.iter().filter(|(_, (at, _))| now_ns >= *at).map(|(id, _)| *id).collect();
        let back: Vec<NodeId> = back.into_iter().filter(|id| self.may_return(*id)).collect();
        for id in back {
            if let Some((_, store)) = self.healing.dead.remove(&id) {
                self.restart(id, store)?;
            }
        }
        let hung: Vec<NodeId> = self.nodes.values().filter(|node| node.hangs(now_ns)).map(|node| node.id).collect();
        for id in hung {
            self.ended(id, "ended by its watch");
        }
        self.healing.cuts.retain(|_, until| now_ns < *until);
        let heard: Vec<NodeId> =
            self.healing.swallowed.iter().filter(|(_, at)| now_ns >= **at).map(|(id, _)| *id).collect();
        for id in heard {
            self.healing.swallowed.remove(&id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.swallowed = false;
            }
        }
        let up: Vec<NodeId> =
            self.healing.links_down.iter().filter(|(_, at)| now_ns >= **at).map(|(id, _)| *id).collect();
        for id in up {
            self.healing.links_down.remove(&id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.links_up = true;
            }
        }
        Ok(())
    }
}
