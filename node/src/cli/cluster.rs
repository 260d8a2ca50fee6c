//! `qnat cluster …`: founds a cluster on disk, for a person to carry each directory to its machine, and signs who shall join
//! it. What continues a lost one is in `recovery`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use control::registry::Standing;
use control::view::NodeView;
use words::level;

use super::asking::Asking;
use super::founder::{NodeArg, must_be_empty};
use super::output::{self, Output, print};
use super::recovery::{self, BackupArgs, RecoverArgs, RestoreArgs};
use crate::answers::Status;
use crate::daemon::data_config::DataConfig;
use crate::daemon::founding::{self, Begin, FounderSpec};
use crate::daemon::joining;
use crate::daemon::request::{Request, ResourceKind};

/// Below `qnat cluster`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ClusterCommand {
    /// Found a cluster: writes an authority and one directory per node, to be carried to its machine. Once per cluster.
    Init {
        /// Where to write; must be empty or not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's name, part of all certificates: a-z, 0-9, hyphens.
        #[arg(long)]
        name: String,
        /// A founder: its number, where it listens for peers, and where its API listens (loopback, 127.0.0.1:7880 unless
        /// given).
        #[arg(long = "node", value_name = "ID=PEER_ADDR[,API_ADDR]", required = true)]
        nodes: Vec<NodeArg>,
        /// Level of the replicated formats to begin at; below the newest only if members with older builds shall join.
        #[arg(long, default_value_t = level::NEWEST, value_parser = clap::value_parser!(u16).range(i64::from(level::FIRST)..=i64::from(level::NEWEST)))]
        level: u16,
    },
    /// Sign what `qnat join request` wrote on a new machine. On the machine with ca.key, once per member.
    Sign {
        /// The directory with ca.pem and ca.key.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The request.
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        /// Where the certificate goes; must not be there.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write the control state and this member's address-translation log to a file, and check it.
    Backup(BackupArgs),
    /// Found a cluster that continues the one of a backup, for machines that have nothing. The old one must be off.
    Restore(RestoreArgs),
    /// Show the level of the replicated formats and who speaks which, or raise it: builds below it cannot come back.
    Level {
        /// Raise it to this.
        level: Option<u16>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Continue with one survivor when a majority of the members' disks is lost for good.
    Recover(RecoverArgs),
}

pub(super) fn perform(command: &ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Init { out, name, nodes, level } => init(out, name, nodes, *level),
        ClusterCommand::Sign { ca, request, out } => sign(ca, request, out),
        ClusterCommand::Backup(args) => recovery::back_up(args),
        ClusterCommand::Restore(args) => recovery::restore(args),
        ClusterCommand::Level { level: Some(level), asking } => asking.ask(&Request::SetLevel { level: *level }),
        ClusterCommand::Level { level: None, asking } => show_level(asking),
        ClusterCommand::Recover(args) => recovery::recover(args),
    }
}

/// The cluster's level and those of its members.
fn show_level(asking: &Asking) -> Result<ExitCode> {
    let status: Status = serde_json::from_value(asking.target.call(&Request::Status)?)?;
    let nodes: Vec<NodeView> =
        serde_json::from_value(asking.target.call(&Request::Get { kind: ResourceKind::Nodes })?)?;
    let members = nodes.iter().filter(|node| node.standing != Standing::Removed && node.incarnation.is_some());
    let members = members.map(|node| LevelRow { node: node.node, speaks: node.level }).collect();
    let shown = Levels { level: status.cluster.level, members };
    let text = match asking.output {
        Output::Json => output::json(&serde_json::to_value(&shown)?),
        Output::Table => {
            let speaks = shown.members.iter().map(|row| format!("n{} {}", row.node, row.speaks));
            format!("level {}; members speak: {}\n", shown.level, speaks.collect::<Vec<_>>().join(", "))
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What `qnat cluster level -o json` prints.
#[derive(serde::Serialize)]
struct Levels {
    /// The cluster's.
    level: u16,
    members: Vec<LevelRow>,
}

/// The newest level that a member's program speaks.
#[derive(serde::Serialize)]
struct LevelRow {
    node: u32,
    speaks: u16,
}

fn sign(ca: &Path, request: &Path, out: &Path) -> Result<ExitCode> {
    let (member, signed) = joining::sign(ca, request)?;
    founding::write_new(out, &signed, 0o644)?;
    let (node, out) = (member.node_id, out.display());
    print(&format!(
        "node {node} may join cluster {}. Carry {out} to it, and there: qnat join accept --dir DIR --certificate {out}\n",
        member.cluster
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn init(out: &Path, name: &str, nodes: &[NodeArg], level: u16) -> Result<ExitCode> {
    must_be_empty(out)?;
    let founders: Vec<FounderSpec> = nodes.iter().map(|node| node.founder(out)).collect();
    let id = founding::found_cluster(name, &founders, &out.join("ca"), &DataConfig::default(), Begin::Anew { level })?;
    let mut text = format!("cluster {name} is founded, its id is {id}\n\n");
    for founder in &founders {
        let dir = founder.dir.display();
        text += &format!("  n{}: carry {dir} to its machine, then: qnat node --config node.toml\n", founder.id);
    }
    text += &format!(
        "\n{}/ca.key signs further members (qnat cluster sign): keep it away from the nodes. Move each data directory, never copy it:\n\
         two members with one identity would vote twice.\n",
        out.join("ca").display()
    );
    if founders.len() < 3 {
        text +=
            "\nFewer than three nodes: one failure stops the cluster. More can join later: qnat join request --help\n";
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
