//! Sets of addresses as ranges in order that neither overlap nor touch.

use std::net::Ipv4Addr;

use engine::nsg::Range;
use words::Prefix;

/// All addresses that some of these networks have.
pub(crate) fn of_prefixes(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<Range> {
    let range = |prefix: Prefix| Range { first: prefix.normal().network.to_bits(), last: prefix.broadcast().to_bits() };
    joined(prefixes.into_iter().map(range).collect())
}

/// The same addresses, in normal form.
pub(crate) fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// Those of `all` that are not in `without`; both in normal form.
pub(crate) fn minus(all: &[Range], without: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for range in all {
        let mut from = Some(range.first);
        for gap in without.iter().filter(|gap| gap.first <= range.last && range.first <= gap.last) {
            let Some(first) = from else { break };
            if first < gap.first {
                left.push(Range { first, last: gap.first - 1 });
            }
            from = gap.last.checked_add(1).filter(|next| *next <= range.last);
        }
        left.extend(from.map(|first| Range { first, last: range.last }));
    }
    left
}

/// The same addresses as networks, for people.
pub(crate) fn prefixes(ranges: &[Range]) -> Vec<Prefix> {
    let mut all = Vec::new();
    for range in ranges {
        let mut from = Some(range.first);
        while let Some(first) = from.filter(|first| *first <= range.last) {
            // The largest network that begins there and does not go beyond the end.
            let bits = (0..=first.trailing_zeros()).rev().find(|bits| {
                let hosts = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
                first.checked_add(hosts).is_some_and(|last| last <= range.last)
            });
            let bits = bits.unwrap_or(0);
            let hosts = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
            let len = u8::try_from(32 - bits).unwrap_or(32);
            all.push(Prefix { network: Ipv4Addr::from_bits(first), len });
            from = (first + hosts).checked_add(1);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, last: u32) -> Range {
        Range { first, last }
    }

    #[test]
    fn sets_of_ranges_are_those_of_their_values() {
        let (all, ends) = (range(0, u32::MAX), [range(0, 0), range(9, 12), range(u32::MAX, u32::MAX)]);
        assert_eq!(minus(&[all], &ends), [range(1, 8), range(13, u32::MAX - 1)]);
        assert_eq!(minus(&[all], &[all]), []);
        assert_eq!(minus(&[range(5, 9), range(20, 30)], &[range(7, 25)]), [range(5, 6), range(26, 30)]);
        assert_eq!(joined(vec![range(5, 6), range(0, 4), range(9, 9), range(2, 3)]), [range(0, 6), range(9, 9)]);
        // Values one by one, over all pairs of a small space.
        let sets: Vec<Vec<Range>> =
            (0..64_u32).map(|bits| joined((0..6).filter(|at| bits & 1 << at != 0).map(Range::one).collect())).collect();
        for (one, a) in sets.iter().enumerate() {
            for (other, b) in sets.iter().enumerate() {
                assert_eq!(minus(a, b), sets[one & !other], "{one:b} without {other:b}");
            }
        }
    }

    #[test]
    fn networks_have_the_addresses_of_the_ranges_that_they_are_made_of() {
        for ranges in [vec![range(0, u32::MAX)], vec![range(1, 6)], vec![range(0, 8), range(13, u32::MAX)]] {
            let networks = prefixes(&ranges);
            assert!(networks.iter().all(|prefix| prefix.normal() == *prefix));
            assert_eq!(of_prefixes(networks), ranges);
        }
        assert_eq!(prefixes(&[range(0, u32::MAX)]).len(), 1);
        assert_eq!(prefixes(&[range(1, 6)]).len(), 4);
    }
}
