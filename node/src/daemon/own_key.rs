//! This member's own key, as others know it: read from its certificate at the start.

use std::fs;

use anyhow::Context as _;

use super::config::NodeConfig;

/// SHA-256 of the public key in the member's certificate.
///
/// # Errors
/// If the certificate cannot be read.
pub(super) fn own_key(config: &NodeConfig) -> anyhow::Result<[u8; 32]> {
    let place = || config.tls.cert.display().to_string();
    let pem = fs::read_to_string(&config.tls.cert).with_context(place)?;
    netio::ca::key_hash_of_pem(&pem).with_context(place)
}
