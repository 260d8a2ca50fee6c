//! An apply, from the file to the answer. Where it halves blocks of ports, the half with fewer live flows goes (D4): the owners
//! of the shards are asked for the counts first, and whoever does not answer in time leaves a tie. It must never wait longer
//! for counts than that, nor decide itself what goes: the counts stand in the command. What takes something away wants a yes
//! (`confirming`). Called by the answerer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use control::codec::CodecError;
use control::command::Configure;
use control::config;
use control::loads::PortLoad;
use control::nsg::cutting::Cutting;
use control::parts::Cut;
use control::plan;
use control::resource::Desired;
use control::state::State;
use engine::ids::{FrontendId, PortBlock, ShardId};
use futures_util::future::join_all;

use super::answer::{Answerer, gone};
use super::confirming::{self, Consent, unreadable};
use super::questions::Query;
use super::request::{DryRun, Failure, Request};
use crate::answers::{Applied, PortLoads, Refusal};

/// How long a shard may take to count (D4).
const COUNT_WAIT: Duration = Duration::from_millis(200);
/// Plans that an apply is good for.
const PLANS_MAX: u32 = 5;
/// Pieces that one question names: its frame stays far below the longest.
const PIECES_PER_QUESTION: usize = 16_384;

/// How a configuration would be brought about.
struct Planned {
    /// What to commit.
    configure: Box<Configure>,
    /// What to answer.
    answer: Applied,
    /// Where live flows decide what goes.
    pieces: BTreeMap<ShardId, Vec<PortBlock>>,
    /// Whose live flows it may end.
    cutting: Option<Cutting>,
}

impl Answerer {
    /// Ports that come free, and other applies, change what a plan was made of: then another one is made, as if this apply had
    /// come later. Whoever said yes to one plan gets no other (`confirming`).
    pub(super) async fn apply(
        &self,
        (file, text): (String, String),
        dry_run: DryRun,
        consent: Consent,
    ) -> Result<Applied, Failure> {
        let (file, text) = (Arc::<str>::from(file), Arc::<str>::from(text));
        let outdated = control::Refusal::PlanOutdated {}.name();
        for _ in 1..PLANS_MAX {
            match self.apply_once((Arc::clone(&file), Arc::clone(&text)), dry_run, &consent).await {
                Err(failure) if failure.code.as_deref() == Some(outdated) => {}
                result => return result,
            }
        }
        self.apply_once((file, text), dry_run, &consent).await
    }

    async fn apply_once(
        &self,
        (file, text): (Arc<str>, Arc<str>),
        dry_run: DryRun,
        consent: &Consent,
    ) -> Result<Applied, Failure> {
        // A large file takes as long to read as many heartbeats of the control group: not on its thread.
        let emptiness = consent.emptiness();
        let read = tokio::task::spawn_blocking(move || config::parse_whole(&file, &text, emptiness).map(Box::new));
        let desired = read.await.map_err(gone)?.map_err(|errors| unreadable(&errors))?;
        let plan = async |desired, hints| self.of_state(move |state| planned(state, desired, hints, dry_run)).await?;
        let mut planned: Planned = plan(desired, Vec::new()).await?;
        if !planned.pieces.is_empty() {
            let (hints, uncounted) = self.count_flows(std::mem::take(&mut planned.pieces)).await?;
            planned = plan(Box::new(planned.configure.desired), hints).await?;
            planned.answer.uncounted_shards.extend(uncounted);
        }
        let Planned { configure, mut answer, cutting, .. } = planned;
        if let Some(cutting) = cutting.as_ref().filter(|_| dry_run == DryRun::Yes || !consent.yes) {
            answer.flows_cut = Some(self.foretell_cut(cutting).await?);
        }
        answer.asks = confirming::reasons(&answer);
        if dry_run == DryRun::Yes {
            return Ok(answer);
        }
        consent.given(&answer, configure.base_hash)?;
        let cut = tokio::task::spawn_blocking(|| Cut::of(configure)).await.map_err(gone)?;
        let too_long = |error: CodecError| Failure::new(422, error.to_string());
        let index = self.commit_cut(cut.map_err(too_long)?).await?.committed.unwrap_or(0);
        answer.committed = Some(index);
        answer.programmed = Some(self.programmed(index).await);
        if let Some(cutting) = cutting {
            let shards = cutting.backends.keys().map(|shard| shard.0).collect();
            answer.flows_cut = Some(self.measure_cut(index, shards).await);
        }
        Ok(answer)
    }

    /// The live flows on these pieces, and the shards of which nobody told in time.
    async fn count_flows(
        &self,
        pieces: BTreeMap<ShardId, Vec<PortBlock>>,
    ) -> Result<(Vec<PortLoad>, Vec<u16>), Failure> {
        let rows = self.status().await?.shards;
        let owner = |shard: ShardId| rows.iter().find(|row| row.shard == shard.0).and_then(|row| row.owner);
        let questions =
            pieces.iter().flat_map(|(shard, all)| all.chunks(PIECES_PER_QUESTION).map(|some| (*shard, some)));
        let answers = questions.map(async |(shard, some)| {
            let counts = tokio::time::timeout(COUNT_WAIT, self.count_at(owner(shard), shard, some)).await;
            (shard, some, counts.ok().flatten().filter(|counts| counts.len() == some.len()))
        });
        let (mut hints, mut silent) = (Vec::new(), Vec::new());
        for (shard, some, counts) in join_all(answers).await {
            match counts {
                Some(counts) => {
                    hints.extend(some.iter().zip(counts).map(|(block, flows)| PortLoad { block: *block, flows }));
                }
                None if silent.last() == Some(&shard.0) => {}
                None => silent.push(shard.0),
            }
        }
        Ok((hints, silent))
    }

    /// As the owner has them: the table of any other member may be behind, and must not pass for it.
    async fn count_at(&self, owner: Option<u32>, shard: ShardId, pieces: &[PortBlock]) -> Option<Vec<u32>> {
        let plain: Vec<_> = pieces.iter().map(|piece| (piece.frontend.0, piece.start, piece.len)).collect();
        match owner? {
            own if own == self.node => self.port_loads(shard, &plain).await.ok()?.flows,
            owner => {
                let request = Request::PortLoads { shard: shard.0, pieces: plain };
                self.peers.ask::<PortLoads>(owner, &request).await?.flows
            }
        }
    }

    /// Live flows as this member's table has them.
    pub(super) async fn port_loads(&self, shard: ShardId, pieces: &[(u32, u16, u16)]) -> Result<PortLoads, Failure> {
        if pieces.len() > PIECES_PER_QUESTION {
            let problem = format!("{} pieces of port space; ask for at most {PIECES_PER_QUESTION}", pieces.len());
            return Err(Failure::new(413, problem));
        }
        let block =
            |&(frontend, start, len): &(u32, u16, u16)| PortBlock { frontend: FrontendId(frontend), start, len };
        let blocks = pieces.iter().map(block).collect();
        let flows = self.ask(self.worker_of(shard), |reply| Query::Loads { shard, blocks, reply }).await?;
        Ok(PortLoads { flows })
    }
}

/// What `desired` would change, with live flows per piece of port space to choose the halves that drain (D4). For a dry run a
/// refused plan is shown, not an error.
fn planned(state: &State, desired: Box<Desired>, hints: Vec<PortLoad>, dry_run: DryRun) -> Result<Planned, Failure> {
    let plan = plan::diff_with(state, &desired, &hints);
    if let (Some(refusal), DryRun::No) = (&plan.refused, dry_run) {
        return Err(Failure::refused(422, refusal));
    }
    let told = |r: control::Refusal| Refusal { code: r.name().to_owned(), why: r.why(), remedy: r.remedy() };
    let answer = Applied {
        changes: plan.changes,
        refused: plan.refused.map(told),
        warnings: plan.warnings.iter().map(|concern| format!("{}; {}", concern.why, concern.remedy)).collect(),
        flows_taken: (!plan.pieces.is_empty()).then_some(plan.flows_taken),
        uncounted_shards: plan.uncounted.iter().map(|shard| shard.0).collect(),
        ..Applied::default()
    };
    let configure = Box::new(Configure { desired: *desired, base_hash: Some(plan.hash), hints });
    Ok(Planned { configure, answer, pieces: plan.pieces, cutting: plan.cutting })
}
