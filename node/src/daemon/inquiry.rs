//! Asks this member's workers: the one of a shard, or all at once. Used by whatever answers; a worker that does not answer in
//! time does not run.

use std::time::Duration;

use engine::ids::ShardId;
use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use words::Share;

use super::answer::{Answerer, gone};
use super::messages::AskWorker;
use super::questions::Query;
use super::request::Failure;

/// How long a dry answer of a worker may take.
const WORKER_WAIT: Duration = Duration::from_secs(5);

impl Answerer {
    /// Asks the worker of this number.
    pub(super) async fn ask<T>(
        &self,
        worker: u16,
        query: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.flows.send(AskWorker { worker, query: query(reply) }).await.map_err(gone)?;
        match tokio::time::timeout(WORKER_WAIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Failure::new(503, format!("worker {worker} of this member does not run (yet)"))),
        }
    }

    /// Asks all workers at once; their answers one behind the other, in the order of their numbers.
    pub(super) async fn ask_all<T>(&self, query: impl Fn(oneshot::Sender<Vec<T>>) -> Query) -> Result<Vec<T>, Failure> {
        let answers = (0..self.stats.workers()).map(|worker| self.ask(worker, &query));
        Ok(try_join_all(answers).await?.into_iter().flatten().collect())
    }

    /// The number of the worker that has a shard.
    pub(super) fn worker_of(&self, shard: ShardId) -> u16 {
        Share::all(self.stats.workers()).next().map_or(0, |share| share.worker_of(shard))
    }
}
