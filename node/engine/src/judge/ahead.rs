//! Hot path. Looks a batch ahead: what frames will be looked up by is read from their headers, then all of their index cells,
//! then all of their records. A large table lies in main memory, and a processor waits for many reads at once as long as for
//! one, if none depends on another.
//!
//! It decides nothing and checks nothing: a wrong guess costs time only. Called by the worker's thread before each batch.

use std::net::Ipv4Addr;

use crate::addresses::endpoint;
use crate::flow::{FlowKey, Slot, Table};
use crate::ids::{Link, Mac, ShardId, Side};
use crate::record::{InsideKey, Proto, PublicKey};
use crate::shard::shards::Shards;

/// Frames that are looked ahead for at once: what they touch stays in the cache until they are handled.
const FRAMES_MAX: usize = 256;
/// Tables below this many slots fit into a cache, and looking ahead would only cost time.
const SLOTS_MIN: u32 = 16_384;

/// What a batch will look for.
#[derive(Debug)]
pub(crate) struct Ahead {
    wanted: Vec<Wanted>,
    found: Vec<Slot>,
    /// Whether a table is large enough; judged with the timers.
    worth: Worth,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worth {
    No,
    Yes,
}

/// What frames are looked up by.
pub(crate) struct Known<'a> {
    pub(crate) shards: &'a Shards,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    shard: ShardId,
    side: Side,
    tag: u32,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { wanted: Vec::with_capacity(FRAMES_MAX), found: Vec::with_capacity(FRAMES_MAX), worth: Worth::No }
    }
}

impl Ahead {
    /// Takes note of a frame that will be handed in soon.
    pub(crate) fn note(&mut self, known: &Known<'_>, link: Link, frame: &[u8]) {
        if self.worth == Worth::No || self.wanted.len() == FRAMES_MAX {
            return;
        }
        if let Some(wanted) = known.wanted(link, frame) {
            self.wanted.push(wanted);
        }
    }

    /// Has the mappings of all frames brought into the cache that were looked ahead for since the last call. Returns how
    /// many there probably are.
    pub(crate) fn fetch(&mut self, shards: &Shards) -> usize {
        let mut count = 0;
        // A batch of one side mostly belongs to one shard.
        for same in self.wanted.chunk_by(|a, b| a.shard == b.shard) {
            let Some(table) = table(shards, same[0].shard) else { continue };
            // Each loop is short and waits for nothing that it reads, so that many of its rounds run at once.
            let begin = |sum, one: &Wanted| sum ^ table.begin(one.side, one.tag);
            std::hint::black_box(same.iter().fold(0, begin));
            self.found.extend(same.iter().filter_map(|one| table.guess(one.side, one.tag)));
            std::hint::black_box(self.found.iter().fold(0, |sum, slot| sum ^ table.record(*slot).peek()));
            std::hint::black_box(
                self.found.iter().fold(0, |sum, slot| sum ^ table.translation(*slot).map_or(0, |t| t.made)),
            );
            count += self.found.len();
            self.found.clear();
        }
        // It keeps its memory: no allocation per batch.
        self.wanted.clear();
        count
    }

    /// Whether it is worth the time.
    pub(crate) fn judge(&mut self, shards: &Shards) {
        let large = shards.replicas().any(|(_, shard)| shard.replica.table.slots() >= SLOTS_MIN);
        self.worth = if large { Worth::Yes } else { Worth::No };
    }
}

impl Known<'_> {
    /// By what a frame without IP options will be looked up; `None` also where nothing is.
    fn wanted(&self, link: Link, frame: &[u8]) -> Option<Wanted> {
        let [m0, m1, m2, m3, m4, m5, .., e0, e1, version_ihl, _, _, _, _, _, _, _, _, protocol, _, _] =
            *frame.first_chunk::<26>()?;
        let [s0, s1, s2, s3, d0, d1, d2, d3, sp0, sp1, dp0, dp1] = *frame.get(26..)?.first_chunk::<12>()?;
        let proto = match ([e0, e1, version_ihl], protocol) {
            ([8, 0, 0x45], 6) => Proto::Tcp,
            ([8, 0, 0x45], 17) => Proto::Udp,
            _ => return None,
        };
        let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        let (src_port, dst_port) = (u16::from_be_bytes([sp0, sp1]), u16::from_be_bytes([dp0, dp1]));
        let shard = Mac([m0, m1, m2, m3, m4, m5]).shard()?;
        let table = table(self.shards, shard)?;
        let tag = match link {
            Link::Inside(vnet) => {
                let inside = InsideKey { vnet, endpoint: endpoint(src, src_port) };
                table.inside_tag(&FlowKey { proto, inside, remote: endpoint(dst, dst_port) })
            }
            Link::Outside => {
                let frontend = self.shards.get(shard)?.frontend_at(dst)?;
                table.public_tag(&PublicKey { proto, frontend, port: dst_port, remote: endpoint(src, src_port) })
            }
        };
        Some(Wanted { shard, side: link.side(), tag })
    }
}

fn table(shards: &Shards, shard: ShardId) -> Option<&Table> {
    shards.replica(shard).map(|shard| &shard.replica.table)
}
