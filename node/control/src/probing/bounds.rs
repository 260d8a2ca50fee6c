//! How much there may be of probes. `limits` derives lengths from these.

/// Most probes, of all load balancers and machines together.
pub const PROBES_MAX: usize = 1_024;
/// Most IP configurations that are asked, each once for each probe that asks it; a machine's own asks one.
pub const PROBED_MAX: usize = 65_536;
/// Longest path of a request, in octets.
pub const PATH_LEN_MAX: usize = 256;
/// Most changes of one entry.
pub const CHANGES_MAX: usize = 256;
