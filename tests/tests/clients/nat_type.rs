//! What a STUN client finds out about the gateway (RFC 5780): `turnutils_natdiscovery` against coturn on both addresses of
//! the internet.

use std::time::Duration;

use qnat_tests::lab::{INET, Lab, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::running::Running;
use qnat_tests::shared::is_long;

use crate::{SOON, said};

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
        let mut argv = vec!["turnserver", "-n", "--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-cli"];
        argv.extend(["--listening-ip", INET, "--listening-ip", OTHER, "--log-file=stdout", "--simple-log"]);
        argv.extend([pid.as_str(), store.as_str()]);
        let server = lab.start("inet", &argv);
        server.wait_for("Total General servers", SOON);
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

/// Asks about mapping (`-m`) or filtering (`-f`) from ports of b1, all at once.
fn discover<const N: usize>(lab: &Lab, questions: [(&str, u16); N]) -> [Found; N] {
    let ask = |(question, port): (&str, u16)| {
        lab.start("b1", &["turnutils_natdiscovery", question, "-L", "10.0.1.1", "-l", &port.to_string(), INET])
    };
    questions.map(ask).map(|asking| {
        let text = asking.end(Duration::from_secs(30)).1;
        let line = |words: &str| text.lines().find(|line| line.contains(words)).map(str::trim);
        let kind = line("NAT with ").unwrap_or_else(|| panic!("nothing was found: {text}"));
        let kind = kind.trim_start_matches("NAT with ").trim_end_matches('!').to_owned();
        let public = line("UDP reflexive addr: ").and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        Found { kind, public: public.to_owned() }
    })
}

/// The kind that is found is the same under a successor, with ports of before the takeover, whose mapping stays, and with
/// new ones. The program takes a lost question for a filtered answer, so it asks when there is somebody to answer; it waits
/// for what is filtered, so the questions are asked side by side.
fn keeps_its_kind(lab: &Lab, port: u16, (mapping, filtering): (&str, &str)) {
    let [old_mapping, old_filtering] = discover(lab, [("-m", port), ("-f", port + 1)]);
    assert_eq!((old_mapping.kind.as_str(), old_filtering.kind.as_str()), (mapping, filtering));
    let owner = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", owner);
    let questions = [("-m", port), ("-f", port + 1), ("-m", port + 2), ("-f", port + 3)];
    let [same_mapping, same_filtering, new_mapping, new_filtering] = discover(lab, questions);
    assert_eq!((same_mapping, same_filtering), (old_mapping, old_filtering));
    assert_eq!((new_mapping.kind.as_str(), new_filtering.kind.as_str()), (mapping, filtering));
    if is_long() {
        lab.restart_the_dead();
        lab.wait_until_whole(Duration::from_secs(60));
        let again = discover(lab, questions);
        assert_eq!(again.each_ref().map(|found| found.kind.as_str()), [mapping, filtering, mapping, filtering]);
    }
}

pub(crate) fn a_stun_client_finds_what_the_azure_profile_claims(lab: &Lab) {
    let _stun = Stun::serve(lab);
    // Flows to different remotes share the first port that is free towards each (S8, S10): while nobody else of the
    // backend's talks to the server, that is the same one.
    let [alone] = discover(lab, [("-m", 40_000)]);
    assert_eq!(alone.kind, "Endpoint Independent Mapping");
    // Some who do, with the other address alone: now the first port that is free there is another one than here.
    let begin = format!("for fd in 3 4 5 6 7 8 9; do eval \"exec $fd<>/dev/udp/{OTHER}/3478\"; echo x >&$fd; done");
    let neighbour = lab.start("b1", &["bash", "-c", &format!("{begin}; echo begun; exec sleep 3600")]);
    neighbour.wait_for("begun", SOON);
    wait_until("the neighbours' flows", SOON, || lab.public_ports("10.0.1.1", OTHER).len() >= 8);
    keeps_its_kind(lab, 40_001, ("Address and Port Dependent Mapping", "Address and Port Dependent Filtering"));
    drop(neighbour);
}

pub(crate) fn a_stun_client_finds_what_the_rfc_profile_claims(lab: &Lab) {
    let _stun = Stun::serve(lab);
    // Ports that no other check has used: what lives keeps its public end.
    for (port, filtering, found) in [
        (41_000, "address_dependent", "Address Dependent Filtering"),
        (42_000, "endpoint_independent", "Endpoint Independent Filtering"),
    ] {
        lab.mend();
        let rule = format!("profile = \"rfc\"\nfiltering = \"{filtering}\"");
        Changes { rule: &rule, ..Changes::default() }.apply();
        keeps_its_kind(lab, port, ("Endpoint Independent Mapping", found));
    }
}
