//! Queries to a name server.

use qnat_tests::lab::{INET, Lab};
use qnat_tests::running::Running;

use crate::{SOON, said};

/// A name server in the internet.
pub(crate) struct Names(Running);

impl Names {
    pub(crate) fn serve(lab: &Lab) -> Self {
        let listen = format!("--listen-address={INET}");
        let large: Vec<String> =
            (1..=14).map(|n| format!("--txt-record=large.example,{}{n}", "x".repeat(200))).collect();
        let mut argv = vec!["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"];
        argv.extend(["--bind-interfaces", &listen, "--edns-packet-max=4096", "--address=/small.example/192.0.2.53"]);
        argv.extend(large.iter().map(String::as_str));
        let server = lab.start("inet", &argv);
        server.wait_for("started", SOON);
        Self(server)
    }

    /// A small answer over UDP and TCP, and one in fragments.
    pub(crate) fn look(&mut self, when: &str) {
        assert!(self.0.goes_on(), "{}", self.0.said());
        let at = format!("@{INET}");
        let ask = |more: &[&str]| said("b1", &[&["dig", &at, "+time=1", "+tries=8"], more].concat());
        let answer = ask(&["small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(UDP)"), "{when}: {answer}");
        let answer = ask(&["+tcp", "small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(TCP)"), "{when}: {answer}");
        let answer = ask(&["+bufsize=4096", "+ignore", "large.example", "TXT"]);
        let size = answer.split("MSG SIZE  rcvd: ").nth(1).and_then(|rest| rest.trim().parse::<u32>().ok());
        assert!(size > Some(2_800) && answer.contains("(UDP)"), "{when}, in fragments: {answer}");
        assert_eq!(answer.matches(&"x".repeat(200)).count(), 14, "{when}");
    }
}
