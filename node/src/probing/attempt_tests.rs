//! Attempts against a backend's own stack, in memory and in a time that the test moves.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::*;

const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const PORT: u16 = 8080;
const INTERVAL_NS: u64 = 5 * SECOND_NS;

/// A host with a listener, or without.
struct Backend {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Backend {
    fn new(port: Option<u16>) -> Self {
        let mut wire = Wire::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, instant(0));
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(BACKEND), 32)).expect("room"));
        interface.routes_mut().add_default_ipv4_route(BACKEND).expect("room");
        let buffer = || SocketBuffer::new(vec![0; 1 << 16]);
        let mut socket = Socket::new(buffer(), buffer());
        if let Some(port) = port {
            socket.listen(port).expect("a fresh socket");
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self { wire, interface, sockets, handle }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'_>>(self.handle)
    }

    fn heard(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.socket().can_recv() {
            self.socket().recv(|octets| (octets.len(), all.extend_from_slice(octets))).expect("open");
        }
        all
    }
}

fn attempt(ask: &Ask) -> Attempt {
    let to = SocketAddrV4::new(BACKEND, PORT);
    Attempt::new(0, &Question { to, from_port: 20_000, ask, timeout_ns: INTERVAL_NS, seed: 7 })
}

/// Runs until it is over; `answers` does what the backend's program does. Returns what came of it, and when.
fn run(mut attempt: Attempt, mut backend: Backend, mut answers: impl FnMut(&mut Backend)) -> (Ended, u64, usize) {
    let (mut now, mut packets, mut outcome) = (0, 0, None);
    while !attempt.is_over() {
        if let Some(ended) = attempt.turn(now) {
            assert!(outcome.replace((ended, now)).is_none(), "it has one outcome");
        }
        while let Some(frame) = attempt.take() {
            assert_eq!(frame[12..14], [8, 0]);
            packets += 1;
            backend.wire.received.push_back(frame[ETHERNET..].into());
        }
        answers(&mut backend);
        backend.interface.poll(instant(now), &mut backend.wire, &mut backend.sockets);
        while let Some(frame) = backend.wire.sent.pop_front() {
            attempt.receive(frame[ETHERNET..].into());
        }
        now = attempt.due_ns().min(now + 10 * words::time::MS).max(now + words::time::MS);
        assert!(now < 2 * INTERVAL_NS, "it ends");
    }
    let (ended, at) = outcome.expect("an outcome");
    (ended, at, packets)
}

/// Says this once the request is whole, and closes.
fn saying(text: &'static [u8]) -> impl FnMut(&mut Backend) {
    let mut heard = Vec::new();
    move |backend| {
        let before = heard.len();
        heard.extend(backend.heard());
        if heard.len() > before && heard.ends_with(b"\r\n\r\n") {
            assert!(heard.starts_with(b"GET /healthz HTTP/1.1\r\nHost: 10.0.1.1:8080\r\n"));
            backend.socket().send_slice(text).expect("room");
            backend.socket().close();
        }
    }
}

#[test]
fn a_connection_is_enough_for_tcp_and_is_closed_as_clients_do() {
    let mut closed = false;
    let (ended, at, packets) = run(attempt(&Ask::Tcp), Backend::new(Some(PORT)), |backend| {
        closed |= backend.socket().state() == State::CloseWait;
        if closed {
            backend.socket().close();
        }
    });
    assert_eq!(ended, Ok(()));
    assert!(closed && at < SECOND_NS && packets <= 5, "{at} ns, {packets} packets");
}

#[test]
fn a_refused_connection_and_one_that_nobody_answers_are_told_apart() {
    let (ended, at, _) = run(attempt(&Ask::Tcp), Backend::new(None), |_| {});
    assert_eq!(ended, Err(Failing::Refused));
    assert!(at < SECOND_NS, "at once: {at} ns");
    let (ended, at, packets) = run(attempt(&Ask::Tcp), Backend::new(None), |backend| backend.wire.received.clear());
    assert_eq!((ended, at / SECOND_NS), (Err(Failing::Silent), 5));
    assert!((2..10).contains(&packets), "it asks again: {packets}");
}

#[test]
fn only_the_status_200_is_a_success() {
    let http = Ask::Http("/healthz".into());
    let of = |text: &'static [u8]| run(attempt(&http), Backend::new(Some(PORT)), saying(text)).0;
    assert_eq!(of(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Ok(()));
    assert_eq!(of(b"HTTP/1.0 200 OK\r\n\r\n"), Ok(()));
    assert_eq!(of(b"HTTP/1.1 500 Internal Server Error\r\n\r\n"), Err(Failing::Status(500)));
    assert_eq!(of(b"HTTP/1.1 204 No Content\r\n\r\n"), Err(Failing::Status(204)));
    assert_eq!(of(b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"), Err(Failing::Status(301)));
    assert_eq!(of(b"220 mail.example ESMTP\r\n"), Err(Failing::NotHttp));
    assert_eq!(of(b"HTTP/1.1 2"), Err(Failing::NotHttp), "and then it ends");
    assert_eq!(of(b""), Err(Failing::Refused), "it ends without a word");
}

#[test]
fn who_takes_the_request_and_says_nothing_fails_when_its_time_is_over() {
    let (ended, at, _) =
        run(attempt(&Ask::Http("/".into())), Backend::new(Some(PORT)), |backend| drop(backend.heard()));
    assert_eq!((ended, at / SECOND_NS), (Err(Failing::Silent), 5));
}

#[test]
fn an_answer_that_never_ends_is_given_up_after_its_status() {
    let mut said = false;
    let (ended, at, packets) = run(attempt(&Ask::Http("/".into())), Backend::new(Some(PORT)), |backend| {
        if !backend.heard().is_empty() && !said {
            said = true;
            backend.socket().send_slice(b"HTTP/1.1 200 OK\r\n\r\n").expect("room");
        }
        if said && backend.socket().can_send() {
            let _some = backend.socket().send_slice(&[b'x'; 1 << 14]);
        }
    });
    assert_eq!(ended, Ok(()));
    assert!(at < SECOND_NS && packets < 3_000, "{at} ns, {packets} packets");
}

#[test]
fn https_believes_any_certificate_and_reads_the_same_answer_within() {
    let made = rcgen::generate_simple_self_signed(vec!["of-somebody-else.example".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("suites");
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).expect("its key");
    let config = Arc::new(config);
    for (status, wanted) in [("200 OK", Ok(())), ("503 Unavailable", Err(Failing::Status(503)))] {
        let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
        let (ended, at, _) = run(attempt(&Ask::Https("/healthz".into())), Backend::new(Some(PORT)), |backend| {
            let sealed = backend.heard();
            let mut rest = &sealed[..];
            while !rest.is_empty() {
                tls.read_tls(&mut rest).expect("in memory");
                tls.process_new_packets().expect("TLS");
            }
            let mut plain = [0; 1024];
            if tls.reader().read(&mut plain).is_ok_and(|len| plain[..len].starts_with(b"GET /healthz ")) {
                write!(tls.writer(), "HTTP/1.1 {status}\r\n\r\n").expect("in memory");
            }
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).expect("in memory");
            }
            if !out.is_empty() {
                assert_eq!(backend.socket().send_slice(&out), Ok(out.len()));
            }
        });
        assert_eq!(ended, wanted);
        assert!(at < SECOND_NS);
    }
    let plain = run(attempt(&Ask::Https("/".into())), Backend::new(Some(PORT)), |backend| {
        if !backend.heard().is_empty() {
            backend.socket().send_slice(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("room");
        }
    });
    assert_eq!(plain.0, Err(Failing::NoTls));
}
