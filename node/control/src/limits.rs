//! How long things can get that the limits of `validate` allow: every bound on the way of a configuration, from the file to
//! the state, comes from here. Constant expressions only; an own test fills them.

use crate::default_outbound::checking::AVAILABILITY_SETS_MAX;
use crate::default_outbound::model::SYSTEM_ADDRESSES_MAX;
use crate::inbound::bounds::INBOUND_RULES_MAX;
use crate::nsg::bounds::{
    APPLICATION_GROUPS_MAX, MEMBERSHIPS_MAX, NICS_MAX, ON_PREMISES_MAX, PEERINGS_MAX, RULE_VALUES_MAX, RULES_MAX,
    SECURITY_GROUPS_MAX, TAG_PREFIXES_MAX,
};
use crate::probing::bounds::{CHANGES_MAX, PATH_LEN_MAX, PROBED_MAX, PROBES_MAX};
use crate::tier::{BLOCK_LEN_MIN, PORTS_USABLE};
use crate::validate::{
    ADDRESS_SPACE_MAX, FRONTENDS_MAX, IP_CONFIGURATIONS_MAX, NAME_LEN_MAX, POOLS_MAX, PUBLIC_IPS_MAX,
    RESERVED_PORTS_MAX, RULE_FRONTENDS_MAX, SUBNETS_MAX, VIRTUAL_NETWORKS_MAX,
};

/// Most members of a cluster. Removed nodes are remembered beside them, as many at most, and the oldest is forgotten first.
pub const NODES_MAX: usize = 32;
/// Keys of commands that are remembered with their outcome.
pub const KEYS_MAX: usize = 4096;
/// Longest encoding of a refusal, in octets.
pub(crate) const REFUSAL_LEN_MAX: usize = 192;
/// Most blocks of one report of fences: what a frontend can have.
pub const RECLAIMS_MAX: usize = 2_048;
/// Most hints of a configuration.
pub const HINTS_MAX: usize = 65_536;
/// Most backends that are declared or have blocks left.
pub const BACKENDS_MAX: usize = 2 * IP_CONFIGURATIONS_MAX;

// In octets, of the encoding or as its decoder counts them, whichever are more: it counts eight for each length, and four for
// which one of a few something is.
const LEN: usize = 9;
const KIND: usize = 4;
const NAME: usize = LEN + NAME_LEN_MAX;
const U16: usize = 3;
const U32: usize = 5;
const U64: usize = 9;
const ADDRESS: usize = 4;
const PREFIX: usize = ADDRESS + 1;
const MAC: usize = 1 + 6;
const BLOCK: usize = U32 + 2 * U16;

const POOL_REF: usize = 1 + 2 * NAME;
const SOME_NAME: usize = 1 + NAME;
const IP_CONFIGURATION: usize = 3 * NAME + ADDRESS + MAC + POOL_REF + KIND + 2 * SOME_NAME;
const INSTANCE: usize = NAME + LEN + 2 * SOME_NAME + 1;
const NETWORK: usize = NAME + 4 * LEN + ADDRESS_SPACE_MAX * PREFIX + PEERINGS_MAX * NAME + ON_PREMISES_MAX * PREFIX;
const SUBNET: usize = NAME + PREFIX + ADDRESS + SOME_NAME + 2;
const RESERVED: usize = LEN + RESERVED_PORTS_MAX * U16;
const PUBLIC_IP: usize = NAME + ADDRESS + RESERVED;
// Each has a frontend of its own.
const LOAD_BALANCER: usize = NAME + 6 * LEN + NAME;
const POOL: usize = NAME;
const RULE: usize = 2 * NAME + LEN + 2 + 4 * KIND;
const INBOUND_RULE: usize = 4 * NAME + SOME_NAME + 3 * KIND + 2 * U16 + 3;
const PROBE: usize = NAME + KIND + 2 * U16 + LEN + PATH_LEN_MAX + 1;
const SETTINGS: usize = 256;
const NIC: usize = 3 * NAME + SOME_NAME + LEN;
const SECURITY_GROUP: usize = NAME + KIND + LEN;
// Source and destination are groups of applications at most, or lists whose values are counted for themselves.
const SECURITY_RULE: usize = NAME + U16 + 3 * KIND + 2 * (KIND + NAME) + 2 * LEN;
const SECURITY_VALUE: usize = 2 * U16;
const SECURITY: usize = NICS_MAX * NIC
    + MEMBERSHIPS_MAX * NAME
    + SECURITY_GROUPS_MAX * SECURITY_GROUP
    + RULES_MAX * SECURITY_RULE
    + RULE_VALUES_MAX * SECURITY_VALUE
    + APPLICATION_GROUPS_MAX * NAME;

/// Longest encoding of a declared configuration.
const DESIRED: usize = IP_CONFIGURATIONS_MAX * (INSTANCE + IP_CONFIGURATION)
    + VIRTUAL_NETWORKS_MAX * NETWORK
    + SUBNETS_MAX * SUBNET
    + PUBLIC_IPS_MAX * PUBLIC_IP
    + FRONTENDS_MAX * LOAD_BALANCER
    + POOLS_MAX * (POOL + RULE)
    + RULE_FRONTENDS_MAX * NAME
    + INBOUND_RULES_MAX * INBOUND_RULE
    + AVAILABILITY_SETS_MAX * NAME
    + SYSTEM_ADDRESSES_MAX * PREFIX
    + 2 * LEN
    + PROBES_MAX * PROBE
    + SECURITY
    + SETTINGS;

/// Longest encoding of a configuration on its way into the state, with what is known of live flows.
pub const CONFIGURATION_LEN_MAX: usize = DESIRED + U32 + HINTS_MAX * (BLOCK + U32) + 1 + 32;
/// Longest part of one that does not fit into one entry.
pub const PART_LEN_MAX: usize = 256 << 10;
/// Most parts.
pub const PARTS_MAX: usize = CONFIGURATION_LEN_MAX.div_ceil(PART_LEN_MAX);
/// Longest command: a part, and what stands around it.
pub const COMMAND_LEN_MAX: usize = PART_LEN_MAX + 256;

// Each is leased or drains.
const BLOCKS: usize = FRONTENDS_MAX * (PORTS_USABLE / BLOCK_LEN_MIN) as usize * (BLOCK + U32 + U64 + 1);
// Itself, and when its blocks changed.
const FRONTEND: usize = U32 + ADDRESS + U16 + KIND + U32 + RESERVED + LEN + 2 + U64 + U32 + U64;
// Itself, and where it is.
const BACKEND: usize = U32 + 2 * NAME + POOL_REF + KIND + 2 * (1 + ADDRESS) + MAC + 9 * U32 + 4 * U32;
// The system address of an availability set, or of an instance in none.
const SET: usize = KIND + NAME + U32;
const PROBE_REF: usize = KIND + 2 * NAME;
// What is committed of a backend by a probe.
const HEALTH: usize = U32 + 2 * KIND + U16 + 2 * U64 + U16;
const KEY: usize = 2 * 16 + 1 + REFUSAL_LEN_MAX;
// Nodes, shards and what is kept of them: each of a few hundred octets.
const REST: usize = 1 << 20;
/// Longest encoding of the prefixes of service tags.
const TAGS: usize = TAG_PREFIXES_MAX * PREFIX + 2_048;
// They are one entry.
const _: () = assert!(TAGS < PART_LEN_MAX);

/// Longest encoding of the control state.
pub const STATE_LEN_MAX: usize = DESIRED
    + CONFIGURATION_LEN_MAX
    + FRONTENDS_MAX * FRONTEND
    + INBOUND_RULES_MAX * U16
    + BACKENDS_MAX * BACKEND
    + IP_CONFIGURATIONS_MAX * SET
    + BLOCKS
    + PROBES_MAX * (PROBE_REF + U64 + LEN)
    + PROBED_MAX * HEALTH
    + KEYS_MAX * KEY
    + TAGS
    + REST;

// A report of fences is the longest of all other commands, and a part is longer.
const _: () = assert!(RECLAIMS_MAX * (BLOCK + U64) + 64 < PART_LEN_MAX);
const _: () = assert!(CHANGES_MAX * (PROBE_REF + HEALTH) + 64 < PART_LEN_MAX);

/// Octets of a file without its names and values, as the documentation writes it.
const fn written(form: &str, names: usize, values: usize) -> usize {
    form.len() + names * NAME_LEN_MAX + values
}

const SECURITY_RULE_FORM: &str = "[[security_group.rule]]\nname = \"\"\npriority = \ndirection = \"outbound\"\naccess = \"allow\"\n\
                                  protocol = \"any\"\nsource = []\nsource_ports = []\ndestination = []\ndestination_ports = []\n";

const INBOUND_RULE_FORM: &str = "[[load_balancer.load_balancing_rule]]\nname = \"\"\nfrontend = \"\"\nprotocol = \"tcp\"\nfrontend_port = \n\
                                 pool = \"\"\nbackend_port = \ndistribution = \"source-ip-protocol\"\nidle_timeout_minutes = 100\n\
                                 enable_tcp_reset = true\nfloating_ip = true\nip_configuration = \"/\"\nprobe = \"\"\n";

const PROBE_FORM: &str = "[[load_balancer.probe]]\nname = \"\"\nprotocol = \"https\"\nport = \nrequest_path = \"\"\n\
                          interval_seconds = \nnumber_of_probes = \n";

/// Longest file that says as much as the limits allow, and as much again for comments and spaces.
pub const FILE_LEN_MAX: usize = 2
    * (IP_CONFIGURATIONS_MAX
        * (written(
            "[[instance]]\nname = \"\"\nsecurity_group = \"\"\navailability_set = \"\"\nrole = \"worker\"\n",
            3,
            0,
        ) + written(
            "[[instance.ip_configuration]]\nname = \"\"\nprivate_ip = \"\"\nmac = \"\"\nsubnet = \"/\"\npool = \"/\"\n\
                 admin_state = \"down\"\npublic_ip = \"\"\nnic = \"\"\n",
            7,
            15 + 17,
        ))
        + VIRTUAL_NETWORKS_MAX
            * written(
                "[[virtual_network]]\nname = \"\"\naddress_space = []\npeerings = []\non_premises = []\n",
                1,
                (ADDRESS_SPACE_MAX + ON_PREMISES_MAX) * 22 + PEERINGS_MAX * (NAME_LEN_MAX + 4),
            )
        + SUBNETS_MAX
            * written(
                "[[virtual_network.subnet]]\nname = \"\"\nprefix = \"\"\ngateway = \"\"\nsecurity_group = \"\"\n\
                 default_outbound_access = false\n",
                2,
                18 + 15,
            )
        + PUBLIC_IPS_MAX
            * written(
                "[[public_ip]]\nname = \"\"\naddress = \"\"\nreserved_ports = []\n",
                1,
                15 + RESERVED_PORTS_MAX * 7,
            )
        + FRONTENDS_MAX * written("[[load_balancer]]\nname = \"\"\nfrontends = [\"\", ]\n", 2, 0)
        + POOLS_MAX
            * (written("[[load_balancer.pool]]\nname = \"\"\n", 1, 0)
                + written("[[load_balancer.outbound_rule]]\nname = \"\"\npool = \"\"\nfrontends = []\n", 2, 256))
        + INBOUND_RULES_MAX * written(INBOUND_RULE_FORM, 5, 12)
        + PROBES_MAX * written(PROBE_FORM, 1, 12 + PATH_LEN_MAX)
        + RULE_FRONTENDS_MAX * written("\"\", ", 1, 0)
        + NICS_MAX
            * written(
                "[[nic]]\nname = \"\"\nsubnet = \"/\"\nsecurity_group = \"\"\napplication_security_groups = []\n",
                4,
                0,
            )
        + MEMBERSHIPS_MAX * written("\"\", ", 1, 0)
        + AVAILABILITY_SETS_MAX * written("[[availability_set]]\nname = \"\"\n", 1, 0)
        + SYSTEM_ADDRESSES_MAX * written("\"\", ", 0, 18)
        + APPLICATION_GROUPS_MAX * written("[[application_security_group]]\nname = \"\"\n", 1, 0)
        + SECURITY_GROUPS_MAX * written("[[security_group]]\nname = \"\"\nmodel = \"resource_manager\"\n", 1, 0)
        + RULES_MAX * written(SECURITY_RULE_FORM, 3, 4)
        + RULE_VALUES_MAX * 22
        + 4_096);
