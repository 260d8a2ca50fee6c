//! Security groups: which rule decides about the first packet of a flow (S25–S31).
//!
//! Pure data, compiled away from the packet path, asked once per flow. It must never be asked for a packet of an established flow
//! (S30), and never knows names: tags, groups of applications and addresses are ranges here already.

mod field;
mod rules;

pub use field::Range;
pub use rules::{Access, Protocol, RULES_MAX, Rule, Rules, Tuple};
