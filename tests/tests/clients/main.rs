//! Real clients, before, while and after the owner of their shard is killed. Needs root and what `scripts/setup` installs.

mod names;
mod nat_type;
mod path;
mod sessions;
mod streams;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use qnat_tests::checks;
use qnat_tests::lab::{Lab, ok, run};
use qnat_tests::shared;

use names::Names;
use nat_type::{a_stun_client_finds_what_the_azure_profile_claims, a_stun_client_finds_what_the_rfc_profile_claims};
use path::FarHost;
use sessions::{Idle, Shell};
use streams::{Download, Streams};

fn main() -> ExitCode {
    shared::run(checks![
        streams_downloads_shells_and_idle_connections_outlive_their_owner,
        names_paths_and_mtus_are_told_whoever_is_the_owner,
        a_stun_client_finds_what_the_azure_profile_claims,
        a_stun_client_finds_what_the_rfc_profile_claims,
    ])
}

const SOON: Duration = Duration::from_secs(10);

/// What a command on a host printed, whatever its exit code.
fn said(host: &str, argv: &[&str]) -> String {
    let output = run(&[&["lab", "exec", host, "--"], argv].concat());
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Looks before, during and after the death of the owner of b1. During: the question is asked when nobody owns the shard.
fn before_during_and_after(lab: &Lab, mut look: impl FnMut(&str)) {
    look("before");
    let owner = lab.kill_owner_of("b1");
    look("while the owner is gone");
    lab.wait_for_successor("b1", owner);
    look("under the successor");
    ok(&["lab", "restart", &format!("n{owner}")]);
    lab.wait_until_whole(Duration::from_secs(60));
    look("after the owner came back");
}

fn streams_downloads_shells_and_idle_connections_outlive_their_owner(lab: &Lab) {
    let (idle, mut shell, download) = (Idle::begin(lab), Shell::begin(lab), Download::begin(lab));
    let streams = Streams::begin(lab);
    std::thread::sleep(Duration::from_secs(1));
    let owner = lab.kill_owner_of("b1");
    let killed = Instant::now();
    shell.type_hello();
    lab.wait_for_successor("b1", owner);
    download.end(lab);
    streams.end(killed);
    shell.end();
    idle.end(lab, killed);
}

fn names_paths_and_mtus_are_told_whoever_is_the_owner(lab: &Lab) {
    let (mut names, mut far) = (Names::serve(lab), FarHost::up(lab));
    before_during_and_after(lab, |when| {
        names.look(when);
        far.look(when);
    });
}
