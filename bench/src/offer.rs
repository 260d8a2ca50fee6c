//! Small datagrams of many flows, made and counted by the kernel: a generator that costs a fraction of what any gateway does
//! (BPF_PROG_TEST_RUN with live frames), and a sink that drops what arrives before a stack has seen it. Judges nothing.
//!
//! The layouts of `Config` and `State` are those of `bpf/offer.c`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::{self, TcAttachType};
use aya::programs::{SchedClassifier, Xdp, XdpFlags};
use aya::{Ebpf, Pod};
use netio::bpf::Program;
use netio::link::Link;
use netio::netns;
use netio::thread::pin_current;

#[cfg(qnat_bpf)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/offer.o"));
#[cfg(not(qnat_bpf))]
static OBJECT: &[u8] = &[];

/// Octets of a frame.
pub const FRAME: u16 = 60;
/// Of Ethernet, IPv4 and UDP.
const HEAD: usize = 42;
/// Frames by which it is found how fast the kernel sends as many as it can.
const FIRST: u32 = 1 << 15;
/// Frames a second at least: the kernel's program waits for no longer until the next one is due.
pub const RATE_MIN: u32 = 8_000;
/// Frames that leave at once, at a rate and without one.
const BATCHES: (u32, u32) = (8, 64);
const IPV4: [u8; 2] = [8, 0];
const UDP: u8 = 17;

/// Datagrams of 60 octets on the wire, of flows that differ in their ports.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Ethernet addresses: the sender's, the gateway's.
    pub macs: ([u8; 6], [u8; 6]),
    /// The sender's address.
    pub source: Ipv4Addr,
    /// The remote's.
    pub remote: Ipv4Addr,
    /// How many.
    pub count: u32,
    /// Inside ports, from this one on: as many flows go to each of the remote's ports.
    pub inside: (u16, u16),
    /// The first of the remote's ports.
    pub to: u16,
}

/// `struct config`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Config {
    gap_ns: u64,
    flows: u32,
    ports: u32,
    sum: u32,
    first_port: u16,
    first_remote: u16,
    head: [u8; HEAD],
    pad: [u8; 6],
}

/// `struct state`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct State {
    sent: u64,
    due_ns: u64,
    first_ns: u64,
    last_ns: u64,
    flow: u32,
    pad: u32,
}

const _: () = assert!(size_of::<Config>() == 72 && size_of::<State>() == 40);

// SAFETY: plain integers without padding, as the assertion above says.
unsafe impl Pod for Config {}
// SAFETY: the same.
unsafe impl Pod for State {}

impl Flows {
    fn config(&self, gap_ns: u64) -> Config {
        let mut head = [0; HEAD];
        head[..6].copy_from_slice(&self.macs.1);
        head[6..12].copy_from_slice(&self.macs.0);
        head[12..14].copy_from_slice(&IPV4);
        let total = FRAME - 14;
        head[14] = 0x45;
        head[16..18].copy_from_slice(&total.to_be_bytes());
        // May not be cut, so that it needs no identification.
        head[20] = 0x40;
        (head[22], head[23]) = (64, UDP);
        head[26..30].copy_from_slice(&self.source.octets());
        head[30..34].copy_from_slice(&self.remote.octets());
        let checksum = !folded(words(&head[14..34]));
        head[24..26].copy_from_slice(&checksum.to_be_bytes());
        let length = total - 20;
        head[38..40].copy_from_slice(&length.to_be_bytes());
        // The pseudo header, and the length again; what follows the header is zero.
        let sum = words(&head[26..34]) + u32::from(UDP) + 2 * u32::from(length);
        Config {
            gap_ns,
            flows: self.count,
            ports: self.inside.1.into(),
            sum,
            first_port: self.inside.0,
            first_remote: self.to,
            head,
            pad: [0; 6],
        }
    }
}

fn words(octets: &[u8]) -> u32 {
    octets.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = ((once & 0xffff) + (once >> 16)).to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn load() -> Result<Ebpf> {
    ensure!(!OBJECT.is_empty(), "built without clang: no generator; install it and build again");
    Ebpf::load(OBJECT).context("loading the generator")
}

/// The sender.
pub struct Generator {
    // Holds the programs.
    ebpf: Ebpf,
    namespace: String,
    interface: String,
    configs: Array<MapData, Config>,
    states: Array<MapData, State>,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Generator {
    /// A generator that sends by a veth of a namespace, whose far end is this interface of that other one: frames of this kind
    /// reach it only while it has a program too, as it has until the value is dropped.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses the programs.
    pub fn new((namespace, interface): (&str, &str), (far, port): (&str, &str)) -> Result<Self> {
        let mut ebpf = load()?;
        for name in ["offer", "pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).with_context(|| name.to_owned())?.try_into()?;
            program.load().with_context(|| name.to_owned())?;
        }
        let pass: &mut Xdp = ebpf.program_mut("pass").context("pass")?.try_into()?;
        netns::run_in(far, || pass.attach(port, XdpFlags::DRV_MODE))?.with_context(|| format!("{port} in {far}"))?;
        let configs = Array::try_from(ebpf.take_map("configs").context("configs")?)?;
        let states = Array::try_from(ebpf.take_map("states").context("states")?)?;
        Ok(Self { ebpf, namespace: namespace.to_owned(), interface: interface.to_owned(), configs, states })
    }

    /// Sends by one processor for about so long, so many frames a second (`None`: as many as can be), by one flow after the other from
    /// where it ended; how many it were, and how long it took.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn send(&mut self, flows: &Flows, rate: Option<u32>, cpu: usize, lasting: Duration) -> Result<(u64, Duration)> {
        ensure!(flows.count > 0 && flows.inside.1 > 0, "no flow to send by");
        ensure!(rate.is_none_or(|rate| rate >= RATE_MIN), "a rate of at least {RATE_MIN} a second");
        self.configs.set(0, flows.config(rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate))), 0)?;
        let (count, took) = match rate {
            Some(rate) => self.call(flows, times(rate, lasting), BATCHES.0, cpu)?,
            None => {
                let first = self.call(flows, FIRST, BATCHES.1, cpu)?;
                let rate = u128::from(FIRST) * 1_000_000_000 / first.1.as_nanos().max(1);
                let rest = self.call(flows, times(u32::try_from(rate)?, lasting), BATCHES.1, cpu)?;
                (first.0 + rest.0, first.1 + rest.1)
            }
        };
        Ok((count, took))
    }

    /// One call of the kernel: to prepare one takes it milliseconds, so that there are not to be many.
    fn call(&mut self, flows: &Flows, count: u32, batch: u32, cpu: usize) -> Result<(u64, Duration)> {
        // Where the last one ended: those of a load of new flows are new.
        let flow = self.states.get(&0, 0)?.flow % flows.count;
        let offer: &Xdp = self.ebpf.program("offer").context("offer")?.try_into()?;
        let program = Program::from(offer.fd()?.as_fd().try_clone_to_owned()?);
        let run = || {
            pin_current(cpu)?;
            let interface = Link::named(&self.interface)?.ifindex;
            program.send(interface, &[0; FRAME as usize], (count, batch))
        };
        self.states.set(0, State { flow, ..State::default() }, 0)?;
        let took = netns::run_in(&self.namespace, run)?.with_context(|| format!("frames by {}", self.interface))?;
        let state = self.states.get(&0, 0)?;
        // What the kernel measures leaves out for how long it was kept from sending, which counts where frames have their times.
        let between = Duration::from_nanos(state.last_ns - state.first_ns);
        Ok((state.sent, if between.is_zero() { took } else { between }))
    }
}

fn times(rate: u32, lasting: Duration) -> u32 {
    // At least one: none would be as many as there can be.
    u32::try_from(u128::from(rate) * lasting.as_micros() / 1_000_000).unwrap_or(u32::MAX).max(1)
}

/// The receiver: counts what has the generator's length and is UDP, and drops it.
pub struct Sink {
    // Holds the program and its place.
    _ebpf: Ebpf,
    arrived: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// One on what comes in by an interface of a namespace.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses the program.
    pub fn new(namespace: &str, interface: &str) -> Result<Self> {
        let mut ebpf = load()?;
        let program: &mut SchedClassifier = ebpf.program_mut("sink").context("sink")?.try_into()?;
        program.load()?;
        let attach = || {
            // It may be there already.
            let _there = tc::qdisc_add_clsact(interface);
            program.attach(interface, TcAttachType::Ingress)
        };
        netns::run_in(namespace, attach)?.with_context(|| format!("{interface} in {namespace}"))?;
        let arrived = PerCpuArray::try_from(ebpf.take_map("arrived").context("arrived")?)?;
        Ok(Self { _ebpf: ebpf, arrived })
    }

    /// Datagrams so far.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn arrived(&self) -> Result<u64> {
        let counts = self.arrived.get(&0, 0).map_err(|error| anyhow!(error))?;
        Ok(counts.iter().sum())
    }
}

/// Somebody's program at the egress of an interface, which lets everything pass; gone with the value.
pub struct Bystander {
    // Holds the program.
    _ebpf: Ebpf,
    program: Program,
    namespace: String,
    interface: u32,
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // A namespace that is gone took it along.
        let _gone = netns::run_in(&self.namespace, || self.program.take_away(self.interface, TcAttachType::Egress));
    }
}

impl std::fmt::Debug for Bystander {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bystander").finish_non_exhaustive()
    }
}

impl Bystander {
    /// One at an interface of a namespace.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses the program.
    pub fn at(namespace: &str, interface: &str) -> Result<Self> {
        let mut ebpf = load()?;
        let classifier: &mut SchedClassifier = ebpf.program_mut("bystander").context("bystander")?.try_into()?;
        classifier.load()?;
        let program = Program::from(classifier.fd()?.as_fd().try_clone_to_owned()?);
        let put = || -> std::io::Result<u32> {
            let ifindex = Link::named(interface)?.ifindex;
            program.put_first(ifindex, TcAttachType::Egress)?;
            Ok(ifindex)
        };
        let interface = netns::run_in(namespace, put)?.with_context(|| format!("{interface} in {namespace}"))?;
        Ok(Self { _ebpf: ebpf, program, namespace: namespace.to_owned(), interface })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_checksum_of_its_addresses_and_the_sum_that_ports_are_added_to() {
        let flows = Flows {
            macs: ([1; 6], [2; 6]),
            source: Ipv4Addr::new(10, 0, 1, 1),
            remote: Ipv4Addr::new(203, 0, 113, 10),
            count: 7,
            inside: (20_000, 3),
            to: 10_000,
        };
        let config = flows.config(5);
        assert_eq!(folded(words(&config.head[14..34])), 0xffff, "RFC 1071");
        // Frame of the third flow, as the kernel's program writes it.
        let (port, remote) = (20_002_u16, 10_000_u16);
        let checksum = !folded(config.sum + u32::from(port) + u32::from(remote));
        let mut datagram = config.head[34..].to_vec();
        datagram[..2].copy_from_slice(&port.to_be_bytes());
        datagram[2..4].copy_from_slice(&remote.to_be_bytes());
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        datagram.resize(usize::from(FRAME) - 34, 0);
        let pseudo = words(&config.head[26..34]) + u32::from(UDP) + 26;
        assert_eq!(folded(pseudo + words(&datagram)), 0xffff, "RFC 768");
    }
}
