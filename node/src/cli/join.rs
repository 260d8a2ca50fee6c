//! `qnat join`: a new machine asks to be a member. The signature in between is `qnat cluster sign`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};

use super::founder::NodeArg;
use super::member::node_id;
use super::output::print;
use crate::daemon::data_config::DataConfig;
use crate::daemon::joining::{self, JoinSpec};

/// Below `qnat join`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum JoinCommand {
    /// On the new machine: makes its key, its node.toml, and a request to be signed with `qnat cluster sign`.
    Request {
        /// Where to write; no node's directory yet.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster's name, as in `qnat cluster init`.
        #[arg(long)]
        cluster: String,
        /// The new node: a number that no member has, where it listens for peers, and where its API listens.
        #[arg(long, value_name = "ID=PEER_ADDR[,API_ADDR]")]
        node: NodeArg,
        /// A member to ask; the more are named, the fewer must be up.
        #[arg(long = "member", value_name = "ID=PEER_ADDR", required = true)]
        members: Vec<MemberArg>,
    },
    /// On the new machine: puts the signed certificate in place.
    Accept {
        /// The node's directory.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What `qnat cluster sign` wrote.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
    },
}

/// A value of `--member`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MemberArg(u32, SocketAddr);

impl FromStr for MemberArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = "write ID=PEER_ADDR, such as 1=198.18.0.1:7800";
        let Some((id, address)) = text.split_once('=') else { bail!("{text:?} has no '=': {form}") };
        let address = address.parse().with_context(|| format!("{address:?} is no address with a port: {form}"))?;
        Ok(Self(node_id(id)?, address))
    }
}

pub(super) fn perform(command: &JoinCommand) -> Result<ExitCode> {
    match command {
        JoinCommand::Request { dir, cluster, node, members } => {
            let NodeArg { id, peer, api } = *node;
            let members = members.iter().map(|member| (member.0, member.1)).collect();
            let (cluster, dir) = (cluster.clone(), dir.clone());
            let asked = joining::request(&JoinSpec {
                cluster,
                id,
                peer,
                api,
                members,
                dir: dir.clone(),
                data: DataConfig::default(),
            })?;
            print(&format!(
                "Check the data interfaces in {config}. Then carry {asked} to the machine with ca.key, and there:\n\
                 \x20 qnat cluster sign --ca CA_DIR --request {name} --out n{id}.pem\n\
                 Carry n{id}.pem back, and here:\n\
                 \x20 qnat join accept --dir {dir} --certificate n{id}.pem\n\
                 \x20 qnat node --config {config}\n",
                config = dir.join("node.toml").display(),
                asked = asked.display(),
                name = asked.file_name().map_or(Path::new("node.csr"), Path::new).display(),
                dir = dir.display(),
            ))?;
        }
        JoinCommand::Accept { dir, certificate } => {
            let member = joining::accept(dir, certificate)?;
            let config = dir.join("node.toml");
            let (node, cluster) = (member.node_id, member.cluster);
            print(&format!(
                "node {node} of cluster {cluster}: its certificate is in place. Start it: qnat node --config {}\n",
                config.display()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
