//! The command line of `qnat`: parses, asks a member or the lab, prints a table or JSON, and ends with a code that means
//! something: 0 done, 1 failed or refused, 2 wrong usage, 3 the cluster could not be reached or could not decide, 4 something
//! is wrong with it (`status`), 75 a member ended its own life and should be started again ([`daemon::EXIT_AGAIN`]).
//!
//! It must never decide anything about the cluster itself: that is the members' business. Called by `main`.

mod apply;
mod asking;
mod cluster;
mod dump;
mod exit;
mod explained;
mod founder;
mod grid;
mod group_tables;
mod join;
mod lab;
mod lab_founder;
mod live;
mod member;
mod output;
mod probe_tables;
mod recovery;
mod resource_tables;
mod tables;
mod target;
mod views;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use control::nsg::answers::{FlowProtocol, FlowQuestion};
use control::nsg::model::Direction;

use apply::read_resources;
use asking::{Asking, Span};

use crate::client::ClientError;
use crate::daemon::data_config::Cache;
use crate::daemon::request::{ExplainProtocol, Request, ResourceKind};
use crate::daemon::{self, Ending, config::NodeConfig};
use exit::{EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE};

/// Source NAT by a cluster that keeps every connection when a member dies.
#[derive(Debug, Parser)]
#[command(
    name = "qnat",
    version,
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 no member answers, 4 something is wrong (status), 75 a member ended itself \
                  and should be started again"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member in the foreground.
    Node {
        /// Its node.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Begin anew by itself where it would exit with 75; for where nobody starts it again.
        #[arg(long)]
        again: bool,
    },
    /// Keep processors from halting until standard input ends: what a member begins for itself.
    #[command(hide = true)]
    Spin,
    /// Found a cluster, sign who shall join it, back it up, continue it when it was lost.
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterCommand,
    },
    /// A whole cluster on this machine, in network namespaces (needs root).
    Lab {
        #[command(subcommand)]
        command: lab::LabCommand,
    },
    /// Make the configuration what a file says.
    Apply(apply::ApplyArgs),
    /// List resources of a kind.
    Get {
        /// Which.
        kind: ResourceKind,
        #[command(flatten)]
        asking: Asking,
    },
    /// Ask what would become of a packet, without sending it.
    Verify {
        #[command(subcommand)]
        command: VerifyCommand,
    },
    /// What becomes of a packet, or of those of a flow that is there, and why: asked of whoever would judge it.
    Explain {
        /// Where it comes from: an address, with a port or without.
        #[arg(value_name = "SRC[:PORT]")]
        source: explained::End,
        /// Where it goes.
        #[arg(value_name = "DST[:PORT]")]
        destination: explained::End,
        /// Its protocol; a SYN, an echo request, or any packet of the others.
        #[arg(default_value = "tcp")]
        protocol: ExplainProtocol,
        /// The virtual network of its source, where several have the address.
        #[arg(long, value_name = "NAME")]
        vnet: Option<String>,
        /// Out of a dump, as it would have been then; no member is asked.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["api", "node", "alone"])]
        from: Option<PathBuf>,
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        asking: Asking,
    },
    /// Write what is needed to explain packets elsewhere, or later, into a file: configuration and mappings, no keys.
    Dump(dump::DumpArgs),
    /// The rules that judge a network interface: its subnet's security group and its own, with what tags and groups stand for.
    EffectiveRules {
        /// The network interface; instance/ip_configuration of one that is not declared.
        nic: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Give the platform's service tags the prefixes that a file says, in the place of all that they had.
    ServiceTags {
        /// The file (TOML), with a version above the one that is there; - for standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        asking: Asking,
    },
    /// Members, shards, owners, redundancy, and what is wrong. Ends with 4 if something is.
    Status {
        /// Wait until nothing is wrong.
        #[arg(long)]
        wait: bool,
        /// How long at most, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
        timeout: u64,
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        asking: Asking,
    },
    /// Live and held mappings, as the owners of their shards know them.
    Flows {
        #[command(flatten)]
        span: Span,
        /// Only this shard.
        #[arg(long)]
        shard: Option<u16>,
        /// Only backends of this virtual network.
        #[arg(long, value_name = "NAME")]
        vnet: Option<String>,
        /// At most so many rows.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        asking: Asking,
    },
    /// Port leases and their use, by backend.
    Ports {
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        asking: Asking,
    },
    /// Counters of the asked member.
    Counters {
        /// Of every member.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// How the kernel's fast path of the asked member stands; or turn it on or off, until that member restarts (`[data] cache`
    /// of its node.toml says how it starts).
    Cache {
        /// From now on.
        turn: Option<Cache>,
        #[command(flatten)]
        asking: Asking,
    },
    /// What has happened lately: owners, configurations in use, concerns. In memory: a member forgets it when it restarts.
    Events {
        #[command(flatten)]
        span: Span,
        /// At most so many rows, the newest.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        asking: Asking,
    },
    /// Applied index and state hash of each shard's table on the asked member.
    Hashes {
        #[command(flatten)]
        asking: Asking,
    },
    /// Who had a public port, by all members' address-translation logs.
    Who {
        #[command(flatten)]
        span: Span,
        /// The public address.
        #[arg(long)]
        ip: std::net::Ipv4Addr,
        /// The port, or the identifier of a ping.
        #[arg(long)]
        port: u16,
        /// When, as in 2026-01-31T12:00:00.000Z; now if it is left out.
        #[arg(long, value_name = "TIME", value_parser = when)]
        at: Option<u64>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Declare a node gone for good. Power it off first: a removed node that still runs is not fenced by this.
    NodeRemove {
        #[command(flatten)]
        subject: Subject,
        #[command(flatten)]
        asking: Asking,
    },
    /// Let a node leave: its shards move to the others, then its vote ends; `qnat status` says when it can be removed.
    NodeDrain {
        #[command(flatten)]
        subject: Subject,
        #[command(flatten)]
        asking: Asking,
    },
    /// Take a drain back: the node stays.
    NodeResume {
        /// The node: 3 or n3.
        #[arg(id = "subject", value_name = "NODE", value_parser = member::node_id)]
        node: u32,
        #[command(flatten)]
        asking: Asking,
    },
    /// Become a member: on a new machine.
    Join {
        #[command(subcommand)]
        command: join::JoinCommand,
    },
    /// The cluster's one permission to stop.
    StopToken {
        #[command(subcommand)]
        command: StopTokenCommand,
    },
    /// Stop the asked member gracefully: it gets the stop token once nothing is missing, hands over, then ends.
    Stop {
        /// At once, without the stop token. Flows end if nobody else holds a shard's table; `qnat status` says so.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Debug, Subcommand)]
enum VerifyCommand {
    /// Whether security groups let the first packet of a flow pass, and which rule decides.
    IpFlow {
        /// The network interface; instance/ip_configuration of one that is not declared.
        #[arg(long)]
        nic: String,
        /// To the interface or from it.
        #[arg(long)]
        direction: Way,
        /// The protocol.
        #[arg(long)]
        protocol: Transport,
        /// The interface's end, as 10.0.1.1:80.
        #[arg(long, value_name = "ADDRESS:PORT")]
        local: std::net::SocketAddrV4,
        /// The other end.
        #[arg(long, value_name = "ADDRESS:PORT")]
        remote: std::net::SocketAddrV4,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Way {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Subcommand)]
enum StopTokenCommand {
    /// Take it back from whoever holds it.
    Revoke {
        #[command(flatten)]
        asking: Asking,
    },
}

/// A node as it is now: a command that ends something must not hit what came since.
#[derive(Debug, clap::Args)]
struct Subject {
    /// The node: 3 or n3.
    #[arg(id = "subject", value_name = "NODE", value_parser = member::node_id)]
    node: u32,
    /// Its incarnation, as `qnat get nodes` names it.
    #[arg(long, value_name = "N")]
    incarnation: u64,
}

/// Does what `arguments` (with the program's name first) say. Returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. Nobody is left to hear of a failure to print.
            let _ignored = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    let _written_until_the_end = log_to_stderr(matches!(cli.command, Command::Node { .. }));
    perform(cli.command).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(exit_code(&error))
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let unreachable = error.chain().filter_map(|cause| cause.downcast_ref::<ClientError>()).any(|e| e.is_unreachable());
    if unreachable { EXIT_UNREACHABLE } else { EXIT_FAILED }
}

fn complain(error: &anyhow::Error) {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: {error:#}");
}

/// `QNAT_LOG` chooses what is logged (`debug`, `qnat=trace,…`), `QNAT_LOG_FORMAT=json` how. What was logged is written until
/// the result is dropped.
fn log_to_stderr(member: bool) -> tracing_appender::non_blocking::WorkerGuard {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    let default = if member { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("QNAT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    let json = std::env::var_os("QNAT_LOG_FORMAT").is_some_and(|format| format == "json");
    // A second subscriber is refused: then the first one logs.
    let _first_wins = if json { builder.json().try_init() } else { builder.try_init() };
    guard
}

fn perform(command: Command) -> Result<ExitCode> {
    match command {
        Command::Node { config, again } => {
            let ending = if again { Ending::Again } else { Ending::Exit };
            daemon::run(&NodeConfig::load(&config)?, ending).map(|()| ExitCode::SUCCESS)
        }
        Command::Spin => {
            netio::awake::spin_until_told()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster { command } => cluster::perform(&command),
        Command::Lab { command } => lab::perform(command),
        Command::Apply(args) => apply::perform(&args),
        Command::Get { kind, asking } => asking.ask(&Request::Get { kind }),
        Command::Verify { command: VerifyCommand::IpFlow { nic, direction, protocol, local, remote, asking } } => {
            let direction = match direction {
                Way::Inbound => Direction::Inbound,
                Way::Outbound => Direction::Outbound,
            };
            let protocol = match protocol {
                Transport::Tcp => FlowProtocol::Tcp,
                Transport::Udp => FlowProtocol::Udp,
            };
            asking.ask(&Request::IpFlow { of: FlowQuestion { nic, direction, protocol, local, remote } })
        }
        Command::Explain { source, destination, protocol, vnet, from, span, asking } => {
            let request = explained::request(source, destination, protocol, vnet).map_err(anyhow::Error::msg)?;
            match from {
                Some(from) => dump::explain(&from, &request, &asking),
                None => asking.ask(&span.of(request)),
            }
        }
        Command::Dump(args) => dump::perform(&args),
        Command::EffectiveRules { nic, asking } => asking.ask(&Request::EffectiveRules { nic }),
        Command::ServiceTags { file, asking } => {
            let (file, text) = read_resources(&file)?;
            asking.ask(&Request::SetServiceTags { file, text })
        }
        Command::Status { wait: true, timeout, span, asking } => {
            asking.wait(&span.of(Request::Status), Duration::from_secs(timeout))
        }
        Command::Status { span, asking, .. } => asking.ask(&span.of(Request::Status)),
        Command::Flows { span, shard, vnet, limit, asking } => {
            asking.ask(&span.of(Request::Flows { shard, vnet, limit }))
        }
        Command::Ports { span, asking } => asking.ask(&span.of(Request::Ports)),
        Command::Counters { all: true, asking } => asking.ask(&Request::Counters.together()),
        Command::Counters { all: false, asking } => asking.ask(&Request::Counters),
        Command::Events { span, limit, asking } => asking.ask(&span.of(Request::Events { limit })),
        Command::Hashes { asking } => asking.ask(&Request::Hashes),
        Command::NodeRemove { subject: Subject { node, incarnation }, asking } => {
            asking.ask(&Request::RemoveNode { node, incarnation })
        }
        Command::NodeDrain { subject: Subject { node, incarnation }, asking } => {
            asking.ask(&Request::DrainNode { node, incarnation })
        }
        Command::NodeResume { node, asking } => asking.ask(&Request::ResumeNode { node }),
        Command::Join { command } => join::perform(&command),
        Command::Who { span, ip, port, at, asking } => asking.ask(&span.of(Request::Who { ip, port, at_unix_ms: at })),
        Command::StopToken { command: StopTokenCommand::Revoke { asking } } => asking.ask(&Request::RevokeStopToken),
        Command::Cache { turn, asking } => asking.ask(&Request::Cache { turn }),
        Command::Stop { now, asking } => asking.ask(&Request::Shutdown { now }),
    }
}

fn when(text: &str) -> Result<u64, String> {
    crate::nat_log::parse_time(text).ok_or_else(|| "write a time as in 2026-01-31T12:00:00.000Z".to_owned())
}

#[cfg(test)]
mod remedies_test;
#[cfg(test)]
mod tests;
