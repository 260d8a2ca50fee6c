//! The data interfaces of this machine that `node.toml` names, as they are found at the start. Used by whoever opens them.

use anyhow::{Context as _, Result};
use netio::link::Link;
use netio::superpacket;

use super::config::NodeConfig;

/// The data interfaces, found.
#[derive(Clone)]
pub(super) struct Interfaces {
    pub(super) outside: Link,
    /// In the order of `node.toml`.
    pub(super) inside: Vec<Link>,
}

impl Interfaces {
    /// # Errors
    /// If one is not there.
    pub(super) fn named(config: &NodeConfig) -> Result<Self> {
        let link = |name: &str| {
            Link::named(name)
                .with_context(|| format!("data interface {name}: set [data] inside and outside to existing interfaces"))
        };
        let inside = config.data.inside.iter().map(|one| link(&one.interface)).collect::<Result<_>>()?;
        Ok(Self { outside: link(&config.data.outside)?, inside })
    }

    /// They merge no more than a buffer of the packet loop holds.
    pub(super) fn limit_merging(&self) {
        std::iter::once(&self.outside).chain(&self.inside).for_each(limit_merging);
    }
}

fn limit_merging(link: &Link) {
    {
        match superpacket::limit(link) {
            Ok(None) => {}
            Ok(Some(was)) => {
                let (interface, now) = (&link.name, superpacket::LIMIT);
                tracing::warn!(interface, was, now, "gro_ipv4_max_size lowered: longer packets could not be received");
            }
            Err(error) => {
                let interface = &link.name;
                tracing::warn!(interface, %error, "gro_ipv4_max_size could not be looked at; it must not exceed 65536");
            }
        }
    }
}
