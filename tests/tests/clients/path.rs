//! What programs that trace a path find out.

use qnat_tests::lab::{INET, Lab};
use qnat_tests::resources::Changes;
use qnat_tests::running::Running;

use crate::{SOON, said};

/// A host behind a router outside and a link of 1280 octets: 198.51.100.2 behind 203.0.113.10.
pub(crate) struct FarHost(Running);

impl FarHost {
    pub(crate) fn up(lab: &Lab) -> Self {
        let far = lab.start("inet", &["unshare", "--net", "sh", "-c", "echo there; exec sleep 3600"]);
        far.wait_for("there", SOON);
        let id = far.id().to_string();
        let script = format!(
            "set -e; ip link add far mtu 1280 type veth peer name eth0 mtu 1280 netns {id}
             ip address add 198.51.100.1/24 dev far; ip link set far up; echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
             inside='nsenter --target {id} --net'
             $inside ip address add 198.51.100.2/24 dev eth0; $inside ip link set eth0 up
             $inside ip route add default via 198.51.100.1"
        );
        let _done = lab.exec("inet", &["sh", "-c", &script]);
        let next_hop = format!("next_hop = \"{INET}\"");
        Changes { outside: &next_hop, ..Changes::default() }.apply();
        Self(far)
    }

    const ADDRESS: &str = "198.51.100.2";

    /// The gateway is the first hop, and the smaller link is told of by the router before it.
    pub(crate) fn look(&mut self, when: &str) {
        assert!(self.0.goes_on(), "{}", self.0.said());
        let path = ["10.0.0.1", INET, Self::ADDRESS];
        // Else what was learned the last time would be told.
        let _forgotten = said("b1", &["ip", "route", "flush", "cache"]);
        let text = said("b1", &["tracepath", "-n", Self::ADDRESS]);
        assert!(text.contains("Resume: pmtu 1280 hops 3 back 3"), "{when}: {text}");
        let hops = hops(&text);
        for (number, address) in (1..).zip(path) {
            assert!(
                hops.iter().any(|hop| (hop.0, hop.1.as_str()) == (number, address)),
                "{when}, hop {number}: {text}"
            );
        }
        let from_the_router = |hop: &&(u32, String, String)| hop.2.contains("pmtu 1280");
        assert_eq!(hops.iter().find(from_the_router).map(|hop| hop.1.as_str()), Some(INET), "{when}: {text}");
        let text = said("b2", &["mtr", "--no-dns", "--report", "-c", "4", "-i", "0.2", "-G", "0.5", Self::ADDRESS]);
        for (number, address) in (1..).zip(path) {
            let hop = format!("{number}.|-- {address} ");
            let line = text.lines().find(|line| line.contains(&hop)).unwrap_or_else(|| panic!("{when}: {text}"));
            assert!(when.starts_with("while") || line.contains(" 0.0% "), "{when}: {text}");
        }
    }
}

/// What is told of each hop by `tracepath`: number, address, and what else stands in its line.
fn hops(text: &str) -> Vec<(u32, String, String)> {
    let hop = |line: &str| {
        let (number, rest) = line.trim().split_once(':')?;
        let (address, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        Some((number.parse().ok()?, address.to_owned(), rest.trim().to_owned()))
    };
    text.lines().filter_map(hop).collect()
}
