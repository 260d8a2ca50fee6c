//! Runs a model and reports how much of it was explored. Loom can silently explore one execution only, so every model
//! asserts a least number of executions and that each outcome it expects was seen.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a model's executions ended in.
#[derive(Clone, Debug)]
pub struct Outcomes<T>(Arc<Mutex<BTreeSet<T>>>);

impl<T: Ord> Outcomes<T> {
    /// Notes the outcome of one execution.
    pub fn note(&self, outcome: T) {
        self.0.lock().expect("no panic while noting").insert(outcome);
    }
}

/// How much was explored.
#[derive(Debug)]
pub struct Explored<T> {
    /// Number of distinct executions.
    pub executions: usize,
    /// Every outcome noted.
    pub outcomes: BTreeSet<T>,
}

/// Explores `model` exhaustively up to `preemptions` forced switches. `None`: loom found an execution that fails.
///
/// Runs in a thread of its own: a failing model poisons its thread's loom state.
pub fn explore<T: Ord + Clone + Send + 'static>(
    preemptions: Option<usize>,
    model: impl Fn(Outcomes<T>) + Send + Sync + 'static,
) -> Option<Explored<T>> {
    let executions = Arc::new(AtomicUsize::new(0));
    let outcomes = Outcomes(Arc::new(Mutex::new(BTreeSet::new())));
    let (count, noted) = (executions.clone(), outcomes.clone());
    let run = move || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            model(noted.clone());
        });
    };
    let thread = std::thread::Builder::new().spawn(move || std::panic::catch_unwind(AssertUnwindSafe(run)).is_ok());
    let passed = thread.expect("a thread").join().expect("the panic was caught");
    let outcomes = outcomes.0.lock().map_or_else(|e| e.into_inner().clone(), |o| o.clone());
    passed.then(|| Explored { executions: executions.load(Ordering::Relaxed), outcomes })
}
