//! The last events of this member, in memory: owners, configurations in use, concerns. Written once a second by
//! `noting`, read by `qnat events`. What must outlive the process is in the log lines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::answers::{EventKind, EventRow, ShardRow};

/// Events that are kept: the newest.
const TAPE_MAX: usize = 1_000;

/// One for all who write and read.
#[derive(Clone, Debug, Default)]
pub struct Tape(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    events: VecDeque<EventRow>,
    owners: BTreeMap<u16, Option<u32>>,
    cut: BTreeMap<u16, u64>,
    life: Option<u64>,
    loaded: u64,
}

/// What was seen when it was looked.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub(super) unix_ms: u64,
    pub(super) node: u32,
    pub(super) life: Option<u64>,
    pub(super) loaded: u64,
    pub(super) shards: &'a [ShardRow],
}

impl Noted {
    fn push(&mut self, row: EventRow) {
        if self.events.len() >= TAPE_MAX {
            self.events.pop_front();
        }
        self.events.push_back(row);
    }
}

impl Tape {
    /// Notes one event.
    pub(super) fn note(&self, row: EventRow) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// Notes what has changed since it was looked last.
    pub(super) fn look(&self, sight: &Sight<'_>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |event, about: String, text: String| EventRow {
            unix_ms: sight.unix_ms,
            node: sight.node,
            event,
            about,
            text,
            alert: None,
        };
        if noted.life != sight.life
            && let Some(life) = sight.life
        {
            noted.life = sight.life;
            noted.push(row(EventKind::Started, format!("n{}", sight.node), format!("incarnation {life}")));
        }
        if noted.loaded != sight.loaded {
            noted.loaded = sight.loaded;
            noted.push(row(EventKind::Loaded, format!("n{}", sight.node), format!("control index {}", sight.loaded)));
        }
        for shard in sight.shards {
            let cut = shard.cut.unwrap_or(0);
            let known = noted.cut.insert(shard.shard, cut).unwrap_or(0);
            // All replicas count; its owner tells.
            if shard.serves() && cut > known {
                let text = format!("a change ended {} flows, by control index {}", cut - known, sight.loaded);
                noted.push(row(EventKind::FlowsCut, format!("shard {}", shard.shard), text));
            }
            let before = noted.owners.insert(shard.shard, shard.owner);
            if before.flatten() == shard.owner {
                continue;
            }
            let name = |owner: Option<u32>| owner.map_or_else(|| "nobody".to_owned(), |node| format!("n{node}"));
            let text = format!("{}, before it {}", name(shard.owner), name(before.flatten()));
            noted.push(row(EventKind::Owner, format!("shard {}", shard.shard), text));
        }
    }

    /// The newest `limit` events, the newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<EventRow> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.events.iter().rev().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::concerns::tests::bed;
    use super::*;

    #[test]
    fn changes_are_noted_once_and_the_oldest_make_room() {
        let tape = Tape::default();
        let mut shards = bed(3).shards;
        let look = |unix_ms: u64, shards: &[ShardRow]| {
            tape.look(&Sight { unix_ms, node: 1, life: Some(7), loaded: 40, shards });
        };
        look(1, &shards);
        look(2, &shards);
        assert_eq!(
            tape.newest(9).iter().map(|row| row.event).collect::<Vec<_>>(),
            [EventKind::Owner, EventKind::Loaded, EventKind::Started]
        );
        shards[0].cut = Some(12);
        look(3, &shards);
        look(4, &shards);
        let newest = &tape.newest(1)[0];
        assert_eq!((newest.event, newest.unix_ms), (EventKind::FlowsCut, 3));
        assert_eq!(newest.text, "a change ended 12 flows, by control index 40");
        shards[0].owner = None;
        look(3, &shards);
        assert_eq!(tape.newest(1)[0].text, "nobody, before it n1");
        for unix_ms in 0..2_000 {
            let owner = u32::try_from(unix_ms).expect("small") + 1;
            shards[0].owner = Some(owner);
            look(unix_ms, &shards);
        }
        let newest = tape.newest(usize::MAX);
        assert_eq!((newest.len(), newest[0].unix_ms), (TAPE_MAX, 1_999));
    }
}
