//! What is asked of security groups and what the platform says of its services. Called by the answerer.

use std::collections::BTreeSet;

use control::command::CommandBody;
use control::nsg::answers::{self, EffectiveRules, FlowQuestion, IpFlow, Unanswered};
use control::nsg::service_tags::ServiceTags;

use super::answer::Answerer;
use super::questions::Query;
use super::request::{Failure, Request};
use crate::answers::{Done, RuleHits};

/// Rules that one question names: more than the two groups of an interface have.
const RULES_ASKED_MAX: usize = 8_192;

fn unanswered(why: &Unanswered) -> Failure {
    Failure::new(404, why.to_string())
}

impl Answerer {
    /// What groups say of a packet that nobody has sent.
    pub(super) async fn ip_flow(&self, of: FlowQuestion) -> Result<IpFlow, Failure> {
        self.of_state(move |state| answers::ip_flow(state, &of)).await?.map_err(|why| unanswered(&why))
    }

    /// The rules that judge an interface, and how often each has decided, as all members together have counted.
    pub(super) async fn effective_rules(&self, nic: String) -> Result<EffectiveRules, Failure> {
        let told = self.of_state(move |state| answers::effective_rules(state, &nic)).await?;
        let mut told = told.map_err(|why| unanswered(&why))?;
        let keys: Vec<u64> =
            told.value.iter().flat_map(|group| &group.effective_security_rules).map(|rule| rule.key).collect();
        if keys.is_empty() || keys.len() > RULES_ASKED_MAX {
            return Ok(told);
        }
        let live = self.control().await?.live;
        let others: Vec<u32> = live.iter().map(|node| node.0).filter(|node| *node != self.node).collect();
        let mut sums = self.hits(keys.clone()).await?;
        for (node, said) in self.peers.ask_all::<RuleHits>(&others, &Request::Hits { keys }).await {
            match said.filter(|said| said.hits.len() == sums.hits.len()) {
                Some(said) => {
                    sums.hits.iter_mut().zip(said.hits).for_each(|(sum, hits)| *sum += hits);
                    sums.lost += said.lost;
                }
                None => told.silent.push(node),
            }
        }
        let rules = told.value.iter_mut().flat_map(|group| &mut group.effective_security_rules);
        rules.zip(sums.hits).for_each(|(rule, hits)| rule.hits = Some(hits));
        told.hits_lost = Some(sums.lost).filter(|lost| *lost > 0);
        Ok(told)
    }

    /// How often rules have decided, as this member has counted.
    pub(super) async fn hits(&self, keys: Vec<u64>) -> Result<RuleHits, Failure> {
        if keys.len() > RULES_ASKED_MAX {
            let problem = format!("{} rules are named; name at most {RULES_ASKED_MAX}", keys.len());
            return Err(Failure::new(413, problem));
        }
        let mut all = RuleHits { hits: vec![0; keys.len()], lost: 0 };
        for worker in 0..self.stats.workers() {
            let keys = keys.clone();
            let (hits, lost) = self.ask(worker, |reply| Query::Hits { keys, reply }).await?;
            all.hits.iter_mut().zip(hits).for_each(|(sum, hits)| *sum += hits);
            all.lost += lost;
        }
        Ok(all)
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
