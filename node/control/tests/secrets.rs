//! What leaves the cluster in a dump has no key in it, and packets are judged by it all the same.

mod support;

use engine::ids::NodeId;
use engine::snapshot::Params;
use qnat_control::command::Command;
use qnat_control::compile;
use qnat_control::registry::Founder;
use qnat_control::state::State;
use support::{addr, configure, desired, registration};

const KEY: [u64; 2] = [0xa1a2_a3a4_a5a6_a7a8, 0xb1b2_b3b4_b5b6_b7b8];
const NONCE: u64 = 0xd1d2_d3d4_d5d6_d7d8;

fn has(octets: &[u8], secret: &[u8]) -> bool {
    octets.windows(secret.len()).any(|window| window == secret)
}

#[test]
fn a_state_that_leaves_the_cluster_has_no_key_and_compiles_to_the_same_but_for_it() {
    let founders: Vec<Founder> =
        (1..=3).map(|n| Founder { node: NodeId(n), peer_addr: addr(n), api_addr: addr(n), key: [0xc7; 32] }).collect();
    let mut state = State::found([7; 16], &founders, KEY);
    let life = |node: u32, state: &State| {
        let raft_id = state.registry().nodes()[&NodeId(node)].raft_id;
        let mut registration = registration(node, raft_id, 9);
        registration.nonce = NONCE;
        qnat_control::CommandBody::RegisterIncarnation(registration)
    };
    let bodies = [life(1, &state), life(2, &state), life(3, &state), configure(&desired(2, 4), Vec::new())];
    for (index, body) in (2u64..).zip(bodies) {
        let key = [u8::try_from(index).expect("few") | 0xe0; 16];
        let command = Command { key, stamped_unix_ms: 1, draw: 5, body };
        assert!(state.apply(index, &command).is_applied());
    }
    let (whole, open) = (state.encode().expect("small"), state.without_secrets());
    let octets = open.encode().expect("small");
    for secret in [
        &KEY[0].to_le_bytes()[..],
        &KEY[1].to_le_bytes(),
        &[0xc7; 32],
        &NONCE.to_le_bytes(),
        // What was proposed, by the key of its order.
        &[0xe5; 16],
    ] {
        assert!(has(&whole, secret), "the search finds what is there: {secret:x?}");
        assert!(!has(&octets, secret), "{secret:x?}");
    }
    for node in [1, 2, 3].map(NodeId) {
        let (before, after) = (compile::snapshot(&state, node), compile::snapshot(&open, node));
        assert_ne!(before.params.key, after.params.key);
        let params = Params { key: before.params.key, ..after.params };
        assert_eq!(engine::snapshot::Snapshot { params, ..after }, before);
    }
}
