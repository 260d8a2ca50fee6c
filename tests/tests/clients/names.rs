//! Queries to a name server.

use qnat_tests::lab::{INET, Lab};

use crate::{SOON, before_during_and_after, said};

pub(crate) fn names_are_resolved_whoever_is_the_owner(lab: &Lab) {
    let listen = format!("--listen-address={INET}");
    let large = format!("--txt-record=large.example,{}", "x".repeat(200));
    let mut argv = vec!["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"];
    argv.extend(["--bind-interfaces", &listen, "--edns-packet-max=4096", "--address=/small.example/192.0.2.53"]);
    argv.extend([large.as_str(); 14]);
    let server = lab.start("inet", &argv);
    server.wait_for("started", SOON);
    let at = format!("@{INET}");
    before_during_and_after(lab, |when| {
        let ask = |more: &[&str]| said("b1", &[&["dig", &at, "+time=1", "+tries=8"], more].concat());
        let answer = ask(&["small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(UDP)"), "{when}: {answer}");
        let answer = ask(&["+tcp", "small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(TCP)"), "{when}: {answer}");
        let answer = ask(&["+bufsize=4096", "+ignore", "large.example", "TXT"]);
        let size = answer.split("MSG SIZE  rcvd: ").nth(1).and_then(|rest| rest.trim().parse::<u32>().ok());
        assert!(size > Some(2_800) && answer.contains("(UDP)"), "{when}, in fragments: {answer}");
        assert_eq!(answer.matches(&"x".repeat(200)).count(), 14, "{when}");
    });
}
