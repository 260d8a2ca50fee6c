//! What helps who runs out of ports (S17): each remedy with its condition and its price. The one list that there is: whatever shows
//! exhaustion shows it, or says where it is shown.

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Remedy {
    /// What to do.
    pub what: String,
    /// Where it can be done.
    pub condition: String,
    /// What it costs.
    pub price: String,
}

/// What, condition and price of each.
const ALL: [[&str; 3]; 6] = [
    [
        "reuse connections: many requests by each, as with HTTP keep-alive",
        "the application can, and its server keeps them open",
        "none",
    ],
    [
        "pool connections, and UDP sockets too: as many as work at a time, for all requests",
        "requests may share them",
        "a port for each of the pool, for as long as it is there",
    ],
    [
        "wait longer before each further attempt (exponential back-off): attempts at once keep the ports in use",
        "what fails is tried again",
        "an answer comes later",
    ],
    [
        "keep connections alive more often than they idle out, rather than open them anew",
        "they are opened anew because they idled out",
        "a packet now and then, and their ports stay in use",
    ],
    [
        "a public_ip of its own: all ports, towards each remote: `qnat apply -f FILE`",
        "it is no web or worker role, and remotes that know its address let in the new one",
        "a public address, by which the internet reaches the instance too, as far as its security groups let it",
    ],
    [
        "a pool of fewer instances, which grants more ports to each: `qnat apply -f FILE`",
        "the pool, or the availability set, has more than 50",
        "another pool with a rule of its own for the others",
    ],
];

/// All of them.
#[must_use]
pub fn against_exhaustion() -> Vec<Remedy> {
    let remedy = |[what, condition, price]: [&str; 3]| {
        let [what, condition, price] = [what, condition, price].map(str::to_owned);
        Remedy { what, condition, price }
    };
    ALL.into_iter().map(remedy).collect()
}
