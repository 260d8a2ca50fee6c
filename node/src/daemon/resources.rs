//! What is declared and what the control state made of it, by kind: `qnat get`. Called by the answerer.

use control::default_outbound::rows::default_outbound;
use control::nsg::rows;
use control::probing::rows::probes;
use control::state::State;
use control::{printing, view};
use serde_json::Value;

use super::answer::Answerer;
use super::request::{Failure, ResourceKind};
use crate::answers::ConfigFile;

impl Answerer {
    pub(super) async fn resources(&self, kind: ResourceKind) -> Result<Value, Failure> {
        let (cluster, node) = (self.cluster.clone(), self.node);
        let shown = move |state: &State| match kind {
            ResourceKind::Nodes => serde_json::to_value(view::nodes(state)),
            ResourceKind::Shards => serde_json::to_value(view::shards(state)),
            ResourceKind::Backends => serde_json::to_value(view::backends(state)),
            ResourceKind::Frontends => serde_json::to_value(view::frontends(state)),
            ResourceKind::Pools => serde_json::to_value(view::pools(state)),
            ResourceKind::Probes => serde_json::to_value(probes(state)),
            ResourceKind::DefaultOutbound => serde_json::to_value(default_outbound(state)),
            ResourceKind::SecurityGroups => serde_json::to_value(rows::security_groups(state)),
            ResourceKind::Nics => serde_json::to_value(rows::nics(state)),
            ResourceKind::ApplicationSecurityGroups => serde_json::to_value(rows::application_security_groups(state)),
            ResourceKind::ServiceTags => serde_json::to_value(rows::service_tags(state)),
            ResourceKind::Config => serde_json::to_value(config_file(state, &cluster, node)),
        };
        Ok(self.of_state(shown).await?.unwrap_or(Value::Null))
    }
}

/// The running configuration, headed by what it is and what it lacks.
fn config_file(state: &State, cluster: &str, node: u32) -> ConfigFile {
    let control_index = state.index().0;
    let cluster: String = cluster.chars().filter(|c| !c.is_control()).collect();
    let head = format!(
        "# What cluster {cluster} runs as of control index {control_index}, said by n{node}. `qnat apply` of this file changes nothing.\n\
         # Not in it: members, each machine's node.toml, and what service tags mean (`qnat get nodes`, `qnat get service-tags`).\n\n"
    );
    ConfigFile { node, control_index, file: head + &printing::print(state.desired()) }
}
