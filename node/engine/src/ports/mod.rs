//! Ports: in which order a lease's ports are tried, and which are in use.

mod claims;
mod order;
mod usage;

pub use claims::Claims;
pub use order::{LeaseOrder, PEEKS_MAX, PeekTooLong};
pub use usage::{BlockUse, PortUsage};
