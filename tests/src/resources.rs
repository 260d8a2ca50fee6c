//! The lab's own resources as files to apply, changed where a test needs it. Called by the tests in `tests/`.

use std::io::Write as _;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::command::{json, try_json, wait_until};

/// What differs from the default resources; empty: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    /// Lines of the outbound rule.
    pub rule: &'a str,
    /// Lines of `[outside]`.
    pub outside: &'a str,
    /// Further tables.
    pub more: &'a str,
}

impl Changes<'_> {
    /// The whole, for a lab of three members and four backends.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { rule, outside, more } = self;
        let mut text = format!(
            "[[virtual_network]]\nname = \"vnet1\"\n[[virtual_network.subnet]]\nname = \"default\"\n\
             prefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n\
             [[load_balancer]]\nname = \"lb1\"\nfrontends = [\"pip1\", \"pip2\", \"pip3\"]\n\
             [[load_balancer.pool]]\nname = \"pool1\"\n\
             [[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"pool1\"\n{rule}\n\
             [outside]\nnetwork = \"203.0.113.0/24\"\n{outside}\n"
        );
        for number in 1..=3 {
            text += &format!("[[public_ip]]\nname = \"pip{number}\"\naddress = \"203.0.113.{number}\"\n");
        }
        text + &instances(1..=4) + more
    }

    /// The whole as a file.
    ///
    /// # Panics
    /// If no temporary file can be written.
    #[must_use]
    pub fn file(&self) -> NamedTempFile {
        file_of(&self.text())
    }

    /// Applies them to the lab that is up, and waits until every member that answers judges by them.
    ///
    /// # Panics
    /// If they are refused, or take long.
    pub fn apply(&self) {
        apply(&self.text());
    }
}

/// Instances of the default pool, by number: 1 to 255.
#[must_use]
pub fn instances(numbers: std::ops::RangeInclusive<u32>) -> String {
    let instance = |number: u32| {
        format!(
            "[[instance]]\nname = \"b{number}\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
             private_ip = \"10.0.1.{number}\"\nsubnet = \"vnet1/default\"\npool = \"lb1/pool1\"\n"
        )
    };
    numbers.map(instance).collect()
}

/// A text as a file.
///
/// # Panics
/// If no temporary file can be written.
#[must_use]
pub fn file_of(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a temporary file");
    file
}

/// Applies a whole configuration to the lab that is up, and waits until every member that answers judges by it.
///
/// # Panics
/// If it is refused, or takes long.
pub fn apply(text: &str) {
    let file = file_of(text);
    let answer = json(&["apply", "--yes", "-o", "json", "-f", file.path().to_str().expect("a plain path")]);
    let index = answer["committed"].as_u64();
    let judges_by_it = |node: u32| {
        let status = try_json(&["status", "-o", "json", "--node", &format!("n{node}")]);
        status.is_none_or(|status| status["me"]["control_loaded"].as_u64() >= index)
    };
    wait_until("the members to load the resources", Duration::from_secs(10), || (1..=3).all(judges_by_it));
}
