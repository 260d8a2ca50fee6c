//! Rogue claims: ARP messages of somebody who is no member, in the name of a public address or of an inside gateway. Nobody
//! here believes them, but hosts and routers do, so they are counted and remembered to be told. Bounded: an attacker may name
//! as many addresses as it likes. Called by the worker's ARP.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::ids::{Link, Mac};

/// Claims that are remembered; the oldest gives way.
pub const CLAIMS_MAX: usize = 16;

/// Somebody's claim to an address of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// By which link.
    pub link: Link,
    /// The address.
    pub ip: Ipv4Addr,
    /// Who claims it.
    pub mac: Mac,
    /// How often.
    pub count: u64,
    /// When last (CLOCK_BOOTTIME).
    pub at_ns: u64,
}

/// What was claimed lately.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<(Link, Ipv4Addr, Mac), (u64, u64)>);

impl Claims {
    pub(crate) fn note(&mut self, now_ns: u64, link: Link, ip: Ipv4Addr, mac: Mac) {
        let key = (link, ip, mac);
        if self.0.len() >= CLAIMS_MAX && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, (_, at_ns))| *at_ns).map(|(key, _)| *key);
            oldest.and_then(|key| self.0.remove(&key));
        }
        let (count, at_ns) = self.0.entry(key).or_default();
        (*count, *at_ns) = (*count + 1, now_ns);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Claim> {
        self.0.iter().map(|((link, ip, mac), (count, at_ns))| Claim {
            link: *link,
            ip: *ip,
            mac: *mac,
            count: *count,
            at_ns: *at_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_counted_and_the_oldest_gives_way() {
        let mut claims = Claims::default();
        let mac = |n| Mac([2, 0, 0, 0, 0, n]);
        let ip = Ipv4Addr::new(203, 0, 113, 1);
        for n in 0..16 {
            claims.note(u64::from(n) + 1, Link::Outside, ip, mac(n));
        }
        claims.note(100, Link::Outside, ip, mac(0));
        claims.note(101, Link::Outside, ip, mac(16));
        let all: Vec<Claim> = claims.all().collect();
        assert_eq!(all.len(), CLAIMS_MAX);
        assert_eq!((all[0].mac, all[0].count, all[0].at_ns), (mac(0), 2, 100));
        assert!(!all.iter().any(|claim| claim.mac == mac(1)), "the one that was silent for longest");
    }
}
