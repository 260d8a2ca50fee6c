//! Tables of answers, whole and with pieces missing.

use super::*;
use crate::daemon::request::ResourceKind;

#[test]
fn the_raft_term_is_shown_and_an_ownerless_shard_counts_whom_it_reaches() {
    let answer = json!({"shards": [{"shard": 1, "epoch": 1, "origin": "founded", "owner": null, "term": (1u64 << 32) | 7, "raft_term": 7,
                                    "redundancy": {"have": 1, "want": 3, "reachable": true}}]});
    let text = render(&Request::Status, &answer);
    assert!(text.contains("1/3 reachable"), "{text}");
    assert!(text.split_whitespace().any(|word| word == "7"), "{text}");
    assert!(!text.contains("4294967303"), "{text}");
}

#[test]
fn a_status_shows_owners_redundancy_and_concerns_with_their_remedies() {
    let answer = json!({
        "cluster": {"id": "a5a5", "name": "prod", "level": 0, "control_index": 41, "control_leader": 2, "control_term": 3},
        "me": {"node": 1, "incarnation": 7, "guard": "absent: no clang", "links_up": true},
        "nodes": [{"node": 1, "name": "n1", "incarnation": 7, "standing": "member", "alive": true, "control_voter": true},
                  {"node": 2, "name": "rack2", "incarnation": 8, "standing": "member", "alive": false, "control_voter": true}],
        "shards": [{"shard": 1, "frontends": ["203.0.113.1", "203.0.113.2"], "epoch": 1, "origin": "founded", "owner": 2, "raft_term": 4,
                    "serving": "no lease", "redundancy": {"have": 2, "want": 3}, "members": [1, 2, 3], "live": 12}],
        "concerns": [{"severity": "warning", "subject": {"kind": "shard", "shard": 1}, "what": "below_redundancy",
                      "why": "2 of 3 replicas", "since_unix_ms": 0, "remedy": "start node 3"}],
        "stop_token": {"holder": 2, "since": 3, "restarted": true}});
    let text = render(&Request::Status, &answer);
    for piece in [
        "led by rack2 in term 3",
        "absent: no clang",
        "NOT SEEN",
        "203.0.113.1, 203.0.113.2",
        "2/3",
        "no lease",
        "n1 rack2 n3",
        "start node 3",
        "1970-01-01T00:00:00",
        "held by rack2, which has started anew",
    ] {
        assert!(text.contains(piece), "{piece:?} is not in\n{text}");
    }
}

#[test]
fn an_address_that_is_not_ours_is_told_apart_from_one_that_nobody_had() {
    let who = |public: bool, reaches_back: Value| {
        let answer = json!({"ip": "198.51.100.9", "port": 1, "public": public, "holder": null,
                            "reaches_back": reaches_back, "sessions": [], "silent": [3]});
        render(&Request::Who { ip: [198, 51, 100, 9].into(), port: 1, at_unix_ms: None }, &answer)
    };
    assert!(who(false, Value::Null).contains("no public address of this cluster"));
    assert!(who(true, "2026-01-01T00:00:00.000Z".into()).contains("reach back: 2026-01-01"));
    assert!(who(true, Value::Null).contains("empty") && who(true, Value::Null).contains("n3 did not answer"));
}

#[test]
fn missing_fields_never_break_a_table() {
    let requests = [
        Request::Status,
        Request::Flows { shard: None, vnet: None, limit: 1 },
        Request::Ports,
        Request::Counters,
        Request::Together { of: Box::new(Request::Counters) },
        Request::Get { kind: ResourceKind::Shards },
        Request::Apply { file: String::new(), text: String::new(), dry_run: DryRun::No, yes: false, plan: None },
        Request::Shutdown { now: false },
    ];
    let row = json!({"unknown": [{}]});
    let answers = [
        json!(null),
        json!({}),
        json!([]),
        json!([row]),
        json!({"nodes": [row], "shards": [row],
        "flows": [row], "backends": [row], "changes": [row], "concerns": [7], "stop_token": 3, "programmed": 1}),
    ];
    for request in &requests {
        for answer in &answers {
            assert!(!render(request, answer).is_empty(), "{request:?} {answer}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_shown_as_it_is_and_said_to_be_of_another_version() {
    let answer = json!({"shards": [{"number": 1, "state": "odd"}]});
    let text = render(&Request::Status, &answer);
    assert!(text.starts_with("an answer of another version"), "{text}");
    assert!(text.contains("odd"), "{text}");
}

#[test]
fn durations_have_a_unit() {
    assert_eq!([duration(5), duration(1500), duration(240_000)], ["5 ms", "1.5 s", "4 min"]);
}

#[test]
fn an_apply_says_what_became_of_it() {
    let shown = |answer: &Value, dry_run| {
        let (file, text) = (String::new(), String::new());
        render(&Request::Apply { file, text, dry_run, yes: false, plan: None }, answer)
    };
    let change = json!({"kind": "+", "resource": "public_ip pip1", "detail": "203.0.113.1"});
    let answer = json!({"committed": 9, "changes": [change], "programmed": {"on": 2, "of": 3}});
    let text = shown(&answer, DryRun::No);
    assert!(
        text.contains("public_ip pip1") && text.ends_with("committed at index 9\nprogrammed on 2 of 3 nodes\n"),
        "{text}"
    );
    let cut = json!({"committed": null, "changes": [change], "flows_taken": 17, "uncounted_shards": [2, 5]});
    let text = shown(&cut, DryRun::Yes);
    assert!(text.contains("17 live flows are on the ports that go back"), "{text}");
    assert!(text.contains("the flows of shard 2, 5 were not counted"), "{text}");
    assert!(shown(&json!({"committed": null, "changes": [change]}), DryRun::Yes).contains("nothing was changed"));
    assert_eq!(shown(&json!({"committed": null, "changes": []}), DryRun::No), "nothing to change\n");
}

#[test]
fn rules_are_shown_in_the_order_in_which_they_are_judged() {
    let rule = |name: &str, direction: &str, priority: u16| {
        json!({"name": name, "properties": {"direction": direction, "priority": priority, "access": "Deny", "protocol": "*",
               "sourceAddressPrefixes": ["10.0.0.1/32", "10.0.0.2/32"], "destinationAddressPrefix": "Internet"}})
    };
    let group = json!([{"name": "web", "model": "resource_manager", "properties": {
        "securityRules": [rule("late", "Inbound", 300), rule("early", "Inbound", 100)],
        "defaultSecurityRules": [rule("out", "Outbound", 65_000), rule("last", "Inbound", 65_500)],
        "networkInterfaces": [{"id": "nic1"}]}}]);
    let text = render(&Request::Get { kind: ResourceKind::SecurityGroups }, &group);
    let places: Vec<usize> = ["early", "late", "last", "out"].map(|name| text.find(name).expect("shown")).into();
    assert!(places.is_sorted(), "{text}");
    assert!(text.contains("10.0.0.1/32, 10.0.0.2/32") && text.contains("attached to nic1"), "{text}");
    assert_eq!(render(&Request::Get { kind: ResourceKind::SecurityGroups }, &json!([])), "none\n");
}
