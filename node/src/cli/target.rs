//! Whom a command asks: an address, a member of the lab (inside its namespace), or whatever is at hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::views;
use crate::client::{self, ClientError};
use crate::daemon::config::API_DEFAULT;
use crate::daemon::request::Request;
use qnat_lab::{Host, ProcessState};

/// How long a status of the whole lab waits for its slowest member.
const MERGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// Address of a member's API [default: the running lab's first live member (status: all of them), or 127.0.0.1:7880].
    #[arg(long, value_name = "HOST:PORT")]
    api: Option<SocketAddr>,
    /// A member of the lab, asked inside its namespace.
    #[arg(long, value_name = "n2", value_parser = node_id)]
    node: Option<u32>,
    /// Directory of the lab.
    #[arg(long, value_name = "DIR", default_value = qnat_lab::DEFAULT_DIR)]
    lab_dir: PathBuf,
}

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

impl Target {
    /// Asks. Where several members could answer, one that cannot be connected to is passed over, since nothing was asked
    /// of it; any other failure is final.
    pub(super) fn call(&self, request: &Request) -> Result<Value> {
        let api = self.api.unwrap_or_else(default_api);
        if let Some(node) = self.node {
            return call_member(&self.lab_dir, node, api, request, client::CALL_TIMEOUT);
        }
        if self.api.is_some() {
            return Ok(client::call(api, request)?);
        }
        let Ok(status) = qnat_lab::status(&self.lab_dir) else { return Ok(client::call(api, request)?) };
        if *request == super::together(Request::Status)
            && let Some(merged) = views::merged_status(&self.lab_dir, &status, MERGE_TIMEOUT)
        {
            return Ok(merged);
        }
        let running = status.nodes.iter().filter(|node| node.state == ProcessState::Running);
        let mut last = None;
        for node in running {
            match call_member(&self.lab_dir, node.node.id, api, request, client::CALL_TIMEOUT) {
                Err(error) if never_asked(&error) => last = Some(error.context(node.node.name.clone())),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| {
            let reason = "no member of the lab is running, see `qnat lab status`".to_owned();
            anyhow!(ClientError::Unreachable { addr: api, reason })
        }))
    }
}

fn never_asked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Unreachable { .. }))
}
