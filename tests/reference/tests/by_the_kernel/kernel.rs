//! A member's kernel with the fast path as the member has it: its program runs upon frames that a test makes (BPF_PROG_TEST_RUN), by
//! the maps that the worker fills. What it hands to a device is taken here, so nothing is sent and nobody waits.

use std::sync::{Arc, Mutex, PoisonError};

use engine::fast::{FastBoth, FastEntry, FastMode, FastSeen, FastTable};
use engine::ids::{BackendId, LeaseWord, Link, VnetId};
use engine::snapshot::Networks;
use netio::boottime::now_ns;
use netio::bpf::Program;
use netio::fast::FastSize;
use netio::guard::Guard;
use netio::lease_table::WordsWriter;
use netio::link::Link as Device;
use netio::port::Interface;
use qnat::daemon::bindings::Bindings;
use qnat::daemon::data_config::InsideConfig;
use qnat::daemon::fast_path::{FastEnd, FastSwitch};
use qnat_reference::bed::{BACKENDS, Carried, Carrier, NETWORKS, SHARD, UPSTREAM, link_of, mac_of};
use words::time::SECOND_NS;

/// Mappings that it has room for.
const FLOWS: u32 = 1 << 12;
/// The kernel's clock is the machine's, on which no lease of a test ends.
const FOR_EVER_NS: u64 = 100_000 * SECOND_NS;
/// linux/pkt_cls.h: what a classifier says of a frame.
const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// What the machine's clock and the test's said when a frame was looked at.
type Looks = Arc<Mutex<Vec<(u64, u64)>>>;

/// A member's.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Attached as long as the value lives.
    _guard: Guard,
    words: WordsWriter,
    table: Option<Box<dyn FastTable>>,
    program: Program,
    /// By interface, the outside one first.
    devices: Vec<Device>,
    looks: Looks,
}

/// The table, its times told by the test's clock.
#[derive(Debug)]
struct Table {
    inner: Box<dyn FastTable>,
    looks: Looks,
}

impl Kernel {
    /// On interfaces of the calling thread's network namespace, the outside one first.
    pub(crate) fn on(names: [&str; 3]) -> Self {
        let devices = names.map(|name| Device::named(name).expect("an interface")).to_vec();
        let size = FastSize { workers: 1, flows: FLOWS };
        let (guard, words, mut parts) = Guard::attach_with(&devices[0], &devices[1..], Some(size)).expect("attached");
        let program = Program::of(guard.fast_program().expect("a fast path")).expect("it is there");
        let inside =
            ["one", "other"].map(|name| InsideConfig { interface: name.into(), virtual_network: Some(name.into()) });
        let mut bindings = Bindings::new(&inside);
        let networks = ["one", "other"].into_iter().zip(NETWORKS).map(|(name, id)| (name.to_owned(), id)).collect();
        let known: Vec<VnetId> = bindings.load(&Networks(networks));
        assert_eq!(known, NETWORKS);
        let part = parts.pop().expect("one worker's");
        let (_end, table) = FastEnd::new(FastSwitch::new(FastMode::Eager), bindings, part);
        Self { _guard: guard, words, table: Some(table), program, devices, looks: Looks::default() }
    }
}

impl Carrier for Kernel {
    fn table(&mut self) -> Box<dyn FastTable> {
        let inner = self.table.take().expect("asked once");
        Box::new(Table { inner, looks: Arc::clone(&self.looks) })
    }

    fn set_word(&mut self, word: Option<LeaseWord>) {
        let until = now_ns() + FOR_EVER_NS;
        let held = |word| LeaseWord { lease_until_ns: until, grace_until_ns: until, ..word };
        self.words.set(SHARD, word.map_or_else(LeaseWord::default, held));
    }

    fn carry(&mut self, now_ns: u64, link: Link, frame: &mut Vec<u8>) -> Carried {
        let interface = match link {
            Link::Outside => Interface::OUTSIDE,
            Link::Inside(network) if network == NETWORKS[0] => Interface::inside(0),
            Link::Inside(_) => Interface::inside(1),
        };
        let judged = self.program.judge(self.devices[interface.index()].ifindex, frame);
        let (fate, sent) = judged.unwrap_or_else(|error| panic!("{} octets: {error}", frame.len()));
        match fate {
            TC_NEXT => Carried::No,
            TC_SHOT => Carried::Dropped,
            TC_REDIRECT => {
                let clock = netio::boottime::now_ns();
                self.looks.lock().unwrap_or_else(PoisonError::into_inner).push((clock, now_ns));
                *frame = sent;
                Carried::To(link_to(frame))
            }
            other => panic!("a classifier says {other}"),
        }
    }
}

/// By which link a frame leaves that is addressed so.
fn link_to(frame: &[u8]) -> Link {
    let hosts = BACKENDS.into_iter().enumerate().map(|(place, ip)| (link_of(place), ip));
    let mut hosts = hosts.chain([(Link::Outside, UPSTREAM)]);
    let host = hosts.find(|(link, ip)| mac_of(*link, *ip) == frame[..6]);
    host.unwrap_or_else(|| panic!("nobody has the address {:02x?}", &frame[..6])).0
}

impl FastTable for Table {
    fn flows(&self) -> u32 {
        self.inner.flows()
    }

    fn install(&mut self, number: u32, entry: &FastEntry) -> bool {
        self.inner.install(number, entry)
    }

    fn kill(&mut self, number: u32) {
        self.inner.kill(number);
    }

    fn remove(&mut self, number: u32) {
        self.inner.remove(number);
    }

    fn seen(&self, number: u32) -> FastBoth {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |seen: FastSeen| {
            let look = looks.partition_point(|(clock, _)| *clock < seen.last_ns);
            FastSeen { last_ns: if seen.last_ns == 0 { 0 } else { looks[look].1 }, ..seen }
        };
        let FastBoth { out, incoming } = self.inner.seen(number);
        FastBoth { out: told(out), incoming: told(incoming) }
    }

    fn raise(&mut self, backend: BackendId, made: u64) {
        self.inner.raise(backend, made);
    }

    fn raise_all(&mut self, made: u64) {
        self.inner.raise_all(made);
    }
}
