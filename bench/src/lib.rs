//! Measurements of qnat as a user runs it, beside the kernel's own NAT. Never part of the product.

pub mod beside;
pub mod control;
pub mod engine;
pub mod flows;
pub mod hold;
pub mod lab;
pub mod load;
pub mod machine;
pub mod malformed;
pub mod nftables;
pub mod numbers;
pub mod offer;
pub(crate) mod plots;
pub mod printing;
pub mod report;
pub mod rules;
pub mod steps;
pub mod syn_flood;
pub mod undo;
pub mod ways;
pub mod workers;
