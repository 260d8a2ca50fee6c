//! What people and programs see of those who go out by system addresses (S4): `qnat get default-outbound`, and a word in
//! `qnat status` that nobody can rely on these addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::FrontendId;
use engine::record::Scenario;
use serde::{Deserialize, Serialize};

use super::ways::{Granting, Sharers};
use crate::allocation::{Backend, Declared, Purpose};
use crate::concern::{Concern, Subject, What};
use crate::state::State;

/// What is said of every system address.
pub const NOTE: &str = "the system chose it: it can be neither chosen nor relied on";
/// So many are named in a concern.
const NAMED_MAX: usize = 5;

/// `qnat get default-outbound`: who shares one system address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefaultOutboundView {
    /// The availability set; none: an instance that is in none.
    pub availability_set: Option<String>,
    /// The address; none: they have no ports yet.
    pub address: Option<Ipv4Addr>,
    /// Its members that go out by it now, as `instance/ip_configuration`.
    pub backends: Vec<String>,
    /// Ports that each is granted, by the size of the set.
    pub ports_per_backend: u16,
    /// What to think of the address.
    pub note: String,
}

fn defaulted(state: &State) -> impl Iterator<Item = &Backend> {
    let all = state.allocation.backends.values();
    all.filter(|backend| {
        backend.declared == Declared::Yes && backend.granting == Granting::Default && backend.grant > 0
    })
}

fn name_of(backend: &Backend) -> String {
    format!("{}/{}", backend.instance, backend.ip_configuration)
}

/// Who goes out by system addresses now, by set and address; a set that has no room on its own is on several.
#[must_use]
pub fn default_outbound(state: &State) -> Vec<DefaultOutboundView> {
    let mut rows: BTreeMap<(Sharers, Option<FrontendId>), DefaultOutboundView> = BTreeMap::new();
    for backend in defaulted(state) {
        let sharers = state.desired.sharers_of(&backend.instance);
        let availability_set = match &sharers {
            Sharers::Set(name) => Some(name.clone()),
            Sharers::Alone(_) => None,
        };
        let address = backend.frontend.and_then(|id| state.allocation.frontends.get(&id)).map(|frontend| frontend.ip);
        let row = rows.entry((sharers, backend.frontend)).or_insert_with(|| DefaultOutboundView {
            availability_set,
            address,
            ports_per_backend: backend.grant,
            note: NOTE.to_owned(),
            ..DefaultOutboundView::default()
        });
        row.backends.push(name_of(backend));
    }
    rows.into_values().collect()
}

/// By which right a backend's new flows leave (S5).
pub(crate) fn way_out(state: &State, backend: &Backend) -> Option<Scenario> {
    let purpose = |id: FrontendId| state.allocation.frontends.get(&id).map(|frontend| frontend.purpose);
    let granted = backend.frontend.filter(|_| !backend.lease.is_empty()).and_then(purpose);
    match (backend.own, granted) {
        (Some(_), _) => Some(Scenario::OwnOut),
        (None, Some(Purpose::System)) => Some(Scenario::Default),
        (None, Some(Purpose::Shared | Purpose::Own(_))) => Some(Scenario::Pool),
        (None, None) => None,
    }
}

/// That there are some.
pub(crate) fn concern(state: &State) -> Option<Concern> {
    let names: Vec<String> = defaulted(state).take(NAMED_MAX).map(name_of).collect();
    if names.is_empty() {
        return None;
    }
    let (count, more) = (defaulted(state).count(), defaulted(state).nth(NAMED_MAX).map_or("", |_| ", …"));
    let addresses = "by addresses that the system chose, which can be neither chosen nor relied on";
    let why = format!("{count} IP configurations go out {addresses}: {}{more}", names.join(", "));
    let remedy = "`qnat get default-outbound` lists them; a public_ip, or a pool with a rule, gives one its address: `qnat \
                  apply -f FILE`";
    Some(Concern::notice(Subject::Cluster, What::DefaultOutbound, why, remedy))
}
