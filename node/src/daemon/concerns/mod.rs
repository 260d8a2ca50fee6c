//! What is not as it should be, as far as this member can know: the one place where all sources meet (I55).
//!
//! There are two ways in. What can be seen in the member's reports is judged by a source here, a function of [`Facts`]
//! (add one to `SOURCES`). What only the code that meets it knows is raised on the board [`Alarms`], and cleared there by
//! the same code. [`Memory`] says since when. Called by the answerer for `status`, and once a second by `noting`, which
//! makes log lines and metrics of it. It must never wait for a disk or a peer, nor decide anything but what to say.

mod alarms;
mod facts;
mod limits;
mod links;
mod losses;
mod machine;
mod members;
mod memory;
pub(in crate::daemon) mod ports;
mod redundancy;
pub(in crate::daemon) mod shortages;

use control::concern::{Concern, sorted};

pub use alarms::Alarms;
pub use facts::Facts;
pub use losses::{Loss, Losses};
pub use memory::Memory;

/// Finds concerns of one kind.
type Source = fn(&Facts<'_>, &mut Vec<Concern>);

const SOURCES: &[Source] =
    &[redundancy::concerns, members::concerns, machine::concerns, links::concerns, limits::concerns];

/// All concerns of this member: of the replicated state, of the sources, and what was raised.
pub(super) fn collect(facts: &Facts<'_>, alarms: &Alarms) -> Vec<Concern> {
    let mut found = facts.control.status.concerns.clone();
    for source in SOURCES {
        source(facts, &mut found);
    }
    found.extend(alarms.raised());
    redundancy::without_consequences(&mut found);
    sorted(found)
}

#[cfg(test)]
pub(in crate::daemon) mod tests;
