//! A member's workers, as one to the flow half: each hears of its own shards, all of what concerns all, and what they say of
//! the member as a whole is said once, when all have. Pure; asked by whoever carries things between the two.

use std::collections::BTreeSet;

use engine::event::{GroupEvent, WorkerOutput};
use words::{ControlIndex, ShardId, Share};

use crate::flow_member::WorkerInput;
use crate::turn::FromWorker;

/// Who is handed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taker {
    /// The worker of this number.
    One(u16),
    /// Every worker.
    All,
}

/// See the module.
#[derive(Debug)]
pub struct Crew {
    /// Of the first one; its rule is that of all.
    share: Share,
    /// The version of the configuration that each has loaded.
    loaded: Vec<ControlIndex>,
    /// The one that all have.
    told: ControlIndex,
    /// Shards that this node leads.
    led: BTreeSet<ShardId>,
}

impl Crew {
    /// So many workers, none of which has loaded anything.
    ///
    /// # Panics
    /// See [`Share::all`].
    #[must_use]
    pub fn new(workers: u16) -> Self {
        let share = Share::all(workers).next().expect("at least one");
        Self { share, loaded: vec![ControlIndex(0); workers.into()], told: ControlIndex(0), led: BTreeSet::new() }
    }

    /// Who has to hear it: a configuration, and who owns a shard (for forwards), is everybody's matter.
    #[must_use]
    pub const fn taker(&self, input: &WorkerInput) -> Taker {
        match input {
            WorkerInput::Snapshot(_) | WorkerInput::Event(GroupEvent::Owner { .. }) => Taker::All,
            WorkerInput::Event(
                GroupEvent::Opened { shard, .. }
                | GroupEvent::Reopened { shard, .. }
                | GroupEvent::Dropped { shard }
                | GroupEvent::Committed { shard, .. }
                | GroupEvent::Leading { shard, .. }
                | GroupEvent::Following { shard }
                | GroupEvent::Refused { shard, .. }
                | GroupEvent::Scan { shard, .. }
                | GroupEvent::ScanOver { shard, .. }
                | GroupEvent::Load { shard, .. }
                | GroupEvent::Loaded { shard, .. },
            ) => Taker::One(self.worker_of(*shard)),
        }
    }

    /// Whether a worker has to be woken for what it is handed next. What others' owners committed waits until it wakes by itself
    /// or for something else, which then finds the table as it must be: a ring keeps the order.
    pub fn wakes(&mut self, input: &WorkerInput) -> bool {
        match input {
            WorkerInput::Event(GroupEvent::Committed { shard, .. }) => return self.led.contains(shard),
            WorkerInput::Event(GroupEvent::Leading { shard, .. }) => {
                self.led.insert(*shard);
            }
            WorkerInput::Event(GroupEvent::Following { shard } | GroupEvent::Dropped { shard }) => {
                self.led.remove(shard);
            }
            WorkerInput::Event(_) | WorkerInput::Snapshot(_) => {}
        }
        true
    }

    /// The number of the worker that has a shard.
    #[must_use]
    pub const fn worker_of(&self, shard: ShardId) -> u16 {
        self.share.worker_of(shard)
    }

    /// What a worker's word means for the flow half. A configuration is loaded when all have loaded it; the first worker speaks
    /// for the data links, which are everybody's.
    ///
    /// # Panics
    /// If there is no worker of that number.
    pub fn heard(&mut self, worker: u16, said: FromWorker) -> Option<FromWorker> {
        match said {
            FromWorker::Links(_) if worker != self.share.worker() => None,
            FromWorker::Output(WorkerOutput::SnapshotLoaded { control_index }) => {
                self.loaded[usize::from(worker)] = control_index;
                let all = self.loaded.iter().copied().min().filter(|all| *all > self.told)?;
                self.told = all;
                Some(FromWorker::Output(WorkerOutput::SnapshotLoaded { control_index: all }))
            }
            said @ (FromWorker::Output(_) | FromWorker::Links(_)) => Some(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::links::Standing;
    use engine::snapshot::Snapshot;
    use words::Term;

    use super::*;

    fn loaded(index: u64) -> FromWorker {
        FromWorker::Output(WorkerOutput::SnapshotLoaded { control_index: ControlIndex(index) })
    }

    fn index(said: Option<FromWorker>) -> Option<u64> {
        match said? {
            FromWorker::Output(WorkerOutput::SnapshotLoaded { control_index }) => Some(control_index.0),
            other @ (FromWorker::Output(_) | FromWorker::Links(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_configuration_counts_as_loaded_when_all_workers_have_it() {
        let mut crew = Crew::new(3);
        assert_eq!([0, 1].map(|worker| index(crew.heard(worker, loaded(5)))), [None; 2]);
        assert_eq!(index(crew.heard(0, loaded(9))), None);
        assert_eq!(index(crew.heard(2, loaded(7))), Some(5));
        assert_eq!(index(crew.heard(1, loaded(9))), Some(7), "each step once");
        assert_eq!(index(crew.heard(2, loaded(9))), Some(9));
        assert_eq!(index(Crew::new(1).heard(0, loaded(4))), Some(4));
    }

    #[test]
    fn the_first_worker_speaks_for_the_links_and_each_for_its_shards() {
        let mut crew = Crew::new(2);
        let links = || FromWorker::Links(Box::<Standing>::default());
        assert!(crew.heard(1, links()).is_none());
        assert!(crew.heard(0, links()).is_some());
        let serving = WorkerOutput::Serving { shard: ShardId(1), term: Term(1), state: Ok(()) };
        assert!(crew.heard(1, FromWorker::Output(serving)).is_some());
    }

    #[test]
    fn what_others_owners_commit_wakes_nobody_and_all_else_does() {
        let mut crew = Crew::new(1);
        let shard = ShardId(3);
        let committed = || {
            let (index, entry) = (words::LogIndex(1), bytes::Bytes::new());
            WorkerInput::Event(GroupEvent::Committed { shard, index, term: Term(1), entry })
        };
        let event = WorkerInput::Event;
        assert!(!crew.wakes(&committed()));
        assert!(crew.wakes(&event(GroupEvent::Owner { shard, term: Term(1), node: None })));
        for over in [GroupEvent::Following { shard }, GroupEvent::Dropped { shard }] {
            assert!(
                crew.wakes(&event(GroupEvent::Leading { shard, term: Term(1) })),
                "a takeover finds all that was committed"
            );
            assert!(crew.wakes(&committed()), "packets wait for it");
            assert!(crew.wakes(&event(over)));
            assert!(!crew.wakes(&committed()));
        }
        assert!(crew.wakes(&WorkerInput::Snapshot(Arc::new(Snapshot::default()))));
    }

    #[test]
    fn shards_are_their_workers_matter_owners_and_configurations_everybodys() {
        let crew = Crew::new(2);
        let of = |event| crew.taker(&WorkerInput::Event(event));
        assert_eq!(of(GroupEvent::Following { shard: ShardId(4) }), Taker::One(0));
        assert_eq!(of(GroupEvent::Leading { shard: ShardId(7), term: Term(1) }), Taker::One(1));
        assert_eq!(of(GroupEvent::Owner { shard: ShardId(7), term: Term(1), node: None }), Taker::All);
        assert_eq!(crew.taker(&WorkerInput::Snapshot(Arc::new(Snapshot::default()))), Taker::All);
    }
}
