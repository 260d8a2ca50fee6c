//! Records as version 4 has them: level 1 of the cluster. All integers and addresses have one width.

use bincode::{Decode, Encode};

use crate::ids::{BackendId, ControlIndex, LogIndex, PortBlock};
use crate::record::{CloseReason, FlowRecord, InsideKey, Open, PublicKey, ScanRecord, Scenario};

/// Encoded length of the longest record.
pub(super) const RECORD_MAX_LEN: usize = 58;
/// Encoded length of a scanned record.
pub(super) const SCAN_RECORD_LEN: usize = 63;

/// A `FlowRecord`.
#[derive(Encode, Decode)]
pub(super) enum Written {
    Open { public: PublicKey, inside: InsideKey, backend: BackendId },
    Close { public: PublicKey, reason: CloseReason },
    Fence { block: PortBlock, reclaim_index: ControlIndex },
}

impl Written {
    pub(super) fn of(record: &FlowRecord) -> Self {
        match *record {
            FlowRecord::Open(Open { public, inside, backend, scenario }) => {
                debug_assert_eq!(scenario, Scenario::Pool, "nothing else is configured below level 2");
                Self::Open { public, inside, backend }
            }
            FlowRecord::Close { public, reason } => Self::Close { public, reason },
            FlowRecord::Fence { block, reclaim_index } => Self::Fence { block, reclaim_index },
        }
    }

    pub(super) fn record(self) -> FlowRecord {
        match self {
            Self::Open { public, inside, backend } => {
                FlowRecord::Open(Open { public, inside, backend, scenario: Scenario::Pool })
            }
            Self::Close { public, reason } => FlowRecord::Close { public, reason },
            Self::Fence { block, reclaim_index } => FlowRecord::Fence { block, reclaim_index },
        }
    }
}

/// A `ScanRecord`.
#[derive(Encode, Decode)]
pub(super) struct Scanned {
    public: PublicKey,
    inside: InsideKey,
    backend: BackendId,
    state: u8,
    written_at: LogIndex,
}

impl Scanned {
    pub(super) fn of(record: &ScanRecord) -> Self {
        let ScanRecord { open: Open { public, inside, backend, scenario }, written_at, .. } = *record;
        debug_assert_eq!(scenario, Scenario::Pool, "nothing else is configured below level 2");
        Self { public, inside, backend, state: record.state(), written_at }
    }

    pub(super) fn record(self) -> Option<ScanRecord> {
        let Self { public, inside, backend, state, written_at } = self;
        let open = Open { public, inside, backend, scenario: Scenario::Pool };
        ScanRecord::of(open, state, written_at)
    }
}
