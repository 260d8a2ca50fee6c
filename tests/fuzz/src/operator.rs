//! What operators declare.

use control::config::parse;

use crate::bounded;

/// Octets of memory per octet of text: a parsed document, with its places, and what is wrong with each line of it.
pub(crate) const EACH: u64 = 4_096;

/// The cluster's configuration.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(data, EACH, || parse("net.toml", text)) {
        Ok(_) => {}
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says why");
            assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
}
