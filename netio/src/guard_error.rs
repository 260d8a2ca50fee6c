//! Why the guard does not stand.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why the guard does not stand. A node may run without it, and says so.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// clang was missing when this binary was built.
    #[error("this build has no BPF egress guard (clang was missing)")]
    NotBuilt,
    /// Two data networks on one interface: the guard could not tell their addresses apart.
    #[error("two data networks are the same interface {0}")]
    SameInterface(String),
    /// The kernel refuses the program or its maps.
    #[error("loading the egress guard: {0}")]
    Load(#[from] EbpfError),
    /// The compiled object does not fit this loader.
    #[error("the egress guard has no {0}")]
    Missing(&'static str),
    /// The kernel's verifier, or the attachment.
    #[error("egress guard: {0}")]
    Program(#[from] ProgramError),
    /// An update of a map, for example one that is full.
    #[error("egress guard's map: {0}")]
    Map(#[from] MapError),
    /// clsact or the mapping of the words.
    #[error("egress guard, {op} on {interface}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Where.
        interface: String,
        /// The system's answer.
        source: io::Error,
    },
}
