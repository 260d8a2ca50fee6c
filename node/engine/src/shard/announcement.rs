//! What a takeover announces, and when (M2). A shard may have a thousand addresses: a round of them is cut into steps, so that
//! no turn of the worker is long and a round still takes no longer than its time. Addresses that come to a shard which serves
//! are announced fast by themselves.

use std::net::Ipv4Addr;

use words::time::MS;

use crate::ids::{FrontendId, Mac};
use crate::wire::{ArpOp, set_ethernet};

/// Time of a round at first, and later.
const FAST_NS: u64 = 100_000_000;
const SLOW_NS: u64 = 1_000_000_000;
/// Announcing fast lasts this much longer than the grace of a predecessor.
const FAST_EXTRA_MS: u64 = 2_000;
/// Steps of a round, and how many there would be time for: turns that are late do not lengthen it.
const STEPS: usize = 16;
const STEPS_IN_TIME: u64 = 20;
/// Addresses that a step has at least, so that few addresses are announced at once.
const STEP_MIN: usize = 16;
/// Addresses that a step has at most, if those before it were late.
const STEP_MAX: usize = 256;
/// Local experimental EtherType 1 (IEEE 802-2014, table 7).
const ANNOUNCEMENT_ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Says to who looks at a capture whose frame it is.
const ANNOUNCEMENT: &[u8; 16] = b"qnat: I am here.";

/// When to announce what next, and whether anybody answered.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    all: Rounds,
    /// Addresses that have come since, announced fast beside the rounds of all.
    fresh: Option<(Rounds, Vec<Ipv4Addr>)>,
    /// A reply to the vMAC was seen since: traffic comes here.
    pub(crate) confirmed: Confirmed,
}

/// Whether a reply has shown that frames to the vMAC arrive here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Confirmed {
    /// Not yet.
    #[default]
    No,
    /// Seen.
    Yes,
}

/// What to announce now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Addresses, outside.
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) place: Place,
}

/// Where in a round of all addresses a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// It begins one, and with it goes what concerns the shard as a whole.
    First,
    /// It does not.
    Within,
}

/// One walk over a list after the other.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    begun_ns: u64,
    next_ns: u64,
    /// Where the walk goes on.
    at: usize,
    fast_until_ns: u64,
}

impl Rounds {
    fn begin(now_ns: u64, grace_ms: u32) -> Self {
        let fast = (u64::from(grace_ms) + FAST_EXTRA_MS) * MS;
        Self { begun_ns: now_ns, next_ns: now_ns, at: 0, fast_until_ns: now_ns.saturating_add(fast) }
    }

    /// The places, of `count` ones, that are due now; schedules the next ones. What was missed of a round is made up for in
    /// bounded steps, and rounds that were missed are skipped.
    fn step(&mut self, now_ns: u64, count: usize) -> Option<std::ops::Range<usize>> {
        if now_ns < self.next_ns {
            return None;
        }
        if self.at == 0 {
            self.begun_ns = now_ns;
        }
        let round_ns = if self.begun_ns < self.fast_until_ns { FAST_NS } else { SLOW_NS };
        let pause_ns = round_ns / STEPS_IN_TIME;
        let each = count.div_ceil(STEPS).max(STEP_MIN);
        let steps = usize::try_from((now_ns - self.begun_ns) / pause_ns).unwrap_or(usize::MAX).saturating_add(1);
        let from = self.at.min(count);
        let due = each.saturating_mul(steps).clamp(from + each.min(STEP_MAX), from + STEP_MAX);
        let to = due.min(count);
        self.at = if to < count { to } else { 0 };
        self.next_ns = now_ns + pause_ns;
        if self.at == 0 {
            self.next_ns = self.next_ns.max(self.begun_ns + round_ns);
        }
        Some(from..to)
    }
}

impl Announcement {
    pub(crate) fn begin(now_ns: u64, grace_ms: u32) -> Self {
        Self { all: Rounds::begin(now_ns, grace_ms), fresh: None, confirmed: Confirmed::No }
    }

    /// These addresses have come to the shard.
    pub(crate) fn add(&mut self, now_ns: u64, grace_ms: u32, added: Vec<Ipv4Addr>) {
        if added.is_empty() {
            return;
        }
        let mut fresh = self.fresh.take().map_or_else(Vec::new, |(_, fresh)| fresh);
        fresh.extend(added);
        fresh.sort_unstable();
        fresh.dedup();
        self.fresh = Some((Rounds::begin(now_ns, grace_ms), fresh));
    }

    pub(crate) fn next_ns(&self) -> u64 {
        self.fresh.iter().map(|(rounds, _)| rounds.next_ns).fold(self.all.next_ns, u64::min)
    }

    /// What to announce now of the shard's addresses, in order.
    pub(crate) fn step(&mut self, now_ns: u64, addresses: &[(Ipv4Addr, FrontendId)]) -> Option<Step> {
        if let Some(range) = self.all.step(now_ns, addresses.len()) {
            let place = if range.start == 0 { Place::First } else { Place::Within };
            return Some(Step { addresses: addresses[range].iter().map(|(ip, _)| *ip).collect(), place });
        }
        let (rounds, fresh) = self.fresh.as_mut()?;
        if rounds.at == 0 && now_ns >= rounds.fast_until_ns {
            self.fresh = None;
            return None;
        }
        let range = rounds.step(now_ns, fresh.len())?;
        let still = |ip: &&Ipv4Addr| addresses.binary_search_by_key(*ip, |(ip, _)| *ip).is_ok();
        Some(Step { addresses: fresh[range].iter().filter(still).copied().collect(), place: Place::Within })
    }
}

/// The variable part of an ARP frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArpFrame {
    pub(crate) op: ArpOp,
    pub(crate) eth_dst: Mac,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

/// The frame that no host reads.
pub(crate) fn announcement(vmac: Mac) -> [u8; 60] {
    let mut frame = [0; 60];
    set_ethernet(&mut frame, vmac, Mac::BROADCAST);
    frame[12..14].copy_from_slice(&ANNOUNCEMENT_ETHER_TYPE);
    frame[14..30].copy_from_slice(ANNOUNCEMENT);
    frame
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn addresses(count: u32) -> Vec<(Ipv4Addr, FrontendId)> {
        (0..count).map(|n| (Ipv4Addr::from_bits(0xcb00_7000 + n), FrontendId(n))).collect()
    }

    /// How often each address was announced, and the longest step, with a turn each `turn_ms` from `from_ms` to `to_ms`.
    fn run(
        announcement: &mut Announcement,
        all: &[(Ipv4Addr, FrontendId)],
        (from_ms, to_ms, turn_ms): (u64, u64, u64),
    ) -> (BTreeMap<Ipv4Addr, u64>, usize) {
        let (mut seen, mut longest) = (BTreeMap::new(), 0);
        let mut now_ms = from_ms;
        while now_ms < to_ms {
            while let Some(step) = announcement.step(now_ms * MS, all) {
                longest = longest.max(step.addresses.len());
                step.addresses.iter().for_each(|ip| *seen.entry(*ip).or_default() += 1);
            }
            now_ms += turn_ms;
        }
        (seen, longest)
    }

    #[test]
    fn a_thousand_addresses_keep_the_time_of_few_in_short_steps() {
        for count in [1, 16, 17, 1_000] {
            for turn_ms in [1, 5, 10, 20] {
                let all = addresses(count);
                let mut announcement = Announcement::begin(0, 3_000);
                let (fast, longest) = run(&mut announcement, &all, (0, 5_000, turn_ms));
                assert_eq!(fast.len(), all.len());
                let often = fast.values().all(|times| (45..=50).contains(times));
                assert!(often, "each every 100 ms: {count}, turns of {turn_ms} ms: {:?}", fast.values().min());
                assert!(longest <= STEP_MIN.max(63 * usize::try_from(turn_ms.div_ceil(5)).expect("few")), "{longest}");
                // The last fast round may take a little longer.
                run(&mut announcement, &all, (5_000, 5_200, turn_ms));
                let (slow, longest) = run(&mut announcement, &all, (5_200, 15_200, turn_ms));
                assert!(slow.values().all(|times| (9..=11).contains(times)), "then each every second: {slow:?}");
                assert!(longest <= 126, "{longest}");
            }
        }
    }

    #[test]
    fn a_worker_that_stood_still_makes_up_in_bounded_steps() {
        let all = addresses(1_000);
        let mut announcement = Announcement::begin(0, 3_000);
        assert_eq!(announcement.step(0, &all).map(|step| step.addresses.len()), Some(63));
        let (seen, longest) = run(&mut announcement, &all, (400, 420, 1));
        assert_eq!((seen.len(), longest), (937, STEP_MAX), "the rest of the round");
    }

    #[test]
    fn an_address_that_comes_to_a_serving_shard_is_announced_fast_and_alone_so() {
        let (few, more) = (addresses(20), addresses(22));
        let mut announcement = Announcement::begin(0, 0);
        run(&mut announcement, &few, (0, 10_000, 5));
        announcement.add(10_000 * MS, 1_000, vec![more[20].0, more[21].0]);
        // One of the two leaves again at once.
        let (seen, _) = run(&mut announcement, &more[..21], (10_000, 13_000, 5));
        assert_eq!((seen[&more[20].0], seen.get(&more[21].0)), (33, None), "every 100 ms, beside the rounds of all");
        assert!(few.iter().all(|(ip, _)| seen[ip] == 3));
        let (seen, _) = run(&mut announcement, &more[..21], (13_000, 23_000, 5));
        assert!(seen.values().all(|times| *times == 10), "then as all others: {seen:?}");
    }
}
