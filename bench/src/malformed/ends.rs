//! Both ends of a gateway under test, and one flow that is open between them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnat_ends::{End, Silence};
use qnat_reference::packet::{ETH, UDP, addresses, be16, ipv4, udp};

use super::cases::Scene;

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
    inside: End,
    outside: End,
    _silences: [Silence; 2],
}

impl Ends {
    /// Opens the sockets, learns the addresses, silences both stacks, and opens one UDP flow.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let (inside, outside) =
            (End::open(place.inside.0, place.inside.1)?, End::open(place.outside.0, place.outside.1)?);
        let (server, client) = (place.server, place.client);
        inside.hello(server)?;
        let gateway = inside.neighbour(place.gateway)?;
        let silences = [inside.silence()?, outside.silence()?];
        let mut this = Self {
            scene: Scene {
                inside: (inside.mac, gateway),
                outside: (outside.mac, [0; 6]),
                client,
                public: Ipv4Addr::UNSPECIFIED,
                server,
                open: (OPEN_PORT, 0),
            },
            inside,
            outside,
            _silences: silences,
        };
        std::thread::sleep(Duration::from_millis(200));
        this.inside.drain()?;
        this.outside.drain()?;
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
        self.inside.send(frame)?;
        let all = self.outside.receive(WITHIN)?;
        self.inside.drain()?;
        Ok(all)
    }

    /// Sends from the server; what then reached the client's network.
    pub(super) fn send_back(&self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.outside.send(frame)?;
        let all = self.inside.receive(WITHIN)?;
        self.outside.drain()?;
        Ok(all)
    }
}
