//! Which groups judge an IP configuration, and what they say of a first packet (S26): an inbound one is judged by its subnet's
//! group, then by that of its interface; an outbound one the other way round. All that are there must allow it; without any it may pass.
//!
//! Immutable, made by `control::nsg`, shared by all versions of the configuration that have the same. Labels are for whoever tells
//! of a verdict; nothing is decided by them.

use std::sync::Arc;

use crate::ids::BackendId;
use crate::map::Map;

use super::rules::{Access, Rules, Tuple};

/// The way of a flow's first packet, as the IP configuration sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To it.
    Inbound,
    /// From it.
    Outbound,
}

/// What a group is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The subnet.
    Subnet,
    /// The network interface, or in the classic model the instance.
    Card,
}

/// Who wrote a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A user.
    User,
    /// Every group has it.
    Default,
}

/// What a rule is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// What its hits are found by; by group, way and name (`rule_key`).
    pub key: u64,
    /// Its name, unique in its group.
    pub name: Box<str>,
    /// Its priority.
    pub priority: u16,
    /// Who wrote it.
    pub origin: Origin,
}

/// The rules of a group in one direction, as one virtual network means them.
#[derive(Clone, Debug)]
pub struct List {
    rules: Arc<Rules>,
    stamp: u64,
    labels: Arc<[Label]>,
    /// Of each of `rules`, its label: rules that can take nothing are left out of them.
    label_of: Box<[u16]>,
}

impl List {
    /// `stamp` is a hash of what was compiled to `rules`: it tells apart lists whose verdicts may differ.
    ///
    /// # Panics
    /// If a rule has no label.
    #[must_use]
    pub fn new(rules: Arc<Rules>, stamp: u64, labels: Arc<[Label]>, label_of: Box<[u16]>) -> Self {
        assert!(label_of.iter().all(|at| usize::from(*at) < labels.len()), "each rule has its label");
        Self { rules, stamp, labels, label_of }
    }

    /// The compiled rules, to be had again.
    #[must_use]
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// See [`List::new`].
    #[must_use]
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }

    fn judge(&self, tuple: &Tuple) -> (Access, Option<&Label>) {
        // A list ends with a rule that takes everything; one that did not would let nothing through.
        let Some((at, access)) = self.rules.judge(tuple) else { return (Access::Deny, None) };
        (access, self.label_of.get(at).map(|label| &self.labels[usize::from(*label)]))
    }
}

impl PartialEq for List {
    /// Equal stamps mean equal rules.
    fn eq(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.label_of == other.label_of && self.labels == other.labels
    }
}

impl Eq for List {}

/// A group, as one virtual network means it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleSet {
    /// Its name.
    pub group: Box<str>,
    /// Rules for what comes.
    pub inbound: List,
    /// Rules for what leaves.
    pub outbound: List,
}

impl RuleSet {
    fn list(&self, direction: Direction) -> &List {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// The groups that judge an IP configuration; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    subnet: Option<Arc<RuleSet>>,
    card: Option<Arc<RuleSet>>,
    revision: u64,
}

/// What groups say of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict<'a> {
    /// Whether it may pass.
    pub access: Access,
    /// Who said so: the group that denies it, or the last one that allows it; nobody if there is no group.
    pub decision: Option<Decision<'a>>,
}

/// The rule that decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<'a> {
    /// Where its group is attached.
    pub place: Place,
    /// Its group.
    pub group: &'a str,
    /// The rule.
    pub rule: Option<&'a Label>,
}

impl Attachment {
    /// `None` if nothing judges.
    #[must_use]
    pub fn new(subnet: Option<Arc<RuleSet>>, card: Option<Arc<RuleSet>>) -> Option<Self> {
        if subnet.is_none() && card.is_none() {
            return None;
        }
        let stamps = |set: &Option<Arc<RuleSet>>| {
            set.as_ref().map_or((0, 0), |set| (set.inbound.stamp.max(1), set.outbound.stamp.max(1)))
        };
        let ((a, b), (c, d)) = (stamps(&subnet), stamps(&card));
        // Each of the four at a place of its own; any change of one changes the sum.
        let revision =
            [a, b, c, d].into_iter().zip([1_u64, 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb]);
        let revision = revision.fold(0_u64, |sum, (stamp, odd)| sum.wrapping_add(stamp.wrapping_mul(odd)));
        Some(Self { subnet, card, revision })
    }

    /// A number that changes when verdicts about its IP configurations can have changed (K2), and never else; 0 stands for
    /// no groups at all.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What each group says of a packet, in their order, up to the first that denies it.
    pub fn decisions(&self, direction: Direction, tuple: &Tuple) -> impl Iterator<Item = (Access, Decision<'_>)> {
        let mut last = Access::Allow;
        self.sets(direction).map_while(move |(place, set)| {
            if last == Access::Deny {
                return None;
            }
            let (access, rule) = set.list(direction).judge(tuple);
            last = access;
            Some((access, Decision { place, group: &set.group, rule }))
        })
    }

    /// The groups, in the order in which they judge.
    pub fn sets(&self, direction: Direction) -> impl Iterator<Item = (Place, &Arc<RuleSet>)> {
        let (subnet, card) = ((Place::Subnet, self.subnet.as_ref()), (Place::Card, self.card.as_ref()));
        let order = match direction {
            Direction::Inbound => [subnet, card],
            Direction::Outbound => [card, subnet],
        };
        order.into_iter().filter_map(|(place, set)| Some((place, set?)))
    }
}

/// What groups say of the first packet of a flow; the one judge that there is (D21). Never asked for an established flow (S30).
#[inline]
#[must_use]
pub fn verdict<'a>(direction: Direction, attachment: Option<&'a Attachment>, tuple: &Tuple) -> Verdict<'a> {
    let last = attachment.and_then(|attachment| attachment.decisions(direction, tuple).last());
    match last {
        Some((access, decision)) => Verdict { access, decision: Some(decision) },
        None => Verdict { access: Access::Allow, decision: None },
    }
}

/// The attachments of all IP configurations; those without a group are not here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attachments(Map<BackendId, Arc<Attachment>>);

impl Attachments {
    /// What judges an IP configuration: one look-up, none at all where nobody has a group.
    #[inline]
    #[must_use]
    pub fn of(&self, backend: BackendId) -> Option<&Attachment> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&backend).map(Arc::as_ref)
    }

    /// The number of what judges an IP configuration; see [`Attachment::revision`].
    #[inline]
    #[must_use]
    pub fn revision(&self, backend: BackendId) -> u64 {
        self.of(backend).map_or(0, Attachment::revision)
    }

    /// Those whose verdicts can be others than they were. Costs a step for each that has a group; nothing if both are the same.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = BackendId> + 'a {
        let apart =
            move |(id, now): (&BackendId, &Arc<Attachment>)| (before.revision(*id) != now.revision).then_some(*id);
        let gone = before.0.keys().filter(|id| !self.0.contains_key(*id)).copied();
        self.0.iter().filter_map(apart).chain(gone)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (BackendId, &Arc<Attachment>)> {
        self.0.iter().map(|(id, attachment)| (*id, attachment))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody has a group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(BackendId, Arc<Attachment>)> for Attachments {
    fn from_iter<I: IntoIterator<Item = (BackendId, Arc<Attachment>)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}
