//! Whether `qnat status` says what is true while a fault lasts (I53, I55): asked again and again, of the members that the
//! fault does not meet, and held against what the captures and the system's list of processes show. Called by the runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use control::concern::Severity;
use qnat::answers::Status;
use qnat::daemon::request::Request;

use super::capture::nanos;
use super::cluster::{Cluster, NODES};
use super::fault::Fault;

/// Between an answer and the next question; an answer takes 300 ms while a member is silent.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long a fault may take to be in force in all threads and queues of a member.
const IN_FORCE_NS: u64 = 50_000_000;
/// What is not as it should be is served anew or named after so long (I53); an owner that is told is the owner, or was one
/// so long ago.
const NAMED_NS: u64 = 2_000_000_000;
/// A network that swallows frames is noticed by a second of questions without an answer, and reports are looked at once a
/// second.
const NOTICED_NS: u64 = 3_000_000_000;

/// One answer, and what was known beside it.
#[derive(Clone, Debug)]
pub(super) struct Said {
    asked_ns: u64,
    answered_ns: u64,
    /// Whether the target's process was kept from running, or gone, when it was asked.
    is_down: bool,
    /// Who did not answer.
    silent: Vec<u32>,
    /// What is wrong, from a warning upwards.
    wrong: Vec<String>,
    /// The owner of the shard under test, and whether it says that it serves.
    owner: Option<u32>,
    serves: bool,
}

/// Questions under way.
#[derive(Debug)]
pub(super) struct Asking {
    over: Arc<AtomicBool>,
    task: Option<JoinHandle<Result<Vec<Said>>>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Asking {
    /// Asks the members other than `target` about `shard` until it is stopped.
    pub(super) fn start(cluster: &Cluster, target: u32, shard: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (seen, cluster) = (Arc::clone(&over), cluster.observer());
        let task = move || {
            let mut all = Vec::new();
            let others: Vec<u32> = (1..=NODES).filter(|node| *node != target).collect();
            for whom in others.into_iter().cycle() {
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                // An answer that does not come is none; the gaps show what that costs.
                all.extend(ask(&cluster, whom, target, shard));
                std::thread::sleep(ASK_EVERY);
            }
            Ok(all)
        };
        Self { over, task: Some(std::thread::spawn(task)) }
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<Vec<Said>> {
        self.over.store(true, Ordering::Relaxed);
        let task = self.task.take().context("it ends once")?;
        let said = task.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))??;
        ensure!(!said.is_empty(), "no member answered for its status");
        Ok(said)
    }
}

fn ask(cluster: &Cluster, whom: u32, target: u32, shard: u64) -> Result<Said> {
    let is_down = !cluster.running().contains(&target);
    let asked_ns = nanos(SystemTime::now())?;
    let status: Status = cluster.ask(whom, &Request::Together { of: Box::new(Request::Status) })?;
    let answered_ns = nanos(SystemTime::now())?;
    let row = status.shards.iter().find(|row| u64::from(row.shard) == shard);
    let wrong = status.concerns.iter().filter(|concern| concern.severity >= Severity::Warning);
    Ok(Said {
        asked_ns,
        answered_ns,
        is_down,
        silent: status.silent,
        wrong: wrong.map(|concern| format!("{}: {}", concern.subject, concern.why)).collect(),
        owner: row.and_then(|row| row.owner),
        serves: row.is_some_and(|row| row.serves()),
    })
}

/// What the run itself knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) fault: Fault,
    /// Whom it met.
    pub(super) target: u32,
    pub(super) began_ns: u64,
    /// When it was in force for certain.
    pub(super) sure_ns: u64,
    /// When it was taken back.
    pub(super) ended_ns: u64,
    /// Until when the captures ran.
    pub(super) captured_ns: u64,
    /// Who sent from the shard's MAC, in the order of time.
    pub(super) places: &'a [(u64, u32)],
}

/// What was said and is not true. `said` is in the order of time, from before the fault until the cluster was whole again.
pub(super) fn lies(said: &[Said], scene: Scene<'_>) -> Vec<String> {
    let mut lies = Vec::new();
    for one in said {
        let after_ms = (i128::from(one.asked_ns) - i128::from(scene.began_ns)) / 1_000_000;
        let mut lie = |what: String| lies.push(format!("status, {after_ms} ms after the fault began: {what}"));
        let is_during = one.asked_ns >= scene.sure_ns + IN_FORCE_NS && one.answered_ns < scene.ended_ns;
        let is_unheard = is_during && (one.is_down || scene.fault == Fault::PartitionOwner);
        if is_unheard && !one.silent.contains(&scene.target) {
            lie(format!("n{} answers, it says, and cannot", scene.target));
        }
        let is_noticed = scene.fault == Fault::SilentNetwork && one.asked_ns >= scene.sure_ns + NOTICED_NS;
        if (is_unheard || is_during && is_noticed) && one.wrong.is_empty() {
            lie("nothing is wrong, it says".to_owned());
        }
        if one.asked_ns >= scene.began_ns + NAMED_NS
            && one.answered_ns < scene.ended_ns
            && !one.serves
            && one.wrong.is_empty()
        {
            lie(format!("the shard is not served (owner {:?}), and no reason is named", one.owner));
        }
        if let Some(owner) = one.owner.filter(|_| one.serves && one.answered_ns < scene.captured_ns)
            && !sent_lately(scene.places, owner, one.asked_ns, one.answered_ns)
        {
            lie(format!("n{owner} serves the shard, it says, and sent nothing for it"));
        }
    }
    lies
}

/// Whether `node` sent from the shard's MAC between [`NAMED_NS`] before a question and its answer.
fn sent_lately(places: &[(u64, u32)], node: u32, asked_ns: u64, answered_ns: u64) -> bool {
    let from = asked_ns.saturating_sub(NAMED_NS);
    places.iter().any(|(at, by)| *by == node && (from..=answered_ns).contains(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// The owner n1 is away from 10 s to 14 s; n2 serves from 10.1 s on.
    fn found(fault: Fault, at_ns: u64, change: impl Fn(&mut Said)) -> Vec<String> {
        let ms = |at: u64| at * (S / 1_000);
        let mut places: Vec<(u64, u32)> = (7_000..10_000).step_by(10).map(|at| (ms(at), 1)).collect();
        places.extend((10_100..16_000).step_by(10).map(|at| (ms(at), 2)));
        let mut said = Said {
            asked_ns: at_ns,
            answered_ns: at_ns + ms(50),
            is_down: (10 * S..14 * S).contains(&at_ns),
            silent: vec![1],
            wrong: vec!["member 1: it is not heard".to_owned()],
            owner: Some(2),
            serves: true,
        };
        change(&mut said);
        let (began_ns, sure_ns, ended_ns, captured_ns) = (10 * S, 10 * S, 14 * S, 16 * S);
        lies(&[said], Scene { fault, target: 1, began_ns, sure_ns, ended_ns, captured_ns, places: &places })
    }

    #[test]
    fn who_cannot_answer_is_named_at_once_and_something_is_wrong() {
        assert_eq!(found(Fault::KillOwner, 11 * S, |_| ()), [""; 0]);
        assert_eq!(found(Fault::KillOwner, 11 * S, |one| one.silent.clear()).len(), 1);
        assert_eq!(found(Fault::KillOwner, 11 * S, |one| one.wrong.clear()).len(), 1);
        assert_eq!(found(Fault::PartitionOwner, 11 * S, |one| (one.is_down, one.silent) = (false, vec![])).len(), 1);
        assert_eq!(found(Fault::HangWorker, 11 * S, |one| (one.is_down, one.silent) = (false, vec![])), [""; 0]);
    }

    #[test]
    fn a_network_that_swallows_everything_is_named_in_three_seconds() {
        let quiet = |one: &mut Said| (one.is_down, one.wrong) = (false, vec![]);
        assert_eq!(found(Fault::SilentNetwork, 12 * S, quiet), [""; 0]);
        assert_eq!(found(Fault::SilentNetwork, 13 * S, quiet).len(), 1);
    }

    #[test]
    fn a_shard_is_served_within_two_seconds_or_a_reason_is_named() {
        let unserved = |one: &mut Said| (one.is_down, one.serves, one.wrong) = (false, false, vec![]);
        assert_eq!(found(Fault::HangWorker, 11 * S, unserved), [""; 0]);
        assert_eq!(found(Fault::HangWorker, 12 * S, unserved).len(), 1);
        assert_eq!(found(Fault::HangWorker, 12 * S, |one| (one.is_down, one.serves) = (false, false)), [""; 0]);
    }

    #[test]
    fn an_owner_that_is_told_sends_for_the_shard() {
        let old = |one: &mut Said| one.owner = Some(1);
        assert_eq!(found(Fault::KillOwner, 11 * S, old), [""; 0], "a moment ago it did");
        assert_eq!(found(Fault::KillOwner, 12 * S + S / 2, old).len(), 1);
        assert_eq!(found(Fault::KillOwner, 11 * S, |one| one.owner = Some(3)).len(), 1);
    }
}
