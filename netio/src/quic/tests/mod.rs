//! Transports over loopback on one current-thread runtime, as the daemon runs them.

mod floods;
mod joining;
mod links;

use std::net::UdpSocket;
use std::time::{Instant, SystemTime};

use tokio::time::timeout;

use super::*;
use crate::ca::{ClusterCa, IssuedPem};

const BOUND: Duration = Duration::from_secs(10);

fn identity(ca: &ClusterCa, issued: &IssuedPem) -> Identity {
    Identity {
        ca_cert_pem: ca.pem.cert_pem.clone(),
        cert_pem: issued.cert_pem.clone(),
        key_pem: issued.key_pem.clone(),
    }
}

fn member(ca: &ClusterCa, id: u32) -> Identity {
    identity(ca, &ca.issue(id).expect("issue"))
}

fn config(listen: SocketAddr) -> TransportConfig {
    TransportConfig { listen, ..TransportConfig::default() }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

struct Node {
    transport: Transport,
    events: Events,
    address: SocketAddr,
}

fn start(identity: &Identity, listen: SocketAddr) -> Node {
    start_as(config(listen), identity)
}

fn start_as(config: TransportConfig, identity: &Identity) -> Node {
    let (transport, events) = Transport::start(config, identity).expect("start");
    let address = transport.local_address().expect("address");
    Node { transport, events, address }
}

/// All waits are longer than a test's bound: what comes to be within it was not waited for, on a machine however busy.
fn patient(listen: SocketAddr) -> TransportConfig {
    let wait = 6 * BOUND;
    let (idle_timeout, dial_timeout, question_life) = (wait, wait, wait);
    let (backoff_min, backoff_max, backoff_unlisted) = (wait, wait, wait);
    TransportConfig {
        idle_timeout,
        dial_timeout,
        question_life,
        backoff_min,
        backoff_max,
        backoff_unlisted,
        ..config(listen)
    }
}

fn start_patient(identity: &Identity, listen: SocketAddr) -> Node {
    start_as(patient(listen), identity)
}

fn peers(of: &[(u32, SocketAddr)]) -> BTreeMap<u32, SocketAddr> {
    of.iter().copied().collect()
}

impl Node {
    async fn next(&mut self) -> Event {
        timeout(BOUND, self.events.recv()).await.expect("an event within the bound").expect("transport runs")
    }

    async fn expect(&mut self, wanted: &Event) {
        let got = self.next().await;
        assert_eq!(got, *wanted, "at node {}", self.transport.own_id());
    }
}

/// Nodes 1 and 2, linked.
async fn pair() -> (Node, Node, ClusterCa) {
    let ca = ClusterCa::create("test").expect("ca");
    let mut one = start(&member(&ca, 1), any());
    let mut two = start(&member(&ca, 2), any());
    one.transport.set_peers(&peers(&[(2, two.address)]));
    two.transport.set_peers(&peers(&[(1, one.address)]));
    one.expect(&Event::Up(2)).await;
    two.expect(&Event::Up(1)).await;
    (one, two, ca)
}

fn frame(from: u32, channel: u32, bytes: impl Into<Bytes>) -> Event {
    Event::Frame { from, channel, bytes: bytes.into() }
}

fn free_address() -> SocketAddr {
    UdpSocket::bind(any()).and_then(|socket| socket.local_addr()).expect("a free port")
}
