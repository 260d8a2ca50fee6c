//! An end of a gateway under test: a raw socket in the namespace of a host whose own stack is kept silent, so that every
//! frame is one of the test's. Judges nothing. Called by the black-box tests and by the bench.

mod raw;

pub use raw::IpSocket;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netio::link::Link;
use netio::netns;
use netio::socket::{BufferLimits, EtherType, PacketSocket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes of the header that the kernel puts before a frame, and wants there.
const VIRTIO: usize = 10;
/// Shorter frames are padded on a real wire.
const FRAME_MIN: usize = 60;
/// How long a neighbour may take to answer.
const NEIGHBOUR_WITHIN: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct End {
    socket: PacketSocket,
    namespace: String,
    /// The Ethernet address of its interface.
    pub mac: [u8; 6],
}

impl End {
    /// Opens a socket on an interface of a namespace.
    ///
    /// # Errors
    /// If there is no such interface, or without CAP_NET_RAW.
    pub fn open(namespace: &str, interface: &str) -> Result<Self> {
        Self::of(namespace, interface, EtherType::Ipv4)
    }

    /// The same for questions and answers about addresses, which the namespace's stack goes on to send.
    ///
    /// # Errors
    /// As `open`.
    pub fn arp(namespace: &str, interface: &str) -> Result<Self> {
        Self::of(namespace, interface, EtherType::Arp)
    }

    fn of(namespace: &str, interface: &str, kind: EtherType) -> Result<Self> {
        let opened = netns::run_in(namespace, || {
            let link = Link::named(interface)?;
            let limits = BufferLimits { receive_bytes: 1 << 20, send_bytes: 1 << 20 };
            let socket = PacketSocket::open(&link, kind, limits)?;
            // Nothing that leaves untranslated may be missed because it is addressed to somebody else.
            socket.set_promiscuous()?;
            Ok::<_, std::io::Error>(Self { socket, namespace: namespace.to_owned(), mac: link.mac })
        });
        opened.and_then(|inner| inner).with_context(|| format!("raw socket on {interface} in {namespace}"))
    }

    /// Sends a datagram by the namespace's own stack, which finds its neighbours for it, and lets others find theirs.
    ///
    /// # Errors
    /// If it does not know a way.
    pub fn hello(&self, to: Ipv4Addr) -> Result<()> {
        let send = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"hello", (to, 7)).map(drop);
        netns::run_in(&self.namespace, send)?.with_context(|| format!("a datagram to {to}"))
    }

    /// The Ethernet address of a neighbour that the namespace's stack has asked for.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn neighbour(&self, address: Ipv4Addr) -> Result<[u8; 6]> {
        let begun = Instant::now();
        loop {
            match self.known_neighbour(address) {
                Err(_) if begun.elapsed() < NEIGHBOUR_WITHIN => std::thread::sleep(Duration::from_millis(20)),
                known => return known,
            }
        }
    }

    fn known_neighbour(&self, address: Ipv4Addr) -> Result<[u8; 6]> {
        let table = netns::run_in(&self.namespace, || std::fs::read_to_string("/proc/thread-self/net/arp"))??;
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(&address.to_string()));
        let text = row.and_then(|row| row.split_whitespace().nth(3)).filter(|text| *text != "00:00:00:00:00:00");
        let text = text.with_context(|| format!("no neighbour {address}"))?;
        let mut mac = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut mac {
            *byte = u8::from_str_radix(pairs.next().context("six pairs")?, 16)?;
        }
        Ok(mac)
    }

    /// Lets the namespace's own stack send nothing over IP, until the value is dropped; raw sockets are not asked.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub fn silence(&self) -> Result<Silence> {
        nft(
            &self.namespace,
            "table ip qnat-silence { chain out { type filter hook output priority 0; policy drop; }\n}",
        )?;
        Ok(Silence { namespace: self.namespace.clone() })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the interface does not take it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let mut bytes = vec![0; VIRTIO];
        bytes.extend(frame);
        bytes.resize(bytes.len().max(VIRTIO + FRAME_MIN), 0);
        let sent = rustix::io::write(&self.socket, &bytes).context("sending")?;
        ensure!(sent == bytes.len(), "a frame was cut");
        Ok(())
    }

    /// The next frame, if one arrives in time.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn next(&self, until: Instant) -> Result<Option<Vec<u8>>> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a short wait")?;
        let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut waiting, Some(&left))? == 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; 1 << 16];
        let length = rustix::io::read(&self.socket, &mut buffer).context("receiving")?;
        Ok(buffer.get(VIRTIO..length).map(<[u8]>::to_vec))
    }

    /// All frames that arrive within a time.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn receive(&self, within: Duration) -> Result<Vec<Vec<u8>>> {
        let until = Instant::now() + within;
        std::iter::from_fn(|| self.next(until).transpose()).collect()
    }

    /// Forgets what has arrived.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn drain(&self) -> Result<()> {
        self.receive(Duration::ZERO).map(drop)
    }
}

/// Sends many frames from one end, those that were not seen at the other up to four times. Returns what is wanted of all that
/// arrived, by its key; `sent` says the key of a frame that is sent.
///
/// # Errors
/// If a socket fails.
pub fn across<K: Ord>(
    (from, to): (&End, &End),
    frames: &[Vec<u8>],
    key: impl Fn(&[u8]) -> Option<K>,
    sent: impl Fn(&[u8]) -> K,
) -> Result<BTreeMap<K, Vec<u8>>> {
    let mut seen = BTreeMap::new();
    to.drain()?;
    for _ in 0..4 {
        let left: Vec<&Vec<u8>> = frames.iter().filter(|frame| !seen.contains_key(&sent(frame))).collect();
        if left.is_empty() {
            break;
        }
        for some in left.chunks(100) {
            some.iter().try_for_each(|frame| from.send(frame))?;
            let (mut missing, until): (BTreeSet<K>, _) =
                (some.iter().map(|frame| sent(frame)).collect(), Instant::now() + Duration::from_millis(60));
            while !missing.is_empty() {
                let Some(frame) = to.next(until)? else { break };
                if let Some(key) = key(&frame) {
                    missing.remove(&key);
                    seen.insert(key, frame);
                }
            }
        }
        seen.extend(
            to.receive(Duration::from_millis(500))?.into_iter().filter_map(|frame| Some((key(&frame)?, frame))),
        );
    }
    Ok(seen)
}

/// A stack that is kept silent.
#[derive(Debug)]
pub struct Silence {
    namespace: String,
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The namespace may be gone already.
        let _absent = nft(&self.namespace, "delete table ip qnat-silence");
    }
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = netns::run_in(namespace, || Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn())?
        .context("nft")?;
    child.stdin.take().context("piped above")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused: {rules}");
    Ok(())
}
