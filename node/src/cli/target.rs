//! Whom a command asks: an address, a member of the lab (inside its namespace), or whatever is at hand.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::member::{call_member, default_api, node_id};
use super::views;
use crate::client::{self, ClientError};
use crate::daemon::request::Request;
use qnat_lab::ProcessState;

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
        if *request == Request::Status.together()
            && let Some(merged) = views::merged_status(&self.lab_dir, &status, MERGE_TIMEOUT)
        {
            return Ok(serde_json::to_value(merged)?);
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
