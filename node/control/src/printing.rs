//! A declared configuration as the file that says it: `config::parse` of what [`print()`] writes is that configuration again, for
//! every one that `validate` takes.
//!
//! Each number and each choice is written, also where it is what a file that leaves it out would get; what does not restrict, is
//! empty or is not there is left out. Comments and the order of a file's tables are nobody's to give back. It must never depend
//! on the running state. Called by the daemon, for `qnat get config`.

use std::fmt::{Display, Write as _};

use crate::default_outbound::model::DefaultOutbound;
use crate::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use crate::nsg::model::{Access, Addresses, Direction, Nic, Ports, Protocol, Rule, SecurityGroup};
use crate::probing::model::Probe;
use crate::resource::{
    AdminState, Desired, Filtering, Instance, IpConfiguration, LoadBalancer, OnReclaim, OutboundRule, Outside, Profile,
    PublicIp, Role, Settings, Sharing, VirtualNetwork,
};

/// Writes a configuration; below `limits::FILE_LEN_MAX` octets. Names are letters, digits, `-` and `_`, and paths have no quotation
/// mark and no backslash (`validate`), so nothing in it has to be escaped.
#[must_use]
pub fn print(desired: &Desired) -> String {
    // Whoever adds a kind of resource adds its lines.
    let Desired {
        virtual_networks,
        public_ips,
        load_balancers,
        availability_sets,
        instances,
        nics,
        application_security_groups,
        security_groups,
        default_outbound,
        outside,
        settings,
    } = desired;
    let mut page = Page::default();
    for (name, network) in virtual_networks {
        page.virtual_network(name, network);
    }
    for (name, public) in public_ips {
        page.public_ip(name, public);
    }
    for (name, balancer) in load_balancers {
        page.load_balancer(name, balancer);
    }
    for name in availability_sets {
        page.named("availability_set", name);
    }
    for (name, instance) in instances {
        page.instance(name, instance);
    }
    for (name, nic) in nics {
        page.nic(name, nic);
    }
    for name in application_security_groups {
        page.named("application_security_group", name);
    }
    for (name, group) in security_groups {
        page.security_group(name, group);
    }
    if *default_outbound != DefaultOutbound::default() {
        page.default_outbound(default_outbound);
    }
    if *outside != Outside::default() {
        page.outside(outside);
    }
    page.settings(settings);
    page.0
}

/// A file so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("writing into memory does not fail");
    }

    /// A table of an array, after an empty line where it is none of another table.
    fn named(&mut self, table: &str, name: &str) {
        if !table.contains('.') {
            self.gap();
        }
        self.line(format_args!("[[{table}]]"));
        self.text("name", name);
    }

    fn gap(&mut self) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
    }

    fn text(&mut self, field: &str, value: impl Display) {
        self.line(format_args!("{field} = \"{value}\""));
    }

    fn text_if(&mut self, field: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    /// A number or a truth value.
    fn plain(&mut self, field: &str, value: impl Display) {
        self.line(format_args!("{field} = {value}"));
    }

    fn list(&mut self, field: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        self.line(format_args!("{field} = [{}]", values.join(", ")));
    }

    /// A list that is left out if it is empty.
    fn list_if(&mut self, field: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_some() {
            self.list(field, values);
        }
    }

    fn virtual_network(&mut self, name: &str, network: &VirtualNetwork) {
        self.named("virtual_network", name);
        self.list_if("address_space", quoted(&network.address_space));
        self.list_if("peerings", quoted(&network.peerings));
        self.list_if("on_premises", quoted(&network.on_premises));
        for (name, subnet) in &network.subnets {
            self.named("virtual_network.subnet", name);
            self.text("prefix", subnet.prefix);
            self.text("gateway", subnet.gateway);
            self.text_if("security_group", subnet.security_group.as_ref());
            self.plain("isolated", subnet.isolated);
            self.plain("default_outbound_access", subnet.default_outbound_access);
        }
    }

    fn public_ip(&mut self, name: &str, public: &PublicIp) {
        self.named("public_ip", name);
        self.text("address", public.address);
        self.list_if("reserved_ports", numbers(&public.reserved_ports));
    }

    fn load_balancer(&mut self, name: &str, balancer: &LoadBalancer) {
        self.named("load_balancer", name);
        self.list("frontends", quoted(&balancer.frontends));
        for name in &balancer.pools {
            self.named("load_balancer.pool", name);
        }
        for (name, rule) in &balancer.outbound_rules {
            self.named("load_balancer.outbound_rule", name);
            self.outbound_rule(rule);
        }
        for (name, probe) in &balancer.probes {
            self.named("load_balancer.probe", name);
            self.probe(probe);
        }
        for ((table, name), rule) in balancer.inbound() {
            self.named(&format!("load_balancer.{table}"), name);
            self.inbound_rule(rule);
        }
    }

    fn outbound_rule(&mut self, rule: &OutboundRule) {
        self.text("pool", &rule.pool);
        self.list_if("frontends", quoted(&rule.frontends));
        self.plain("idle_timeout_minutes", rule.idle_timeout_minutes);
        self.plain("enable_tcp_reset", rule.enable_tcp_reset);
        self.text(
            "profile",
            match rule.profile {
                Profile::Azure => "azure",
                Profile::Rfc => "rfc",
            },
        );
        self.text(
            "sharing",
            match rule.sharing {
                Sharing::Tuple => "2018",
                Sharing::Address => "2017",
            },
        );
        self.text(
            "filtering",
            match rule.filtering {
                Filtering::AddressDependent => "address_dependent",
                Filtering::EndpointIndependent => "endpoint_independent",
            },
        );
        self.text(
            "on_reclaim",
            match rule.on_reclaim {
                OnReclaim::Expire => "expire",
                OnReclaim::Drain => "drain",
                OnReclaim::Reset => "reset",
            },
        );
    }

    fn probe(&mut self, probe: &Probe) {
        self.text("protocol", probe.protocol.label());
        self.plain("port", probe.port);
        self.text_if("request_path", Some(&probe.request_path).filter(|path| !path.is_empty()));
        self.plain("interval_seconds", probe.interval_seconds);
        self.plain("number_of_probes", probe.number_of_probes);
    }

    fn inbound_rule(&mut self, rule: &InboundRule) {
        self.text("frontend", &rule.frontend);
        self.text(
            "protocol",
            match rule.protocol {
                RuleProtocol::Tcp => "tcp",
                RuleProtocol::Udp => "udp",
                RuleProtocol::All => "all",
            },
        );
        self.plain("frontend_port", rule.frontend_port);
        match &rule.target {
            Target::Pool(pool) => {
                self.text("pool", pool);
                self.text(
                    "distribution",
                    match rule.distribution {
                        Distribution::Connection => "5-tuple",
                        Distribution::SourceAndProtocol => "source-ip-protocol",
                        Distribution::Source => "source-ip",
                    },
                );
            }
            Target::IpConfiguration { instance, ip_configuration } => {
                self.text("ip_configuration", format_args!("{instance}/{ip_configuration}"));
            }
        }
        self.plain("backend_port", rule.backend_port);
        self.text_if("probe", rule.probe.as_ref());
        self.plain("idle_timeout_minutes", rule.idle_timeout_minutes);
        self.plain("enable_tcp_reset", rule.enable_tcp_reset);
        self.plain("floating_ip", rule.floating_ip);
    }

    fn instance(&mut self, name: &str, instance: &Instance) {
        self.named("instance", name);
        self.text_if("security_group", instance.security_group.as_ref());
        self.text_if("availability_set", instance.availability_set.as_ref());
        self.text_if("role", instance.role.map(Role::label));
        if let Some(probe) = &instance.probe {
            self.line("[instance.probe]");
            self.probe(probe);
        }
        for ip in &instance.ip_configurations {
            self.named("instance.ip_configuration", &ip.name);
            self.ip_configuration(ip);
        }
    }

    fn ip_configuration(&mut self, ip: &IpConfiguration) {
        self.text("private_ip", ip.private_ip);
        self.text_if("mac", ip.mac);
        self.text("subnet", format_args!("{}/{}", ip.virtual_network, ip.subnet));
        self.text_if("pool", ip.pool.as_ref());
        if ip.admin_state != AdminState::None {
            self.text("admin_state", ip.admin_state.label());
        }
        self.text_if("public_ip", ip.public_ip.as_ref());
        self.text_if("nic", ip.nic.as_ref());
    }

    fn nic(&mut self, name: &str, nic: &Nic) {
        self.named("nic", name);
        self.text("subnet", format_args!("{}/{}", nic.virtual_network, nic.subnet));
        self.text_if("security_group", nic.security_group.as_ref());
        self.list_if("application_security_groups", quoted(&nic.application_security_groups));
    }

    fn security_group(&mut self, name: &str, group: &SecurityGroup) {
        self.named("security_group", name);
        self.text("model", group.model);
        for (name, rule) in &group.rules {
            self.named("security_group.rule", name);
            self.rule(group, rule);
        }
    }

    fn rule(&mut self, group: &SecurityGroup, rule: &Rule) {
        self.plain("priority", rule.priority);
        self.text(
            "direction",
            match rule.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            },
        );
        self.text(
            "access",
            match rule.access {
                Access::Allow => "allow",
                Access::Deny => "deny",
            },
        );
        self.text(
            "protocol",
            match rule.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Any => "any",
            },
        );
        let words = |addresses: &Addresses| quoted(&addresses.words(group.model)).collect::<Vec<_>>();
        for (ends, ports, addresses, numbers) in [
            ("source", "source_ports", &rule.source, &rule.source_ports),
            ("destination", "destination_ports", &rule.destination, &rule.destination_ports),
        ] {
            match addresses {
                Addresses::Any => {}
                Addresses::Prefixes(_) => self.list(ends, words(addresses)),
                Addresses::Tag(_) | Addresses::Members(_) => self.plain(ends, words(addresses).concat()),
            }
            self.list_if(ports, numbers.iter().map(range));
        }
    }

    fn default_outbound(&mut self, outbound: &DefaultOutbound) {
        self.gap();
        self.line("[default_outbound]");
        self.list("addresses", quoted(&outbound.addresses));
    }

    fn outside(&mut self, outside: &Outside) {
        self.gap();
        self.line("[outside]");
        self.text("network", outside.network);
        self.text_if("next_hop", outside.next_hop);
    }

    fn settings(&mut self, settings: &Settings) {
        // Whoever adds a setting adds its line.
        let Settings {
            tick_ms,
            heartbeat_ticks,
            vote_ticks,
            orphan_grace_ms,
            recreate_quarantine_ms,
            hold_ms,
            replicas,
            shards_max,
            held_packets_per_backend_max,
            held_bytes_max,
            flows_per_shard_max,
            flows_per_backend_max,
            new_flows_per_second_max,
            short_idle_ports,
            mss_max,
            icmp_on_refusal,
        } = settings;
        self.gap();
        self.line("[settings]");
        for (field, value) in [
            ("tick_ms", tick_ms),
            ("heartbeat_ticks", heartbeat_ticks),
            ("vote_ticks", vote_ticks),
            ("orphan_grace_ms", orphan_grace_ms),
            ("recreate_quarantine_ms", recreate_quarantine_ms),
            ("replicas", replicas),
            ("shards_max", shards_max),
            ("held_packets_per_backend_max", held_packets_per_backend_max),
            ("held_bytes_max", held_bytes_max),
            ("flows_per_shard_max", flows_per_shard_max),
            ("flows_per_backend_max", flows_per_backend_max),
            ("new_flows_per_second_max", new_flows_per_second_max),
        ] {
            self.plain(field, value);
        }
        self.list("hold_ms", numbers(hold_ms));
        self.list("short_idle_ports", numbers(short_idle_ports));
        self.plain("mss_max", mss_max);
        self.plain("icmp_on_refusal", icmp_on_refusal);
    }
}

fn quoted<T: Display>(values: impl IntoIterator<Item = T>) -> impl Iterator<Item = String> {
    values.into_iter().map(|value| format!("\"{value}\""))
}

fn numbers<T: Display>(values: impl IntoIterator<Item = T>) -> impl Iterator<Item = String> {
    values.into_iter().map(|value| value.to_string())
}

fn range(ports: &Ports) -> String {
    if ports.first == ports.last { ports.to_string() } else { format!("\"{ports}\"") }
}
