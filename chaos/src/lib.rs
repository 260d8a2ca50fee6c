//! Seeded simulator, invariants and live drills. Never part of the product.

pub mod awake;
pub mod drill;
pub mod invariants;
pub mod mutants;
pub mod sim;
pub mod stalls;
