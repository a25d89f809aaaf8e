//! Plans against the best of all.

use insula_core::placement::plan::{STEPS, Worth, plan};
use insula_core::placement::{Placement, Policy, Request, Topology};

use crate::exhaustive::Host;
use crate::{Chance, Class, host, request};

const CASES: u64 = 1_000;
/// A seat counts as much as these points in the ratio of two plans.
const SEAT: f64 = 20.0;

struct Tally {
    optimal: u64,
    greedy: u64,
    ratios: f64,
    worst: (f64, u64, String),
}

fn value(worth: Worth) -> f64 {
    worth.0 as f64 * SEAT + worth.1 as f64
}

/// Plans a case, and checks what came of it with the slow account.
fn planned(topology: &Topology, requests: &[Request], steps: usize) -> (Worth, String) {
    let policy = Policy::default();
    let slow = Host::new(topology, &policy);
    let made = plan(
        &Placement::new(topology.clone(), policy.clone()),
        requests,
        steps,
    );
    let sits: Vec<_> = (0..requests.len())
        .map(|index| Some(slow.read(topology, made.seat(index)?)))
        .collect();
    assert!(
        slow.holds(requests, &sits),
        "{sits:?} for {requests:#?} is more than there is"
    );
    assert_eq!(slow.worth(requests, &sits), made.worth, "{sits:?}");
    (made.worth, format!("{sits:?}"))
}

fn compare(class: Class) {
    let mut tally = Tally {
        optimal: 0,
        greedy: 0,
        ratios: 0.0,
        worst: (1.0, 0, "none".to_owned()),
    };
    for seed in 0..CASES {
        let mut chance = Chance(seed * 4 + class as u64);
        let topology = host(&mut chance, class);
        let count = 3 + chance.below(3);
        let requests: Vec<_> = (0..count).map(|_| request(&mut chance, class)).collect();
        let slow = Host::new(&topology, &Policy::default());
        let (best, best_plan) = slow.best(&requests);
        let (worth, sits) = planned(&topology, &requests, STEPS / 10);
        let (greedy, _) = planned(&topology, &requests, 0);
        assert!(
            worth <= best,
            "seed {seed}: {sits} is better than {best_plan:?}"
        );
        let ratio = if best == (0, 0) {
            1.0
        } else {
            value(worth) / value(best)
        };
        tally.optimal += u64::from(worth == best);
        tally.greedy += u64::from(greedy == best);
        tally.ratios += ratio;
        if ratio < tally.worst.0 {
            let text = format!("{worth:?} {sits}, best {best:?} {best_plan:?}");
            tally.worst = (ratio, seed, text);
        }
    }
    let mean = tally.ratios / CASES as f64;
    println!(
        "{class:?}: {} of {CASES} optimal ({} without search), mean ratio {mean:.4}; worst {:.3}, \
         seed {}: {}",
        tally.optimal, tally.greedy, tally.worst.0, tally.worst.1, tally.worst.2
    );
    assert!(tally.optimal * 100 >= CASES * 95, "too few are optimal");
    assert!(mean >= 0.99, "the mean ratio is {mean}");
    assert!(tally.worst.0 >= 0.9, "the worst ratio is {}", tally.worst.0);
}

#[test]
fn plans_of_exclusive_cores_are_as_good_as_can_be() {
    compare(Class::Exclusive);
}

#[test]
fn plans_of_pools_are_as_good_as_can_be() {
    compare(Class::Shared);
}

#[test]
fn plans_over_nodes_are_as_good_as_can_be() {
    compare(Class::Numa);
}

#[test]
fn plans_of_everything_together_are_as_good_as_can_be() {
    compare(Class::Mixed);
}
