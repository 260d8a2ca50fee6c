//! The lab's internet: `qnat lab inet-serve` inside its namespace. HTTP on 80, echo on 7 (RFC 862), discard on 9
//! (RFC 863), on each of the given addresses. A test tool: trusts its callers, bounds only what it allocates.
//!
//! The echo of datagrams is an instrument: drills take what it did not answer for lost on the way. So it has a thread for each
//! address that waits for nothing else and runs before ordinary ones, and sockets with room for a second of a soak's traffic.
//!
//! - `GET /` answers `{"address": …, "port": …}`: the caller as the internet sees it.
//! - `GET /blob/SIZE` (bytes, or with K, M, G: powers of 1024) streams bytes that depend on their offset alone.
//! - `GET /blob/SIZE/sha256` answers the digest of that stream, in hex, as it should arrive.
//! - `GET /slow/SECONDS` trickles a line every 100 ms.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, Responder};
use netio::thread::{Raised, raise_current};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Interval;
use words::SplitMix;

/// Most bytes of a blob.
pub const BLOB_BYTES_MAX: u64 = 1 << 40;
/// Longest trickle.
pub const SLOW_SECONDS_MAX: u64 = 24 * 3600;
/// Length of a block of a blob: each is the same noise, stamped with its number.
const BLOCK_BYTES: usize = 256 << 10;
/// The stamp is repeated this often, so that no lost, doubled or moved segment keeps the digest.
const STAMP_EVERY: usize = 512;

/// SCHED_FIFO priority of threads at the ends of a lab's traffic: before ordinary ones, behind those of members that hold leases.
const END_PRIORITY: i32 = 5;
/// Room of a socket at the ends for datagrams that nobody has read yet. A short one takes 768 bytes of it, the system gives twice
/// what it is asked for, and a soak asks the echo service for 3,070 a second: three streams of 1,000, and new flows.
const END_ROOM_BYTES: usize = 2 << 20;

/// Has the calling thread run as one at the ends of a lab's traffic: what stands still there looks like a gap of the cluster.
/// Only for threads that wait most of the time.
pub fn raise_end() -> Raised {
    raise_current(END_PRIORITY)
}

/// Gives a socket at the ends room for a second of a soak's traffic, as far as the caller may.
///
/// # Errors
/// When the system refuses any room.
pub fn make_room(socket: &UdpSocket) -> io::Result<()> {
    // Beyond the system's limit (`net.core.rmem_max`), which takes CAP_NET_ADMIN.
    if set_socket_recv_buffer_size_force(socket, END_ROOM_BYTES).is_err() {
        set_socket_recv_buffer_size(socket, END_ROOM_BYTES)?;
    }
    Ok(())
}

/// Runs all servers until the HTTP server is told to stop (SIGINT, SIGTERM). Must run on an actix system.
///
/// # Errors
/// If a port cannot be bound.
pub async fn serve(addresses: &[IpAddr]) -> io::Result<()> {
    for &address in addresses {
        let (echo, discard) = (SocketAddr::new(address, 7), SocketAddr::new(address, 9));
        actix_rt::spawn(accept(TcpListener::bind(echo).await?, Service::Echo));
        actix_rt::spawn(accept(TcpListener::bind(discard).await?, Service::Discard));
        let socket = UdpSocket::bind(echo)?;
        make_room(&socket)?;
        std::thread::Builder::new().name("echo".to_owned()).spawn(move || answer_datagrams(&socket))?;
        actix_rt::spawn(discard_datagrams(tokio::net::UdpSocket::bind(discard).await?));
    }
    let digests = web::Data::new(Digests::default());
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(digests.clone())
            .route("/", web::get().to(who))
            .route("/blob/{size}", web::get().to(blob))
            .route("/blob/{size}/sha256", web::get().to(digest))
            .route("/slow/{seconds}", web::get().to(slow))
    })
    .workers(1)
    .backlog(4096)
    // Idle connections that survive a failover are what the lab is for.
    .keep_alive(Duration::from_secs(3600))
    .client_request_timeout(Duration::ZERO)
    .shutdown_timeout(0);
    for &address in addresses {
        server = server.bind((address, 80))?;
    }
    server.run().await
}

/// [`serve`] on the internet's own addresses, on an actix system made for it: what `qnat lab inet-serve` calls.
///
/// # Errors
/// As [`serve`].
pub fn run() -> io::Result<()> {
    let addresses = super::topology::INET_ADDRESSES.map(IpAddr::V4);
    actix_rt::System::new().block_on(serve(&addresses))
}

async fn who(request: HttpRequest) -> impl Responder {
    let Some(peer) = request.peer_addr() else { return HttpResponse::InternalServerError().finish() };
    HttpResponse::Ok().json(serde_json::json!({ "address": peer.ip(), "port": peer.port() }))
}

async fn blob(size: web::Path<String>) -> impl Responder {
    match parse_size(&size) {
        Some(size) => HttpResponse::Ok().content_type("application/octet-stream").body(Blob::new(size)),
        None => bad_size(&size),
    }
}

fn bad_size(size: &str) -> HttpResponse {
    HttpResponse::BadRequest().body(format!("size {size:?}: use bytes, or a number with K, M or G, up to 1024G\n"))
}

/// Digests computed before; a size is a few bytes and a digest 64, and there are few sizes in a test.
#[derive(Debug, Default)]
struct Digests(Arc<Mutex<BTreeMap<u64, String>>>);

const DIGESTS_MAX: usize = 1024;

async fn digest(size: web::Path<String>, digests: web::Data<Digests>) -> impl Responder {
    let Some(size) = parse_size(&size) else { return bad_size(&size) };
    let known = Arc::clone(&digests.0);
    let computed = web::block(move || {
        let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = lock().get(&size) {
            return digest.clone();
        }
        let digest = blob_sha256(size);
        let mut known = lock();
        if known.len() < DIGESTS_MAX {
            known.insert(size, digest.clone());
        }
        digest
    });
    match computed.await {
        Ok(digest) => HttpResponse::Ok().content_type("text/plain").body(digest + "\n"),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

async fn slow(seconds: web::Path<u64>) -> impl Responder {
    let lines_left = seconds.into_inner().min(SLOW_SECONDS_MAX) * 10;
    let interval = tokio::time::interval(Duration::from_millis(100));
    HttpResponse::Ok().content_type("text/plain").body(Trickle { interval, lines_left, line: 0 })
}

/// The digest of a blob, in hex.
#[must_use]
pub fn blob_sha256(size: u64) -> String {
    use std::fmt::Write as _;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut blob = Blob::new(size);
    while let Some(chunk) = blob.next_chunk() {
        context.update(&chunk);
    }
    context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

/// `"1G"`, `"100M"`, `"64K"` or plain bytes, at most [`BLOB_BYTES_MAX`].
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())??;
    number.checked_mul(1 << shift).filter(|size| *size <= BLOB_BYTES_MAX)
}

/// The bytes of a blob, block by block.
#[derive(Debug)]
struct Blob {
    noise: Arc<[u8]>,
    size: u64,
    sent: u64,
}

impl Blob {
    fn new(size: u64) -> Self {
        Self { noise: noise(), size, sent: 0 }
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        let left = self.size - self.sent;
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        if length == 0 {
            return None;
        }
        let mut block = self.noise[..length].to_vec();
        let number = self.sent / u64::try_from(BLOCK_BYTES).expect("small");
        for place in block.chunks_mut(STAMP_EVERY) {
            let stamp = number.to_be_bytes();
            let length = place.len().min(stamp.len());
            place[..length].copy_from_slice(&stamp[..length]);
        }
        self.sent += u64::try_from(length).expect("at most a block");
        Some(Bytes::from(block))
    }
}

impl MessageBody for Blob {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(self.next_chunk().map(Ok))
    }
}

/// One block of noise (splitmix64 from a fixed seed), the same in every process.
fn noise() -> Arc<[u8]> {
    static NOISE: std::sync::OnceLock<Arc<[u8]>> = std::sync::OnceLock::new();
    let make = || {
        let mut draws = SplitMix::new(0x716e_6174_6c61_6221);
        let words = std::iter::repeat_with(|| draws.draw().to_be_bytes());
        words.flatten().take(BLOCK_BYTES).collect()
    };
    Arc::clone(NOISE.get_or_init(make))
}

/// A line every 100 ms.
#[derive(Debug)]
struct Trickle {
    interval: Interval,
    lines_left: u64,
    line: u64,
}

impl MessageBody for Trickle {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.lines_left == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.interval.poll_tick(cx));
        self.lines_left -= 1;
        self.line += 1;
        Poll::Ready(Some(Ok(Bytes::from(format!("line {}\n", self.line)))))
    }
}

#[derive(Clone, Copy, Debug)]
enum Service {
    Echo,
    Discard,
}

async fn accept(listener: TcpListener, service: Service) {
    loop {
        match listener.accept().await {
            // A caller that leaves is no concern of ours.
            Ok((stream, _)) => drop(actix_rt::spawn(converse(stream, service))),
            // Out of descriptors: those in use will be given back.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, service: Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = match service {
        Service::Echo => vec![0; 16 << 10],
        Service::Discard => vec![0; 256 << 10],
    };
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if matches!(service, Service::Echo) {
            stream.write_all(&buffer[..length]).await?;
        }
    }
}

/// Sends each datagram back. An error is a former answer's ICMP message; the next datagram is not concerned.
fn answer_datagrams(socket: &UdpSocket) {
    let _as_far_as_allowed = raise_end();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let _lost = socket.send_to(&buffer[..length], from);
    }
}

async fn discard_datagrams(socket: tokio::net::UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let _datagram = socket.recv_from(&mut buffer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See [`END_ROOM_BYTES`], and some more.
    const SOAK_DATAGRAMS_PER_SECOND: u32 = 4_096;

    #[test]
    fn sizes_parse_with_and_without_a_unit() {
        let cases = [("0", 0), ("17", 17), ("64K", 64 << 10), ("100M", 100 << 20), ("1G", 1 << 30), ("1024G", 1 << 40)];
        for (text, size) in cases {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "G", "-1", "+1", "1.5G", "1T", "1025G", "99999999999999999999", "18446744073709551615K", "é"]
        {
            assert_eq!(parse_size(text), None, "{text:?} was taken");
        }
    }

    #[test]
    fn a_blob_depends_on_its_offsets_alone_and_has_its_length() {
        let whole = |size| {
            let mut blob = Blob::new(size);
            std::iter::from_fn(move || blob.next_chunk()).flatten().collect::<Vec<u8>>()
        };
        let long = whole(300_000);
        assert_eq!(long.len(), 300_000);
        assert_eq!(whole(100_003), long[..100_003]);
        assert!(whole(0).is_empty());
        // Swapping two segments must be seen.
        assert_ne!(long[..1460], long[BLOCK_BYTES..BLOCK_BYTES + 1460]);
    }

    #[test]
    fn datagrams_wait_for_a_second_at_an_end_that_stands_still() {
        let end = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        make_room(&end).expect("room");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(end.local_addr().expect("bound")).expect("connected");
        for n in 0..SOAK_DATAGRAMS_PER_SECOND {
            sender.send(&n.to_be_bytes()).expect("sending");
        }
        end.set_nonblocking(true).expect("a socket");
        let kept = std::iter::from_fn(|| end.recv(&mut [0; 16]).ok()).count();
        assert_eq!(u32::try_from(kept), Ok(SOAK_DATAGRAMS_PER_SECOND));
    }

    #[test]
    fn the_digest_is_sha256() {
        assert_eq!(blob_sha256(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(blob_sha256(BLOCK_BYTES as u64), blob_sha256(BLOCK_BYTES as u64 + 1));
    }
}
