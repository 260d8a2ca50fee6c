//! What ICMP tells a user through the gateway, with the tools that he has. Needs root.

use std::time::Duration;

use qnat_tests::lab::{INET, Lab, ok, run, wait_until};
use qnat_tests::resources::Changes;

/// What a command on a host printed, whatever its exit code.
fn said(host: &str, argv: &[&str]) -> String {
    let output = run(&[&["lab", "exec", host, "--"], argv].concat());
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_gateway_is_the_first_hop_and_says_so() {
    let _lab = Lab::up();
    let answer = said("b1", &["ping", "-c", "1", "-t", "1", "-W", "3", INET]);
    assert!(answer.contains("From 10.0.0.1") && answer.contains("Time to live exceeded"), "{answer}");
    let answer = said("b1", &["ping", "-c", "1", "-t", "2", "-W", "3", INET]);
    assert!(answer.contains(" 0% packet loss"), "one hop and no more: {answer}");
}

#[test]
fn a_closed_port_is_refused_by_the_host_itself() {
    let lab = Lab::up();
    // The refusal of the first datagram is what the second one meets.
    let script = format!("exec 3<>/dev/udp/{INET}/9999; for i in 1 2 3 4 5; do echo x >&3 || exit 7; sleep 0.2; done");
    let output = run(&["lab", "exec", "b1", "--", "bash", "-c", &script]);
    let heard = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(7) && heard.contains("refused"), "{:?} {heard}", output.status);
    assert_eq!(lab.live_mappings("10.0.1.1", 9999).len(), 1, "R9: an error ends no mapping");
}

#[test]
fn a_smaller_link_behind_the_gateway_is_told_of_and_fragments_pass_both_ways() {
    let lab = Lab::up();
    for (host, link) in [("n1", "outside"), ("n2", "outside"), ("n3", "outside"), ("inet", "eth0")] {
        let _changed = lab.exec(host, &["ip", "link", "set", link, "mtu", "1280"]);
    }
    // Each member looks at its links now and then, and each of these hosts may have another owner.
    for host in ["b1", "b2", "b3"] {
        wait_until("a packet too long to be refused with the right size", Duration::from_secs(10), || {
            said(host, &["ping", "-c", "1", "-M", "do", "-s", "1400", "-W", "1", INET]).contains("1280")
        });
    }
    let answer = said("b2", &["ping", "-c", "3", "-i", "0.2", "-M", "dont", "-s", "1400", "-W", "3", INET]);
    assert!(answer.contains(" 0% packet loss"), "cut on the way out, in fragments on the way back: {answer}");
    let answer = said("b3", &["ping", "-c", "3", "-i", "0.2", "-M", "dont", "-s", "4000", "-W", "3", INET]);
    assert!(answer.contains(" 0% packet loss"), "in fragments already when it comes to the gateway: {answer}");
}

/// A link behind the internet's host, of which the gateway knows nothing, and a host at its end that never answers.
fn far_link(lab: &Lab) -> &'static str {
    let far = "198.51.100.9";
    let script = format!(
        "ip link add far0 type veth peer name far1 && ip link set far0 up && ip link set far1 up && \
         ip route add 198.51.100.0/24 dev far0 && ip neigh add {far} lladdr 02:00:00:00:00:09 dev far0 && \
         echo 1 > /proc/sys/net/ipv4/ip_forward"
    );
    let _built = lab.exec("inet", &["sh", "-c", &script]);
    Changes { outside: &format!("next_hop = \"{INET}\""), ..Changes::default() }.apply();
    far
}

#[test]
fn after_the_owner_s_death_a_flow_still_hears_of_a_link_that_became_smaller() {
    let lab = Lab::up();
    let far = far_link(&lab);
    // One ping, so one mapping: nobody answers, and each echo request fits until the link shrinks.
    let mut ping = lab.spawn("b1", &["ping", "-M", "do", "-s", "1400", "-i", "0.2", "-w", "60", far]);
    wait_until("the mapping", Duration::from_secs(10), || lab.live_mappings("10.0.1.1", 0).len() == 1);
    let before = lab.live_mappings("10.0.1.1", 0);
    let owner = lab.owner_of("b1");
    ok(&["lab", "kill", &format!("n{owner}")]);
    wait_until("the mapping to be with another owner", Duration::from_secs(20), || {
        lab.owner_of("b1") != owner && lab.live_mappings("10.0.1.1", 0) == before
    });
    assert!(!said("b1", &["ip", "route", "get", far]).contains("mtu 1280"), "nobody has complained yet");
    let _shrunk = lab.exec("inet", &["ip", "link", "set", "far0", "mtu", "1280"]);
    wait_until("the backend to know what the link takes", Duration::from_secs(10), || {
        said("b1", &["ip", "route", "get", far]).contains("mtu 1280")
    });
    assert_eq!(lab.live_mappings("10.0.1.1", 0), before, "R9: an error ends no mapping");
    ping.kill().expect("ping runs");
    ping.wait().expect("ping ends");
}
