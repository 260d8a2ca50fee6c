//! The grammar of the command line and its exit codes.

use clap::CommandFactory as _;

use super::asking::{is_status, something_is_wrong};
use super::*;
use crate::daemon::request::Failure;
use qnat_lab::{Direction, Scope};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("qnat").chain(line.split(' ')))
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn documented_commands_parse() {
    for line in [
        "node --config node.toml",
        "cluster init --out d --name prod --node 1=198.18.0.1:7800 --node n2=198.18.0.2:7800,127.0.0.1:7881",
        "lab up",
        "lab up --nodes 5 --backends 10 --frontends 2 --file net.toml --detach",
        "lab status -o json",
        "lab exec b1 -- curl -v http://203.0.113.10/",
        "lab kill n1",
        "lab pause 2",
        "lab resume n2",
        "lab restart n3 --wipe",
        "lab partition n1 n2",
        "lab partition n1 --all",
        "lab partition n1 n2 --direction outgoing --scope all --loss 30",
        "lab add n4",
        "lab remove 2",
        "lab heal",
        "lab down",
        "lab inet-serve",
        "lab netns-exec qnat-n1 -- ip link",
        "apply -f net.toml --dry-run -o json",
        "apply -f - --allow-empty",
        "apply -f net.toml --yes",
        "get config",
        "dump --to d.json --backend b1 --backend b2/ipconfig1 --node n1",
        "explain --from d.json 10.0.1.1 203.0.113.10:80 udp",
        "get shards --node n2",
        "status --api 127.0.0.1:7880",
        "flows --shard 3 --limit 5",
        "status --wait --timeout 5",
        "status --alone",
        "ports",
        "counters --all",
        "events --limit 20",
        "counters -o json",
        "hashes",
        "who --ip 203.0.113.1 --port 1234 --at 2026-01-31T12:00:00.000Z -o json",
        "who --ip 203.0.113.1 --port 1234",
        "node-remove n3 --incarnation 57",
        "node-drain 3 --incarnation 57 --node n1",
        "node-resume n3",
        "cluster sign --ca ca --request node.csr --out n4.pem",
        "join request --dir n4 --cluster prod --node 4=198.18.0.4:7800 --member 1=198.18.0.1:7800 --member n2=198.18.0.2:7800",
        "join accept --dir n4 --certificate n4.pem",
        "cache",
        "cache on --node n2",
        "stop-token revoke",
        "stop --node n1",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).expect_err("refused"));
    }
}

#[test]
fn wrong_lines_are_refused_as_usage() {
    for line in [
        "frobnicate",
        "node",
        "cluster init --out d --name prod",
        "cluster init --out d --name prod --node 1",
        "cluster init --out d --name prod --node 1=host:7800",
        "lab exec x9 -- ls",
        "lab exec b1",
        "lab partition n1",
        "lab partition n1 n2 --all",
        "lab partition n1 n2 --loss 0",
        "lab partition n1 n2 --direction sideways",
        "get cats",
        "status --api nowhere",
        "status -o yaml",
        "status --timeout 5",
        "node-remove n0 --incarnation 1",
        "node-remove n3",
        "join request --dir n4 --cluster prod --node 4=198.18.0.4:7800",
        "join request --dir n4 --cluster prod --node 4=198.18.0.4:7800 --member 1",
        "who --ip 203.0.113.1",
        "who --ip 203.0.113.1 --port 1234 --at yesterday",
        "cache maybe",
        "stop-token",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}: {error}");
    }
}

#[test]
fn a_partition_means_what_it_says() {
    let Command::Lab { command: lab::LabCommand::Partition(partition) } =
        parse("lab partition n1 n3 --direction incoming --scope data --loss 5").expect("good").command
    else {
        panic!("another command")
    };
    let cut = partition.cut();
    assert_eq!((cut.node, cut.from, cut.loss_percent), (1, Some(3), 5));
    assert_eq!((cut.direction, cut.scope), (Direction::Incoming, Scope::Data));
}

#[test]
fn exit_codes_tell_refused_from_unreachable() {
    let addr = member::default_api();
    let refused = |status| anyhow::Error::new(ClientError::Refused(Failure::new(status, "no")));
    assert_eq!(exit_code(&refused(409)), EXIT_FAILED);
    assert_eq!(exit_code(&refused(503)), EXIT_UNREACHABLE);
    let unreachable = ClientError::Unreachable { addr, reason: "refused".into() };
    assert_eq!(exit_code(&anyhow::Error::new(unreachable).context("n1")), EXIT_UNREACHABLE);
    assert_eq!(exit_code(&anyhow::anyhow!("no such file")), EXIT_FAILED);
}

#[test]
fn a_status_is_wrong_from_a_warning_on_and_when_it_cannot_be_read() {
    let with = |severity: &str| {
        serde_json::json!({"concerns": [{"severity": severity, "subject": {"kind": "cluster"}, "what": "other",
                                         "why": "w", "remedy": "r"}]})
    };
    assert!(!something_is_wrong(&serde_json::json!({"concerns": []})));
    assert!(!something_is_wrong(&with("notice")));
    assert!(something_is_wrong(&with("warning")) && something_is_wrong(&with("critical")));
    assert!(something_is_wrong(&with("of another version")) && something_is_wrong(&serde_json::json!({})));
    assert!(is_status(&Request::Status.together()) && !is_status(&Request::Ports.together()));
}

#[test]
fn a_resource_file_that_is_not_there_is_named() {
    let error = read_resources(std::path::Path::new("/nonexistent/net.toml")).expect_err("not there");
    assert!(format!("{error:#}").starts_with("/nonexistent/net.toml: "), "{error:#}");
}
