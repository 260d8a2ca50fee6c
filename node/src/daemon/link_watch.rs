//! What a worker's thread has told of its data links, so that it tells what is new alone. Pure.

use std::net::Ipv4Addr;

use engine::claims::{CLAIMS_MAX, Claim};
use engine::soundings::Passing;
use netio::link::LinkState;
use netio::port::Interface;
use words::{Link, Mac};

/// What was told last of the data links.
#[derive(Debug)]
pub struct LinkWatch {
    pub(super) of: Vec<Watched>,
    claimed: Vec<(Link, Ipv4Addr, Mac)>,
}

/// What was told last of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// `None`: nothing.
    pub(super) told: Option<(LinkState, Passing)>,
    pub(super) since_ns: u64,
    pub(super) refused_macs: u64,
}

impl LinkWatch {
    /// Of so many interfaces nothing was told yet.
    #[must_use]
    pub fn new(interfaces: usize) -> Self {
        let unknown = Watched { told: None, since_ns: 0, refused_macs: 0 };
        Self { of: vec![unknown; interfaces], claimed: Vec::new() }
    }

    /// Whether this is news.
    pub(super) fn changed(&mut self, now: u64, interface: Interface, is: (LinkState, Passing)) -> bool {
        let watched = &mut self.of[interface.index()];
        if watched.told == Some(is) {
            return false;
        }
        (watched.told, watched.since_ns) = (Some(is), now);
        true
    }

    /// Whether a claim was not told yet; of claims as many are remembered as there can be.
    pub(super) fn is_new_claim(&mut self, claim: &Claim) -> bool {
        let key = (claim.link, claim.ip, claim.mac);
        if self.claimed.contains(&key) {
            return false;
        }
        if self.claimed.len() >= CLAIMS_MAX {
            self.claimed.remove(0);
        }
        self.claimed.push(key);
        true
    }
}
