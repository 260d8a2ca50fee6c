//! The backends of a snapshot, in parts that versions share: the next version costs what differs from the one before.
//!
//! Hot path. Found by number with one lookup of a part and one step in it; numbers are given out in sequence, so parts are
//! full until backends go. Whoever changes a part changes an own copy of it. Made by `control::compile`, read by workers.

use std::collections::BTreeSet;
use std::ops::Index;
use std::sync::Arc;

use crate::backend::Backend;
use crate::ids::BackendId;
use crate::map::Map;

/// Backends of one part.
pub const PART_LEN: usize = 64;
const PART_BITS: u32 = PART_LEN.trailing_zeros();

type Part = [Option<Backend>; PART_LEN];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Parts by the upper bits of their numbers; none is empty.
    parts: Map<u32, Arc<Part>>,
    len: usize,
}

impl Backends {
    /// The backend of this number.
    #[inline]
    #[must_use]
    pub fn get(&self, id: &BackendId) -> Option<&Backend> {
        let (part, at) = place(*id);
        self.parts.get(&part)?[at].as_ref()
    }

    /// The same, to change it; if another version shares its part, in a copy.
    pub fn get_mut(&mut self, id: &BackendId) -> Option<&mut Backend> {
        let (part, at) = place(*id);
        let part = self.parts.get_mut(&part)?;
        part[at].as_ref()?;
        Arc::make_mut(part)[at].as_mut()
    }

    /// Whether there is one of this number.
    #[must_use]
    pub fn contains_key(&self, id: &BackendId) -> bool {
        self.get(id).is_some()
    }

    /// Puts one in; gives back what had the number.
    pub fn insert(&mut self, id: BackendId, backend: Backend) -> Option<Backend> {
        let (part, at) = place(id);
        let part = self.parts.entry(part).or_insert_with(|| Arc::new([const { None }; PART_LEN]));
        let before = Arc::make_mut(part)[at].replace(backend);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes one out.
    pub fn remove(&mut self, id: &BackendId) -> Option<Backend> {
        self.get(id)?;
        let (number, at) = place(*id);
        let part = Arc::make_mut(self.parts.get_mut(&number)?);
        let before = part[at].take();
        if part.iter().all(Option::is_none) {
            self.parts.remove(&number);
        }
        self.len -= usize::from(before.is_some());
        before
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (BackendId, &Backend)> {
        self.parts.iter().flat_map(|(number, part)| {
            part.iter().enumerate().filter_map(move |(at, backend)| Some((id(*number, at), backend.as_ref()?)))
        })
    }

    /// All without their numbers.
    pub fn values(&self) -> impl Iterator<Item = &Backend> {
        self.parts.values().flat_map(|part| part.iter().flatten())
    }

    /// All, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Backend> {
        self.parts.values_mut().flat_map(|part| Arc::make_mut(part).iter_mut().flatten())
    }

    /// All numbers, in no order.
    pub fn keys(&self) -> impl Iterator<Item = BackendId> {
        self.iter().map(|(id, _)| id)
    }

    /// Those that are not as `before` had them, also those that it alone has. Costs what parts differ.
    pub fn changed_since(&self, before: &Self) -> impl Iterator<Item = BackendId> {
        let numbers: BTreeSet<u32> = self.apart_from(before).chain(before.apart_from(self)).collect();
        numbers.into_iter().flat_map(move |number| {
            let (now, then) = (self.parts.get(&number), before.parts.get(&number));
            let differs =
                move |n: &usize| now.and_then(|part| part[*n].as_ref()) != then.and_then(|part| part[*n].as_ref());
            (0..PART_LEN).filter(differs).map(move |n| id(number, n))
        })
    }

    /// Parts that equal those of `before` become the very same ones.
    pub fn share_with(&mut self, before: &Self) {
        for (number, part) in &mut self.parts {
            if let Some(theirs) = before.parts.get(number).filter(|theirs| *theirs == part) {
                *part = Arc::clone(theirs);
            }
        }
    }

    /// How many parts are not those of `other`.
    #[must_use]
    pub fn parts_apart_from(&self, other: &Self) -> usize {
        self.apart_from(other).count()
    }

    fn apart_from(&self, other: &Self) -> impl Iterator<Item = u32> {
        let shared =
            |number: &u32, part: &Arc<Part>| other.parts.get(number).is_some_and(|theirs| Arc::ptr_eq(part, theirs));
        self.parts.iter().filter(move |(number, part)| !shared(number, part)).map(|(number, _)| *number)
    }
}

impl Index<&BackendId> for Backends {
    type Output = Backend;

    fn index(&self, id: &BackendId) -> &Backend {
        self.get(id).expect("a backend of this number")
    }
}

/// The number of what stands there.
fn id(part: u32, at: usize) -> BackendId {
    BackendId((part << PART_BITS) | u32::try_from(at).unwrap_or(u32::MAX))
}

/// The number of the part, and the place in it.
#[inline]
fn place(BackendId(id): BackendId) -> (u32, usize) {
    let at = usize::try_from(id).unwrap_or(usize::MAX);
    (id >> PART_BITS, at % PART_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn they_are_what_a_plain_map_of_them_is() {
        let (mut backends, mut map) = (Backends::default(), BTreeMap::new());
        // The ends of parts and of the numbers, and some put in and taken out again.
        for n in [0, 1, 63, 64, 65, 127, 128, 4_000, u32::MAX] {
            assert_eq!(
                backends.insert(BackendId(n), Backend::numbered(n)),
                map.insert(BackendId(n), Backend::numbered(n))
            );
        }
        for n in [64, 65, 127, 5, u32::MAX] {
            assert_eq!(backends.remove(&BackendId(n)), map.remove(&BackendId(n)), "{n}");
        }
        assert_eq!(
            backends.insert(BackendId(63), Backend::numbered(7)),
            map.insert(BackendId(63), Backend::numbered(7))
        );
        assert_eq!(backends.iter().map(|(id, b)| (id, b.clone())).collect::<BTreeMap<_, _>>(), map);
        assert_eq!((backends.len(), backends.keys().count(), backends.values().count()), (5, 5, 5));
        assert!(backends.contains_key(&BackendId(128)) && !backends.contains_key(&BackendId(129)));
        assert_eq!(backends[&BackendId(63)], Backend::numbered(7));
        let taken_and_put_back = {
            let mut other = backends.clone();
            other.insert(BackendId(300), Backend::numbered(300));
            other.remove(&BackendId(300));
            other
        };
        assert_eq!(backends, taken_and_put_back, "an empty part makes a difference");
    }

    #[test]
    fn a_change_leaves_the_version_before_alone_and_shares_all_other_parts() {
        let mut before = Backends::default();
        (0..1_000).for_each(|n| drop(before.insert(BackendId(n), Backend::numbered(n))));
        let mut after = before.clone();
        assert_eq!(after.parts_apart_from(&before), 0);
        after.get_mut(&BackendId(700)).expect("there").idle_timeout_ms = 1;
        assert_eq!(after.get_mut(&BackendId(5_000)), None);
        assert_eq!(after.remove(&BackendId(5_001)), None);
        assert_eq!(before[&BackendId(700)].idle_timeout_ms, 240_000);
        assert_eq!(after.parts_apart_from(&before), 1);
    }
}
