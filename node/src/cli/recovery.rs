//! `qnat cluster backup`, `restore` and `recover` (N6): what is left when a majority of the disks is not.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use consensus::control::storage::LogPosition;
use engine::ids::NodeId;

use super::founder::NodeArg;
use super::output::print;
use crate::answers::StateBytes;
use crate::client;
use crate::daemon::backup::{self, Backup, Content};
use crate::daemon::config::NodeConfig;
use crate::daemon::data_config::DataConfig;
use crate::daemon::founding::{self, Begin, FounderSpec};
use crate::daemon::recovery::{self, Base, Other};
use crate::daemon::request::Request;
use crate::nat_log::{self, time_text};

/// `qnat cluster backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The node.toml of a running member of this machine.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The backup: must not be there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// `qnat cluster restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// Backups of one cluster, one or one of each member: the state comes from the newest, a node's address-translation log
    /// from its own, or else from the newest.
    #[arg(long, value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// Where to write; must be empty or not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The new cluster's name [default: the old one's].
    #[arg(long)]
    name: Option<String>,
    /// A member of the new cluster, as in `qnat cluster init`.
    #[arg(long = "node", value_name = "ID=PEER_ADDR[,API_ADDR]", required = true)]
    nodes: Vec<NodeArg>,
}

/// `qnat cluster recover`.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverArgs {
    /// The survivor's node.toml; the member must not run. Without the options below it only says what this disk holds.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where this survivor's log ends, as it said: it is the greatest of all survivors'.
    #[arg(long, value_name = "TERM,INDEX")]
    end: Option<EndArg>,
    /// A member that is powered off or stopped and will never run again with its old data, by its incarnation. Name all.
    #[arg(long = "off", value_name = "NODE:INCARNATION")]
    off: Vec<OffArg>,
}

/// A value of `--end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct EndArg(LogPosition);

impl FromStr for EndArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once(',').and_then(|(term, index)| Some((term.parse().ok()?, index.parse().ok()?)));
        let Some((term, index)) = numbers else { bail!("{text:?}: write TERM,INDEX, such as 3,1207") };
        Ok(Self(LogPosition { term, index }))
    }
}

/// A value of `--off`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct OffArg {
    node: u32,
    /// 0: it has not registered.
    incarnation: u64,
}

impl FromStr for OffArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = "write NODE:INCARNATION, such as 2:118";
        let Some((node, life)) = text.split_once(':') else { bail!("{text:?} has no ':': {form}") };
        let incarnation = life.parse().with_context(|| format!("{text:?}: {form}"))?;
        Ok(Self { node: super::member::node_id(node)?, incarnation })
    }
}

impl From<&Other> for OffArg {
    fn from(other: &Other) -> Self {
        Self { node: other.node.0, incarnation: other.life.map_or(0, |life| life.0) }
    }
}

pub(super) fn back_up(args: &BackupArgs) -> Result<ExitCode> {
    let config = NodeConfig::load(&args.config)?;
    let answer: StateBytes = client::call(config.api.listen, &Request::State)?;
    let state = BASE64_STANDARD.decode(answer.state).ok().filter(|octets| !octets.is_empty());
    let state = state.context("the member gave no control state; is it of this version?")?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let made = time_text(u64::try_from(unix.as_millis())?);
    let content = Content { cluster: &config.cluster, node: config.node_id, made, state: &state };
    let logs = nat_log::files(&config.nat_log_path(), config.nat_log.kept);
    let made = backup::write(&args.to, &content, &logs)?;
    print(&format!(
        "{}: cluster {} as of control index {}, and the address-translation log of node {}; it was read back and is sound.\n\
         Established connections are not in it: they live in the members' memory. A log of mappings is each owner's own:\n\
         if you keep one, make a backup on every member.\n",
        made.path.display(),
        made.manifest.cluster,
        made.manifest.control_index,
        made.manifest.node,
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(args: &RestoreArgs) -> Result<ExitCode> {
    super::founder::must_be_empty(&args.out)?;
    let backups = args.from.iter().map(|path| backup::read(path)).collect::<Result<Vec<Backup>>>()?;
    let newest = backups.iter().max_by_key(|backup| backup.manifest.control_index).context("no backup")?;
    let stranger = backups.iter().find(|backup| backup.state.cluster_id() != newest.state.cluster_id());
    if let Some(stranger) = stranger {
        bail!("{} and {} are of different clusters", newest.path.display(), stranger.path.display());
    }
    let name = args.name.as_ref().unwrap_or(&newest.manifest.cluster);
    let founders: Vec<FounderSpec> = args.nodes.iter().map(|node| node.founder(&args.out)).collect();
    let begin = Begin::Continued(Box::new(newest.state.clone()));
    let id = founding::found_cluster(name, &founders, &args.out.join("ca"), &DataConfig::default(), begin)?;
    for founder in &founders {
        let own = backups.iter().find(|backup| backup.manifest.node == founder.id).unwrap_or(newest);
        let config = NodeConfig::load(&founder.dir.join("node.toml"))?;
        own.unpack_logs(&config.nat_log_path())?;
    }
    let mut text = format!(
        "cluster {name} continues the one of {} as of control index {}, made {}; its new id is {id}\n\n",
        newest.path.display(),
        newest.manifest.control_index,
        newest.manifest.made
    );
    for founder in &founders {
        let _infallible = writeln!(
            text,
            "  n{}: carry {} to its machine, then: qnat node --config node.toml",
            founder.id,
            founder.dir.display()
        );
    }
    text += &missing(newest.manifest.control_index, newest.state.stamped_unix_ms(), &newest.state);
    text += "No machine of the old cluster may run any more. Certificates are new ones, and so is the authority that signed them.\n";
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What nobody can know to be there.
fn missing(index: u64, stamped_unix_ms: u64, state: &control::State) -> String {
    let when = if stamped_unix_ms == 0 { "its founding".to_owned() } else { time_text(stamped_unix_ms) };
    let seconds = state.settings().recreate_quarantine_ms.div_ceil(1000);
    format!(
        "\nWhat may be missing: whatever was decided after control index {index}, proposed at {when}: configuration, port grants\n\
         and reclaims, members that joined or were removed. All established connections are gone. New ones wait {seconds} s from the\n\
         moment that a shard has an owner, so that no public port is used that somebody may still be using.\n"
    )
}

pub(super) fn recover(args: &RecoverArgs) -> Result<ExitCode> {
    let config = NodeConfig::load(&args.config)?;
    let base = Base::read(&config.data_dir)?;
    let others: Vec<OffArg> = base.others(NodeId(config.node_id)).iter().map(OffArg::from).collect();
    let Some(EndArg(end)) = args.end else {
        ensure!(args.off.is_empty(), "--off without --end TERM,INDEX");
        print(&told(&args.config, &config, &base, &others))?;
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(
        end == base.end,
        "--end {},{}: this disk's log ends at {},{}",
        end.term,
        end.index,
        base.end.term,
        base.end.index
    );
    let mut off = args.off.clone();
    off.sort_unstable();
    off.dedup();
    for other in &others {
        ensure!(
            off.contains(other),
            "node {} with incarnation {} is not named: power it off, then add --off {}:{}",
            other.node,
            other.incarnation,
            other.node,
            other.incarnation
        );
    }
    if let Some(stranger) = off.iter().find(|off| !others.contains(off)) {
        bail!(
            "--off {}:{}: no other member of the cluster had that incarnation last",
            stranger.node,
            stranger.incarnation
        );
    }
    let text = missing(base.end.index, base.state.stamped_unix_ms(), &base.state);
    let (id, aside) = recovery::recover(&config, base)?;
    print(&format!(
        "the cluster goes on with this member alone; its new id is {id}\n\n  \
         start it: qnat node --config {}\n  \
         then empty the data directory of each other machine and start it: it joins again\n{text}\
         The old store is kept in {}.\n",
        args.config.display(),
        aside.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What a disk holds, and how to go on from it.
fn told(file: &Path, config: &NodeConfig, base: &Base, others: &[OffArg]) -> String {
    let LogPosition { term, index } = base.end;
    let mut text = format!(
        "cluster {}: the control log of node {} ends at term {term}, index {index}",
        base.cluster, config.node_id
    );
    if base.committed < index {
        let _infallible = write!(
            text,
            "; {} of its entries were not known to be committed, and count as if they were",
            index - base.committed
        );
    }
    text += ".\n";
    text += &missing(index, base.state.stamped_unix_ms(), &base.state);
    text += "\nRun this on every member whose disk survived, and go on where the term is the greatest, of equal terms the index.\n\
             Every other member must be off, and must never run again with its old data. Then:\n\n";
    let _infallible = write!(text, "  qnat cluster recover --config {} --end {term},{index}", file.display());
    for other in others {
        let _infallible = write!(text, " --off {}:{}", other.node, other.incarnation);
    }
    text + "\n"
}
