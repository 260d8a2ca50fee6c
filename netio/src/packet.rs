//! The packet loop of one worker: all data interfaces on one io_uring. Hot path.
//!
//! `wait` → `receive` (each frame to the worker, rewritten in place) → `transmit` for frames of the worker's own → `flush`,
//! which asks once more for every frame whether it may still leave, right before it is handed to the kernel (L5). Frames
//! are never copied on their way through. What cannot be taken is dropped and counted: the kernel drops what finds no
//! buffer, a full pool refuses what the worker wants to send, a full device queue or the guard refuses a send. Nothing
//! here panics on what a frame contains. Belongs to the thread that created it.

mod waiting;

use std::os::fd::AsFd;

use words::{FrameMeta, INSIDE_MAX, Share};

use crate::bell::Doorbell;
use crate::boottime;
use crate::frame::{BUFFER_LEN, BufferId, ETHERNET_LEN};
use crate::link::{Link, LinkState};
use crate::port::{Disposition, Interface, IoError, LoopLimits, PortConfig, PortStats, Reception, check};
use crate::sctp;
use crate::socket::{EtherType, PacketSocket};
use crate::socket_filter::TAGGED_LEN;
use crate::uring::{Completion, Uring};
use crate::virtio::{self, HEADER_LEN};

/// The sockets of an interface, in the order of their registration, interface by interface.
const SOCKETS: [EtherType; 3] = [EtherType::Ipv4, EtherType::Arp, EtherType::Sounding];
/// All of them have a number of 8 bits.
const _: () = assert!(SOCKETS.len() * (INSIDE_MAX + 1) <= u8::MAX as usize);

/// The socket that sends a frame: the kernel takes the frame's protocol from the socket, which is of consequence for IPv4.
fn socket_for(interface: Interface, frame: &[u8]) -> u8 {
    let ipv4 = EtherType::Ipv4.number().to_be_bytes();
    let other = frame.get(12..14).is_some_and(|found| found != ipv4);
    u8::try_from(interface.index() * SOCKETS.len() + usize::from(other)).expect("they fit")
}

/// The interface of a socket.
fn interface_of(socket: u8) -> Interface {
    Interface::at(usize::from(socket) / SOCKETS.len())
}

/// How soon receiving is armed again after an error.
const RETRY_NS: u64 = 10_000_000;
/// How often interface flags and the kernel's drop counters are read.
const LINK_CHECK_NS: u64 = 100_000_000;

/// Frames that are looked ahead for before the first of them is handled: as many as the first cache holds the headers of.
const BATCH: usize = 64;

/// Who takes frames that arrived.
pub trait FrameHandler {
    /// A frame, from the Ethernet header on, that `handle` will be given soon.
    fn look_ahead(&mut self, interface: Interface, frame: &[u8]);

    /// `look_ahead` has seen a whole batch.
    fn fetch(&mut self);

    /// A frame; see `PacketLoop::receive`.
    fn handle(&mut self, interface: Interface, meta: &FrameMeta, frame: &mut [u8]) -> Disposition;
}

struct OneByOne<'a, F>(&'a mut F);

impl<F: FnMut(Interface, &FrameMeta, &mut [u8]) -> Disposition> FrameHandler for OneByOne<'_, F> {
    fn look_ahead(&mut self, _: Interface, _: &[u8]) {}

    fn fetch(&mut self) {}

    fn handle(&mut self, interface: Interface, meta: &FrameMeta, frame: &mut [u8]) -> Disposition {
        (self.0)(interface, meta, frame)
    }
}

/// Whether a socket is receiving, and if not, from when on it may try again.
#[derive(Clone, Copy, Debug)]
enum Receiving {
    Armed,
    Idle { retry_at_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Arrived {
    socket: u8,
    buffer: BufferId,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    interface: Interface,
    socket: u8,
    buffer: BufferId,
    len: u32,
    tag: u64,
}

/// The loop. See the module.
#[derive(Debug)]
pub struct PacketLoop {
    // Dropped first: it cancels what is under way on the sockets.
    uring: Uring,
    /// Of each interface as many as `SOCKETS`.
    sockets: Vec<PacketSocket>,
    ports: Vec<Port>,
    bell: Doorbell,
    bell_armed: bool,
    receiving: Vec<Receiving>,
    arrived: Vec<Arrived>,
    leaving: Vec<Leaving>,
    free: Vec<BufferId>,
    receive_buffers: u16,
    links_checked_ns: u64,
}

/// An interface, and what is known of it.
#[derive(Debug)]
struct Port {
    link: Link,
    stats: PortStats,
    state: LinkState,
    mtu: Option<u16>,
}

impl PacketLoop {
    /// Opens the interfaces, in the calling thread's network namespace. Call it on the worker's own thread. Of several workers
    /// each has a loop, which receives what belongs to its share.
    ///
    /// # Errors
    /// See `IoError`.
    pub fn new(
        (outside, inside): (&PortConfig, &[PortConfig]),
        limits: LoopLimits,
        bell: Doorbell,
        share: Share,
    ) -> Result<Self, IoError> {
        check(limits)?;
        if inside.len() > INSIDE_MAX {
            let (what, value) = ("the number of inside interfaces", inside.len() as u64);
            return Err(IoError::Limit { what, value, expected: "at most 15" });
        }
        let open = |config: &PortConfig, ether_type| {
            let buffers = if ether_type == EtherType::Ipv4 { config.limits } else { config.limits.sixteenth() };
            let failed = |op| move |source| IoError::Socket { op, interface: config.link.name.clone(), source };
            let socket =
                PacketSocket::open_shared(&config.link, ether_type, buffers, share).map_err(failed("opening"))?;
            if config.reception == Reception::Promiscuous {
                socket.set_promiscuous().map_err(failed("promiscuous mode"))?;
            }
            Ok(socket)
        };
        let configs = || std::iter::once(outside).chain(inside);
        let sockets = configs().flat_map(|config| SOCKETS.map(|ether_type| open(config, ether_type)));
        let sockets = sockets.collect::<Result<Vec<PacketSocket>, IoError>>()?;
        let descriptors: Vec<_> = sockets.iter().map(PacketSocket::raw).collect();
        let port = |config: &PortConfig| Port {
            link: config.link.clone(),
            stats: PortStats::default(),
            state: LinkState::Gone,
            mtu: None,
        };
        let buffers = limits.receive_buffers + limits.transmit_buffers;
        let mut uring = Uring::new(&descriptors, buffers, limits.receive_buffers, limits.requests)
            .map_err(|source| IoError::Ring { op: "set-up", source })?;
        for buffer in 0..limits.receive_buffers {
            uring.offer(buffer);
        }
        uring.publish_offers();
        Ok(Self {
            uring,
            receiving: vec![Receiving::Idle { retry_at_ns: 0 }; sockets.len()],
            sockets,
            ports: configs().map(port).collect(),
            bell,
            bell_armed: false,
            arrived: Vec::with_capacity(usize::from(buffers)),
            leaving: Vec::with_capacity(usize::from(buffers)),
            free: (limits.receive_buffers..buffers).collect(),
            receive_buffers: limits.receive_buffers,
            links_checked_ns: 0,
        })
    }

    /// How full the fullest of the sockets' queues is, in percent.
    #[must_use]
    pub fn fullest_percent(&self) -> u32 {
        self.sockets.iter().filter_map(|socket| socket.full_percent().ok()).max().unwrap_or(0)
    }

    /// Gives each frame that arrived to `f`: its interface, what is known of its checksum and segmentation, and its bytes from the
    /// Ethernet header on. `f` rewrites frame and meta in place if they are to be sent.
    pub fn receive(&mut self, f: &mut impl FnMut(Interface, &FrameMeta, &mut [u8]) -> Disposition) {
        self.receive_batches(&mut OneByOne(f));
    }

    /// As `receive`, in batches: the handler sees all frames of one before it is given each.
    pub fn receive_batches(&mut self, handler: &mut impl FrameHandler) {
        let mut arrived = std::mem::take(&mut self.arrived);
        for batch in arrived.chunks(BATCH) {
            for Arrived { socket, buffer, len } in batch {
                handler.look_ahead(
                    interface_of(*socket),
                    self.uring.bytes_mut(*buffer)[..*len].get(HEADER_LEN..).unwrap_or_default(),
                );
            }
            handler.fetch();
            for frame in batch {
                self.handle(*frame, handler);
            }
        }
        arrived.clear();
        // Keeps its memory: no allocation per batch.
        self.arrived = arrived;
        self.uring.publish_offers();
    }

    /// Copies a frame of the worker's own into a buffer and queues it for `flush`. `false`: no free buffer, counted.
    pub fn transmit(&mut self, interface: Interface, meta: FrameMeta, tag: u64, frame: &[u8]) -> bool {
        let len = HEADER_LEN + frame.len();
        let buffer = if len <= BUFFER_LEN { self.free.pop() } else { None };
        let (Some(buffer), Ok(len)) = (buffer, u32::try_from(len)) else {
            self.ports[interface.index()].stats.no_buffer += 1;
            return false;
        };
        let bytes = self.uring.bytes_mut(buffer);
        bytes[..HEADER_LEN].copy_from_slice(&virtio::encode(&meta));
        bytes[HEADER_LEN..][..frame.len()].copy_from_slice(frame);
        self.leaving.push(Leaving { interface, socket: socket_for(interface, frame), buffer, len, tag });
        true
    }

    /// Sends what is queued, in order. `check` is asked for each frame right before it is handed over; what it refuses is
    /// dropped and counted.
    ///
    /// # Errors
    /// `IoError::Ring` as in `wait`. Refusals of single frames are counted, not returned.
    pub fn flush(&mut self, check: &mut impl FnMut(u64) -> bool) -> Result<(), IoError> {
        if self.leaving.is_empty() {
            return Ok(());
        }
        let mut leaving = std::mem::take(&mut self.leaving);
        let mut outcome = Ok(());
        for frame in leaving.drain(..) {
            if outcome.is_err() {
                self.recycle(frame.buffer);
            } else if check(frame.tag) {
                outcome = self.uring.send(frame.socket, frame.buffer, frame.len);
                if outcome.is_err() {
                    self.recycle(frame.buffer);
                }
            } else {
                self.ports[frame.interface.index()].stats.refused_by_check += 1;
                self.recycle(frame.buffer);
            }
        }
        self.leaving = leaving;
        let outcome = outcome.and_then(|()| self.uring.submit());
        self.collect();
        outcome.map_err(|source| IoError::Ring { op: "sending", source })
    }

    /// Lets an interface's device accept frames to a shard's virtual MAC.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn add_mac(&mut self, interface: Interface, mac: [u8; 6]) -> Result<(), IoError> {
        self.membership(interface, "adding an address", |socket| socket.add_mac(mac))
    }

    /// Takes an address of `add_mac` back.
    ///
    /// # Errors
    /// When it was not added.
    pub fn remove_mac(&mut self, interface: Interface, mac: [u8; 6]) -> Result<(), IoError> {
        self.membership(interface, "removing an address", |socket| socket.remove_mac(mac))
    }

    /// Asks the kernel about the interfaces, at most every 100 ms.
    pub fn look_at_links(&mut self, now_ns: u64) {
        if self.links_checked_ns == 0 || now_ns.saturating_sub(self.links_checked_ns) >= LINK_CHECK_NS {
            self.links_checked_ns = now_ns.max(1);
            for (port, sockets) in self.ports.iter_mut().zip(self.sockets.chunks(SOCKETS.len())) {
                let asked = sockets[0].as_fd();
                let state = port.link.state(asked);
                port.state = match state {
                    LinkState::Up | LinkState::Down if !sockets.iter().all(PacketSocket::is_bound) => LinkState::Anew,
                    LinkState::Up | LinkState::Down | LinkState::Gone | LinkState::Anew => state,
                };
                port.mtu = port.link.mtu(asked).or(port.mtu);
                let counts = sockets.iter().filter_map(|socket| socket.take_counts().ok());
                port.stats.kernel_drops += counts.map(|counts| counts.drops).sum::<u64>();
            }
        }
    }

    /// All of its interfaces, outside first.
    pub fn interfaces(&self) -> impl Iterator<Item = Interface> + use<> {
        Interface::all(self.ports.len() - 1)
    }

    /// What the kernel said of an interface when it was asked last.
    #[must_use]
    pub fn link_state(&self, interface: Interface) -> LinkState {
        self.ports[interface.index()].state
    }

    /// The interface, as it was opened.
    #[must_use]
    pub fn link(&self, interface: Interface) -> &Link {
        &self.ports[interface.index()].link
    }

    /// The largest IP packet that the interface takes, as of the last `look_at_links`; `None` as long as the kernel has not
    /// said.
    #[must_use]
    pub fn mtu(&self, interface: Interface) -> Option<u16> {
        self.ports[interface.index()].mtu
    }

    /// The counters of an interface.
    #[must_use]
    pub fn stats(&self, interface: Interface) -> PortStats {
        self.ports[interface.index()].stats
    }

    /// How many more frames `transmit` can take now.
    #[must_use]
    pub fn transmit_room(&self) -> usize {
        self.free.len()
    }

    fn membership(
        &mut self,
        interface: Interface,
        op: &'static str,
        change: impl FnOnce(&PacketSocket) -> std::io::Result<()>,
    ) -> Result<(), IoError> {
        let index = usize::from(socket_for(interface, &[]));
        change(&self.sockets[index]).map_err(|source| IoError::Socket {
            op,
            interface: self.ports[interface.index()].link.name.clone(),
            source,
        })
    }

    /// Reads all completions.
    fn collect(&mut self) {
        while let Some(completion) = self.uring.next_completion() {
            match completion {
                Completion::Received { socket, buffer, len, armed } => {
                    if !armed {
                        self.receiving[usize::from(socket)] = Receiving::Idle { retry_at_ns: 0 };
                    }
                    let len = usize::try_from(len).expect("32 bits fit");
                    self.arrived.push(Arrived { socket, buffer, len });
                }
                Completion::ReceiveEnded { socket, errno } => self.receive_ended(socket, errno),
                Completion::Sent { socket, buffer, errno } => {
                    self.recycle(buffer);
                    self.count_sent(socket, errno);
                }
                Completion::Rung => {
                    self.bell.clear();
                    self.bell_armed = false;
                }
            }
        }
        self.uring.publish_offers();
    }

    fn receive_ended(&mut self, socket: u8, errno: i32) {
        let stats = &mut self.ports[interface_of(socket).index()].stats;
        let retry_at_ns = match errno {
            // Frames wait in the socket; the buffers come back with this batch.
            libc::ENOBUFS => {
                stats.out_of_buffers += 1;
                0
            }
            // A merged packet of a kind that the virtio header cannot tell, such as SCTP's: it alone is lost, and whoever sends
            // such ones must not hold up what comes behind them.
            libc::EINVAL => {
                stats.receive_errors += 1;
                0
            }
            _ => {
                stats.receive_errors += 1;
                boottime::now_ns() + RETRY_NS
            }
        };
        self.receiving[usize::from(socket)] = Receiving::Idle { retry_at_ns };
    }

    fn count_sent(&mut self, socket: u8, errno: i32) {
        let stats = &mut self.ports[interface_of(socket).index()].stats;
        match errno {
            0 => stats.transmitted += 1,
            libc::ENOBUFS | libc::EAGAIN => stats.refused_by_kernel += 1,
            libc::ENETDOWN | libc::ENXIO | libc::ENODEV => stats.link_down += 1,
            _ => stats.transmit_errors += 1,
        }
    }

    fn handle(&mut self, Arrived { socket, buffer, len }: Arrived, handler: &mut impl FrameHandler) {
        let interface = interface_of(socket);
        let stats = &mut self.ports[interface.index()].stats;
        if len < HEADER_LEN + ETHERNET_LEN {
            let tagged = len == HEADER_LEN + TAGGED_LEN;
            *(if tagged { &mut stats.received_tagged } else { &mut stats.received_short }) += 1;
            self.recycle(buffer);
            return;
        }
        stats.received += 1;
        stats.received_bytes += u64::try_from(len - HEADER_LEN).expect("lengths fit 64 bits");
        let (header, frame) = self.uring.bytes_mut(buffer)[..len].split_at_mut(HEADER_LEN);
        let header: &mut [u8; HEADER_LEN] = header.try_into().expect("split at its length");
        let mut meta = virtio::decode(header);
        sctp::complete(frame, &mut meta);
        match handler.handle(interface, &meta, frame) {
            Disposition::Transmit { interface, tag } => {
                *header = virtio::encode(&meta);
                let socket = socket_for(interface, frame);
                let len = u32::try_from(len).expect("a buffer's length fits 32 bits");
                self.leaving.push(Leaving { interface, socket, buffer, len, tag });
            }
            Disposition::Done => self.recycle(buffer),
        }
    }

    /// Returns a buffer to where it came from; offers become visible at the end of the batch.
    fn recycle(&mut self, buffer: BufferId) {
        if buffer < self.receive_buffers {
            self.uring.offer(buffer);
        } else {
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ip_leaves_through_the_arp_socket() {
        let mut frame = [0; 60];
        let (outside, second) = (Interface::OUTSIDE, Interface::inside(1));
        assert_eq!(socket_for(outside, &frame), 1);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(socket_for(outside, &frame), 0);
        assert_eq!(socket_for(second, &frame), 6);
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(socket_for(second, &frame), 7);
        assert_eq!(socket_for(second, &frame[..4]), 6);
        assert!((6..9).all(|socket| interface_of(socket) == second));
        assert!((0..3).all(|socket| interface_of(socket) == outside));
    }
}
