//! The configuration that the operator of a simulated cluster declares, and how he changes it under traffic.

use control::command::{CommandBody, Configure};
use engine::snapshot::OnReclaim;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::net::Ipv4Addr;

/// Backends that send.
pub(super) const BACKENDS: u8 = 6;
const FRONTENDS: usize = 3;
/// Instances that only count: with few the pool is in the first tier, with many in the second (S11).
const FEW: u16 = 40;
const MANY: u16 = 55;

/// What is declared.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    frontends: [bool; FRONTENDS],
    backends: [bool; BACKENDS as usize],
    fillers: u16,
    on_reclaim: OnReclaim,
    grace_ms: u32,
    hold_ms: u32,
}

impl Declared {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            frontends: [true; FRONTENDS],
            backends: [true; BACKENDS as usize],
            fillers: if rng.random_bool(0.5) { FEW } else { MANY },
            on_reclaim: match rng.random_range(0..10) {
                0 | 1 => OnReclaim::Drain,
                2 => OnReclaim::Reset,
                _ => OnReclaim::Expire,
            },
            grace_ms: rng.random_range(0..=1_200),
            hold_ms: rng.random_range(0..=2_500),
        }
    }

    /// One change.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        match rng.random_range(0..10) {
            0..=3 => self.fillers = if self.fillers == FEW { MANY } else { FEW },
            4 | 5 => {
                let at = rng.random_range(0..self.backends.len());
                self.backends[at] = !self.backends[at];
            }
            6 | 7 => {
                let at = rng.random_range(0..FRONTENDS);
                self.frontends[at] = !self.frontends[at];
                if self.frontends.iter().all(|declared| !declared) {
                    self.frontends[at] = true;
                }
            }
            8 => self.grace_ms = rng.random_range(0..=1_200),
            _ => self.hold_ms = rng.random_range(0..=2_500),
        }
    }

    /// Whether a backend is declared.
    pub(super) fn has(&self, backend: u8) -> bool {
        self.backends[usize::from(backend - 1)]
    }

    /// Whether a block that is taken back closes its flows at once.
    pub(super) fn expires(&self) -> bool {
        self.on_reclaim != OnReclaim::Drain
    }

    /// Whether its ends hear of it.
    pub(super) fn resets(&self) -> bool {
        self.on_reclaim == OnReclaim::Reset
    }

    pub(super) fn backend_ip(backend: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, backend)
    }

    pub(super) fn command(&self) -> CommandBody {
        let desired = control::config::parse("sim", &self.text()).expect("a correct configuration");
        CommandBody::Configure(Box::new(Configure { desired, base_hash: None, hints: Vec::new() }))
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "[outside]\nnetwork = \"203.0.113.0/24\"\n[[virtual_network]]\nname = \"v\"\n[[virtual_network.subnet]]\n\
             name = \"d\"\nprefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n",
        );
        let frontends: Vec<usize> = (0..FRONTENDS).filter(|at| self.frontends[*at]).map(|at| at + 1).collect();
        for n in &frontends {
            text += &format!("[[public_ip]]\nname = \"p{n}\"\naddress = \"203.0.113.{n}\"\n");
        }
        let names: Vec<String> = frontends.iter().map(|n| format!("\"p{n}\"")).collect();
        let on_reclaim = match self.on_reclaim {
            OnReclaim::Expire => "expire",
            OnReclaim::Drain => "drain",
            OnReclaim::Reset => "reset",
        };
        text += &format!(
            "[[load_balancer]]\nname = \"lb\"\nfrontends = [{}]\n[[load_balancer.pool]]\nname = \"w\"\n\
             [[load_balancer.outbound_rule]]\nname = \"o\"\npool = \"w\"\non_reclaim = \"{on_reclaim}\"\n",
            names.join(", ")
        );
        let active = (1..=BACKENDS).filter(|n| self.has(*n)).map(|n| (format!("b{n}"), Self::backend_ip(n)));
        let fillers = (0..self.fillers).map(|n| (format!("f{n}"), Ipv4Addr::new(10, 0, 2, n.to_le_bytes()[0])));
        for (name, ip) in active.chain(fillers) {
            text += &format!(
                "[[instance]]\nname = \"{name}\"\n[[instance.ip_configuration]]\nname = \"i\"\nprivate_ip = \"{ip}\"\n\
                 subnet = \"v/d\"\npool = \"lb/w\"\n"
            );
        }
        text += &format!(
            "[settings]\norphan_grace_ms = {}\nhold_ms = [{h}, {h}, {h}, {h}, {h}]\nrecreate_quarantine_ms = 1500\n",
            self.grace_ms,
            h = self.hold_ms
        );
        text
    }
}
