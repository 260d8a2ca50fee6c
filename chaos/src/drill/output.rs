//! How verdicts are written: for people, for programs, for build servers. Called by the command.

use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;

/// How a verdict is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For build servers.
    Junit,
}

/// What a drill found.
pub(super) trait Judged: Serialize + Sized {
    /// The drill, as on the command line.
    fn drill(&self) -> &'static str;
    /// What is not well; nothing if all is.
    fn reasons(&self) -> &[String];
    /// All verdicts for people.
    fn table(verdicts: &[Self]) -> String;
}

/// Prints all verdicts.
pub(super) fn write<V: Judged>(output: Output, verdicts: &[V]) -> Result<()> {
    let text = match output {
        Output::Table => V::table(verdicts),
        Output::Json => serde_json::to_string_pretty(verdicts)?,
        Output::Junit => junit(verdicts)?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// One test suite, one case for each verdict.
fn junit<V: Judged>(verdicts: &[V]) -> Result<String> {
    let failures = verdicts.iter().filter(|one| !one.reasons().is_empty()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"qnat-chaos drill\" tests=\"{}\" failures=\"{failures}\">\n",
        verdicts.len()
    );
    for one in verdicts {
        text += &format!("  <testcase classname=\"drill\" name=\"{}\">\n", escaped(one.drill()));
        if !one.reasons().is_empty() {
            text += &format!("    <failure>{}</failure>\n", escaped(&one.reasons().join("\n")));
        }
        let figures = serde_json::to_string(one)?;
        text += &format!("    <system-out>{}</system-out>\n  </testcase>\n", escaped(&figures));
    }
    Ok(text + "</testsuite>")
}

/// As XML text or attribute. Control characters that XML 1.0 forbids become `?`.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(letter),
            _ if letter.is_control() => safe.push('?'),
            _ => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::fault::Fault;
    use super::super::flood_verdict::FloodVerdict;
    use super::super::members::{Change, MembersVerdict};
    use super::super::verdict::Verdict;
    use super::*;

    #[test]
    fn a_failed_drill_is_a_failure_in_junit_and_its_reason_cannot_break_the_xml() {
        let verdict = Verdict::of(Fault::KillOwner, &[], vec!["run 1: <b> & \"\u{1b}\"".to_owned()]);
        let text = junit(&[verdict]).expect("plain data");
        assert!(text.contains("tests=\"1\" failures=\"1\""), "{text}");
        assert!(text.contains("<failure>run 1: &lt;b&gt; &amp; &quot;?&quot;\n"), "{text}");
        assert_eq!(text.matches("</testcase>").count(), 1, "{text}");
    }

    #[test]
    fn every_kind_of_verdict_is_written_for_build_servers() {
        let broken = || "run 1: no lab".to_owned();
        let members = junit(&[MembersVerdict::new(Change::Join, 180, vec![broken()])]).expect("plain data");
        let flood = junit(&[FloodVerdict::broken(broken())]).expect("plain data");
        for (text, name) in [(members, "join"), (flood, "peer-flood")] {
            assert!(text.contains(&format!("name=\"{name}\"")) && text.contains("<failure>run 1: no lab"), "{text}");
        }
    }
}
