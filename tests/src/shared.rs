//! Test programs whose checks share one lab, since each start of one costs seconds: the standard harness has no moment
//! for taking it down. Filters, output and exit code are those of the standard harness. A check finds every member up,
//! every shard whole and the default resources; after one that failed, the next finds a fresh lab.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

use crate::lab::Lab;
use crate::resources::Changes;

/// A check of the shared lab.
pub struct Check {
    name: &'static str,
    is_long: bool,
    run: Box<dyn FnOnce(&Lab) + Send>,
}

impl Check {
    /// One by the name of its function.
    #[must_use]
    pub fn new(name: &'static str, run: impl FnOnce(&Lab) + Send + 'static) -> Self {
        Self { name, is_long: false, run: Box::new(run) }
    }

    /// One that takes minutes: left out, and shown as such, unless the longer profile was asked for.
    #[must_use]
    pub fn long(name: &'static str, run: impl FnOnce(&Lab) + Send + 'static) -> Self {
        Self { is_long: true, ..Self::new(name, run) }
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Names checks after their functions.
#[macro_export]
macro_rules! checks {
    ($($name:ident),+ $(,)?) => { vec![$($crate::shared::Check::new(stringify!($name), $name)),+] };
}

/// Runs the checks that were asked for, one at a time, and takes the lab down.
#[must_use]
pub fn run(checks: Vec<Check>) -> ExitCode {
    run_in(Lab::up, Lab::mend, checks)
}

/// The same in a lab whose resources these are in place of the default ones.
#[must_use]
pub fn run_by(resources: fn() -> String, checks: Vec<Check>) -> ExitCode {
    run_in(move || Lab::up_by(&resources()), move |lab| lab.mend_by(&resources()), checks)
}

/// The same in a lab that is brought up so, and mended so before each check but the first.
#[must_use]
pub fn run_in(
    up: impl Fn() -> Lab + Clone + Send + 'static,
    mend: impl Fn(&Lab) + Clone + Send + 'static,
    checks: Vec<Check>,
) -> ExitCode {
    let shared: Arc<Mutex<Option<Lab>>> = Arc::default();
    let trial = |check: Check| {
        let shared = Arc::clone(&shared);
        let left_out = check.is_long && !is_long();
        let (up, mend) = (up.clone(), mend.clone());
        let trial = Trial::test(check.name, move || {
            let begun = Instant::now();
            let mut place = shared.lock().unwrap_or_else(PoisonError::into_inner);
            // A check that fails unwinds with the lab, which takes it down.
            let lab = place.take().map_or_else(up, |lab| {
                mend(&lab);
                lab
            });
            (check.run)(&lab);
            *place = Some(lab);
            // On a line of its own: how it ended is then on the next one.
            eprintln!("{:.1} s", begun.elapsed().as_secs_f64());
            Ok(())
        });
        trial.with_ignored_flag(left_out)
    };
    let arguments = Arguments::from_args();
    let conclusion = libtest_mimic::run(&arguments, checks.into_iter().map(trial).collect());
    drop(shared.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

/// Whether the longer profile was asked for.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("QNAT_LONG").is_some()
}

impl Lab {
    /// Starts the members that a check has killed, and undoes its changes of the resources.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn mend(&self) {
        self.mend_by(&Changes::default().text());
    }

    /// The same with these resources.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn mend_by(&self, resources: &str) {
        crate::resources::apply(resources);
        self.restart_the_dead();
        self.wait_until_whole(Duration::from_secs(60));
    }
}
