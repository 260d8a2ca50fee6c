//! A member by its number, and asking one of the lab inside its namespace.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::client;
use crate::daemon::config::API_DEFAULT;
use crate::daemon::request::Request;
use qnat_lab::Host;

/// Where members listen unless configured otherwise, and always in the lab.
pub(super) fn default_api() -> SocketAddr {
    API_DEFAULT.parse().expect("a constant address")
}

/// `3` or `n3`.
pub(super) fn node_id(text: &str) -> Result<u32> {
    let digits = text.strip_prefix('n').unwrap_or(text);
    match digits.parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => bail!("no node is called {text:?}: use n1 or 1"),
    }
}

/// Asks member `node` of the lab in `dir`.
pub(super) fn call_member(
    dir: &Path,
    node: u32,
    api: SocketAddr,
    request: &Request,
    timeout: Duration,
) -> Result<Value> {
    Ok(qnat_lab::in_host(dir, Host::Node(node), || client::call_within(api, request, timeout))??)
}
