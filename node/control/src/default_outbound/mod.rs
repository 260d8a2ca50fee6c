//! The way out of instances that have nothing else (S4): an address of a range that is the system's, chosen for them.
//!
//! Who goes out so is in no pool that a rule links to a frontend, and has no public address of its own. An availability set
//! counts as a pool (D2), and an instance in none as one of its own: its size picks the tier, and its members share one
//! address as long as that has room for them. A set keeps its address as long as both are declared. A system address is a
//! frontend like any other, with grants, drains and holds as of pools; nobody names it, and no limit of public addresses
//! counts it. Room by room: what is declared (`model`, `ways`), how it is read and checked, which set has which address
//! (`sets`), and what people see (`rows`).

pub(crate) mod checking;
pub mod model;
pub(crate) mod reading;
pub mod rows;
pub(crate) mod sets;
pub mod ways;
