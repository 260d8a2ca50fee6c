//! How much there may be of inbound rules. `limits` derives lengths from these.

/// Most load-balancing rules and inbound NAT rules of all load balancers together.
pub const INBOUND_RULES_MAX: usize = 4_096;
