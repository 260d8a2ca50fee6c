//! Ports: in which order a lease's ports are tried, and which are in use.

mod order;
mod usage;

pub use order::LeaseOrder;
pub use usage::{BlockUse, PortUsage};
