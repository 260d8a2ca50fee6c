//! The order of a worker's turn, written down by ends that only take note.

use words::{Incarnation, LeaseWord, NodeId, ShardId};

use super::*;

/// Nobody leases anything.
struct NoLease;

impl LeaseWords for NoLease {
    fn word(&self, _: ShardId) -> LeaseWord {
        LeaseWord::default()
    }
}

/// What a turn asked for, in order.
#[derive(Default)]
struct Notes {
    asked: Vec<&'static str>,
    now_ns: u64,
}

impl WorkerEnds for Notes {
    type Words = NoLease;

    fn now_ns(&mut self) -> u64 {
        self.now_ns += 1_000_000_000;
        self.now_ns
    }

    fn words(&self) -> &NoLease {
        &NoLease
    }

    fn input(&mut self) -> Option<WorkerInput> {
        self.asked.push("input");
        None
    }

    fn will_load(&mut self, _: &Snapshot, _: &mut Worker) {}

    fn links(&mut self, standing: Standing) {
        assert_eq!(standing, Standing::default());
        self.asked.push("what links do");
    }

    fn look_at_links(&mut self, now_ns: u64, _: &mut Worker) {
        assert_eq!(now_ns, 1_000_000_000);
        self.asked.push("links");
    }

    fn receive(&mut self, now_ns: u64, _: &mut Worker) {
        assert_eq!(now_ns, 1_000_000_000);
        self.asked.push("frames that came in");
    }

    fn scans(&self) -> Scans {
        Scans::Go
    }

    fn has_room(&mut self) -> bool {
        self.asked.push("outputs");
        true
    }

    fn output(&mut self, output: WorkerOutput) {
        panic!("a worker without a configuration says nothing: {output:?}");
    }

    fn outputs_end(&mut self, worker: &mut Worker) {
        assert!(worker.next_timer_ns() > 2_000_000_000, "timers run with the time after the frames, before outputs");
        self.asked.push("end of outputs");
    }

    fn has_buffer(&mut self) -> bool {
        self.asked.push("frames that waited");
        true
    }

    fn send(&mut self, _: &mut Worker, _: (Link, FrameMeta, Authority), _: &[u8]) {
        panic!("a worker without a configuration sends nothing");
    }
}

#[test]
fn what_waited_leaves_before_newer_frames_and_after_the_outputs_that_followed() {
    let mut worker = Worker::new(Incarnation(1), NodeId(1), 7);
    let mut notes = Notes::default();
    worker_turn(&mut worker, &mut Vec::new(), &mut notes);
    let order = [
        "input",
        "links",
        "what links do",
        "frames that waited",
        "frames that came in",
        "outputs",
        "end of outputs",
        "frames that waited",
    ];
    assert_eq!(notes.asked, order);
}
