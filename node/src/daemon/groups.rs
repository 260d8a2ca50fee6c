//! What is asked of security groups and what the platform says of its services. Called by the answerer.

use std::collections::BTreeSet;

use control::command::CommandBody;
use control::nsg::answers::{self, EffectiveRules, FlowQuestion, IpFlow, Unanswered};
use control::nsg::service_tags::ServiceTags;

use super::answer::Answerer;
use super::request::Failure;
use crate::answers::Done;

fn unanswered(why: &Unanswered) -> Failure {
    Failure::new(404, why.to_string())
}

impl Answerer {
    /// What groups say of a packet that nobody has sent.
    pub(super) async fn ip_flow(&self, of: FlowQuestion) -> Result<IpFlow, Failure> {
        self.of_state(move |state| answers::ip_flow(state, &of)).await?.map_err(|why| unanswered(&why))
    }

    /// The rules that judge an interface.
    pub(super) async fn effective_rules(&self, nic: String) -> Result<EffectiveRules, Failure> {
        self.of_state(move |state| answers::effective_rules(state, &nic)).await?.map_err(|why| unanswered(&why))
    }

    /// Gives service tags the prefixes of a file.
    pub(super) async fn set_service_tags(&self, file: &str, text: &str) -> Result<Done, Failure> {
        let tags = ServiceTags::parse(file, text)
            .map_err(|errors| Failure::all(422, errors.iter().map(ToString::to_string).collect()))?;
        let mut done = self.commit(CommandBody::SetServiceTags(Box::new(tags))).await?;
        if let Some(index) = done.committed {
            self.programmed(index).await;
            done.flows_cut = Some(self.measure_cut(index, BTreeSet::new()).await);
        }
        Ok(done)
    }
}
