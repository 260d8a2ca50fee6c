//! Partitions: frames dropped silently on the fabric's bridges, by a table of the bridge family that `nft` loads whole.
//! Links stay up, as they do when a switch in between fails; hosts and namespaces are not touched.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use netio::netns;
use serde::{Deserialize, Serialize};

use super::topology::{FABRIC, Host, Network, fabric_port};

/// Which way frames are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    Both,
    /// Only from the first node to the second (or to everyone).
    Outgoing,
    /// Only to the first node.
    Incoming,
}

/// On which networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The peers' network alone: the node still sees backends and internet.
    Peers,
    /// Inside and outside: the node still sees its peers.
    Data,
    /// Everything.
    All,
}

impl Scope {
    const fn networks(self) -> &'static [Network] {
        match self {
            Self::Peers => &[Network::Peers],
            Self::Data => &[Network::Inside, Network::Outside, Network::Inside2],
            Self::All => &Network::ALL,
        }
    }
}

/// One fault of the fabric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// The node that is cut off.
    pub node: u32,
    /// From whom; `None`: from every port of the networks.
    pub from: Option<u32>,
    /// Which way.
    pub direction: Direction,
    /// On which networks.
    pub scope: Scope,
    /// How many frames of a hundred are dropped; 100 is a partition.
    pub loss_percent: u8,
}

impl Cut {
    /// A symmetric and total partition between two nodes, or of one from all, on the peers' network.
    #[must_use]
    pub const fn partition(node: u32, from: Option<u32>) -> Self {
        Self { node, from, direction: Direction::Both, scope: Scope::Peers, loss_percent: 100 }
    }

    fn rules(&self, into: &mut String) {
        for &network in self.scope.networks() {
            let near = fabric_port(Host::Node(self.node), network);
            let far = self.from.map(|id| fabric_port(Host::Node(id), network));
            if self.direction != Direction::Incoming {
                rule(into, Some(&near), far.as_deref(), self.loss_percent);
            }
            if self.direction != Direction::Outgoing {
                rule(into, far.as_deref(), Some(&near), self.loss_percent);
            }
        }
    }
}

fn rule(into: &mut String, enters: Option<&str>, leaves: Option<&str>, loss_percent: u8) {
    into.push_str("    ");
    let ports = [("iifname", enters), ("oifname", leaves)];
    for (key, port) in ports.iter().filter_map(|(key, port)| port.map(|port| (key, port))) {
        write!(into, "{key} \"{port}\" ").expect("writing to a string cannot fail");
    }
    if loss_percent < 100 {
        write!(into, "numgen random mod 100 < {loss_percent} ").expect("writing to a string cannot fail");
    }
    into.push_str("counter drop\n");
}

/// The whole table for a set of cuts: loading it replaces the former one in one step.
fn ruleset(cuts: &[Cut]) -> String {
    let mut text = "table bridge qnat_lab\ndelete table bridge qnat_lab\n".to_owned();
    if !cuts.is_empty() {
        text.push_str("table bridge qnat_lab {\n  chain forward {\n    type filter hook forward priority 0;\n");
        cuts.iter().for_each(|cut| cut.rules(&mut text));
        text.push_str("  }\n}\n");
    }
    text
}

/// Makes the fabric drop what `cuts` say, and nothing else.
pub(super) fn load(cuts: &[Cut]) -> Result<()> {
    let text = ruleset(cuts);
    let output = netns::run_in(FABRIC, || {
        let mut nft = Command::new("nft");
        let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("piped above").write_all(text.as_bytes())?;
        child.wait_with_output()
    })?;
    let output = output.context("nft (package nftables) is needed for partitions")?;
    if !output.status.success() {
        bail!("nft refused the partition: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_cut_both_ways_on_the_peers_network_only() {
        let text = ruleset(&[Cut::partition(1, Some(2))]);
        assert!(text.contains("iifname \"n1-peer\" oifname \"n2-peer\" counter drop"));
        assert!(text.contains("iifname \"n2-peer\" oifname \"n1-peer\" counter drop"));
        assert_eq!(text.matches("drop").count(), 2);
    }

    #[test]
    fn one_way_loss_of_a_single_node_names_one_port_per_network() {
        let cut = Cut { node: 3, from: None, direction: Direction::Outgoing, scope: Scope::Data, loss_percent: 5 };
        let text = ruleset(&[cut]);
        assert!(text.contains("iifname \"n3-in\" numgen random mod 100 < 5 counter drop"));
        assert!(text.contains("iifname \"n3-out\" numgen random mod 100 < 5 counter drop"));
        assert!(!text.contains("oifname"));
    }

    #[test]
    fn healing_leaves_no_table() {
        assert_eq!(ruleset(&[]), "table bridge qnat_lab\ndelete table bridge qnat_lab\n");
    }
}
