//! Both ends of a gateway under test: raw sockets in the client's and in the server's namespace, whose own stacks are kept
//! silent, so that every frame is one of the set.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netio::link::Link;
use netio::netns;
use netio::socket::{BufferLimits, EtherType, PacketSocket};
use qnat_reference::packet::{ETH, UDP, addresses, be16, ipv4, udp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cases::Scene;
use crate::nftables;

/// Bytes of the header that the kernel puts before a frame, and wants there.
const VIRTIO: usize = 10;
/// How long a gateway may take to pass a packet on.
const WITHIN: Duration = Duration::from_millis(80);
/// The client's port of the mapping that stays open.
const OPEN_PORT: u16 = 29_999;

/// Where the ends are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Namespace and interface of the client.
    pub(super) inside: (&'static str, &'static str),
    /// Of the server.
    pub(super) outside: (&'static str, &'static str),
    /// The client's address.
    pub(super) client: Ipv4Addr,
    /// Its gateway.
    pub(super) gateway: Ipv4Addr,
    /// The server's address.
    pub(super) server: Ipv4Addr,
}

/// The ends, ready.
#[derive(Debug)]
pub(super) struct Ends {
    /// What the packets are made for.
    pub(super) scene: Scene,
    inside: PacketSocket,
    outside: PacketSocket,
}

struct Opened {
    socket: PacketSocket,
    mac: [u8; 6],
}

fn open((namespace, interface): (&str, &str)) -> Result<Opened> {
    let opened = netns::run_in(namespace, || {
        let link = Link::named(interface)?;
        let limits = BufferLimits { receive_bytes: 1 << 20, send_bytes: 1 << 20 };
        let socket = PacketSocket::open(&link, EtherType::Ipv4, limits)?;
        // Nothing that leaves untranslated may be missed because it is addressed to somebody else.
        socket.set_promiscuous()?;
        Ok::<_, std::io::Error>(Opened { socket, mac: link.mac })
    });
    opened.and_then(|inner| inner).with_context(|| format!("raw socket on {interface} in {namespace}"))
}

/// The Ethernet address that the namespace's kernel has found for a neighbour.
fn neighbour(namespace: &str, address: Ipv4Addr) -> Result<[u8; 6]> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/arp");
    let table = netns::run_in(namespace, read)??;
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(&address.to_string()));
    let text = row.and_then(|row| row.split_whitespace().nth(3)).with_context(|| format!("no neighbour {address}"))?;
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(pairs.next().context("six pairs")?, 16)?;
    }
    Ok(mac)
}

impl Ends {
    /// Opens the sockets, learns the addresses, silences both stacks, and opens one UDP flow.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let (inside, outside) = (open(place.inside)?, open(place.outside)?);
        let (server, client) = (place.server, place.client);
        netns::run_in(place.inside.0, || UdpSocket::bind((client, 0))?.send_to(b"hello", (server, 7)).map(drop))??;
        let begun = Instant::now();
        while neighbour(place.inside.0, place.gateway).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let gateway = neighbour(place.inside.0, place.gateway)?;
        for (namespace, _) in [place.inside, place.outside] {
            netns::run_in(namespace, nftables::silence)??;
        }
        let mut this = Self {
            scene: Scene {
                inside: (inside.mac, gateway),
                outside: (outside.mac, [0; 6]),
                client,
                public: Ipv4Addr::UNSPECIFIED,
                server,
                open: (OPEN_PORT, 0),
            },
            inside: inside.socket,
            outside: outside.socket,
        };
        std::thread::sleep(Duration::from_millis(200));
        drain(&this.inside)?;
        drain(&this.outside)?;
        let first = ipv4(this.scene.inside, client, server, UDP, &udp(OPEN_PORT, 7, b"open"));
        let left = this.send_out(&first)?;
        let frame = left.first().context("the gateway does not pass a sound datagram")?;
        ensure!(addresses(frame).0 != client, "the gateway does not translate");
        this.scene.public = addresses(frame).0;
        this.scene.open.1 = be16(frame, ETH + 20);
        this.scene.outside.1.copy_from_slice(&frame[6..12]);
        Ok(this)
    }

    /// Sends from the client; what then left towards the server.
    pub(super) fn send_out(&self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        send(&self.inside, frame)?;
        let all = receive(&self.outside)?;
        drain(&self.inside)?;
        Ok(all)
    }

    /// Sends from the server; what then reached the client's network.
    pub(super) fn send_back(&self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        send(&self.outside, frame)?;
        let all = receive(&self.inside)?;
        drain(&self.outside)?;
        Ok(all)
    }
}

fn send(socket: &PacketSocket, frame: &[u8]) -> Result<()> {
    let mut bytes = vec![0; VIRTIO];
    bytes.extend(frame);
    // Shorter frames are padded on a real wire, and refused by nobody.
    bytes.resize(bytes.len().max(VIRTIO + 60), 0);
    let sent = rustix::io::write(socket, &bytes).context("sending")?;
    ensure!(sent == bytes.len(), "a frame was cut");
    Ok(())
}

fn is_ready(socket: &PacketSocket, wait: Duration) -> Result<bool> {
    let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
    let mut waiting = [PollFd::new(socket, PollFlags::IN)];
    Ok(poll(&mut waiting, Some(&wait))? > 0)
}

/// All frames that arrive in time.
fn receive(socket: &PacketSocket) -> Result<Vec<Vec<u8>>> {
    let until = Instant::now() + WITHIN;
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !is_ready(socket, left)? {
            return Ok(all);
        }
        let length = rustix::io::read(socket, &mut buffer).context("receiving")?;
        all.extend(buffer.get(VIRTIO..length).map(<[u8]>::to_vec));
    }
}

fn drain(socket: &PacketSocket) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while is_ready(socket, Duration::ZERO)? {
        rustix::io::read(socket, &mut buffer).context("receiving")?;
    }
    Ok(())
}
