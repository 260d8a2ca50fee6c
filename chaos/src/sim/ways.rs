//! By which right backends leave (S2–S5): who is in the pool, who has which address of its own, and whom the system's addresses are
//! left for; and how the operator moves backends between the three under their flows (D12).

use std::fmt::Write;
use std::net::Ipv4Addr;

use engine::record::Proto;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::inward::Lead;

/// Most own addresses that a run has, and the first of them.
const OWN_MAX: usize = 4;
const OWN_FIRST: u8 = 20;
/// The same of the system's.
const SYSTEM_MAX: usize = 3;
const SYSTEM_FIRST: u8 = 40;
/// Most availability sets.
const SETS_MAX: u8 = 2;

/// What a backend is declared to leave by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The pool's grant; a new flow leaves by an address of its own, if it has one too.
    Pool,
    /// An address of its own, and nothing else.
    Own,
    /// What the system chooses.
    Default,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// By address, who is to have it.
    own: Vec<Option<u8>>,
    /// Which of the system's addresses are declared.
    system: Vec<bool>,
    /// Backends that are in no pool.
    alone: Vec<bool>,
    /// Backends are in so many availability sets; the others are in none.
    sets: u8,
    /// The subnet of the second network keeps its instances from the system's addresses (D11).
    barred: bool,
}

impl Ways {
    pub(super) fn draw(rng: &mut ChaCha8Rng, backends: u8) -> Self {
        let own = if rng.random_bool(0.6) { rng.random_range(1..=OWN_MAX) } else { 0 };
        let system = if rng.random_bool(0.6) { rng.random_range(1..=SYSTEM_MAX) } else { 0 };
        let mut all = Self {
            own: vec![None; own],
            system: vec![true; system],
            alone: vec![false; usize::from(backends)],
            sets: rng.random_range(0..=SETS_MAX),
            barred: rng.random_bool(0.1),
        };
        for at in 0..own {
            if rng.random_bool(0.7) {
                all.give(at, rng.random_range(1..=backends));
            }
        }
        for backend in 1..=backends {
            let another = system > 0 || all.own.contains(&Some(backend));
            all.alone[usize::from(backend - 1)] = another && rng.random_bool(0.3);
        }
        all
    }

    /// Whether anything but the pool's ports is declared in this run.
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.system.is_empty()
    }

    /// One change: an address is taken, given, or goes from one to another at once; a backend joins the pool or leaves it; the
    /// system has an address more, or one less.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        let backends = u8::try_from(self.alone.len()).expect("few");
        let backend = rng.random_range(1..=backends);
        match rng.random_range(0..10) {
            0..=3 if !self.own.is_empty() => {
                let at = rng.random_range(0..self.own.len());
                if self.own[at].take().is_none() || rng.random_bool(0.5) {
                    self.give(at, backend);
                }
            }
            4 if !self.system.is_empty() => {
                let at = rng.random_range(0..self.system.len());
                self.system[at] = !self.system[at];
            }
            _ => {
                let alone = &mut self.alone[usize::from(backend - 1)];
                *alone = !*alone;
            }
        }
    }

    /// Each joins the pool, or leaves it.
    pub(super) fn move_all(&mut self) {
        self.alone.iter_mut().for_each(|alone| *alone = !*alone);
    }

    /// Each has one at most.
    fn give(&mut self, at: usize, to: u8) {
        self.own[at] = if self.own.contains(&Some(to)) { None } else { Some(to) };
    }

    /// By what a backend is declared to leave, where `is_second` is its network.
    pub(super) fn of(&self, backend: u8, is_second: bool) -> Option<Way> {
        let has_default = self.system.contains(&true) && !(self.barred && is_second);
        match (self.alone[usize::from(backend - 1)], self.own_of(backend)) {
            (false, _) => Some(Way::Pool),
            (true, Some(_)) => Some(Way::Own),
            (true, None) => has_default.then_some(Way::Default),
        }
    }

    /// Own addresses go to nobody any more.
    pub(super) fn disown(&mut self) {
        self.own.fill(None);
    }

    /// What only the pool and its addresses leave of it.
    pub(super) fn pool_alone(&self) -> Self {
        Self { own: Vec::new(), system: Vec::new(), ..self.clone() }
    }

    /// Public ends at own addresses; nobody may have one at a moment.
    pub(super) fn leads(&self) -> impl Iterator<Item = Lead> + '_ {
        let ends = [(Proto::Tcp, 2_222), (Proto::Udp, 2_223), (Proto::Sctp, 2_224), (Proto::Gre, 0)];
        let own = self.own.iter().zip(0..).map(|(_, n)| address(OWN_FIRST, n));
        own.flat_map(move |ip| ends.map(|(proto, port)| Lead { proto, to: (ip, port), floats: false }))
    }

    fn own_of(&self, backend: u8) -> Option<usize> {
        self.own.iter().position(|to| *to == Some(backend))
    }

    /// The declared addresses and sets; an own address that nobody is to have is declared or not.
    pub(super) fn addresses(&self) -> String {
        let declared = self.own.iter().zip(0u8..).filter(|(to, n)| to.is_some() || n % 2 == 0);
        let mut text = declared.fold(String::new(), |mut text, (_, n)| {
            let ip = address(OWN_FIRST, n);
            write!(text, "[[public_ip]]\nname = \"o{n}\"\naddress = \"{ip}\"\n").expect("memory takes all");
            text
        });
        let system = self.system.iter().zip(0u8..).filter(|(declared, _)| **declared);
        let system: Vec<String> = system.map(|(_, n)| format!("\"{}\"", address(SYSTEM_FIRST, n))).collect();
        if !system.is_empty() {
            text += &format!("[default_outbound]\naddresses = [{}]\n", system.join(", "));
        }
        for set in 1..=self.sets {
            text += &format!("[[availability_set]]\nname = \"s{set}\"\n");
        }
        text
    }

    /// What a subnet says of this.
    pub(super) const fn of_subnet(&self, is_second: bool) -> &'static str {
        if self.barred && is_second { "default_outbound_access = false\n" } else { "" }
    }

    /// What a backend's instance says of this.
    pub(super) fn of_instance(&self, backend: u8) -> String {
        let set = backend % (SETS_MAX + 1);
        if (1..=self.sets).contains(&set) { format!("availability_set = \"s{set}\"\n") } else { String::new() }
    }

    /// And its IP configuration; `pool` is how it names the pool.
    pub(super) fn of_ip_configuration(&self, backend: u8, pool: &str) -> String {
        self.of_member(backend, if self.alone[usize::from(backend - 1)] { "" } else { pool })
    }

    /// The same where it is in this pool anyhow.
    pub(super) fn of_member(&self, backend: u8, pool: &str) -> String {
        let own = self.own_of(backend).map_or_else(String::new, |n| format!("public_ip = \"o{n}\"\n"));
        format!("{pool}{own}")
    }
}

fn address(first: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, first + n)
}
