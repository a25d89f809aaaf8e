//! The pace at which all services that fail in a row are started again: each has a turn.
//!
//! A start takes a processor for about a millisecond, part of which the kernel does not interrupt.
//! Many services that fail together would fill the host with starts that help nobody, so they wait
//! for each other: two starts a second for each of the host's CPUs, whoever's they are.
//!
//! A turn is kept by the wait that it belongs to: whoever stops waiting for it leaves it to others.

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::ServiceName;

use crate::service::{Place, Service};
use crate::time::Time;

/// The turns that are kept, counted from the beginning of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pace {
    /// From one turn to the next, in nanoseconds.
    apart: u64,
    kept: BTreeSet<u64>,
    by_service: BTreeMap<ServiceName, BTreeSet<u64>>,
    /// The first that nobody has had.
    next: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::on(1)
    }
}

impl Pace {
    /// From one turn to the next on a host of one CPU, in nanoseconds.
    const APART: u64 = 500_000_000;

    /// The pace of a host with so many CPUs.
    pub(crate) fn on(cpus: usize) -> Self {
        let cpus = u64::try_from(cpus).unwrap_or(u64::MAX);
        Self {
            apart: (Self::APART / cpus.max(1)).max(1),
            kept: BTreeSet::new(),
            by_service: BTreeMap::new(),
            next: 0,
        }
    }

    fn turn(&self, at: Time) -> u64 {
        at.0 / self.apart
    }

    /// Keeps the first free turn for a service whose start is due then, and tells when it is.
    pub(crate) fn keep(&mut self, service: &ServiceName, due: Time) -> Time {
        let wanted = self.turn(due).max(self.next);
        let free = (wanted..)
            .find(|turn| !self.kept.contains(turn))
            .unwrap_or(wanted);
        self.kept.insert(free);
        self.by_service
            .entry(service.clone())
            .or_default()
            .insert(free);
        due.max(Time(free.saturating_mul(self.apart)))
    }

    /// Takes a service as it is now: a turn that it waits for no more is over, or free again.
    pub(crate) fn note(&mut self, service: &Service, now: Time) {
        let Some(turns) = self.by_service.get(&service.name) else {
            return;
        };
        let waits = self.waits(service);
        let left: Vec<_> = turns.difference(&waits).copied().collect();
        self.leave(&service.name, &left, now);
    }

    /// Forgets a service that is no more.
    pub(crate) fn forget(&mut self, service: &ServiceName, now: Time) {
        let turns = self.by_service.get(service);
        let left: Vec<_> = turns.into_iter().flatten().copied().collect();
        self.leave(service, &left, now);
    }

    fn waits(&self, service: &Service) -> BTreeSet<u64> {
        let until = service
            .replicas
            .iter()
            .filter_map(|replica| match replica.place {
                Place::Backoff { until } => Some(until),
                _ => None,
            });
        until.map(|until| self.turn(until)).collect()
    }

    fn leave(&mut self, service: &ServiceName, left: &[u64], now: Time) {
        for turn in left {
            self.kept.remove(turn);
            if *turn <= self.turn(now) {
                self.next = self.next.max(turn + 1);
            }
        }
        if let Some(turns) = self.by_service.get_mut(service) {
            turns.retain(|turn| !left.contains(turn));
            if turns.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    /// What does not hold of the turns and the services as they are, in words.
    pub(crate) fn violations(&self, services: &BTreeMap<ServiceName, Service>) -> Vec<String> {
        let mut found = Vec::new();
        let mut waited_for = BTreeSet::new();
        for (name, turns) in &self.by_service {
            let waits = services.get(name).map(|service| self.waits(service));
            let waits = waits.unwrap_or_default();
            for turn in turns.difference(&waits) {
                found.push(format!("{name} keeps turn {turn} and does not wait for it"));
            }
            for turn in turns {
                if !waited_for.insert(*turn) {
                    found.push(format!("turn {turn} is kept twice"));
                }
            }
        }
        for turn in self.kept.symmetric_difference(&waited_for) {
            found.push(format!("turn {turn} is kept for nobody, or not kept"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(t: u64) -> Time {
        Time(t * 1_000_000)
    }

    fn name(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[test]
    fn turns_follow_each_other_and_keep_nobody_with_a_long_wait_from_his() {
        let mut pace = Pace::on(5);
        let long = pace.keep(&name("long"), ms(30_010));
        assert_eq!(long, ms(30_010), "alone there");
        let began: Vec<_> = (0..50)
            .map(|n| pace.keep(&name(&format!("x{n}")), ms(250)))
            .collect();
        assert_eq!(began[0], ms(250), "nobody before it");
        let spread: BTreeSet<_> = began.iter().map(|at| at.0 / 100_000_000).collect();
        assert_eq!(spread, (2..52).collect(), "one in each tenth of a second");
        assert!(began[1..].iter().all(|at| at.0 % 100_000_000 == 0));
    }

    #[test]
    fn who_waits_no_more_leaves_his_turn_to_others_unless_it_is_over() {
        let mut pace = Pace::on(1);
        assert_eq!(pace.keep(&name("a"), ms(500)), ms(500));
        assert_eq!(pace.keep(&name("b"), ms(500)), ms(1_000));
        pace.forget(&name("a"), ms(499));
        assert_eq!(pace.keep(&name("c"), ms(500)), ms(500));
        pace.forget(&name("c"), ms(500));
        assert_eq!(pace.keep(&name("d"), ms(501)), ms(1_500), "c had its turn");
        assert_eq!(pace.kept, BTreeSet::from([2, 3]));
        assert_eq!(pace.by_service.len(), 2);
        assert_eq!(pace.keep(&name("d"), ms(1_400)), ms(2_000), "its other one");
        pace.forget(&name("d"), ms(1_400));
        assert_eq!(pace.kept, BTreeSet::from([2]));
    }

    #[test]
    fn more_cpus_have_more_turns() {
        assert_eq!(Pace::on(0), Pace::on(1));
        for (cpus, apart) in [(1, 500), (2, 250), (64, 7)] {
            let mut pace = Pace::on(cpus);
            let first = pace.keep(&name("a"), ms(0));
            let second = pace.keep(&name("b"), ms(0));
            assert_eq!(second.since(first).as_millis(), apart, "{cpus}");
        }
    }
}
