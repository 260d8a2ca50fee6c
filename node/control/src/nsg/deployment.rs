//! The two deployment models of the product whose groups these are.

use std::fmt;

use bincode::{Decode, Encode};
use serde::Serialize;

/// The deployment model of a group: what it may say, and what it attaches to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// Attaches to subnets and network interfaces.
    #[default]
    ResourceManager,
    /// Attaches to subnets and instances; one value in each field, and no tags of single services.
    Classic,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResourceManager => "resource_manager",
            Self::Classic => "classic",
        })
    }
}
