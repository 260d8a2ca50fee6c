//! What the black-box tests share: a lab in network namespaces, driven through the `qnat` binary alone, and the table of
//! what the product is held to. Never links the product itself: a test here sees what a user sees.

pub mod command;
pub mod conformance;
pub mod conversation;
pub mod disk;
pub mod house;
pub mod lab;
pub mod resources;
pub mod rules;
pub mod running;
pub mod scenarios;
pub mod shared;
