//! Lease words under the name by which this crate's files know them.

pub use words::LeaseWords;
