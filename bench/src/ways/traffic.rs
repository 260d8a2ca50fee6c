//! What is sent: TCP streams, one datagram after the other, floods of small datagrams. Sockets belong to the namespaces that
//! they are opened in; the threads that use them do not.

use std::io::{IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use netio::netns;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use crate::load::TripTimes;
use crate::nftables;

/// What streams and trips do before they count.
const WARM_UP: Duration = Duration::from_millis(700);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// What an application hands over at once.
const CHUNK: usize = 128 << 10;
/// Of a datagram of 60 octets on the wire.
const SMALL: usize = 18;
/// Datagrams that one call sends.
const BATCH: usize = 64;
/// Questions and answers of each flow before a flood: more than a mapping needs to be worth an entry in the kernel.
const GREETINGS: usize = 8;

/// Where the two ends are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// The client's namespace.
    pub(super) client: &'a str,
    /// The server's.
    pub(super) server: &'a str,
    /// The server's address that the client uses: it says by which gateway.
    pub(super) remote: Ipv4Addr,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// The client, out.
    Up,
    /// The server, in.
    Down,
}

impl Ends<'_> {
    /// Gbit/s of payload that `count` streams carry together, once they are warm. `measured` surrounds the time that counts.
    pub(super) fn streams(
        &self,
        count: usize,
        direction: Direction,
        measured: &mut dyn FnMut(&mut dyn FnMut()) -> Result<()>,
        lasting: Duration,
    ) -> Result<f64> {
        let pairs = (0..count).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        let (octets, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for (client, server) in &pairs {
                let (from, to) = if direction == Direction::Up { (client, server) } else { (server, client) };
                let (octets, stop) = (&octets, &stop);
                scope.spawn(move || {
                    let data = vec![0x71; CHUNK];
                    let mut from = from;
                    while !stop.load(Ordering::Relaxed) && from.write_all(&data).is_ok() {}
                });
                scope.spawn(move || {
                    let mut data = vec![0; CHUNK];
                    let mut to = to;
                    while let Ok(length @ 1..) = to.read(&mut data) {
                        octets.fetch_add(length as u64, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(WARM_UP);
            let mut gbit = 0.0;
            let result = measured(&mut || {
                let (began, before) = (Instant::now(), octets.load(Ordering::Relaxed));
                std::thread::sleep(lasting);
                let passed = octets.load(Ordering::Relaxed) - before;
                gbit = passed as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9;
            });
            stop.store(true, Ordering::Relaxed);
            for end in pairs.iter().flat_map(|(client, server)| [client, server]) {
                // One that the other end closed before is as good as shut down.
                let _closed = end.shutdown(Shutdown::Both);
            }
            result.map(|()| gbit)
        })
    }

    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = netns::run_in(self.server, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let to = SocketAddr::from((self.remote, listener.local_addr()?.port()));
        let client = netns::run_in(self.client, || TcpStream::connect_timeout(&to, PATIENCE))?;
        let client = client.with_context(|| format!("no connection to {to}"))?;
        Ok((client, listener.accept()?.0))
    }

    /// Round trips of one datagram after the other.
    pub(super) fn trips(
        &self,
        measured: &mut dyn FnMut(&mut dyn FnMut()) -> Result<()>,
        lasting: Duration,
    ) -> Result<TripTimes> {
        let (client, server) = self.pair()?;
        let stop = AtomicBool::new(false);
        let mut trips = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).context("histogram")?;
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&server, &stop));
            let run = |lasting: Duration, trips: &mut Histogram<u64>| -> Result<()> {
                let began = Instant::now();
                while began.elapsed() < lasting {
                    let sent = Instant::now();
                    exchange(&client).context("a datagram had no answer")?;
                    trips.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
                }
                Ok(())
            };
            let mut warm = trips.clone();
            let mut result = run(WARM_UP, &mut warm);
            if result.is_ok() {
                let mut inner = Ok(());
                result = measured(&mut || inner = run(lasting, &mut trips));
                result = result.and(inner);
            }
            stop.store(true, Ordering::Relaxed);
            result
        })?;
        Ok(TripTimes::of(&trips))
    }

    /// A client's socket that is connected to a server's of its own.
    fn pair(&self) -> Result<(UdpSocket, UdpSocket)> {
        // By its address: the answers come from the one that was asked.
        let server = netns::run_in(self.server, || UdpSocket::bind((self.remote, 0)))??;
        server.set_read_timeout(Some(Duration::from_millis(50)))?;
        let client = self.client_of(server.local_addr()?.port())?;
        Ok((client, server))
    }

    fn client_of(&self, port: u16) -> Result<UdpSocket> {
        let client = netns::run_in(self.client, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        client.connect((self.remote, port))?;
        client.set_read_timeout(Some(PATIENCE))?;
        Ok(client)
    }

    /// `count` flows that have had some answers. Each `turn` has a port of its own: towards one remote no lease carries the flows
    /// of all turns, which stay for minutes.
    pub(super) fn flows(&self, count: usize, turn: usize) -> Result<Flows> {
        // One of those whose small datagrams the sink counts and drops.
        let port = nftables::FLOOD.cycle().nth(turn).context("no port for the flood")?;
        let server = netns::run_in(self.server, || UdpSocket::bind((self.remote, port)))?
            .with_context(|| format!("{}:{port}", self.remote))?;
        server.set_read_timeout(Some(Duration::from_millis(50)))?;
        let clients = (0..count).map(|_| self.client_of(port)).collect::<Result<_>>()?;
        let flows = Flows { clients, server };
        flows.greet()?;
        Ok(flows)
    }
}

/// Answers each datagram until `stop`.
fn answer(server: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut buffer) {
            // A lost answer is what the other end notices.
            let _lost = server.send_to(&buffer[..length], from);
        }
    }
}

fn exchange(client: &UdpSocket) -> Result<()> {
    let mut back = [0; 64];
    client.send(b"?")?;
    ensure!(client.recv(&mut back)? == 1, "another answer");
    Ok(())
}

/// Flows that stand.
#[derive(Debug)]
pub(super) struct Flows {
    clients: Vec<UdpSocket>,
    server: UdpSocket,
}

impl Flows {
    /// Some questions and answers by each.
    pub(super) fn greet(&self) -> Result<()> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&self.server, &stop));
            let mut all = self.clients.iter().cycle().take(self.clients.len() * GREETINGS);
            let result = all.try_for_each(exchange);
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Sends small datagrams by all of them in turn, as fast as one thread does; how many.
    pub(super) fn flood(&self, lasting: Duration) -> Result<u64> {
        let data = [0x71; SMALL];
        let slices = [IoSlice::new(&data)];
        let mut controls: Vec<_> = (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
        let mut batch: Vec<MMsgHdr<'_>> = controls.iter_mut().map(|control| MMsgHdr::new(&slices, control)).collect();
        let (began, mut sent) = (Instant::now(), 0);
        for client in self.clients.iter().cycle() {
            if began.elapsed() >= lasting {
                break;
            }
            match sendmmsg(client, &mut batch, SendFlags::empty()) {
                Ok(count) => sent += count as u64,
                // The queue of the interface is full.
                Err(rustix::io::Errno::NOBUFS) => {}
                Err(error) => return Err(anyhow!(error).context("sending")),
            }
        }
        Ok(sent)
    }
}
