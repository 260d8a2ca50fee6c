//! What is wrong with a declared configuration, collected: each issue names the field, its value, the rule and what would be
//! right. Knows no resource. Used by `validate` and by the rooms that judge their own resources.

use words::Prefix;

/// Most issues reported at once.
pub const ISSUES_MAX: usize = 50;
/// Longest name.
pub const NAME_LEN_MAX: usize = 63;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// The field: `kind.name.field`, as in `instance.b1.ip_configuration.ipconfig1.private_ip`.
    pub path: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// Collects issues.
#[derive(Default)]
pub(crate) struct Judge {
    pub(crate) issues: Vec<Issue>,
}

impl Judge {
    pub(crate) fn say(
        &mut self,
        path: &str,
        value: impl ToString,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(Issue {
                path: path.into(),
                value: value.to_string(),
                problem: problem.into(),
                remedy: remedy.into(),
            });
        }
    }

    /// Says that there are more of something than there may be; whether that is so.
    pub(crate) fn too_many(&mut self, path: &str, what: &str, count: usize, most: usize) -> bool {
        if count > most {
            self.say(path, count, format!("too many {what}"), format!("at most {most}"));
        }
        count > most
    }

    pub(crate) fn name(&mut self, path: &str, name: &str) {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(legal) {
            self.say(path, name, "is not a legal name", format!("use 1 to {NAME_LEN_MAX} letters, digits, '-' or '_'"));
        }
    }

    pub(crate) fn prefix(&mut self, path: &str, prefix: Prefix, lengths: std::ops::RangeInclusive<u8>) -> bool {
        if !lengths.contains(&prefix.len) {
            let (low, high) = (lengths.start(), lengths.end());
            self.say(path, prefix, "has a prefix length out of range", format!("use /{low} to /{high}"));
            return false;
        }
        if prefix.normal() != prefix {
            self.say(path, prefix, "has host bits set", format!("write {}", prefix.normal()));
            return false;
        }
        true
    }
}

/// A bounded list of names for a remedy.
pub(crate) fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let some: Vec<&str> = names.map(String::as_str).take(8).collect();
    if some.is_empty() { "(none declared)".into() } else { some.join(", ") }
}
