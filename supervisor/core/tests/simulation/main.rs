//! The core under a fake kernel and clock: random orders, deaths, delays and lies from a seed;
//! the invariants are checked after every turn, and once the faults stop everything that is wanted
//! must come up.
//!
//! `INSULA_SIM_STEPS` sets how many events are tried (default 300,000), `INSULA_SIM_FIRST_SEED` the
//! seed of the first 3,000 of them (default 1,000), `INSULA_SIM_SEED` runs one seed only, `INSULA_SIM_TRACE`
//! prints its turns. A failure prints its seed; seeds that found a mistake are kept in [`KEPT_SEEDS`].

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the test takes its settings from the environment and times itself"
)]

mod model;
mod world;

use std::time::Instant;

use world::World;

/// Seeds that once found a mistake.
const KEPT_SEEDS: &[u64] = &[
    1000, 1009, 1012, 1048, 1053, 1184, 1563, 1778, 2208, 3081, 3214, 5302,
];
const STEPS_A_SEED: u64 = 3_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.run_with_faults(STEPS_A_SEED);
    world.run_to_rest();
    world.run_to_the_end();
}

#[test]
fn no_schedule_breaks_an_invariant_and_all_come_up_once_faults_stop() {
    if let Some(seed) = number("INSULA_SIM_SEED") {
        return run(seed);
    }
    let steps = number("INSULA_SIM_STEPS").unwrap_or(300_000);
    let first = number("INSULA_SIM_FIRST_SEED").unwrap_or(1_000);
    let started = Instant::now();
    let seeds = KEPT_SEEDS
        .iter()
        .copied()
        .chain(first..first + steps / STEPS_A_SEED);
    let mut done = 0;
    for seed in seeds {
        run(seed);
        done += STEPS_A_SEED;
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{done} steps without a violation, {rate:.0} steps a second");
}
