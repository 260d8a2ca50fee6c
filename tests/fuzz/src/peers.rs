//! Bytes of other members: flow entries, chunks of a table, frames of both kinds of groups, commands, and a stored state. Each
//! as it comes, and in an envelope that is right, since a checksum keeps a fuzzer out but no program.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use consensus::wire;
use control::registry::Founder;
use control::state::{FOUNDING_INDEX, State};
use control::{Command, codec as control_codec};
use engine::LeaseWords;
use engine::codec::{self, Format, decode_chunk, decode_entry};
use engine::event::{GroupEvent, WorkerOutput};
use engine::ids::{ControlIndex, Incarnation, LeaseWord, LogIndex, NodeId, ShardId, Term};
use engine::snapshot::Snapshot;
use engine::worker::Worker;
use words::envelope;
use words::time::SECOND_NS;

use crate::{Choices, bounded, within};

const SHARD: ShardId = ShardId(1);
const TERM: Term = Term(1);
const NOW_NS: u64 = 1_000 * SECOND_NS;
/// The first index of a flow group's log.
const FIRST: LogIndex = LogIndex(1);
/// Octets of memory that an octet of a sound entry may cost: a record, its cells, its counters.
const EACH: u64 = 64;

struct NoLease;

impl LeaseWords for NoLease {
    fn word(&self, _: ShardId) -> LeaseWord {
        LeaseWord::default()
    }
}

/// A replica of a shard.
struct Replica {
    worker: Worker,
    applied: u64,
}

impl Replica {
    fn new() -> Self {
        let mut worker = Worker::new(Incarnation(1), NodeId(1), 7);
        worker.handle_event(
            NOW_NS,
            &NoLease,
            GroupEvent::Opened { shard: SHARD, epoch: 0, index: FIRST, loads: false },
        );
        // Whatever index entries name, their control state is loaded: scans go on.
        let snapshot = Snapshot { control_index: ControlIndex(u64::MAX), ..Snapshot::default() };
        worker.load_snapshot(NOW_NS, Arc::new(snapshot));
        Self { worker, applied: FIRST.0 }
    }

    fn event(&mut self, event: GroupEvent) {
        self.worker.handle_event(NOW_NS, &NoLease, event);
        while self.worker.poll_output(NOW_NS, &NoLease).is_some() {}
    }

    fn commit(&mut self, entry: Bytes) {
        self.applied += 1;
        self.event(GroupEvent::Committed { shard: SHARD, index: LogIndex(self.applied), term: TERM, entry });
    }

    /// What a joiner is sent, as another replica takes it.
    fn scan(&mut self) -> (Vec<Bytes>, LogIndex, LogIndex) {
        self.worker.handle_event(NOW_NS, &NoLease, GroupEvent::Scan { shard: SHARD, transfer: 1 });
        let (mut chunks, mut from, mut to) = (Vec::new(), LogIndex(0), LogIndex(0));
        for _ in 0..1_000 {
            self.worker.handle_timers(NOW_NS, &NoLease);
            while let Some(output) = self.worker.poll_output(NOW_NS, &NoLease) {
                if let WorkerOutput::Chunk { base, until, chunk, last, .. } = output {
                    chunks.push(chunk);
                    (from, to) = (base, until);
                    if last == engine::event::Last::Yes {
                        return (chunks, from, to);
                    }
                }
            }
        }
        (chunks, from, to)
    }
}

/// An envelope of the flow log around a body.
fn sealed(format: Format, kind: codec::Kind, body: &[u8]) -> Bytes {
    envelope::seal(format as u8, kind as u8, body).into()
}

/// Entries of the flow log, each behind its length: read, applied, and handed on to a joiner.
pub fn flow_entry(data: &[u8]) {
    let _refused = bounded(data, EACH, || decode_entry(Format::NEWEST, data, &mut Vec::new()));
    for format in [Format::First, Format::Second, Format::Third] {
        entries_of(format, data);
    }
}

fn entries_of(format: Format, data: &[u8]) {
    let (mut choices, mut replica) = (Choices(data), Replica::new());
    let whole = sealed(format, codec::Kind::Entry, data);
    bounded(&whole, EACH, || replica.commit(whole.clone()));
    while !choices.is_empty() {
        let length = usize::from(choices.word() % 2048);
        let entry = sealed(format, codec::Kind::Entry, choices.take(length));
        replica.commit(entry);
    }
    let (chunks, base, until) = replica.scan();
    let mut joiner = Replica::new();
    for chunk in chunks {
        joiner.event(GroupEvent::Load { shard: SHARD, epoch: 0, chunk });
    }
    joiner.event(GroupEvent::Loaded { shard: SHARD, base, until });
    assert_eq!(
        joiner.worker.view().state_hash(SHARD),
        replica.worker.view().state_hash(SHARD),
        "a joiner has the same table (I22)"
    );
}

/// A chunk of a table, and then closes and opens of what it brought.
pub fn scan_chunk(data: &[u8]) {
    let _refused = bounded(data, EACH, || decode_chunk(Format::NEWEST, data, &mut Vec::new()));
    for format in [Format::First, Format::Second, Format::Third] {
        chunks_of(format, data);
    }
}

fn chunks_of(format: Format, data: &[u8]) {
    let mut records = Vec::new();
    let (mut choices, mut replica) = (Choices(data), Replica::new());
    let (length, more) = (usize::from(choices.word() % 4096), u64::from(choices.byte()));
    let chunk = sealed(format, codec::Kind::Chunk, choices.take(length));
    let Ok(header) = decode_chunk(Format::NEWEST, &chunk, &mut records) else { return };
    if header.sequence != 0 {
        return;
    }
    bounded(&chunk, EACH, || replica.event(GroupEvent::Load { shard: SHARD, epoch: 0, chunk: chunk.clone() }));
    let until = LogIndex(header.base.0.saturating_add(more));
    replica.event(GroupEvent::Loaded { shard: SHARD, base: header.base, until });
    replica.applied = header.base.0;
    while !choices.is_empty() && replica.applied < u64::MAX {
        let length = usize::from(choices.word() % 2048);
        let entry = sealed(format, codec::Kind::Entry, choices.take(length));
        replica.commit(entry);
    }
}

/// Frames about flow groups, with the raft messages in them.
pub fn flow_frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _refused = bounded(data, EACH, || consensus::flow::frame::Frame::decode(&bytes));
    let Some((kind, body)) = data.split_first() else { return };
    let sealed = Bytes::from(wire::seal(kind % 8 + wire::KIND_FLOW_FIRST - 1, body));
    let Ok(frame) = bounded(data, EACH, || consensus::flow::frame::Frame::decode(&sealed)) else { return };
    let again = consensus::flow::frame::Frame::decode(&frame.encode()).expect("what was read can be written and read");
    assert_eq!(format!("{again:?}"), format!("{frame:?}"));
}

/// Raft messages, configurations and log entries.
pub fn control_message(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _refused = bounded(data, EACH, || wire::open_bytes(&bytes));
    let _refused = bounded(data, EACH, || wire::decode_conf_state(data));
    let _refused = bounded(data, EACH, || wire::decode_entry(&bytes));
    if let Ok(message) = bounded(data, EACH, || wire::decode_message_bytes(&bytes)) {
        let mut again = Vec::new();
        wire::encode_message(&message, &mut again);
        assert_eq!(again, data, "one message has one form");
    }
}

fn founded() -> State {
    let at = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 7800));
    let founders: Vec<Founder> = (1..=3_u8)
        .map(|n| Founder { node: NodeId(n.into()), peer_addr: at(n), api_addr: at(n), key: [n; 32] })
        .collect();
    State::found([1; 16], &founders, [2, 3])
}

/// Commands, each behind its length, on a state that was just founded: whatever they say, all replicas survive it alike.
pub fn control_command(data: &[u8]) {
    let _refused = bounded(data, EACH, || Command::decode(data));
    let (mut choices, mut state) = (Choices(data), founded());
    let mut index = FOUNDING_INDEX.0;
    while !choices.is_empty() {
        let length = usize::from(choices.word() % 4096);
        let entry = control_sealed(control_codec::Kind::Command, choices.take(length));
        index += 1;
        let most = 2 * control::limits::COMMAND_LEN_MAX as u64;
        let _command = within(most, data, || Command::decode(&entry));
        let _outcome = state.apply_bytes(index, &entry);
        state.check().unwrap_or_else(|broken| panic!("{broken}"));
    }
    let stored = state.encode().expect("a state of a few commands");
    let back = State::decode(&stored).expect("what was written can be read");
    assert_eq!(back.digest(), state.digest());
    let _snapshot = control::compile::snapshot(&state, NodeId(1));
}

/// A stored state.
pub fn control_state(data: &[u8]) {
    let _refused = bounded(data, EACH, || State::decode(data));
    let sealed = control_sealed(control_codec::Kind::State, data);
    // A list may claim as much as a whole state may have.
    let most = 2 * control::limits::STATE_LEN_MAX as u64;
    let Ok(state) = within(most, data, || State::decode(&sealed)) else { return };
    let again = State::decode(&state.encode().expect("no longer than before")).expect("what was written can be read");
    assert_eq!(again.digest(), state.digest());
}

/// An envelope of the control log around a body.
fn control_sealed(kind: control_codec::Kind, body: &[u8]) -> Vec<u8> {
    envelope::seal(control_codec::VERSION, kind as u8, body)
}
