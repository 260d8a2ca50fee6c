//! Seeded simulator, invariants and live drills. Never part of the product.

pub mod awake;
mod command;
pub mod drill;
pub mod invariants;
pub mod mutants;
pub mod sim;
pub mod stalls;
