//! One shard of three public addresses, as its users see it: it changes hands as one, and one address goes while the flows under
//! the others stay. Needs root.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, rows, wait_until};
use qnat_tests::resources::{self, Changes};
use serde_json::Value;

const BACKENDS: [&str; 4] = ["b1", "b2", "b3", "b4"];
const PATIENCE: Duration = Duration::from_secs(30);

/// The lab's resources with these of its public addresses in use, all in one shard, and short holds.
fn behind(numbers: &[u32]) -> String {
    let settings = "[settings]\nshards_max = 1\norphan_grace_ms = 1000\nhold_ms = [3000, 3000, 3000, 3000, 3000]\n";
    let names: Vec<String> = numbers.iter().map(|n| format!("\"pip{n}\"")).collect();
    let text = Changes { more: settings, ..Changes::default() }.text();
    let all = "frontends = [\"pip1\", \"pip2\", \"pip3\"]";
    assert!(text.contains(all), "{text}");
    text.replace(all, &format!("frontends = [{}]", names.join(", ")))
}

/// Which backends are behind each address.
fn by_address(lab: &Lab) -> BTreeMap<String, Vec<&'static str>> {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for backend in BACKENDS {
        let address = lab.ports_of(backend)["frontend"].as_str().map(ToOwned::to_owned);
        all.entry(address.unwrap_or_default()).or_default().push(backend);
    }
    all
}

/// Public ends of a backend's connections to the echo server.
fn ends(lab: &Lab, backend: &str) -> Vec<String> {
    lab.live_mappings(&backend.replace('b', "10.0.1."), 7)
}

fn only_shard() -> Value {
    let shards = json(&["get", "shards", "-o", "json"]);
    assert_eq!(rows(&shards).count(), 1, "{shards:#}");
    shards[0].clone()
}

#[test]
fn the_addresses_of_one_shard_change_hands_together_and_one_goes_while_flows_under_the_others_stay() {
    let lab = Lab::up_by(&behind(&[1, 2, 3]));
    assert_eq!(rows(&only_shard()["frontends"]).count(), 3);
    let behind_each = by_address(&lab);
    assert_eq!(behind_each.len(), 3, "four backends spread over all: {behind_each:?}");
    let mut talks: BTreeMap<&str, Conversation> = BACKENDS.map(|b| (b, Conversation::begin(&lab, b))).into();
    assert!(talks.values_mut().all(Conversation::goes_on));
    let public: BTreeMap<&str, Vec<String>> = BACKENDS.map(|b| (b, ends(&lab, b))).into();
    for (address, backends) in &behind_each {
        for backend in backends {
            assert!(public[backend].len() == 1 && public[backend][0].starts_with(&format!("{address}:")), "{public:?}");
        }
    }

    let owner = lab.kill_owner_of("b1");
    for (backend, talk) in &mut talks {
        wait_until(&format!("{backend} to go on without n{owner}"), PATIENCE, || talk.goes_on());
        assert_eq!(ends(&lab, backend), public[backend], "under the same public end");
    }
    lab.restart_the_dead();
    lab.wait_until_whole(PATIENCE * 2);

    let (gone, mover) = behind_each.iter().find(|(_, all)| all.len() == 1).expect("four backends, three addresses");
    let (number, mover) = (gone.rsplit('.').next().expect("an address"), mover[0]);
    let left: Vec<u32> = (1..=3).filter(|n| n.to_string() != number).collect();
    talks.remove(mover);
    assert!(talks.values_mut().all(Conversation::goes_on));
    resources::apply(&behind(&left));
    for _ in 0..20 {
        for (backend, talk) in &mut talks {
            assert!(talk.goes_on(), "{backend} is behind another address");
        }
        sleep(Duration::from_millis(100));
    }
    wait_until("its backend to be behind another address", PATIENCE, || {
        lab.ports_of(mover)["frontend"].as_str().is_some_and(|now| now != gone.as_str())
    });
    let seen = lab.exec(mover, &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    let seen: Value = serde_json::from_str(&seen).expect("the server answers JSON");
    assert!(left.iter().any(|n| seen["address"] == format!("203.0.113.{n}").as_str()), "{seen}");
    for (backend, talk) in &mut talks {
        assert!(talk.goes_on());
        assert_eq!(ends(&lab, backend), public[backend]);
    }
    let frontends = json(&["get", "frontends", "-o", "json"]);
    let retires = rows(&frontends).find(|row| row["address"] == gone.as_str()).expect("its holds have not ended");
    assert_eq!((&retires["retiring"], &retires["backends"]), (&Value::from(true), &Value::from(0)), "{retires:#}");
    assert_eq!(rows(&only_shard()["frontends"]).count(), 3, "it is answered for until then");
}
