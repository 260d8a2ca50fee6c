//! The lab: a whole cluster on one machine, each member in a network namespace of its own, with backends and a small
//! internet around it. The command `qnat lab` calls these functions, measurements and drills do too.
//!
//! Never needs the daemon: a member is a program that is started, and what only the daemon's code can do is asked of a
//! [`Founder`].
//! Never touches anything outside its own namespaces and its directory, and [`down`] leaves nothing of them, also after
//! a crash. Needs root. One lab per machine (`scripts/world` makes more of one), since the
//! namespaces' names are fixed (see [`topology`]).

mod config;
mod cuts;
mod hang;
pub mod inet;
mod links;
mod process;
pub mod signals;
mod state;
pub mod topology;

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netio::netns;
use rustix::process::Signal;
use serde::Serialize;

pub use config::{DEFAULT_DIR, LabConfig};
pub use cuts::{Cut, Direction, Scope};
pub use process::{ProcessId, ProcessState};
use state::{Lock, State};
pub use topology::{Host, LabNode};

/// What the lab leaves to the daemon's own founding code. The daemon's crate implements it and hands it in, for it knows the
/// lab and not the other way round: who only holds a lab, as tests and measurements do, links no daemon, and no member is
/// found in another way than an operator founds it.
pub trait Founder {
    /// Writes each member's `node.toml` and data directory. The namespaces and links are there, no member runs yet.
    ///
    /// # Errors
    /// Any; the lab is then taken down.
    fn found(&self, lab: &LabConfig, nodes: &[LabNode]) -> Result<()>;

    /// All members have been started: wait for the cluster, apply the resources. To speak to a member from here use
    /// [`in_host`].
    ///
    /// # Errors
    /// Any; the lab is then taken down.
    fn after_start(&self, lab: &LabConfig, nodes: &[LabNode]) -> Result<()>;

    /// Writes the `node.toml` of a machine that is new, so that it asks the members that are there to take it in.
    ///
    /// # Errors
    /// Any; the machine is then removed.
    fn join(&self, lab: &LabConfig, node: &LabNode) -> Result<()>;
}

/// Whether a restart keeps what the member had stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wipe {
    /// It comes back with its data.
    No,
    /// Its data directory is emptied first.
    Yes,
}

/// One member in a [`LabStatus`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NodeStatus {
    /// The member.
    pub node: LabNode,
    /// Its process; `None` before the first start.
    pub process: Option<ProcessId>,
    /// What the process does.
    pub state: ProcessState,
}

/// The lab as it is now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LabStatus {
    /// How it was set up.
    pub config: LabConfig,
    /// The members, in order.
    pub nodes: Vec<NodeStatus>,
    /// What the internet's process does.
    pub inet: ProcessState,
    /// Faults in force.
    pub cuts: Vec<Cut>,
    /// Namespaces of the lab that are missing (taken away by somebody else).
    pub namespaces_missing: Vec<String>,
}

/// There can be one lab on a machine.
///
/// # Errors
/// If one is up, or something of one is left.
pub fn none_is_up(dir: &Path) -> Result<()> {
    let leftovers = netns::list()?.into_iter().filter(|name| topology::is_lab_namespace(name)).count();
    let none = !state::exists(dir) && leftovers == 0;
    ensure!(none, "a lab is up, or was not taken down: run `qnat lab down` first ({leftovers} namespaces)");
    Ok(())
}

/// Builds the lab and starts it. If anything fails, what was built is taken down again.
///
/// # Errors
/// If a lab is up already, the configuration is out of range, we are not root, or founding fails.
pub fn up(config: &LabConfig, founder: &dyn Founder) -> Result<()> {
    config.validate()?;
    let dir = &config.dir;
    none_is_up(dir)?;
    ensure!(state::is_free(dir)?, "{} is not empty, and all of it would be removed by `qnat lab down`", dir.display());
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    build_and_start(config, founder).inspect_err(|_| {
        if let Err(error) = down(dir) {
            tracing::error!(%error, "the lab that failed to start could not be taken down");
        }
    })
}

fn build_and_start(config: &LabConfig, founder: &dyn Founder) -> Result<()> {
    let nodes = config.lab_nodes();
    let mut state = State {
        config: config.clone(),
        nodes: vec![None; nodes.len()],
        inet: None,
        cuts: Vec::new(),
        namespaces: config.hosts().map(Host::namespace).chain([topology::FABRIC.to_owned()]).collect(),
    };
    {
        let lock = Lock::take_new(&config.dir)?;
        lock.store(&state)?;
        links::build(config)?;
        let inet_dir = config.dir.join("inet");
        fs::create_dir_all(&inet_dir)?;
        let mut serve = Command::new(&config.binary);
        serve.args(["lab", "inet-serve"]);
        state.inet = Some(process::spawn_in(topology::INET, serve, &inet_dir.join("log"))?);
        lock.store(&state)?;
        for node in &nodes {
            fs::create_dir_all(&node.data_dir).with_context(|| node.data_dir.display().to_string())?;
        }
        founder.found(config, &nodes).context("founding the cluster")?;
        for (node, process) in nodes.iter().zip(&mut state.nodes) {
            *process = Some(start_node(config, node)?);
        }
        lock.store(&state)?;
    }
    // Without the lock: a resource file may take a while, and `qnat lab status` should answer meanwhile.
    founder.after_start(config, &nodes).context("configuring the cluster")
}

fn start_node(config: &LabConfig, node: &LabNode) -> Result<ProcessId> {
    let mut command = Command::new(&config.binary);
    // Nobody stays to start it again.
    command.arg("node").arg("--again").arg("--config").arg(&node.config_path).current_dir(&node.dir);
    process::spawn_in(&node.namespace, command, &node.log_path).with_context(|| node.name.clone())
}

/// How the lab in `dir` is doing.
///
/// # Errors
/// If no lab is up there.
pub fn status(dir: &Path) -> Result<LabStatus> {
    let state = state::load(dir)?;
    let nodes = state.config.lab_nodes().into_iter().map(|node| {
        let process = place(node.id).and_then(|place| *state.nodes.get(place)?);
        let state = process.map_or(ProcessState::Dead, ProcessId::state);
        NodeStatus { node, process, state }
    });
    let present = netns::list()?;
    Ok(LabStatus {
        nodes: nodes.collect(),
        inet: state.inet.map_or(ProcessState::Dead, ProcessId::state),
        namespaces_missing: state.namespaces.into_iter().filter(|name| !present.contains(name)).collect(),
        cuts: state.cuts,
        config: state.config,
    })
}

/// Runs a command in the namespace of `host` with this process's input and output, and returns its exit code (128 and the
/// signal's number if a signal ended it, as shells do).
///
/// # Errors
/// If there is no such host or no such command.
pub fn exec(dir: &Path, host: Host, argv: &[OsString]) -> Result<i32> {
    use std::os::unix::process::ExitStatusExt;
    let (program, arguments) = argv.split_first().context("what shall run there?")?;
    let status = in_host(dir, host, || Command::new(program).args(arguments).status())?;
    let status = status.with_context(|| program.display().to_string())?;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

/// Runs `work` in the namespace of `host`, on a thread of its own: sockets that it opens are there.
///
/// # Errors
/// If there is no such host.
pub fn in_host<T: Send>(dir: &Path, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
    let config = state::load(dir)?.config;
    ensure!(config.hosts().any(|known| known == host), "the lab has no host {host}: {}", inventory(&config));
    netns::run_in(&host.namespace(), work).with_context(|| format!("namespace of {host}"))
}

fn inventory(config: &LabConfig) -> String {
    let nodes: Vec<String> = config.node_ids().map(|id| format!("n{id}")).collect();
    format!("it has {}, b1 to b{} and inet", nodes.join(", "), config.backends * config.virtual_networks)
}

/// Where a member's process stands in the lab's memory.
fn place(node: u32) -> Option<usize> {
    usize::try_from(node.checked_sub(1)?).ok()
}

/// Replaces this process by `argv`, inside namespace `namespace` (any, by name).
///
/// # Errors
/// Only returns if it fails.
pub fn netns_exec(namespace: &str, argv: &[OsString]) -> Result<std::convert::Infallible> {
    let (program, arguments) = argv.split_first().context("what shall run there?")?;
    netns::enter(namespace).with_context(|| format!("namespace {namespace}"))?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| program.display().to_string())
}

/// Kills a member (SIGKILL): the crash of a machine, without its links going down.
///
/// # Errors
/// If there is no such member, or it is not running.
pub fn kill(dir: &Path, node: u32) -> Result<()> {
    let lock = Lock::take(dir)?;
    let (_, _, process) = living(&lock.load()?, node)?;
    process.kill()
}

/// Stops a member (SIGSTOP): alive, but frozen.
///
/// # Errors
/// If there is no such member, or it is not running.
pub fn pause(dir: &Path, node: u32) -> Result<()> {
    signal(dir, node, Signal::STOP)
}

/// Lets a stopped member go on (SIGCONT).
///
/// # Errors
/// If there is no such member, or it is not running.
pub fn resume(dir: &Path, node: u32) -> Result<()> {
    signal(dir, node, Signal::CONT)
}

fn signal(dir: &Path, node: u32, signal: Signal) -> Result<()> {
    let (_, name, process) = living(&state::load(dir)?, node)?;
    ensure!(process.signal(signal)?, "{name} is not running");
    Ok(())
}

/// Stops one thread of a member, by its name (`worker-0`), and nothing else, until [`release`].
///
/// # Errors
/// If there is no such member or thread, or no control groups of version 2.
pub fn hang(dir: &Path, node: u32, thread: &str) -> Result<()> {
    let (_, _, process) = living(&state::load(dir)?, node)?;
    hang::hang(node, process, thread)
}

/// Takes [`hang`] back, also if the member has started anew meanwhile.
///
/// # Errors
/// If the control group cannot be removed.
pub fn release(dir: &Path, node: u32) -> Result<()> {
    member(&state::load(dir)?, node)?;
    hang::release(node)
}

/// Deletes a member's interface on a data network and makes it again, with the same name and MAC.
///
/// # Errors
/// If there is no such member, the lab has no switches, or the kernel refuses.
pub fn remake(dir: &Path, node: u32, network: topology::Network) -> Result<()> {
    let state = state::load(dir)?;
    has_switches(&state.config, "to plug a new interface into")?;
    member(&state, node)?;
    links::remake(node, network)
}

/// Kills a member if it runs, and starts it again, with or without what it had stored.
///
/// # Errors
/// If there is no such member, or it does not start.
pub fn restart(dir: &Path, node: u32, wipe: Wipe) -> Result<()> {
    let lock = Lock::take(dir)?;
    let mut state = lock.load()?;
    let (index, lab_node) = member(&state, node)?;
    if let Some(process) = state.nodes[index] {
        process.kill()?;
    }
    if wipe == Wipe::Yes {
        fs::remove_dir_all(&lab_node.data_dir).with_context(|| lab_node.data_dir.display().to_string())?;
        fs::create_dir_all(&lab_node.data_dir)?;
    }
    state.nodes[index] = Some(start_node(&state.config, &lab_node)?);
    lock.store(&state)
}

/// Refuses what a lab without switches cannot do.
fn has_switches(config: &LabConfig, what: &str) -> Result<()> {
    ensure!(!config.direct, "this lab has no switch {what}: run `qnat lab down`, then `qnat lab up` without --direct");
    Ok(())
}

fn member(state: &State, node: u32) -> Result<(usize, LabNode)> {
    let known = state.config.node_ids().any(|known| known == node);
    let place = place(node).filter(|_| known);
    let place = place.with_context(|| format!("the lab has no node n{node}: {}", inventory(&state.config)))?;
    Ok((place, LabNode::new(node, &state.config.dir)))
}

/// Puts up a new machine, with an empty disk, which joins the cluster under the number `node`: the next one, or that of a
/// machine that was removed.
///
/// # Errors
/// If the number is another one, the lab has no switches, or the machine does not start; then nothing is left of it.
pub fn add(dir: &Path, node: u32, founder: &dyn Founder) -> Result<()> {
    let lock = Lock::take(dir)?;
    let mut state = lock.load()?;
    has_switches(&state.config, "to plug a new machine into")?;
    let next = state.config.nodes + 1;
    let returns = state.config.removed.contains(&node);
    ensure!(
        returns || node == next,
        "n{node} can not be added: take n{next}, or a number whose machine was removed ({})",
        inventory(&state.config)
    );
    let nodes_max = topology::NODES.end();
    ensure!(topology::NODES.contains(&node), "a lab has at most {nodes_max} members");
    let lab_node = LabNode::new(node, dir);
    let started = || -> Result<ProcessId> {
        links::build_node(node, state.config.virtual_networks).with_context(|| lab_node.name.clone())?;
        fs::create_dir_all(&lab_node.data_dir).with_context(|| lab_node.data_dir.display().to_string())?;
        founder.join(&state.config, &lab_node).with_context(|| format!("{} asks to join", lab_node.name))?;
        start_node(&state.config, &lab_node)
    };
    let process = started().inspect_err(|_| {
        if let Err(error) = clear(&lab_node) {
            tracing::error!(%error, "what was built of {} could not be removed", lab_node.name);
        }
    })?;
    state.config.removed.remove(&node);
    state.config.nodes = state.config.nodes.max(node);
    let (place, _) = member(&state, node)?;
    state.nodes.resize(state.nodes.len().max(place + 1), None);
    state.nodes[place] = Some(process);
    state.namespaces.push(lab_node.namespace);
    lock.store(&state)
}

/// Takes a member's machine away for good, with its disk and its key. The cluster is not told: that is for
/// `qnat node-remove`.
///
/// # Errors
/// If there is no such member, or something of it cannot be removed.
pub fn remove(dir: &Path, node: u32) -> Result<()> {
    let lock = Lock::take(dir)?;
    let mut state = lock.load()?;
    let (place, lab_node) = member(&state, node)?;
    ensure!(state.config.node_ids().count() > 1, "n{node} is the lab's last member: run `qnat lab down` instead");
    if let Some(process) = state.nodes[place].take() {
        process.kill()?;
    }
    clear(&lab_node)?;
    state.config.removed.insert(node);
    state.namespaces.retain(|name| *name != lab_node.namespace);
    lock.store(&state)
}

/// Removes a member's namespace and files.
fn clear(node: &LabNode) -> Result<()> {
    process::occupants(&node.namespace).into_iter().try_for_each(ProcessId::kill)?;
    links::unplug_node(node.id)?;
    netns::delete(&node.namespace).map(drop).with_context(|| format!("namespace {}", node.namespace))?;
    match fs::remove_dir_all(&node.dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| node.dir.display().to_string())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn living(state: &State, node: u32) -> Result<(usize, String, ProcessId)> {
    let (index, lab_node) = member(state, node)?;
    let process = state.nodes[index].filter(|process| process.state() != ProcessState::Dead);
    let name = lab_node.name;
    let process = process.with_context(|| format!("{name} is not running: start it with `qnat lab restart {name}`"))?;
    Ok((index, name, process))
}

/// Adds a fault to the fabric; those in force stay.
///
/// # Errors
/// If a node is unknown, the lab has no switches, or `nft` is missing or refuses.
pub fn partition(dir: &Path, cut: &Cut) -> Result<()> {
    let lock = Lock::take(dir)?;
    let mut state = lock.load()?;
    has_switches(&state.config, "that could lose frames")?;
    for node in [Some(cut.node), cut.from].into_iter().flatten() {
        member(&state, node)?;
    }
    ensure!(cut.from != Some(cut.node), "a node cannot be cut off from itself");
    ensure!((1..=100).contains(&cut.loss_percent), "loss: {} is not 1 to 100 percent", cut.loss_percent);
    state.cuts.push(*cut);
    cuts::load(&state.cuts)?;
    lock.store(&state)
}

/// Ends all faults of the fabric.
///
/// # Errors
/// If no lab is up, or `nft` refuses.
pub fn heal(dir: &Path) -> Result<()> {
    let lock = Lock::take(dir)?;
    let mut state = lock.load()?;
    state.cuts.clear();
    cuts::load(&state.cuts)?;
    lock.store(&state)
}

/// Ends the lab: kills its processes, removes its namespaces with all their links, and its files. Waits for a command that changes
/// it, does what is left to do after a crash of [`up`], and nothing if there is no lab.
///
/// # Errors
/// The first thing that could not be removed; the rest is attempted all the same.
pub fn down(dir: &Path) -> Result<()> {
    let mut failures: Vec<anyhow::Error> = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err());
    // What an `up` that is under way starts after this has looked would stay.
    let _lock = Lock::take_to_end(dir)?;
    if let Ok(state) = state::load(dir) {
        let processes = state.nodes.into_iter().flatten().chain(state.inet);
        processes.for_each(|process| note(process.kill()));
    }
    note(hang::release_all());
    let namespaces = netns::list().context("namespaces")?;
    for name in namespaces.iter().filter(|name| topology::is_lab_namespace(name)) {
        // Whatever else was started in there, by `exec` or by a crashed `up`.
        process::occupants(name).into_iter().for_each(|process| note(process.kill()));
        note(netns::delete(name).map(drop).with_context(|| format!("namespace {name}")));
    }
    note(state::remove(dir));
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Stays in the foreground: calls `on_tick` every 500 ms until Ctrl-C, SIGTERM or an error from it, then takes the lab
/// down.
///
/// # Errors
/// What `on_tick` or [`down`] failed with.
pub fn watch(dir: &Path, mut on_tick: impl FnMut(&LabStatus) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = tick.tick() => {
                    let status = status(dir)?;
                    // Members that died are our children: leave no zombies of them.
                    status.nodes.iter().filter_map(|node| node.process).for_each(ProcessId::reap);
                    on_tick(&status)?;
                }
            }
        }
    });
    let down = down(dir);
    ended.and(down)
}

#[cfg(test)]
mod tests;
