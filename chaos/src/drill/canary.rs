//! Canary traffic of the backends: idle TCP connections, UDP streams of old and of new flows, one long download. All of it
//! bounded in number and time. Sockets are opened inside a backend's namespace and stay there. Called by the runs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use qnat_lab::Host;
use qnat_lab::inet::raise_end;
use qnat_lab::topology::INET_ADDRESSES;

use super::capture::nanos;

/// The echo service.
const ECHO: u16 = 7;
/// How long one exchange over an idle connection may take, and how long a connection may take to open.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per second of the download: enough to have segments in flight, too few to fill the machine.
const DOWNLOAD_RATE: f64 = 8e6;
/// No run and no change of members lasts longer.
const STREAM_BOUND: Duration = Duration::from_secs(90);

/// The echo service, at one of the internet's addresses.
pub(super) fn echo(index: usize) -> SocketAddr {
    SocketAddr::from((INET_ADDRESSES[index % INET_ADDRESSES.len()], ECHO))
}

/// An idle TCP connection.
#[derive(Debug)]
pub(super) struct Idle {
    stream: TcpStream,
    /// The backend's end.
    pub(super) inside: SocketAddr,
    /// The server's end.
    pub(super) remote: SocketAddr,
}

/// Opens `count` connections from the backends in turn, and proves each by an exchange.
pub(super) fn open_idle(dir: &Path, backends: &[u32], count: usize) -> Result<Vec<Idle>> {
    let share = |place: usize| (place..count).step_by(backends.len()).collect::<Vec<_>>();
    let opened: Vec<Result<Vec<Idle>>> = std::thread::scope(|scope| {
        let open = |place: usize, backend: u32| {
            move || qnat_lab::in_host(dir, Host::Backend(backend), || share(place).into_iter().map(open_one).collect())?
        };
        let tasks: Vec<_> =
            backends.iter().enumerate().map(|(place, &backend)| scope.spawn(open(place, backend))).collect();
        tasks.into_iter().map(|task| task.join().expect("does not panic")).collect()
    });
    let mut idle = Vec::with_capacity(count);
    for group in opened {
        idle.extend(group?);
    }
    Ok(idle)
}

fn open_one(index: usize) -> Result<Idle> {
    let remote = echo(index);
    let stream = TcpStream::connect_timeout(&remote, EXCHANGE_TIMEOUT).context("connection to the echo service")?;
    stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let inside = stream.local_addr()?;
    let mut idle = Idle { stream, inside, remote };
    idle.exchange(u64::try_from(index)?).context("first exchange")?;
    Ok(idle)
}

impl Idle {
    /// Sends a nonce and reads it back.
    pub(super) fn exchange(&mut self, nonce: u64) -> Result<()> {
        self.stream.write_all(&nonce.to_be_bytes())?;
        let mut back = [0; 8];
        self.stream.read_exact(&mut back)?;
        ensure!(u64::from_be_bytes(back) == nonce, "another nonce came back");
        Ok(())
    }
}

/// Exchanges a nonce on every connection. Returns how many succeeded, and the first failure.
pub(super) fn exchange_all(idle: &mut [Idle], salt: u64) -> (usize, Option<String>) {
    let chunk = idle.len().div_ceil(20).max(1);
    std::thread::scope(|scope| {
        let work = |part: &mut [Idle]| {
            let mut first = None;
            let mut kept = 0;
            for (place, idle) in part.iter_mut().enumerate() {
                match idle.exchange(salt.wrapping_add(u64::try_from(place).unwrap_or(0))) {
                    Ok(()) => kept += 1,
                    Err(error) => first = first.or(Some(format!("{} → {}: {error}", idle.inside, idle.remote))),
                }
            }
            (kept, first)
        };
        let tasks: Vec<_> = idle.chunks_mut(chunk).map(|part| scope.spawn(move || work(part))).collect();
        tasks
            .into_iter()
            .map(|task| task.join().expect("does not panic"))
            .fold((0, None), |(kept, first), (more, failure)| (kept + more, first.or(failure)))
    })
}

/// What an UDP stream is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// One socket, opened before the fault.
    Old,
    /// A socket of its own, so a source port of its own, for every datagram, to the internet's addresses in turns: ports are
    /// shared between them, so that a lease outlasts the runs of its flows' four minutes.
    New,
}

/// An UDP stream under way; the captures tell what came back.
#[derive(Debug)]
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<Result<Sent>>>,
}

/// What a stream sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Its source ports.
    pub(super) ports: BTreeSet<u16>,
    /// When each datagram went out, as captures tell time.
    pub(super) at_ns: Vec<u64>,
}

impl Stream {
    /// Starts sending one datagram every `every` from `backend`.
    pub(super) fn start(dir: &Path, backend: u32, kind: Kind, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, dir) = (Arc::clone(&stop), dir.to_owned());
        let task = move || qnat_lab::in_host(&dir, Host::Backend(backend), || send_stream(&seen, kind, every))?;
        Self { stop, task: Some(std::thread::spawn(task)) }
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let task = self.task.take().context("a stream ends once")?;
        task.join().map_err(|_| anyhow::anyhow!("the stream's thread panicked"))?
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send_stream(stop: &AtomicBool, kind: Kind, every: Duration) -> Result<Sent> {
    let _as_far_as_allowed = raise_end();
    let began = Instant::now();
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    // Kept open, so that late replies find a socket.
    let mut sockets = vec![open()?];
    let mut at_ns = Vec::new();
    let mut next = began;
    while !stop.load(Ordering::Relaxed) && began.elapsed() < STREAM_BOUND {
        if kind == Kind::New && next != began {
            sockets.push(open()?);
        }
        let socket = sockets.last().context("one was opened above")?;
        at_ns.push(nanos(SystemTime::now())?);
        // A refusal is a former datagram's ICMP message; the gap shows what was lost.
        let _refused = socket.send_to(b"canary", echo(sockets.len()));
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let ports = sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<Result<_>>()?;
    Ok(Sent { ports, at_ns })
}

/// A download under way.
#[derive(Debug)]
pub(super) struct Download(JoinHandle<Result<bool>>);

impl Download {
    /// Starts a download of `bytes` bytes to `backend`.
    pub(super) fn start(dir: &Path, backend: u32, bytes: u64) -> Self {
        let dir = dir.to_owned();
        let task = move || {
            let (wanted, data) = qnat_lab::in_host(&dir, Host::Backend(backend), || -> Result<_> {
                Ok((get(&format!("/blob/{bytes}/sha256"))?, get(&format!("/blob/{bytes}"))?))
            })??;
            let hex: String = data.digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(data.bytes == bytes && String::from_utf8_lossy(&wanted.head).trim() == hex)
        };
        Self(std::thread::spawn(task))
    }

    /// Waits for its end: whether the digest is right.
    pub(super) fn finish(self) -> Result<bool> {
        self.0.join().map_err(|_| anyhow::anyhow!("the download's thread panicked"))?
    }
}

struct Body {
    bytes: u64,
    digest: Vec<u8>,
    /// The first bytes.
    head: Vec<u8>,
}

/// Fetches a path, slowly.
fn get(path: &str) -> Result<Body> {
    let remote = SocketAddr::from((INET_ADDRESSES[0], 80));
    let mut stream = TcpStream::connect_timeout(&remote, EXCHANGE_TIMEOUT)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: inet\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut buffer = vec![0; 64 << 10];
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0 && head.len() < (1 << 20), "no HTTP answer");
        head.extend_from_slice(&buffer[..length]);
    }
    let end = head.windows(4).position(|window| window == b"\r\n\r\n").context("found above")? + 4;
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&head[..end]));
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut body = Body { bytes: 0, digest: Vec::new(), head: head[end..].to_vec() };
    context.update(&head[end..]);
    body.bytes += u64::try_from(head.len() - end)?;
    let began = Instant::now();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        context.update(&buffer[..length]);
        if body.head.len() < 1024 {
            body.head.extend_from_slice(&buffer[..length.min(1024)]);
        }
        body.bytes += u64::try_from(length)?;
        let due = Duration::from_secs_f64(f64::from(u32::try_from(body.bytes)?) / DOWNLOAD_RATE);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    body.digest = context.finish().as_ref().to_vec();
    Ok(body)
}
