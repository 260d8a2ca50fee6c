//! `qnat lab …`: the lab's functions as commands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use words::{WORKERS_MAX, level};

use super::lab_founder::LabFounder;
use super::member::node_id;
use super::output::{Output, json, print};
use super::{live, tables};
use crate::daemon::data_config::{CACHE_FLOWS_MAX, Cache};
use qnat_lab::{Cut, Direction, Host, LabConfig, Scope, Wipe};

/// Below `qnat lab`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum LabCommand {
    /// Start a lab, and watch it until Ctrl-C takes it down.
    Up(Up),
    /// Its processes and faults.
    Status {
        #[command(flatten)]
        place: Place,
        /// How to show the answer.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Run a command on a host: n1, b1 or inet. Ends with the command's own exit code.
    Exec {
        /// The host.
        host: Host,
        #[command(flatten)]
        place: Place,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Crash a member (SIGKILL).
    Kill(OneNode),
    /// Freeze a member (SIGSTOP).
    Pause(OneNode),
    /// Let a frozen member go on.
    Resume(OneNode),
    /// Start a member again, killing it first if it runs.
    Restart {
        #[command(flatten)]
        node: OneNode,
        /// Empty its data directory first: it comes back as a stranger with its old name.
        #[arg(long)]
        wipe: bool,
    },
    /// Cut a member off from another one, or from all.
    Partition(Partition),
    /// End all faults of the network.
    Heal(Place),
    /// Put up a new machine with an empty disk that joins the cluster: the next number, or one that was removed.
    Add(OneNode),
    /// Take a member's machine away for good, with its disk. The cluster is told by `qnat node-remove`.
    Remove(OneNode),
    /// End the lab and remove all of it.
    Down(Place),
    /// The lab's internet.
    #[command(hide = true)]
    InetServe,
    /// Replace this process by a command in a network namespace.
    #[command(hide = true)]
    NetnsExec {
        /// The namespace.
        namespace: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Which lab.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Directory of the lab.
    #[arg(long = "lab-dir", value_name = "DIR", default_value = qnat_lab::DEFAULT_DIR)]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct OneNode {
    /// The member: n2 or 2.
    #[arg(value_parser = node_id)]
    node: u32,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Members, 1 to 7.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Backends of each virtual network.
    #[arg(long, default_value_t = 4)]
    backends: u32,
    /// Virtual networks, 1 or 2. The second one has hosts with the same private addresses: of four, b5 has that of b1.
    #[arg(long, default_value_t = 1)]
    virtual_networks: u32,
    /// Public addresses [default: as many as members].
    #[arg(long)]
    frontends: Option<u32>,
    /// Backends reach each other through the gateway alone: the bridge's ports are isolated.
    #[arg(long)]
    isolated: bool,
    /// Of one member and one backend: the member leads to the backend and to the internet by a pair each, without a switch.
    #[arg(long)]
    direct: bool,
    /// Worker threads of each member.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    workers: u16,
    /// How the kernel's fast path of each member starts [default: as node.toml's].
    #[arg(long, value_enum)]
    cache: Option<Cache>,
    /// For how many mappings it has room [default: as node.toml's].
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(CACHE_FLOWS_MAX)))]
    cache_flows: Option<u32>,
    /// As a cluster of builds that speak no newer level of the replicated formats than this.
    #[arg(long, default_value_t = level::NEWEST, value_parser = clap::value_parser!(u16).range(i64::from(level::FIRST)..=i64::from(level::NEWEST)))]
    level: u16,
    /// Apply this file in place of the default resources.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Return once it serves; `qnat lab down` ends it.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Partition {
    /// The member that is cut off.
    #[arg(value_parser = node_id)]
    node: u32,
    /// From whom.
    #[arg(value_parser = node_id, required_unless_present = "all", conflicts_with = "all")]
    from: Option<u32>,
    /// From everyone.
    #[arg(long)]
    all: bool,
    /// Which way frames are dropped, as the first member sees it.
    #[arg(long, default_value = "both", value_parser = directions())]
    direction: Direction,
    /// On which networks.
    #[arg(long, default_value = "peers", value_parser = scopes())]
    scope: Scope,
    /// How many frames of a hundred are dropped.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    loss: u8,
    #[command(flatten)]
    place: Place,
}

fn directions() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(["both", "outgoing", "incoming"]).map(|name| match name.as_str() {
        "outgoing" => Direction::Outgoing,
        "incoming" => Direction::Incoming,
        _ => Direction::Both,
    })
}

fn scopes() -> impl TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(["peers", "data", "all"]).map(|name| match name.as_str() {
        "data" => Scope::Data,
        "all" => Scope::All,
        _ => Scope::Peers,
    })
}

impl Up {
    fn config(&self) -> Result<LabConfig> {
        let config = LabConfig::new(self.nodes, self.backends)?;
        let file = self.file.as_ref().map(std::path::absolute).transpose().context("path of the resource file")?;
        let dir = std::path::absolute(&self.place.dir).context("path of the lab")?;
        let frontends = self.frontends.unwrap_or(self.nodes);
        let (virtual_networks, workers) = (self.virtual_networks, self.workers);
        let cache = self.cache.and_then(|cache| Some(cache.to_possible_value()?.get_name().to_owned()));
        let (isolated, direct, cache_flows) = (self.isolated, self.direct, self.cache_flows);
        Ok(LabConfig {
            frontends,
            virtual_networks,
            workers,
            cache,
            cache_flows,
            isolated,
            direct,
            config_file: file,
            dir,
            ..config
        })
    }
}

impl Partition {
    pub(super) fn cut(&self) -> Cut {
        let (node, from) = (self.node, self.from);
        Cut { node, from, direction: self.direction, scope: self.scope, loss_percent: self.loss }
    }
}

pub(super) fn perform(command: LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Up(up) => start(&up)?,
        LabCommand::Status { place, output } => {
            let status = qnat_lab::status(&place.dir)?;
            print(&match output {
                Output::Json => json(&serde_json::to_value(&status)?),
                Output::Table => tables::lab_status(&status),
            })?;
        }
        LabCommand::Exec { host, place, command } => {
            let code = qnat_lab::exec(&place.dir, host, &command)?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(super::exit::EXIT_FAILED)));
        }
        LabCommand::Kill(OneNode { node, place }) => qnat_lab::kill(&place.dir, node)?,
        LabCommand::Pause(OneNode { node, place }) => qnat_lab::pause(&place.dir, node)?,
        LabCommand::Resume(OneNode { node, place }) => qnat_lab::resume(&place.dir, node)?,
        LabCommand::Restart { node: OneNode { node, place }, wipe } => {
            qnat_lab::restart(&place.dir, node, if wipe { Wipe::Yes } else { Wipe::No })?;
        }
        LabCommand::Partition(partition) => qnat_lab::partition(&partition.place.dir, &partition.cut())?,
        LabCommand::Heal(place) => qnat_lab::heal(&place.dir)?,
        LabCommand::Add(OneNode { node, place }) => {
            qnat_lab::add(&place.dir, node, &LabFounder { level: level::NEWEST })?
        }
        LabCommand::Remove(OneNode { node, place }) => qnat_lab::remove(&place.dir, node)?,
        LabCommand::Down(place) => qnat_lab::down(&place.dir)?,
        LabCommand::InetServe => qnat_lab::inet::run()?,
        LabCommand::NetnsExec { namespace, command } => match qnat_lab::netns_exec(&namespace, &command)? {},
    }
    Ok(ExitCode::SUCCESS)
}

fn start(up: &Up) -> Result<()> {
    let config = up.config()?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("the lab makes network namespaces and needs root: run it with sudo");
    }
    qnat_lab::up(&config, &LabFounder { level: up.level })?;
    let how_to = how_to(&config);
    print(&how_to)?;
    if up.detach {
        return print("it stays up; end it with: qnat lab down");
    }
    live::watch(&config.dir, &how_to)
}

fn how_to(config: &LabConfig) -> String {
    let dir = if config.dir == Path::new(qnat_lab::DEFAULT_DIR) {
        String::new()
    } else {
        format!(" --lab-dir {}", config.dir.display())
    };
    let [inet, _] = qnat_lab::topology::INET_ADDRESSES;
    // These take a switch.
    let next = config.nodes + 1;
    let switched = format!(
        "\x20 qnat lab partition{dir} n1 --all                  cut it off; qnat lab heal{dir} ends that\n\
         \x20 qnat lab add{dir} n{next}                              one more member, which joins\n"
    );
    let switched = if config.direct { "" } else { &switched };
    format!(
        "A lab of {nodes} members, {backends} backends and {frontends} public addresses is up. In another terminal:\n\
         \x20 qnat status{dir}                                  who owns what\n\
         \x20 qnat lab exec{dir} b1 -- curl http://{inet}/      how the internet sees backend b1\n\
         \x20 qnat lab exec{dir} b1 -- curl -o /dev/null http://{inet}/blob/10G   a long transfer to break\n\
         \x20 qnat lab kill{dir} n1                             crash a member; qnat lab restart{dir} n1 brings it back\n\
         {switched}\
         \x20 qnat flows{dir}   qnat ports{dir}                 mappings and leases\n",
        nodes = config.nodes,
        backends = config.backends,
        frontends = config.frontends,
    )
}
