//! Links on which instances reach each other by the gateway alone, and whom groups judge there (S41).

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Which links are isolated, and whom groups judge.
#[derive(Clone, Debug, Default)]
pub(super) struct Isolation {
    isolated: bool,
    /// By backend: always, or by turns.
    grouped: Vec<Grouped>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grouped {
    Never,
    Always,
    Now,
    NotNow,
}

impl Isolation {
    pub(super) fn draw(rng: &mut ChaCha8Rng, backends: u8) -> Self {
        if rng.random_bool(0.5) {
            return Self::default();
        }
        let of = |rng: &mut ChaCha8Rng| match rng.random_range(0..6) {
            0 | 1 => Grouped::Always,
            2 => Grouped::Now,
            3 => Grouped::NotNow,
            _ => Grouped::Never,
        };
        Self { isolated: true, grouped: (0..backends).map(|_| of(rng)).collect() }
    }

    /// Whether instances of one network reach each other by the gateway alone.
    pub(super) const fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Whether a group has judged a backend from the beginning.
    pub(super) fn is_judged(&self, backend: u8) -> bool {
        self.grouped.get(usize::from(backend - 1)) == Some(&Grouped::Always)
    }

    /// A group comes to somebody, or goes; the others keep what they have.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        let at = rng.random_range(0..self.grouped.len());
        self.grouped[at] = match self.grouped[at] {
            Grouped::Now => Grouped::NotNow,
            Grouped::NotNow => Grouped::Now,
            stays @ (Grouped::Never | Grouped::Always) => stays,
        };
    }

    /// The field of a subnet.
    pub(super) const fn of_subnet(&self) -> &'static str {
        if self.isolated { "isolated = true\n" } else { "" }
    }

    /// The card of a backend in this subnet, and the field of its IP configuration that names it.
    pub(super) fn card(&self, backend: u8, subnet: &str) -> (String, String) {
        let group = match self.grouped.get(usize::from(backend - 1)) {
            Some(Grouped::Always | Grouped::Now) => "security_group = \"all\"\n",
            Some(Grouped::NotNow) => "",
            Some(Grouped::Never) | None => return (String::new(), String::new()),
        };
        let card = format!("[[nic]]\nname = \"c{backend}\"\nsubnet = \"{subnet}\"\n{group}");
        (card, format!("nic = \"c{backend}\"\n"))
    }

    /// A group that lets everything pass, and so has it judged.
    pub(super) fn group(&self) -> String {
        let mut text = String::new();
        if self.isolated {
            text += "[[security_group]]\nname = \"all\"\n";
            for direction in ["inbound", "outbound"] {
                text += &format!(
                    "[[security_group.rule]]\nname = \"{direction}\"\npriority = 100\ndirection = \"{direction}\"\n\
                     access = \"allow\"\n"
                );
            }
        }
        text
    }
}
