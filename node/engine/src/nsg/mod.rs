//! Security groups: which rule decides about the first packet of a flow (S25–S31).
//!
//! Pure data, compiled away from the packet path, asked once per flow. It must never be asked for a packet of an established flow
//! (S30), and decides nothing by names: tags, groups of applications and addresses are ranges here already, and what a rule is called
//! is only told.

mod attachment;
mod field;
mod hits;
mod rules;

pub use attachment::{
    Attachment, Attachments, Decision, Direction, Label, List, Origin, Place, RuleSet, Verdict, verdict,
};
pub use field::Range;
pub(crate) use hits::Hits;
pub use hits::rule_key;
pub use rules::{Access, Protocol, RULES_MAX, Rule, Rules, Tuple};
