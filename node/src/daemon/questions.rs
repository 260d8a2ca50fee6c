//! Questions to the worker, answered between two batches in steps that never take long: packets wait for each. A question
//! whose asker has gone away is dropped. Called by the worker's thread.

use std::collections::{BTreeSet, VecDeque};

use engine::cuts::{Cut, Which};
use engine::explain::{Explanation, Question};
use engine::ids::{BackendId, ControlIndex, PortBlock, ShardId, VnetId};
use engine::status::{FlowCursor, FlowView, PortsListing, PortsView, ShardStatus};
use engine::worker::Worker;
use tokio::sync::oneshot;

/// Slots of tables that one step visits.
pub const SLOTS_PER_STEP: u32 = 2048;
/// Ports that one step looks at.
pub const PORTS_PER_STEP: u32 = 8192;

/// A question to the worker.
#[derive(Debug)]
pub enum Query {
    /// Mappings.
    Flows { shard: Option<ShardId>, vnet: Option<VnetId>, limit: usize, reply: oneshot::Sender<Vec<FlowView>> },
    /// Use of leases.
    Ports { reply: oneshot::Sender<Vec<PortsView>> },
    /// Live mappings on pieces of port space, in their order; nothing without a whole table of the shard (D4).
    Loads { shard: ShardId, blocks: Vec<PortBlock>, reply: oneshot::Sender<Option<Vec<u32>>> },
    /// A page of the mappings of some backends in a shard, or of all, and where the next page begins.
    LiveOf { of: LiveOf, reply: oneshot::Sender<LivePage> },
    /// What changes from this configuration on have ended, in each shard that this worker owns (D19).
    Cuts { since: ControlIndex, reply: oneshot::Sender<Vec<(ShardId, Cut)>> },
    /// How often rules of these keys have decided in all shards of this worker, in their order, and what was not counted.
    Hits { keys: Vec<u64>, reply: oneshot::Sender<(Vec<u64>, u64)> },
    /// State hashes by shard.
    Hashes { reply: oneshot::Sender<Vec<(ShardStatus, u64)>> },
    /// What becomes of a packet; nothing before a configuration is loaded.
    Explain { question: Question, reply: oneshot::Sender<Vec<Explanation>> },
    /// Shards.
    Shards { reply: oneshot::Sender<Vec<ShardStatus>> },
}

/// Live mappings, and where the listing goes on if it is not over.
pub type LivePage = (Vec<FlowView>, Option<u32>);

/// Which mappings are listed: of these backends in this shard, or of all if none is named, from a slot on, at most so many.
#[derive(Debug)]
pub struct LiveOf {
    /// The shard.
    pub shard: ShardId,
    /// Whose.
    pub backends: BTreeSet<BackendId>,
    /// Live ones alone, or all.
    pub which: Which,
    /// Where the listing begins or goes on.
    pub from: u32,
    /// The most.
    pub limit: usize,
}

/// A question that is being answered.
#[derive(Debug)]
enum Work {
    Flows {
        shard: Option<ShardId>,
        vnet: Option<VnetId>,
        limit: usize,
        at: FlowCursor,
        found: Vec<FlowView>,
        reply: oneshot::Sender<Vec<FlowView>>,
    },
    Ports {
        listing: PortsListing,
        reply: oneshot::Sender<Vec<PortsView>>,
    },
    Loads {
        shard: ShardId,
        blocks: Vec<PortBlock>,
        counts: Vec<u32>,
        reply: oneshot::Sender<Option<Vec<u32>>>,
    },
    LiveOf {
        of: LiveOf,
        found: Vec<FlowView>,
        reply: oneshot::Sender<LivePage>,
    },
    Hits {
        keys: Vec<u64>,
        shards: Vec<ShardId>,
        sums: Vec<u64>,
        lost: u64,
        reply: oneshot::Sender<(Vec<u64>, u64)>,
    },
}

/// See the module. The API asks only so many questions at a time, so the queue is short.
#[derive(Debug, Default)]
pub struct Questions {
    waiting: VecDeque<Query>,
    work: Option<Work>,
}

impl Questions {
    /// Takes a question.
    pub fn ask(&mut self, query: Query) {
        self.waiting.push_back(query);
    }

    /// Whether there is nothing to answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.work.is_none() && self.waiting.is_empty()
    }

    /// One step.
    pub fn step(&mut self, now_ns: u64, worker: &Worker) {
        let work = self.work.take().or_else(|| self.waiting.pop_front().and_then(|query| begin(now_ns, query, worker)));
        self.work = work.and_then(|work| go_on(now_ns, work, worker));
    }
}

/// Answers at once what costs the same for every table. A caller that has gone away wants no answer.
fn begin(now_ns: u64, query: Query, worker: &Worker) -> Option<Work> {
    match query {
        Query::Flows { shard, vnet, limit, reply } => {
            // Room for all at once: a list that grows is copied as a whole, in one step.
            let of = |status: &ShardStatus| shard.is_none_or(|shard| shard == status.shard);
            let flows = worker.view().shard_status().iter().filter(|status| of(status)).map(flows_of).sum();
            let found = Vec::with_capacity(limit.min(flows));
            Some(Work::Flows { shard, vnet, limit, at: FlowCursor::default(), found, reply })
        }
        Query::Ports { reply } => Some(Work::Ports { listing: worker.view().begin_ports(), reply }),
        Query::Loads { shard, blocks, reply } => Some(Work::Loads { shard, blocks, counts: Vec::new(), reply }),
        Query::LiveOf { of, reply } => {
            let found = Vec::with_capacity(of.limit);
            Some(Work::LiveOf { of, found, reply })
        }
        Query::Hits { keys, reply } => {
            let shards = worker.view().shard_status().into_iter().map(|status| status.shard).collect();
            let sums = vec![0; keys.len()];
            Some(Work::Hits { keys, shards, sums, lost: 0, reply })
        }
        Query::Cuts { since, reply } => {
            let shards = worker.view().shard_status().into_iter().map(|status| status.shard);
            let cuts = shards.filter_map(|shard| Some((shard, worker.view().cut(shard, since)?)));
            let _ = reply.send(cuts.collect());
            None
        }
        Query::Explain { question, reply } => {
            let _ = reply.send(worker.view().explain(now_ns, &question).into_iter().collect());
            None
        }
        Query::Shards { reply } => {
            let _ = reply.send(worker.view().shard_status());
            None
        }
        Query::Hashes { reply } => {
            let shards = worker.view().shard_status().into_iter();
            let hashes = shards.filter_map(|status| Some((status, worker.view().state_hash(status.shard)?)));
            let _ = reply.send(hashes.collect());
            None
        }
    }
}

/// Its mappings, also those on their way.
fn flows_of(status: &ShardStatus) -> usize {
    let held = usize::try_from(status.live + status.held).unwrap_or(usize::MAX);
    held.saturating_add(status.pending)
}

/// A step of a listing, of one virtual network's mappings or of all. `None`: it is over.
fn step(
    now_ns: u64,
    worker: &Worker,
    (shard, vnet): (Option<ShardId>, Option<VnetId>),
    at: FlowCursor,
    limit: usize,
    found: &mut Vec<FlowView>,
) -> Option<FlowCursor> {
    let Some(vnet) = vnet else { return worker.view().list_flows(now_ns, shard, at, SLOTS_PER_STEP, limit, found) };
    let mut all = Vec::new();
    let next = worker.view().list_flows(now_ns, shard, at, SLOTS_PER_STEP, usize::MAX, &mut all);
    found.extend(all.into_iter().filter(|view| view.inside.vnet == vnet).take(limit - found.len()));
    next.filter(|_| found.len() < limit)
}

fn go_on(now_ns: u64, work: Work, worker: &Worker) -> Option<Work> {
    match work {
        Work::Flows { shard, vnet, limit, at, mut found, reply } => {
            if reply.is_closed() {
                return None;
            }
            let Some(at) = step(now_ns, worker, (shard, vnet), at, limit, &mut found) else {
                let _ = reply.send(found);
                return None;
            };
            Some(Work::Flows { shard, vnet, limit, at, found, reply })
        }
        Work::Ports { mut listing, reply } => {
            if reply.is_closed() {
                return None;
            }
            if worker.view().list_ports(&mut listing, PORTS_PER_STEP) {
                let _ = reply.send(listing.views);
                return None;
            }
            Some(Work::Ports { listing, reply })
        }
        Work::Loads { shard, blocks, mut counts, reply } => {
            if reply.is_closed() {
                return None;
            }
            let left = blocks.get(counts.len()..).unwrap_or_default();
            let counted = worker.view().count_flows(shard, left, PORTS_PER_STEP, &mut counts);
            if counted.is_none() || counts.len() >= blocks.len() {
                let _ = reply.send(counted.map(|()| counts));
                return None;
            }
            Some(Work::Loads { shard, blocks, counts, reply })
        }
        Work::Hits { keys, mut shards, mut sums, mut lost, reply } => {
            if reply.is_closed() {
                return None;
            }
            let Some(shard) = shards.pop() else {
                let _ = reply.send((sums, lost));
                return None;
            };
            lost += worker.view().add_hits(shard, &keys, &mut sums);
            Some(Work::Hits { keys, shards, sums, lost, reply })
        }
        Work::LiveOf { mut of, mut found, reply } => {
            if reply.is_closed() {
                return None;
            }
            let whose = (of.shard, &of.backends, of.which);
            let next = worker.view().list_of(now_ns, whose, of.from, (SLOTS_PER_STEP, of.limit), &mut found);
            match next {
                Some(next) if found.len() < of.limit => {
                    of.from = next;
                    Some(Work::LiveOf { of, found, reply })
                }
                next => {
                    let _ = reply.send((found, next));
                    None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::codec::{CHUNK_RECORDS_MAX, ChunkHeader, Encoder};
    use engine::event::GroupEvent;
    use engine::ids::{BackendId, ControlIndex, FrontendId, Incarnation, LeaseWord, LogIndex, NodeId, Term};
    use engine::record::{Addr, Endpoint, InsideKey, Open, Proto, PublicKey, ScanRecord, Scenario};

    use super::*;

    const FLOWS: u32 = 1_000_000;
    const SHARD: ShardId = ShardId(1);

    fn record(n: u32) -> ScanRecord {
        let endpoint = |net: u8, port: u16| {
            let [_, b, c, d] = n.to_be_bytes();
            Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(net, b, c, d)), port }
        };
        let public = PublicKey { proto: Proto::Udp, frontend: FrontendId(1), port: 2000, remote: endpoint(198, 53) };
        let inside = InsideKey { vnet: VnetId(1), endpoint: endpoint(10, 1000) };
        let open = Open { public, inside, backend: BackendId(1), scenario: Scenario::Pool };
        ScanRecord { open, held: None, written_at: LogIndex(1) }
    }

    /// A worker whose replica came by a scan of a million mappings.
    fn full() -> Worker {
        let mut worker = Worker::new(Incarnation(1), NodeId(1), 7);
        let words =
            |_: ShardId| LeaseWord { incarnation: Incarnation(1), term: Term(0), lease_until_ns: 0, grace_until_ns: 0 };
        let mut event = |event| worker.handle_event(0, &Words(words), event);
        event(GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1), loads: true });
        let mut encoder = Encoder::new();
        let all: Vec<ScanRecord> = (0..FLOWS).map(record).collect();
        for (sequence, records) in (0..).zip(all.chunks(CHUNK_RECORDS_MAX)) {
            let header = ChunkHeader {
                sequence,
                base: LogIndex(1),
                control_index: ControlIndex(0),
                holds_ended: Default::default(),
                orphan_grace_ms: 3000,
                grace_peak_ms: 3000,
                hold_ms: Default::default(),
                records: 0,
            };
            event(GroupEvent::Load { shard: SHARD, epoch: 0, chunk: encoder.chunk(header, records) });
        }
        event(GroupEvent::Loaded { shard: SHARD, base: LogIndex(1), until: LogIndex(1) });
        worker
    }

    struct Words<F>(F);

    impl<F: Fn(ShardId) -> LeaseWord> engine::LeaseWords for Words<F> {
        fn word(&self, shard: ShardId) -> LeaseWord {
            (self.0)(shard)
        }
    }

    /// Packets wait for each step.
    #[test]
    fn no_step_of_an_answer_takes_long_with_a_million_mappings() {
        let worker = full();
        let tries: [Vec<Duration>; 3] = std::array::from_fn(|_| answer_all(&worker));
        assert!(tries.iter().all(|steps| steps.len() == tries[0].len()), "the same steps each time");
        // What the machine does meanwhile makes some steps of a try long, hardly the same one of each.
        let fastest = (0..tries[0].len()).map(|step| tries.iter().map(|steps| steps[step]).min().expect("three"));
        let mut fastest: Vec<Duration> = fastest.collect();
        fastest.sort_unstable();
        let (p50, max) = (fastest[fastest.len() / 2], fastest[fastest.len() - 1]);
        println!("{} steps, p50 {p50:?}, max {max:?}", fastest.len());
        assert!(max < Duration::from_millis(1), "max {max:?}");
    }

    fn of_thread() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
    }

    /// How much of the thread's time each step took of the longest answers that there are: whoever else runs does not count.
    fn answer_all(worker: &Worker) -> Vec<Duration> {
        let (flows, mut listed) = oneshot::channel();
        let (hashes, mut hashed) = oneshot::channel();
        let (ports, mut used) = oneshot::channel();
        let mut questions = Questions::default();
        questions.ask(Query::Flows { shard: None, vnet: None, limit: FLOWS as usize, reply: flows });
        questions.ask(Query::Hashes { reply: hashes });
        questions.ask(Query::Ports { reply: ports });
        let (loads, mut counted) = oneshot::channel();
        let piece = |start| PortBlock { frontend: FrontendId(1), start, len: 8 };
        let blocks: Vec<PortBlock> = (0..8000).map(|n| piece(8 * n)).collect();
        questions.ask(Query::Loads { shard: SHARD, blocks, reply: loads });
        let (live, mut paged) = oneshot::channel();
        let all = LiveOf {
            shard: SHARD,
            backends: BTreeSet::from([BackendId(1)]),
            which: Which::Live,
            from: 0,
            limit: FLOWS as usize,
        };
        questions.ask(Query::LiveOf { of: all, reply: live });
        let (nowhere, mut uncounted) = oneshot::channel();
        questions.ask(Query::Loads { shard: ShardId(2), blocks: vec![piece(0)], reply: nowhere });
        let mut steps: Vec<Duration> = Vec::new();
        while !questions.is_idle() {
            let begun = of_thread();
            questions.step(0, worker);
            steps.push(of_thread() - begun);
        }
        assert_eq!(listed.try_recv().expect("answered").len(), FLOWS as usize);
        assert_eq!(hashed.try_recv().expect("answered").len(), 1);
        assert!(used.try_recv().expect("answered").is_empty());
        let counted = counted.try_recv().expect("answered").expect("the table is whole");
        assert_eq!((counted.len(), counted[2000 / 8], counted.iter().sum::<u32>()), (8000, FLOWS, FLOWS));
        let (live, next) = paged.try_recv().expect("answered");
        assert_eq!((live.len(), next), (FLOWS as usize, None));
        assert_eq!(uncounted.try_recv().expect("answered"), None, "no table of that shard");
        assert!(steps.len() >= (FLOWS / SLOTS_PER_STEP) as usize, "{} steps", steps.len());
        steps
    }

    #[test]
    fn a_question_whose_asker_has_gone_away_is_dropped() {
        let worker = Worker::new(Incarnation(1), NodeId(1), 7);
        let mut questions = Questions::default();
        let (reply, asker) = oneshot::channel();
        drop(asker);
        questions.ask(Query::Flows { shard: None, vnet: None, limit: 1, reply });
        questions.step(0, &worker);
        assert!(questions.is_idle());
    }
}
