//! Security groups on the control side: what is declared (`model`, `deployment`, `tag`), read from a file (`reading`), judged (`checking`,
//! `bounds`), what stands by itself (`defaults`, `service_tags`), what it means in a network (`scope`), what it is compiled to
//! (`compiling`), whose flows a change may end (`cutting`), and what people see of it (`rows`, `shadow`,
//! `answers`, `warnings`).
//!
//! Pure. The words are those of the product that users know; the packet path has ranges instead (`engine::nsg`).

pub mod answers;
pub mod bounds;
pub(crate) mod checking;
pub(crate) mod compiling;
pub mod cutting;
pub mod defaults;
mod deployment;
pub mod model;
mod ranges;
pub(crate) mod reading;
pub mod rows;
mod scope;
pub mod service_tags;
pub mod shadow;
pub mod tag;
pub(crate) mod warnings;
