//! `qnat-bench control`: what the control thread does at once in a cluster as large as the limits allow. One whole control
//! half, alone in its group, over a store in memory; what it has done by others ([`Job`]) is counted apart. Processor time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use comfy_table::{Table, presets};
use consensus::control::ControlTiming;
use consensus::control::storage::memory::MemoryStore;
use consensus::control::storage::{ClusterId, LogStore as _};
use control::allocation::Declared;
use control::command::Configure;
use control::config;
use control::parts::Cut;
use control::plan;
use control::registry::{FOUNDER_RAFT_ID, Founder};
use control::resource::Desired;
use control::state::State;
use control::tier::POOL_INSTANCES_MAX;
use control::validate::{FRONTENDS_MAX, IP_CONFIGURATIONS_MAX};
use control::view;
use engine::ids::{Mac, NodeId};
use member::control_member::{ControlMember, ControlOut, Identity, Job, Now};
use member::flow_member::ControlDuty;

use crate::machine::cpu_ns;

/// Between two turns of the thread, as in the daemon.
const TURN_MS: u64 = 5;
/// Longer than a frontend waits for its holds, with the margin for clocks.
const HOLDS_MS: u64 = 600_000;
/// Turns within which something has to come to its end.
const TURNS_MAX: u64 = 20_000;

/// Arguments of `qnat-bench control`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// IP configurations, over all public addresses that there can be.
    #[arg(long, default_value_t = IP_CONFIGURATIONS_MAX)]
    backends: usize,
}

/// Pieces of work.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    pieces: u64,
    longest_ns: u64,
    sum_ns: u64,
}

impl Times {
    fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let from = cpu_ns();
        let done = work();
        let took = cpu_ns() - from;
        (self.pieces, self.sum_ns) = (self.pieces + 1, self.sum_ns + took);
        self.longest_ns = self.longest_ns.max(took);
        done
    }
}

/// The member, and what it took.
struct Bed {
    member: ControlMember<MemoryStore>,
    now_ms: u64,
    turns: Times,
    jobs: Times,
    answers: BTreeMap<u64, bool>,
}

impl Bed {
    fn new() -> Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_800));
        let founder = Founder { node: NodeId(1), peer_addr: addr, api_addr: addr, key: [1; 32] };
        let state = Bytes::from(State::found([7; 16], &[founder], [1, 2]).encode()?);
        let raft_id = FOUNDER_RAFT_ID | 1;
        let mut store = MemoryStore::new();
        store.found(ClusterId([7; 16]), raft_id, &[raft_id], &state)?;
        let me = Identity {
            node: NodeId(1),
            peer_addr: addr,
            api_addr: addr,
            inside: vec![words::InsideInterface { network: None, mac: Mac([2, 0, 0, 0, 0, 1]) }],
            outside_mac: Mac([2, 0, 0, 0, 1, 1]),
            level: words::level::NEWEST,
            key: [1; 32],
            peers: Vec::new(),
        };
        let member = ControlMember::new(me, store, ControlTiming::default(), 9, Now { ns: 0, unix_ms: 0 })?;
        let (turns, jobs) = (Times::default(), Times::default());
        let mut bed = Self { member, now_ms: 0, turns, jobs, answers: BTreeMap::new() };
        bed.until(|bed| bed.member.incarnation().is_some())?;
        Ok(bed)
    }

    fn now(&self) -> Now {
        Now { ns: self.now_ms * 1_000_000, unix_ms: self.now_ms }
    }

    /// One turn of the thread, and the job that it leaves, if there is one; that is back for the next turn.
    fn turn(&mut self) {
        self.now_ms += TURN_MS;
        let now = self.now();
        let job = self.turns.of(|| {
            self.member.tick(now);
            settle(&mut self.member, now, &mut self.answers)
        });
        let mut next = job;
        while let Some(job) = next {
            let finished = self.jobs.of(|| job.run());
            let (left, job) = self.turns.of(|| {
                let left = self.member.finish(now, finished);
                (left, settle(&mut self.member, now, &mut self.answers))
            });
            self.jobs.of(|| drop(left));
            next = job;
        }
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        for _ in 0..TURNS_MAX {
            if done(self) {
                return Ok(());
            }
            self.turn();
        }
        anyhow::bail!("not within {} s", TURNS_MAX * TURN_MS / 1_000)
    }

    /// Plans, cuts and applies, as `qnat apply` has it done.
    fn configure(&mut self, desired: &Desired) -> Result<()> {
        let state = self.member.shared_state();
        let cut = self.jobs.of(|| {
            let plan = plan::diff(&state, desired);
            let configure = Configure { desired: desired.clone(), base_hash: Some(plan.hash), hints: Vec::new() };
            Cut::of(Box::new(configure))
        })?;
        drop(state);
        let (now, ticket) = (self.now(), self.now_ms);
        self.turns.of(|| self.member.submit_cut(now, ticket, cut));
        self.until(|bed| bed.answers.contains_key(&ticket))?;
        ensure!(self.answers[&ticket], "the configuration was refused");
        Ok(())
    }

    /// Owners say that all blocks that drain are empty, a share of them in each turn.
    fn fence(&mut self, in_a_turn: usize) -> Result<()> {
        let (shards, allocation) = (self.member.state().shards().clone(), self.member.state().allocation().clone());
        let mut duties = allocation.drains.iter().map(|(block, drain)| {
            let shard = allocation.frontends[&block.frontend].shard;
            let (block, reclaim_index) = (*block, drain.reclaim_index);
            ControlDuty::Fenced { shard, epoch: shards[&shard].epoch, block, reclaim_index }
        });
        loop {
            let some: Vec<ControlDuty> = duties.by_ref().take(in_a_turn).collect();
            if some.is_empty() {
                break;
            }
            let now = self.now();
            self.turns.of(|| some.into_iter().for_each(|duty| self.member.handle_duty(now, duty)));
            self.turn();
        }
        self.until(|bed| {
            allocation.drains.keys().all(|block| !bed.member.state().allocation().drains.contains_key(block))
        })
    }

    /// Frontends that are no longer declared go, their holds being over.
    fn retire(&mut self) -> Result<()> {
        self.now_ms += HOLDS_MS;
        self.until(|bed| {
            bed.member.state().allocation().frontends.values().all(|frontend| frontend.declared == Declared::Yes)
        })
    }

    /// What is made of the state for each status, once a second at least.
    fn report(&mut self) {
        let state = self.turns.of(|| self.member.shared_state());
        drop(self.jobs.of(|| (view::status(&state), view::nodes(&state), view::shards(&state))));
    }

    fn row(&mut self, what: &str, table: &mut Table) {
        let (turns, jobs) = (std::mem::take(&mut self.turns), std::mem::take(&mut self.jobs));
        let ms = |ns: u64| format!("{:.1}", Duration::from_nanos(ns).as_secs_f64() * 1e3);
        table.add_row([
            what.to_owned(),
            turns.pieces.to_string(),
            ms(turns.longest_ns),
            ms(turns.sum_ns),
            ms(jobs.longest_ns),
            ms(jobs.sum_ns),
        ]);
    }
}

fn settle(member: &mut ControlMember<MemoryStore>, now: Now, answers: &mut BTreeMap<u64, bool>) -> Option<Box<Job>> {
    let mut job = None;
    while let Some(out) = member.poll(now) {
        match out {
            ControlOut::Job(lent) => job = Some(lent),
            ControlOut::Done { ticket, result } => {
                answers.insert(ticket, result.is_ok_and(|outcome| outcome.is_applied()));
            }
            ControlOut::Send { .. }
            | ControlOut::Ask { .. }
            | ControlOut::Answer { .. }
            | ControlOut::View(_)
            | ControlOut::Registered(_)
            | ControlOut::Ports(_)
            | ControlOut::Members(_)
            | ControlOut::NotTaken { .. }
            | ControlOut::Over { .. }
            | ControlOut::StoreFailed { .. } => {}
        }
    }
    job
}

/// Which frontends a pool may use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frontends {
    /// One of its own for each.
    Own,
    /// All for all pools, which are as few as they can be.
    Shared,
}

/// So many frontends, and `backends` instances from the address number `first` on in pools behind them.
fn desired(frontends: usize, behind: Frontends, first: usize, backends: usize) -> Result<Desired> {
    use std::fmt::Write as _;
    let mut text = String::from("[outside]\nnetwork = \"198.18.0.0/16\"\nnext_hop = \"198.18.255.254\"\n");
    text.push_str(
        "[[virtual_network]]\nname = \"vnet\"\n[[virtual_network.subnet]]\nname = \"all\"\nprefix = \"10.0.0.0/8\"\ngateway = \"10.0.0.1\"\n",
    );
    for pool in 1..=frontends {
        let public = Ipv4Addr::from_bits(0xc612_0000 + u32::try_from(pool)?);
        writeln!(text, "[[public_ip]]\nname = \"pip{pool}\"\naddress = \"{public}\"")?;
        if behind == Frontends::Own {
            writeln!(text, "[[load_balancer]]\nname = \"lb{pool}\"\nfrontends = [\"pip{pool}\"]")?;
            writeln!(text, "[[load_balancer.pool]]\nname = \"web1\"")?;
            writeln!(text, "[[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"web1\"")?;
        }
    }
    let pools = backends.div_ceil(POOL_INSTANCES_MAX).max(1);
    if behind == Frontends::Shared {
        let names: Vec<String> = (1..=frontends).map(|n| format!("\"pip{n}\"")).collect();
        writeln!(text, "[[load_balancer]]\nname = \"lb1\"\nfrontends = [{}]", names.join(", "))?;
        for pool in 1..=pools {
            writeln!(text, "[[load_balancer.pool]]\nname = \"web{pool}\"")?;
            writeln!(text, "[[load_balancer.outbound_rule]]\nname = \"out{pool}\"\npool = \"web{pool}\"")?;
        }
    }
    for n in first..first + backends {
        let ip = Ipv4Addr::from_bits(0x0a00_0100 + u32::try_from(n)?);
        writeln!(text, "[[instance]]\nname = \"instance-{n}\"\n[[instance.ip_configuration]]\nname = \"primary\"")?;
        let (balancer, pool) = match behind {
            Frontends::Own => (n % frontends + 1, 1),
            Frontends::Shared => (1, n % pools + 1),
        };
        writeln!(text, "private_ip = \"{ip}\"\nsubnet = \"vnet/all\"\npool = \"lb{balancer}/web{pool}\"")?;
    }
    config::parse("bench", &text).map_err(|errors| anyhow::anyhow!("{}", errors[0]))
}

/// Measures it and prints it.
///
/// # Errors
/// If a configuration is refused, or something does not come to its end.
pub fn run(args: &Args) -> Result<()> {
    let mut bed = Bed::new()?;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "turns", "longest turn, ms", "turns, ms", "longest job, ms", "jobs, ms"]);
    bed.row("founding", &mut table);
    let own = |first, backends| desired(FRONTENDS_MAX, Frontends::Own, first, backends);
    bed.configure(&own(0, 0)?)?;
    bed.row(&format!("{FRONTENDS_MAX} frontends come"), &mut table);
    bed.configure(&desired(FRONTENDS_MAX - 1, Frontends::Own, 0, 0)?)?;
    bed.row("one of them leaves", &mut table);
    bed.configure(&desired(0, Frontends::Own, 0, 0)?)?;
    bed.row("all leave", &mut table);
    bed.retire()?;
    bed.row("they retire", &mut table);
    let all = own(0, args.backends)?;
    bed.configure(&all)?;
    bed.row(&format!("{} backends come, and the frontends", args.backends), &mut table);
    bed.report();
    bed.row("a report for status", &mut table);
    let few = args.backends / 32;
    bed.configure(&own(few, args.backends - few)?)?;
    bed.row(&format!("{few} of them leave"), &mut table);
    bed.fence(64)?;
    bed.row("their blocks are empty", &mut table);
    bed.configure(&all)?;
    bed.row(&format!("{few} come"), &mut table);
    bed.configure(&own(args.backends, args.backends)?)?;
    bed.row("others come in the place of all", &mut table);
    bed.fence(64)?;
    bed.row("blocks of all are empty, a few at a time", &mut table);
    bed.configure(&own(0, 0)?)?;
    bed.row("all leave", &mut table);
    bed.fence(usize::MAX)?;
    bed.row("blocks of all are empty, at once", &mut table);
    bed.configure(&desired(FRONTENDS_MAX, Frontends::Shared, 0, args.backends)?)?;
    bed.row("as many come that may use all frontends", &mut table);
    bed.configure(&desired(FRONTENDS_MAX - 1, Frontends::Shared, 0, args.backends)?)?;
    bed.row("one frontend leaves", &mut table);
    bed.fence(usize::MAX)?;
    bed.row("its blocks are empty", &mut table);
    bed.retire()?;
    bed.row("it retires", &mut table);
    writeln!(std::io::stdout(), "{table}").context("standard output")
}
