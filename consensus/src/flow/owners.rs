//! Who owns which group, as far as this node knows: from its own replicas and from announcements (M1, L4).
//!
//! Never believes an older epoch or term. Used by `FlowGroups`.

use std::collections::BTreeMap;

use words::{Epoch, Incarnation, ShardId};

use crate::event::FlowEffect;

#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    term: u64,
    owner: Option<Incarnation>,
    heard_ns: u64,
    told: Option<(u64, Option<Incarnation>)>,
}

/// The known owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: BTreeMap<ShardId, Known>,
    fresh: bool,
}

impl Owners {
    /// `owner` led (`epoch`, `term`) at `heard_ns`. Older news is ignored, and so are repetitions except for their time.
    pub(super) fn heard(&mut self, group: ShardId, epoch: Epoch, term: u64, owner: Incarnation, heard_ns: u64) {
        let fresh = Known { epoch, term, owner: Some(owner), heard_ns, told: None };
        let known = self.known.entry(group).or_insert(fresh);
        // At the same term there is one leader only, and after a silence it may be the same again.
        if (epoch, term) < (known.epoch, known.term) || heard_ns < known.heard_ns {
            return;
        }
        self.fresh |= known.told != Some((term, Some(owner)));
        *known = Known { told: known.told, ..fresh };
    }

    /// `owner` does not lead in `term` any more, and no successor is known.
    pub(super) fn lost(&mut self, group: ShardId, owner: Incarnation) {
        if let Some(known) = self.known.get_mut(&group)
            && known.owner == Some(owner)
        {
            known.owner = None;
            self.fresh = true;
        }
    }

    /// Forgets an owner that was silent since `since_ns`.
    pub(super) fn silent_since(&mut self, group: ShardId, since_ns: u64) {
        if let Some(known) = self.known.get_mut(&group)
            && known.heard_ns < since_ns
            && known.owner.is_some()
        {
            known.owner = None;
            self.fresh = true;
        }
    }

    /// Owner and term of a group, if one is known.
    #[must_use]
    pub(super) fn owner(&self, group: ShardId) -> Option<(u64, Incarnation)> {
        let known = self.known.get(&group)?;
        Some((known.term, known.owner?))
    }

    /// All groups that something is known of.
    #[must_use]
    pub(super) fn groups(&self) -> Vec<ShardId> {
        self.known.keys().copied().collect()
    }

    /// Keeps the groups that exist.
    pub(super) fn retain(&mut self, exists: impl Fn(ShardId) -> bool) {
        self.known.retain(|group, _| exists(*group));
    }

    /// The news since the last call.
    pub(super) fn news(&mut self) -> Vec<FlowEffect> {
        let mut news = Vec::new();
        if !std::mem::take(&mut self.fresh) {
            return news;
        }
        for (group, known) in &mut self.known {
            let now = (known.term, known.owner);
            if known.told != Some(now) {
                known.told = Some(now);
                news.push(FlowEffect::Owner { group: *group, term: known.term, owner: known.owner });
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: ShardId = ShardId(1);

    #[test]
    fn a_late_announcement_of_an_older_term_changes_nothing() {
        let mut owners = Owners::default();
        owners.heard(G, Epoch(0), 5, Incarnation(2), 10);
        owners.heard(G, Epoch(0), 4, Incarnation(1), 20);
        assert_eq!(owners.owner(G), Some((5, Incarnation(2))));
        owners.heard(G, Epoch(1), 1 << 32, Incarnation(3), 20);
        assert_eq!(owners.owner(G), Some((1 << 32, Incarnation(3))));
    }

    #[test]
    fn news_are_told_once() {
        let mut owners = Owners::default();
        owners.heard(G, Epoch(0), 5, Incarnation(2), 10);
        assert_eq!(owners.news().len(), 1);
        owners.heard(G, Epoch(0), 5, Incarnation(2), 20);
        assert!(owners.news().is_empty());
        owners.silent_since(G, 30);
        assert!(matches!(owners.news()[..], [FlowEffect::Owner { owner: None, .. }]));
        owners.heard(G, Epoch(0), 5, Incarnation(2), 40);
        assert_eq!(owners.news().len(), 1);
    }
}
