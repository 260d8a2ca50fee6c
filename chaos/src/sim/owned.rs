//! Public addresses that are one instance's own (S2): who is to have which, and how the operator gives, takes and moves them.

use std::fmt::Write;
use std::net::Ipv4Addr;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Most that a run has.
const ADDRESSES_MAX: usize = 4;
/// The first of them.
const FIRST: u8 = 20;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    /// By address, who is to have it.
    of: Vec<Option<u8>>,
    /// Backends that are in no pool: without an address of their own they have no way out.
    alone: Vec<bool>,
}

impl Owned {
    pub(super) fn draw(rng: &mut ChaCha8Rng, backends: u8) -> Self {
        let count = if rng.random_bool(0.6) { rng.random_range(1..=ADDRESSES_MAX) } else { 0 };
        let mut all = Self { of: vec![None; count], alone: vec![false; usize::from(backends)] };
        for at in 0..count {
            if rng.random_bool(0.7) {
                all.give(at, rng.random_range(1..=backends));
            }
        }
        for (alone, backend) in all.alone.iter_mut().zip(1..) {
            *alone = all.of.contains(&Some(backend)) && rng.random_bool(0.25);
        }
        all
    }

    pub(super) fn none(backends: u8) -> Self {
        Self { of: Vec::new(), alone: vec![false; usize::from(backends)] }
    }

    /// Whether there is any address to change something about.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// One change: an address is taken, given, or goes from one to another at once.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        let at = rng.random_range(0..self.of.len());
        let backends = u8::try_from(self.alone.len()).expect("few");
        let to = rng.random_range(1..=backends);
        if self.of[at].take().is_none() || rng.random_bool(0.5) {
            self.give(at, to);
        }
    }

    /// Each has one at most.
    fn give(&mut self, at: usize, to: u8) {
        self.of[at] = if self.of.contains(&Some(to)) { None } else { Some(to) };
    }

    /// Whether a backend is in the pool.
    pub(super) fn is_pooled(&self, backend: u8) -> bool {
        !self.alone[usize::from(backend - 1)]
    }

    /// The declared addresses; one that nobody is to have is declared or not.
    pub(super) fn addresses(&self) -> String {
        let declared = self.of.iter().zip(0u8..).filter(|(to, n)| to.is_some() || n % 2 == 0);
        declared.fold(String::new(), |mut text, (_, n)| {
            let ip = Ipv4Addr::new(203, 0, 113, FIRST + n);
            write!(text, "[[public_ip]]\nname = \"o{n}\"\naddress = \"{ip}\"\n").expect("memory takes all");
            text
        })
    }

    /// The field of a backend's IP configuration.
    pub(super) fn field(&self, backend: u8) -> String {
        let own = self.of.iter().position(|to| *to == Some(backend));
        own.map_or_else(String::new, |n| format!("public_ip = \"o{n}\"\n"))
    }
}
