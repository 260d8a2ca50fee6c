//! One question to one backend: a connection with a TCP stack of its own, so that whoever hangs holds up nobody else.
//!
//! Packets go in and out, time is an argument. It has an outcome once, at the latest when its time is over; then it closes
//! as a client does, and resets what does not end soon.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use engine::probes::{Ask, Failing, SOURCE};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use words::time::SECOND_NS;

/// Octets of an Ethernet header, which whoever sends a frame writes.
const ETHERNET: usize = 14;
/// The largest packet that is sent, and that is asked for: it fits every link.
const MTU: usize = 1280;
/// Octets that may be on their way to us, and from us.
const WINDOW: usize = 4096;
/// What a connection that has served its purpose may take to end.
const LINGER_NS: u64 = SECOND_NS;

/// What is asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// Of whom.
    pub to: SocketAddrV4,
    /// From which port; nobody else's meanwhile.
    pub from_port: u16,
    /// How.
    pub ask: &'a Ask,
    /// What the answer may take.
    pub timeout_ns: u64,
    /// For the numbers that the connection begins with.
    pub seed: u64,
}

/// What came of it.
pub type Ended = Result<(), Failing>;

/// See the module.
pub struct Attempt {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    speech: super::speech::Speech,
    unsent: Vec<u8>,
    is_connected: bool,
    stage: Stage,
    until_ns: u64,
    poll_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No outcome yet.
    Asking,
    /// It has one, and the connection is still to end.
    Ending,
    Over,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("stage", &self.stage).field("until_ns", &self.until_ns).finish_non_exhaustive()
    }
}

impl Attempt {
    /// Begins; its first packet is there after a turn.
    ///
    /// # Panics
    /// If a port is 0.
    #[must_use]
    pub fn new(now_ns: u64, question: &Question<'_>) -> Self {
        let mut wire = Wire::default();
        let now = instant(now_ns);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = question.seed;
        let mut interface = Interface::new(config, &mut wire, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(SOURCE), 32)).expect("room for one address");
        });
        interface.routes_mut().add_default_ipv4_route(SOURCE).expect("room for one route");
        let buffer = || SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let to = (IpAddress::Ipv4(*question.to.ip()), question.to.port());
        socket
            .connect(interface.context(), to, (IpAddress::Ipv4(SOURCE), question.from_port))
            .expect("a fresh socket, and ports that are none but 0");
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            wire,
            interface,
            sockets,
            handle,
            speech: super::speech::Speech::new(question.ask, question.to),
            unsent: Vec::new(),
            is_connected: false,
            stage: Stage::Asking,
            until_ns: now_ns.saturating_add(question.timeout_ns),
            poll_ns: now_ns,
        }
    }

    /// A packet of the backend, from its IPv4 header on. A turn is due.
    pub fn receive(&mut self, packet: Box<[u8]>) {
        self.wire.received.push_back(packet);
        self.poll_ns = 0;
    }

    /// The next frame to send: room for an Ethernet header, and an IPv4 packet.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.wire.sent.pop_front()
    }

    /// When a turn is due; `u64::MAX` if it is over.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        if self.is_over() { u64::MAX } else { self.poll_ns.min(self.until_ns) }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Goes on. The outcome is returned once.
    pub fn turn(&mut self, now_ns: u64) -> Option<Ended> {
        let mut outcome = None;
        self.poll(now_ns);
        if self.stage == Stage::Asking {
            outcome = self.progress();
            if outcome.is_none() && now_ns >= self.until_ns {
                outcome = Some(Err(Failing::Silent));
            }
            if let Some(ended) = outcome {
                self.conclude(now_ns, ended);
            }
        } else if self.stage == Stage::Ending {
            self.linger(now_ns);
        }
        // What was said, and what was closed, leaves by this turn.
        self.poll(now_ns);
        outcome
    }

    /// It is known already what comes of it: nobody would answer. What was begun is reset.
    pub fn give_up(&mut self, now_ns: u64) {
        self.socket().abort();
        self.poll(now_ns);
        self.stage = Stage::Over;
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'_>>(self.handle)
    }

    fn poll(&mut self, now_ns: u64) {
        let now = instant(now_ns);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let next = self.interface.poll_at(now, &self.sockets);
        let ns = |at: Instant| u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000);
        self.poll_ns = next.map_or(u64::MAX, |at| ns(at).max(now_ns.saturating_add(1_000)));
    }

    fn progress(&mut self) -> Option<Ended> {
        let state = self.socket().state();
        if !self.is_connected {
            match state {
                State::Closed => return Some(Err(Failing::Refused)),
                State::SynSent | State::Listen | State::SynReceived => return None,
                State::Established
                | State::CloseWait
                | State::FinWait1
                | State::FinWait2
                | State::Closing
                | State::LastAck
                | State::TimeWait => self.is_connected = true,
            }
        }
        let talked = self.talk();
        if let Err(failing) = talked {
            return Some(Err(failing));
        }
        if let Some(ended) = self.speech.outcome() {
            return Some(ended);
        }
        let ended = self.speech.ended();
        (!self.socket().may_recv()).then_some(Err(ended))
    }

    /// Moves octets between the connection and what is said in it.
    fn talk(&mut self) -> Result<(), Failing> {
        let Self { sockets, handle, speech, unsent, .. } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        while socket.can_recv() {
            let heard = socket.recv(|octets| (octets.len(), speech.hear(octets)));
            heard.unwrap_or(Ok(()))?;
        }
        unsent.extend(speech.say()?);
        if socket.can_send() && !unsent.is_empty() {
            let sent = socket.send_slice(unsent).unwrap_or(0);
            unsent.drain(..sent);
        }
        Ok(())
    }

    fn conclude(&mut self, now_ns: u64, ended: Ended) {
        self.stage = Stage::Ending;
        self.until_ns = now_ns.saturating_add(LINGER_NS);
        match ended {
            Ok(()) => self.socket().close(),
            Err(_) => {
                self.socket().abort();
                self.stage = Stage::Over;
            }
        }
    }

    fn linger(&mut self, now_ns: u64) {
        let until_ns = self.until_ns;
        let socket = self.socket();
        // Nobody reads the rest of an answer.
        while socket.can_recv() {
            if socket.recv(|octets| (octets.len(), ())).is_err() {
                break;
            }
        }
        let is_late = now_ns >= until_ns;
        if is_late {
            socket.abort();
        }
        if is_late || matches!(socket.state(), State::Closed | State::TimeWait) {
            self.stage = Stage::Over;
        }
    }
}

fn instant(ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(ns / 1_000).unwrap_or(i64::MAX))
}

/// Packets on their way in and out.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Box<[u8]>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Box<[u8]>);

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // The worker has judged what came in, and a device may leave the sum to whoever sends a packet at last.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; ETHERNET + len];
        frame[12..ETHERNET].copy_from_slice(&[8, 0]);
        let result = write(&mut frame[ETHERNET..]);
        self.0.push_back(frame);
        result
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
