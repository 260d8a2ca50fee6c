//! Founders as they are named on the command line, and where their directories go.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use super::member::{default_api, node_id};
use crate::daemon::founding::FounderSpec;

/// A value of `--node`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NodeArg {
    pub(super) id: u32,
    pub(super) peer: SocketAddr,
    pub(super) api: SocketAddr,
}

impl FromStr for NodeArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = "write ID=PEER_ADDR[,API_ADDR], such as 1=198.18.0.1:7800";
        let Some((id, addresses)) = text.split_once('=') else { bail!("{text:?} has no '=': {form}") };
        let id = node_id(id)?;
        let (peer, api) = addresses.split_once(',').map_or((addresses, None), |(peer, api)| (peer, Some(api)));
        let address = |text: &str| -> Result<SocketAddr> {
            text.parse().with_context(|| format!("{text:?} is no address with a port: {form}"))
        };
        Ok(Self { id, peer: address(peer)?, api: api.map_or_else(|| Ok(default_api()), address)? })
    }
}

impl NodeArg {
    /// The founder, with a directory below `out`.
    pub(super) fn founder(&self, out: &Path) -> FounderSpec {
        FounderSpec { id: self.id, peer: self.peer, api: self.api, dir: out.join(format!("n{}", self.id)) }
    }
}

/// Refuses a directory for a founding that holds anything.
pub(super) fn must_be_empty(out: &Path) -> Result<()> {
    let entries = std::fs::read_dir(out).map_or(0, Iterator::count);
    ensure!(entries == 0, "{} is not empty: a cluster is founded once, into a directory of its own", out.display());
    Ok(())
}
