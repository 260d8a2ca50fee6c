//! Draws worlds and what happens in them, until as many packets have been compared as were asked for.

use std::hash::{BuildHasher, RandomState};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use qnat_reference::bed::Bed;
use qnat_reference::world::World;

use crate::play::{Tally, play};
use crate::steps::{self, Step};

/// Steps of the longest case; the mean is half of it.
const LENGTH: usize = 800;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays until `packets` have been compared. What was seen, or the shortest sequence that shows a difference.
pub(crate) fn search(
    (packets, seed): (u64, u64),
    step: impl Strategy<Value = Step>,
    bed: &dyn Fn(&World) -> Bed,
) -> Result<Tally, String> {
    let config = Config { cases: u32::MAX, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let strategy = (steps::world(), proptest::collection::vec(step, 1..=LENGTH));
    let mut seen = Tally::default();
    loop {
        if seen.compared >= packets {
            return Ok(seen);
        }
        let case = strategy.new_tree(&mut runner).map_err(|why| why.to_string())?;
        let tally = std::cell::RefCell::new(&mut seen);
        let first = std::cell::RefCell::new(None);
        let result = runner.run_one(case, |(world, steps)| {
            let mut tally = tally.borrow_mut();
            let result = play(&world, bed(&world), &steps, &mut tally);
            if result.is_err() && first.borrow().is_none() {
                *first.borrow_mut() = Some(tally.compared);
            }
            result
        });
        match result {
            Ok(_) => {}
            Err(TestError::Fail(why, (world, steps))) => {
                let after = first.into_inner().unwrap_or(0);
                let lines: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
                return Err(format!(
                    "seed {seed}: after {after} packets: {why}\n{world:?}\n{} steps:\n{}",
                    steps.len(),
                    lines.join("\n")
                ));
            }
            Err(TestError::Abort(why)) => return Err(format!("seed {seed}: {why}")),
        }
    }
}

/// How many packets are sent in all, and which seed: as `QNAT_PACKETS` and `QNAT_SEED` say, or so many of seed 1.
pub(crate) fn asked(packets: u64) -> (u64, u64) {
    let drawn = || RandomState::new().hash_one(0) >> 16;
    let named = number("QNAT_PACKETS");
    let seed = number("QNAT_SEED").unwrap_or_else(|| if named.is_some() { drawn() } else { 1 });
    (named.unwrap_or(packets), seed)
}
