//! The client's subnet behind a security group of many rules, or behind none.

use std::cell::Cell;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use qnat::answers::ConfigFile;
use qnat::daemon::request::{Request, ResourceKind};

use super::Way;
use crate::lab::Lab;

/// A line of the client's subnet.
const SUBNET: &str = "gateway = \"10.0.0.1\"\n";

/// Two configurations that differ in the group.
#[derive(Debug)]
pub(super) struct Configurations {
    plain: String,
    grouped: String,
    /// Whether the second one is in force.
    in_force: Cell<bool>,
}

impl Configurations {
    /// The lab's own, and the same with a group of `rules` for packets out, none of which the bench's traffic meets.
    ///
    /// # Errors
    /// If a member does not answer, or the client's subnet is not there.
    pub(super) fn of(lab: &Lab, rules: u32) -> Result<Self> {
        let ConfigFile { file: plain, .. } = lab.ask(1, &Request::Get { kind: ResourceKind::Config })?;
        ensure!(plain.matches(SUBNET).count() == 1, "the lab has not one subnet with {SUBNET}");
        let mut grouped = plain.replace(SUBNET, &format!("{SUBNET}security_group = \"bench\"\n"));
        grouped += "[[security_group]]\nname = \"bench\"\n";
        for rule in 0..rules {
            let (priority, net, port) = (rule + 100, rule % 250, rule * 61 % 60_000 + 1);
            writeln!(
                grouped,
                "[[security_group.rule]]\nname = \"r{rule}\"\npriority = {priority}\ndirection = \"outbound\"\n\
                 access = \"deny\"\nprotocol = \"udp\"\ndestination = \"192.0.{net}.0/24\"\n\
                 destination_ports = \"{port}-{}\"",
                port + 300
            )?;
        }
        Ok(Self { plain, grouped, in_force: Cell::new(false) })
    }

    /// Makes the one for `way` that in force.
    ///
    /// # Errors
    /// If it is refused.
    pub(super) fn choose(&self, lab: &Lab, way: Way) -> Result<()> {
        let wanted = way == Way::Grouped;
        if self.in_force.replace(wanted) != wanted {
            lab.apply(if wanted { &self.grouped } else { &self.plain })?;
        }
        Ok(())
    }
}
