//! Keeps the kernel's egress guard as it should be: its addresses and peers are those of the newest configuration, and it
//! stands on all data interfaces. On a thread of its own with ordinary priority: a configuration of 32,000 backends is as
//! many calls into the kernel, and the flow thread has a lease of 40 ms. It never judges a frame.
//!
//! The order of a configuration's changes is safe whenever they come: until an address is written, the guard drops what
//! would leave for it in grace, and what somebody loses is taken away before anybody gets it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::snapshot::Snapshot;
use netio::fast::{FastCarried, FastFates};
use netio::guard::{Guard, GuardCounters, GuardError};
use netio::port::Interface;
use words::Link;

use super::bindings::Bindings;
use super::reports::GUARD_ATTACHED;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How the guard stands now.
#[derive(Clone, Debug, Default)]
pub struct GuardState {
    /// `attached`, or why not, or where it is missing.
    pub standing: String,
    /// How often it was missing and was put back.
    pub put_back: u64,
    /// Its counters, if it is there.
    pub counters: Option<GuardCounters>,
    /// What became of the frames that the fast path looked at, if it is there.
    pub fates: Option<FastFates>,
    /// What that sent out, and in.
    pub carried: [FastCarried; 2],
    /// The interfaces by which it hands frames straight to the far end of a pair.
    pub far_ends: Vec<String>,
    /// The version of the configuration whose addresses it has.
    pub control_index: u64,
}

#[derive(Debug, Default)]
struct Orders {
    newest: Option<Arc<Snapshot>>,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    ordered: Condvar,
    state: Mutex<GuardState>,
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, GuardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the keeper and asks it; cheap to clone.
#[derive(Clone, Debug)]
pub struct GuardDesk {
    shared: Arc<Shared>,
}

impl GuardDesk {
    /// A newer configuration. Of several that come while one is being written only the newest is.
    pub fn configure(&self, snapshot: Arc<Snapshot>) {
        self.shared.orders().newest = Some(snapshot);
        self.shared.ordered.notify_one();
    }

    /// How the guard stands.
    #[must_use]
    pub fn state(&self) -> GuardState {
        self.shared.state().clone()
    }
}

/// The thread; dropping this detaches the guard and ends it.
#[derive(Debug)]
pub struct GuardKeeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl GuardKeeper {
    /// Keeps `guard`, or only tells `standing` if there is none.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(guard: Option<Guard>, standing: String, bindings: Bindings) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.state().standing = standing;
        let keeper = Arc::clone(&shared);
        let thread = guard.map(|guard| {
            let thread = std::thread::Builder::new().name("guard".to_owned());
            thread.spawn(move || keep(guard, bindings, &keeper))
        });
        Ok(Self { shared, thread: thread.transpose()? })
    }

    /// An end that tells and asks.
    #[must_use]
    pub fn desk(&self) -> GuardDesk {
        GuardDesk { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for GuardKeeper {
    fn drop(&mut self) {
        self.shared.orders().stop = true;
        self.shared.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic aborts the process before it gets here.
            let _ended = thread.join();
        }
    }
}

fn keep(mut guard: Guard, mut bindings: Bindings, shared: &Shared) {
    loop {
        let newest = {
            let orders = shared.orders();
            let idle = |orders: &mut Orders| orders.newest.is_none() && !orders.stop;
            let waited = shared.ordered.wait_timeout_while(orders, LOOK_EVERY, idle);
            let (mut orders, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if orders.stop {
                return;
            }
            orders.newest.take()
        };
        if let Some(snapshot) = newest {
            bindings.load(&snapshot.networks);
            match write(&mut guard, &bindings, &snapshot) {
                Ok(()) => shared.state().control_index = snapshot.control_index.0,
                Err(error) => tracing::error!(%error, "egress guard: addresses"),
            }
        }
        look(&mut guard, shared);
    }
}

fn write(guard: &mut Guard, bindings: &Bindings, snapshot: &Snapshot) -> Result<(), GuardError> {
    let outside = snapshot.frontends.values().map(|f| (Interface::OUTSIDE, f.ip, f.shard.0));
    let macs = snapshot.peers.iter().flat_map(|links| links.inside.iter().map(|(_, mac)| mac).chain([&links.outside]));
    let peers = macs.map(|mac| mac.0);
    guard.set_addresses(outside.chain(inside(bindings, snapshot)))?;
    guard.set_peers(peers)
}

/// What frames inside may be for: backends' addresses, and frontends' to which rules float (D17), on whatever network.
fn inside(bindings: &Bindings, snapshot: &Snapshot) -> impl Iterator<Item = (Interface, Ipv4Addr, u16)> {
    let backends =
        snapshot.backends.values().filter_map(|b| Some((bindings.interface(Link::Inside(b.vnet))?, b.ip, b.home.0)));
    let floating: Vec<_> = snapshot.rules.floating().filter_map(|id| snapshot.frontends.get(&id)).copied().collect();
    let networks: Vec<_> =
        snapshot.networks.0.values().filter_map(|vnet| bindings.interface(Link::Inside(*vnet))).collect();
    let on_each = move |interface| floating.clone().into_iter().map(move |f| (interface, f.ip, f.shard.0));
    backends.chain(networks.into_iter().flat_map(on_each))
}

fn look(guard: &mut Guard, shared: &Shared) {
    let found = guard.look_again();
    for interface in &found.put_back {
        tracing::warn!(%interface, "the egress guard was taken away and is put back; see what else manages filters there");
    }
    let missing: Vec<_> = found.missing.iter().map(ToString::to_string).collect();
    let standing =
        if missing.is_empty() { GUARD_ATTACHED.to_owned() } else { format!("missing: {}", missing.join("; ")) };
    let mut state = shared.state();
    if state.standing != standing {
        tracing::info!(%standing, "egress guard");
        state.standing = standing;
    }
    state.put_back += found.put_back.len() as u64;
    state.counters = guard.counters().ok();
    state.fates = guard.fates().ok();
    state.carried = guard.carried().unwrap_or_default();
    state.far_ends = guard.far_ends();
}

#[cfg(test)]
mod tests {
    use engine::ids::{BackendId, FrontendId, ShardId, VnetId};
    use engine::probes::HealthSource;
    use engine::record::Proto;
    use engine::rules::{Distribution, Rule, Rules};
    use engine::snapshot::{Frontend, Networks, TcpReset};

    use super::*;
    use crate::daemon::data_config::InsideConfig;

    #[test]
    fn inside_the_guard_knows_frontends_that_rules_float_to_and_no_others() {
        let one = |name: &str| InsideConfig { interface: name.into(), virtual_network: Some(name.into()) };
        let mut bindings = Bindings::new(&[one("red"), one("blue")]);
        let networks = [("red".to_owned(), VnetId(4)), ("blue".to_owned(), VnetId(7)), ("green".to_owned(), VnetId(8))];
        let mut snapshot = Snapshot { networks: Arc::new(Networks(networks.into())), ..Snapshot::default() };
        bindings.load(&snapshot.networks);
        let address = |n: u8| Ipv4Addr::new(203, 0, 113, n);
        snapshot.put_frontends(
            [1, 2].map(|n| (FrontendId(n.into()), Frontend { ip: address(n), shard: ShardId(u16::from(n) + 10) })),
        );
        let mut rules = Rules::default();
        for (n, floats) in [(1, true), (2, false)] {
            rules.put(Rule {
                name: "lb/web".into(),
                frontend: FrontendId(n),
                proto: Proto::Tcp,
                port: 80,
                backend_port: 80,
                floats,
                members: [BackendId(1)].into(),
                health: HealthSource::Nobody,
                admin: Arc::default(),
                distribution: Distribution::Connection,
                idle_timeout_ms: 240_000,
                tcp_reset_on_idle: TcpReset::Off,
            });
        }
        snapshot.rules = Arc::new(rules);
        let mut all: Vec<_> = inside(&bindings, &snapshot).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1].map(|n| (Interface::inside(n), address(1), 11)));
    }
}
