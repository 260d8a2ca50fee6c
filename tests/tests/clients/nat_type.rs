//! What a STUN client finds out about the gateway (RFC 5780): `turnutils_natdiscovery` against coturn on both addresses of
//! the internet.

use std::time::Duration;

use qnat_tests::lab::{INET, Lab, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::running::Running;

use crate::{SOON, before_during_and_after, said};

/// The internet's other address.
const OTHER: &str = "203.0.113.11";

/// The server; dropping it ends it.
struct Stun {
    _dir: tempfile::TempDir,
    _server: Running,
}

impl Stun {
    fn serve(lab: &Lab) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |option: &str| format!("--{option}={}", dir.path().join(option).display());
        let (pid, store) = (file("pidfile"), file("userdb"));
        let mut argv = vec!["turnserver", "--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-cli"];
        argv.extend(["--listening-ip", INET, "--listening-ip", OTHER, "--log-file=stdout", "--simple-log"]);
        argv.extend([pid.as_str(), store.as_str()]);
        let server = lab.start("inet", &argv);
        wait_until("the STUN server", SOON, || said("inet", &["ss", "-lunH"]).contains(&format!("{OTHER}:3479")));
        Self { _dir: dir, _server: server }
    }
}

/// What the program calls the gateway, and the public end that it was first seen under.
#[derive(PartialEq, Eq, Debug)]
struct Found {
    kind: String,
    public: String,
}

/// Asks from a port of b1 that nobody has used for this question before, unless the same mapping is meant.
fn discover(question: &str, port: u16) -> Found {
    let port = port.to_string();
    let argv = ["timeout", "30", "turnutils_natdiscovery", question, "-L", "10.0.1.1", "-l", &port, INET];
    let text = said("b1", &argv);
    let line = |words: &str| text.lines().find(|line| line.contains(words)).map(str::trim);
    let kind = line("NAT with ").unwrap_or_else(|| panic!("{question} found nothing: {text}"));
    let public = line("UDP reflexive addr: ").and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    Found { kind: kind.trim_start_matches("NAT with ").trim_end_matches('!').to_owned(), public: public.to_owned() }
}

/// The mapping of a port is the same one whoever owns it; and so is the kind that is found, with ports of before the
/// takeover and with new ones.
fn keeps_its_kind(lab: &Lab, mapping: &str, filtering: &str) {
    let (old_mapping, old_filtering) = (discover("-m", 40_001), discover("-f", 40_002));
    let mut new = 40_010;
    before_during_and_after(lab, |when| {
        // The program takes a lost question for a filtered answer: it asks once there is somebody to answer.
        if when.starts_with("while") {
            return;
        }
        new += 10;
        assert_eq!(discover("-m", 40_001), old_mapping, "{when}");
        assert_eq!(discover("-f", 40_002), old_filtering, "{when}");
        assert_eq!(discover("-m", new).kind, mapping, "{when}");
        assert_eq!(discover("-f", new + 1).kind, filtering, "{when}");
    });
    assert_eq!((old_mapping.kind.as_str(), old_filtering.kind.as_str()), (mapping, filtering));
}

pub(crate) fn a_stun_client_finds_what_the_azure_profile_claims(lab: &Lab) {
    let _stun = Stun::serve(lab);
    // Flows to different remotes share the first port that is free towards each (S8, S10): while nobody else of the
    // backend's talks to the server, that is the same one.
    assert_eq!(discover("-m", 40_000).kind, "Endpoint Independent Mapping");
    // Somebody who does, to the other address alone: now each remote gets a port of its own.
    let script = format!("exec 3<>/dev/udp/{OTHER}/3478; while echo x >&3; do sleep 1; done");
    let neighbour = lab.start("b1", &["bash", "-c", &script]);
    wait_until("the neighbour's flow", SOON, || !lab.live_mappings("10.0.1.1", 3478).is_empty());
    std::thread::sleep(Duration::from_millis(200));
    keeps_its_kind(lab, "Address and Port Dependent Mapping", "Address and Port Dependent Filtering");
    drop(neighbour);
}

pub(crate) fn a_stun_client_finds_what_the_rfc_profile_claims(lab: &Lab) {
    let _stun = Stun::serve(lab);
    for (filtering, found) in [
        ("address_dependent", "Address Dependent Filtering"),
        ("endpoint_independent", "Endpoint Independent Filtering"),
    ] {
        let rule = format!("profile = \"rfc\"\nfiltering = \"{filtering}\"");
        Changes { rule: &rule, ..Changes::default() }.apply();
        // For the second time, each member that an earlier round killed is there again.
        lab.wait_until_whole(Duration::from_secs(60));
        keeps_its_kind(lab, "Endpoint Independent Mapping", found);
    }
}
