//! What a mapping takes besides its own public tuple: a port towards a whole address (S9), or a port for an inside endpoint
//! alone (R3). Local, and kept only for backends whose rule says so; asked when a mapping opens, and by inbound packets
//! without a mapping. Uniqueness (S7) never rests on it: the table and the log judge whole tuples.

use crate::ids::FrontendId;
use crate::record::{Addr, InsideKey, Proto, PublicKey};
use crate::snapshot::{Map, Sharing};

/// Whose a port is.
#[derive(Clone, Copy, Debug)]
struct Port {
    inside: InsideKey,
    live: u32,
    held: u32,
}

/// Claims of one shard's mappings, or of those that open.
#[derive(Debug, Default)]
pub struct Claims {
    addresses: Map<(Proto, FrontendId, u16, Addr), u32>,
    ports: Map<(Proto, FrontendId, u16), Port>,
    endpoints: Map<(Proto, InsideKey), (FrontendId, u16)>,
}

impl Claims {
    /// A live mapping makes its claim. `false`: it has none, or the port is another endpoint's, from before its rule said so.
    pub fn add(&mut self, sharing: Sharing, public: &PublicKey, inside: InsideKey) -> bool {
        match sharing {
            Sharing::Tuple => return false,
            Sharing::Address => {}
            Sharing::Endpoint => {
                let port = self.ports.entry(port_of(public)).or_insert(Port { inside, live: 0, held: 0 });
                if port.inside != inside {
                    return false;
                }
                port.live += 1;
                self.endpoints.entry((public.proto, inside)).or_insert((public.frontend, public.port));
            }
        }
        *self.addresses.entry(address_of(public)).or_default() += 1;
        true
    }

    /// A mapping that has claimed becomes held.
    pub fn close(&mut self, sharing: Sharing, public: &PublicKey) {
        if let (Sharing::Endpoint, Some(port)) = (sharing, self.ports.get_mut(&port_of(public))) {
            port.live -= 1;
            port.held += 1;
        }
    }

    /// A held mapping that has claimed lives again.
    pub fn reopen(&mut self, sharing: Sharing, public: &PublicKey) {
        if let (Sharing::Endpoint, Some(port)) = (sharing, self.ports.get_mut(&port_of(public))) {
            port.held -= 1;
            port.live += 1;
        }
    }

    /// A live mapping that has claimed goes.
    pub fn remove(&mut self, sharing: Sharing, public: &PublicKey) {
        if sharing == Sharing::Tuple {
            return;
        }
        if let Some(count) = self.addresses.get_mut(&address_of(public)) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address_of(public));
            }
        }
        if let (Sharing::Endpoint, Some(port)) = (sharing, self.ports.get_mut(&port_of(public))) {
            port.live -= 1;
            if port.live + port.held == 0 {
                let endpoint = (public.proto, port.inside);
                self.ports.remove(&port_of(public));
                if self.endpoints.get(&endpoint) == Some(&(public.frontend, public.port)) {
                    self.endpoints.remove(&endpoint);
                }
            }
        }
    }

    /// Whether a mapping of this kind would step on another's claim.
    #[must_use]
    pub fn forbid(&self, sharing: Sharing, public: &PublicKey) -> bool {
        match sharing {
            Sharing::Tuple => false,
            Sharing::Address => self.reaches(public),
            Sharing::Endpoint => self.ports.contains_key(&port_of(public)),
        }
    }

    /// The port that an inside endpoint shows to every remote.
    #[must_use]
    pub fn port_of(&self, proto: Proto, inside: InsideKey) -> Option<(FrontendId, u16)> {
        self.endpoints.get(&(proto, inside)).copied()
    }

    /// The inside endpoint that a port belongs to, if any mapping of it lives.
    #[must_use]
    pub fn endpoint_of(&self, public: &PublicKey) -> Option<InsideKey> {
        self.ports.get(&port_of(public)).filter(|port| port.live > 0).map(|port| port.inside)
    }

    /// Whether some mapping of the port goes to the remote's address.
    #[must_use]
    pub fn reaches(&self, public: &PublicKey) -> bool {
        self.addresses.contains_key(&address_of(public))
    }
}

const fn port_of(public: &PublicKey) -> (Proto, FrontendId, u16) {
    (public.proto, public.frontend, public.port)
}

const fn address_of(public: &PublicKey) -> (Proto, FrontendId, u16, Addr) {
    (public.proto, public.frontend, public.port, public.remote.addr)
}
