//! Ports: in which order a lease's ports are tried, and which are in use.

mod claims;
mod order;
mod usage;

pub use claims::Claims;
pub use order::{LeaseOrder, PEEKS_MAX, PeekTooLong};
pub use usage::{BlockUse, PortUsage};

use crate::ids::{FrontendId, PortBlock};

/// Whether a port belongs to the lease.
pub(crate) fn in_lease(lease: &[PortBlock], frontend: FrontendId, port: u16) -> bool {
    lease.iter().any(|b| b.frontend == frontend && b.contains(port))
}
