//! Real clients, before, while and after the owner of their shard is killed. Needs root and what `scripts/setup` installs.

mod names;
mod nat_type;
mod path;
mod sessions;
mod streams;

use std::process::ExitCode;
use std::time::Duration;

use qnat_tests::checks;
use qnat_tests::lab::{Lab, ok, run};
use qnat_tests::shared;

use names::names_are_resolved_whoever_is_the_owner;
use nat_type::{a_stun_client_finds_what_the_azure_profile_claims, a_stun_client_finds_what_the_rfc_profile_claims};
use path::the_path_and_its_mtu_are_told_whoever_is_the_owner;
use sessions::{
    a_shell_session_goes_on_while_its_owner_dies, keepalives_keep_an_idle_connection_through_the_death_of_its_owner,
};
use streams::{a_download_survives_the_death_of_its_owner, streams_both_ways_are_as_fast_again_after_their_owner_died};

fn main() -> ExitCode {
    shared::run(checks![
        streams_both_ways_are_as_fast_again_after_their_owner_died,
        a_download_survives_the_death_of_its_owner,
        a_shell_session_goes_on_while_its_owner_dies,
        keepalives_keep_an_idle_connection_through_the_death_of_its_owner,
        names_are_resolved_whoever_is_the_owner,
        the_path_and_its_mtu_are_told_whoever_is_the_owner,
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
