//! `[data]` of `node.toml`: the data interfaces, one outside and one inside for each virtual network. Read by `config`; must
//! never look at interfaces or at networks: whether they are there is somebody else's to say.

use std::fmt;

use engine::fast::FastMode;
use serde::{Deserialize, Serialize};
use words::INSIDE_MAX;

/// Longest name of a network interface (IFNAMSIZ without the final zero).
const INTERFACE_NAME_MAX: usize = 15;
/// The inside interface, unless told otherwise.
const INSIDE_DEFAULT: &str = "inside";
/// Mappings that the kernel has room for, unless told otherwise: some 25 MB.
const CACHE_FLOWS: u32 = 65_536;
/// More are not worth it: beyond, memory is slower than a worker.
pub const CACHE_FLOWS_MAX: u32 = 1 << 20;

/// `[data]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataConfig {
    /// Interfaces to the backends, at least one.
    pub inside: Vec<InsideConfig>,
    /// Interface to the internet.
    pub outside: String,
    /// The BPF egress guard.
    pub guard: Guard,
    /// Whether the kernel carries mappings, at the start.
    pub cache: Cache,
    /// How many, in all.
    pub cache_flows: u32,
}

/// One `[[data.inside]]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InsideConfig {
    /// The interface.
    pub interface: String,
    /// Name of the virtual network that it leads to; may be left out if there is one interface, and one network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_network: Option<String>,
}

impl Default for DataConfig {
    fn default() -> Self {
        let inside = vec![InsideConfig { interface: INSIDE_DEFAULT.to_owned(), virtual_network: None }];
        Self {
            inside,
            outside: "outside".to_owned(),
            guard: Guard::Auto,
            cache: Cache::default(),
            cache_flows: CACHE_FLOWS,
        }
    }
}

/// Whether the egress guard must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Attach it if the machine can; say so in the status if not.
    #[default]
    Auto,
    /// Do not start without it.
    Required,
    /// Do not attach it.
    Off,
}

/// Whether the kernel's fast path carries the packets of mappings that stand; `qnat cache` changes it while the member runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Every packet passes a worker.
    Off,
    /// Mappings in use are handed over.
    #[default]
    On,
    /// All are, at once: for tests.
    Eager,
}

impl Cache {
    /// As the engine calls it.
    #[must_use]
    pub const fn mode(self) -> FastMode {
        match self {
            Self::Off => FastMode::Off,
            Self::On => FastMode::On,
            Self::Eager => FastMode::Eager,
        }
    }
}

/// What is wrong with it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) field: String,
    pub(super) value: String,
    pub(super) problem: &'static str,
    pub(super) remedy: String,
}

fn wrong(field: &str, value: &str, problem: &'static str, remedy: &str) -> Wrong {
    Wrong { field: field.to_owned(), value: value.to_owned(), problem, remedy: remedy.to_owned() }
}

/// Whether an interface can be called so.
pub(super) fn is_interface_name(value: &str) -> bool {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (1..=INTERFACE_NAME_MAX).contains(&value.len()) && !value.contains(forbidden)
}

fn interface(field: &str, value: &str) -> Result<(), Wrong> {
    let remedy = "use a name that `ip link` shows";
    if is_interface_name(value) {
        Ok(())
    } else {
        Err(wrong(field, &format!("{value:?}"), "is no interface name", remedy))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawData {
    outside: String,
    /// Of the only inside interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_network: Option<String>,
    guard: Guard,
    cache: Cache,
    cache_flows: u32,
    inside: RawInside,
}

/// A name, or a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RawInside {
    One(String),
    Many(Vec<InsideConfig>),
}

impl<'de> Deserialize<'de> for RawInside {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawInside;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an interface, or tables [[data.inside]]")
            }

            fn visit_str<E>(self, name: &str) -> Result<RawInside, E> {
                Ok(RawInside::One(name.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<RawInside, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list)).map(RawInside::Many)
            }
        }

        from.deserialize_any(Either)
    }
}

impl RawData {
    /// One inside interface for each virtual network, or one for the only one.
    pub(super) fn checked(self) -> Result<DataConfig, Wrong> {
        let (inside, listed) = match self.inside {
            RawInside::One(interface) => {
                (vec![InsideConfig { interface, virtual_network: self.virtual_network }], false)
            }
            RawInside::Many(many) => {
                if let Some(name) = &self.virtual_network {
                    let remedy = "write virtual_network into each [[data.inside]]";
                    return Err(wrong("data.virtual_network", name, "does not say of which interface", remedy));
                }
                (many, true)
            }
        };
        let field = |at: usize, name: &str| match (listed, name) {
            (true, name) => format!("data.inside[{at}].{name}"),
            (false, "interface") => "data.inside".to_owned(),
            (false, name) => format!("data.{name}"),
        };
        if inside.is_empty() || inside.len() > INSIDE_MAX {
            let (count, remedy) = (inside.len().to_string(), format!("list 1 to {INSIDE_MAX} of them"));
            return Err(wrong("data.inside", &count, "is no number of inside interfaces", &remedy));
        }
        if self.cache_flows > CACHE_FLOWS_MAX {
            let remedy = format!("use 0 (no fast path) to {CACHE_FLOWS_MAX}");
            return Err(wrong("data.cache_flows", &self.cache_flows.to_string(), "is too many", &remedy));
        }
        interface("data.outside", &self.outside)?;
        for (at, one) in inside.iter().enumerate() {
            interface(&field(at, "interface"), &one.interface)?;
            if one.interface == self.outside {
                let remedy = "inside and outside are two interfaces";
                return Err(wrong("data.outside", &self.outside, "is the inside interface too", remedy));
            }
            let before = &inside[..at];
            if before.iter().any(|other| other.interface == one.interface) {
                let remedy = "each virtual network has an interface of its own";
                return Err(wrong(&field(at, "interface"), &one.interface, "is listed twice", remedy));
            }
            match &one.virtual_network {
                Some(name) => {
                    if name.trim().is_empty() {
                        let remedy = "name the network that the interface leads to";
                        return Err(wrong(&field(at, "virtual_network"), "\"\"", "is empty", remedy));
                    }
                    if before.iter().any(|other| other.virtual_network.as_ref() == Some(name)) {
                        let remedy = "a virtual network has one interface on a member";
                        return Err(wrong(&field(at, "virtual_network"), name, "is listed twice", remedy));
                    }
                }
                None if inside.len() > 1 => {
                    let remedy = "with several inside interfaces each says which virtual network it leads to";
                    return Err(wrong(&field(at, "virtual_network"), "", "is missing", remedy));
                }
                None => {}
            }
        }
        let Self { outside, guard, cache, cache_flows, .. } = self;
        Ok(DataConfig { inside, outside, guard, cache, cache_flows })
    }

    pub(super) fn of(data: &DataConfig) -> Self {
        let (outside, guard) = (data.outside.clone(), data.guard);
        let (cache, cache_flows) = (data.cache, data.cache_flows);
        match &data.inside[..] {
            [InsideConfig { interface, virtual_network }] => Self {
                outside,
                virtual_network: virtual_network.clone(),
                guard,
                cache,
                cache_flows,
                inside: RawInside::One(interface.clone()),
            },
            many => {
                let inside = RawInside::Many(many.to_vec());
                Self { outside, virtual_network: None, guard, cache, cache_flows, inside }
            }
        }
    }
}

impl Default for RawData {
    fn default() -> Self {
        Self::of(&DataConfig::default())
    }
}
