//! Hot path. Which data link each interface of this member is: its `node.toml` names networks, the configuration says
//! which there are. Asked for each frame by the worker's thread, and by the guard's keeper.

use engine::snapshot::Networks;
use netio::port::Interface;
use words::{Link, VnetId};

use super::data_config::InsideConfig;

/// The inside interfaces, in the order of `node.toml`, with the networks that they lead to by the configuration in force.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    inside: Vec<(Option<String>, Option<VnetId>)>,
}

impl Bindings {
    /// Nothing is known of networks yet.
    #[must_use]
    pub fn new(inside: &[InsideConfig]) -> Self {
        Self { inside: inside.iter().map(|one| (one.virtual_network.clone(), None)).collect() }
    }

    /// These are the networks from now on. Returns those that an interface leads to.
    pub fn load(&mut self, networks: &Networks) -> Vec<VnetId> {
        for (named, carried) in &mut self.inside {
            *carried = networks.carried(named.as_deref());
        }
        self.inside.iter().filter_map(|(_, carried)| *carried).collect()
    }

    /// The link of an interface; `None`: its network is not there.
    #[inline]
    #[must_use]
    pub fn link(&self, interface: Interface) -> Option<Link> {
        match interface.index().checked_sub(1) {
            None => Some(Link::Outside),
            Some(place) => self.inside.get(place)?.1.map(Link::Inside),
        }
    }

    /// The interface of a link, if there is one.
    #[inline]
    #[must_use]
    pub fn interface(&self, link: Link) -> Option<Interface> {
        match link {
            Link::Outside => Some(Interface::OUTSIDE),
            Link::Inside(vnet) => {
                let place = self.inside.iter().position(|(_, carried)| *carried == Some(vnet))?;
                u8::try_from(place).ok().map(Interface::inside)
            }
        }
    }

    /// The network that `node.toml` names for an interface.
    #[must_use]
    pub fn named(&self, interface: Interface) -> Option<&str> {
        self.inside.get(interface.index().checked_sub(1)?)?.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(named: &[Option<&str>]) -> Bindings {
        let one =
            |name: &Option<&str>| InsideConfig { interface: "i".into(), virtual_network: name.map(str::to_owned) };
        Bindings::new(&named.iter().map(one).collect::<Vec<_>>())
    }

    fn networks(names: &[(&str, u32)]) -> Networks {
        Networks(names.iter().map(|(name, id)| ((*name).to_owned(), VnetId(*id))).collect())
    }

    #[test]
    fn an_interface_without_a_name_leads_to_the_only_network_there_is() {
        let mut bindings = inside(&[None]);
        let interface = Interface::inside(0);
        assert_eq!(bindings.link(interface), None, "no configuration yet");
        assert_eq!(bindings.load(&networks(&[("a", 3)])), [VnetId(3)]);
        assert_eq!(bindings.link(interface), Some(Link::Inside(VnetId(3))));
        assert_eq!(bindings.interface(Link::Inside(VnetId(3))), Some(interface));
        assert_eq!(bindings.load(&networks(&[("a", 3), ("b", 4)])), [], "which one?");
        assert_eq!(bindings.link(interface), None);
    }

    #[test]
    fn named_interfaces_lead_to_their_networks_whatever_their_order() {
        let mut bindings = inside(&[Some("b"), Some("a"), Some("gone")]);
        assert_eq!(bindings.load(&networks(&[("a", 3), ("b", 4), ("c", 5)])), [VnetId(4), VnetId(3)]);
        let links = Interface::all(3).map(|interface| bindings.link(interface)).collect::<Vec<_>>();
        assert_eq!(links, [Some(Link::Outside), Some(Link::Inside(VnetId(4))), Some(Link::Inside(VnetId(3))), None]);
        assert_eq!(bindings.interface(Link::Inside(VnetId(3))), Some(Interface::inside(1)));
        assert_eq!(bindings.interface(Link::Inside(VnetId(5))), None, "no interface leads there");
        assert_eq!(bindings.named(Interface::inside(2)), Some("gone"));
    }
}
