//! Who had a public port, by the address-translation logs (R24).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Who had a public port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Who {
    /// The member whose log names the holder.
    #[serde(default)]
    pub node: u32,
    /// The public address.
    pub ip: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// It is a public address of the cluster now.
    #[serde(default)]
    pub public: bool,
    /// The time in question; none: now.
    #[serde(default)]
    pub at: Option<String>,
    /// The oldest time that the log tells of.
    #[serde(default)]
    pub reaches_back: Option<String>,
    /// Who had it.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// Mappings on it then, if the log has mappings.
    #[serde(default)]
    pub sessions: Vec<Session>,
    /// Members that did not answer: mappings of shards that they owned then may be missing.
    #[serde(default)]
    pub silent: Vec<u32>,
}

/// A backend that had a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub backend: String,
    /// Its address.
    pub inside: Ipv4Addr,
    /// Its virtual network.
    pub network: String,
    /// The block, `first-last`.
    pub ports: String,
    /// The control index of the grant.
    pub control_index: u64,
    /// Since when.
    pub since: String,
    /// Since when the block is on its way back.
    pub draining_since: Option<String>,
    /// Until when.
    pub until: Option<String>,
}

/// A mapping on a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Session {
    /// When it opened.
    pub opened: String,
    /// When it closed.
    pub closed: Option<String>,
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// The virtual network of the backend's end.
    #[serde(default)]
    pub network: String,
    /// The backend's end.
    pub inside: String,
    /// The remote end, if the log has it.
    pub remote: Option<String>,
}

/// What several logs say together. Every log has the blocks of ports, so the asked member's word on the holder counts, unless
/// it does not reach back so far; mappings are in the log of whoever owned the shard, so all are taken, by their beginning.
#[must_use]
pub fn merge_who(mut own: Who, others: impl Iterator<Item = Who>) -> Who {
    for other in others {
        if own.holder.is_none() && other.holder.is_some() {
            (own.holder, own.node) = (other.holder, other.node);
        }
        own.public |= other.public;
        // RFC 3339 in UTC with a fixed number of digits: text order is time order.
        own.reaches_back = own.reaches_back.into_iter().chain(other.reaches_back).min();
        own.sessions.extend(other.sessions);
    }
    own.sessions.sort();
    own.sessions.dedup();
    own
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mappings_come_from_all_logs_and_the_holder_from_whoever_reaches_back() {
        let who = |node: u32, holder: bool, reaches_back: &str, opened: &[&str]| -> Who {
            let holder = holder.then(|| {
                json!({"backend": "b1/ip", "inside": "10.0.1.1", "network": "v", "ports": "1024-2047", "control_index": 5,
                       "since": "2026-01-01T00:00:00.000Z"})
            });
            let session = |at: &&str| json!({"proto": "tcp", "inside": "10.0.1.1:5", "opened": at, "closed": null});
            serde_json::from_value(json!({"node": node, "ip": "203.0.113.1", "port": 1024, "holder": holder,
                "reaches_back": reaches_back, "sessions": opened.iter().map(session).collect::<Vec<_>>()}))
            .expect("an answer")
        };
        // n1 came later and never owned the shard; n2 did, then n3, who tells of one mapping that n2 tells of too.
        let own = who(1, false, "2026-03-01T00:00:00.000Z", &[]);
        let two = who(2, true, "2026-01-01T00:00:00.000Z", &["2026-02-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"]);
        let three = who(3, true, "2026-02-01T00:00:00.000Z", &["2026-02-01T00:00:00.000Z"]);
        let merged = merge_who(own, [two, three].into_iter());
        assert_eq!((merged.node, merged.holder.map(|h| h.backend)), (2, Some("b1/ip".to_owned())));
        assert_eq!(merged.reaches_back.as_deref(), Some("2026-01-01T00:00:00.000Z"));
        let opened: Vec<&str> = merged.sessions.iter().map(|s| s.opened.as_str()).collect();
        assert_eq!(opened, ["2026-01-02T00:00:00.000Z", "2026-02-01T00:00:00.000Z"]);
    }
}
