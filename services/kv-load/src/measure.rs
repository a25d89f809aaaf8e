//! What clients measure: latencies, the gaps between successes, errors, violations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::expect::Violation;
use crate::failure::Failures;

/// What a client does to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Reads it.
    Read,
    /// Sets it as a whole.
    Update,
    /// Reads it, adds one to its counter and sets it by compare-and-swap, until that succeeds.
    ReadModifyWrite,
}

impl Operation {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// Time in which nothing succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// From the run's beginning to the success that ended it.
    pub end: Duration,
    /// How long it was.
    pub length: Duration,
}

impl Gap {
    /// From the run's beginning to the success before it.
    pub(crate) fn start(&self) -> Duration {
        self.end.saturating_sub(self.length)
    }

    /// Whether any of it lies in the window.
    pub(crate) fn touches(&self, window: &Window) -> bool {
        self.end >= window.from && self.start() <= window.to
    }
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// From the run's beginning to its own.
    pub from: Duration,
    /// From the run's beginning to its end.
    pub to: Duration,
}

/// One client's gaps: of those that ended in the same tenth of a second, the longest.
///
/// So the memory is bounded by the run's length, and the longest gap near any moment is known
/// although the moments are learnt of only later.
#[derive(Debug)]
pub(crate) struct Gaps {
    begin: Instant,
    last: Instant,
    buckets: Vec<Option<Gap>>,
}

const BUCKET: Duration = Duration::from_millis(100);

impl Gaps {
    /// Of a run that begins then.
    pub(crate) fn new(begin: Instant) -> Self {
        Self {
            begin,
            last: begin,
            buckets: Vec::new(),
        }
    }

    /// Something succeeded, or the run ended.
    pub(crate) fn close(&mut self, now: Instant) {
        let gap = Gap {
            end: now.saturating_duration_since(self.begin),
            length: now.saturating_duration_since(self.last),
        };
        self.last = now;
        let index = (gap.end.as_millis() / BUCKET.as_millis()) as usize;
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, None);
        }
        let bucket = &mut self.buckets[index];
        if bucket.is_none_or(|known| known.length < gap.length) {
            *bucket = Some(gap);
        }
    }

    /// The longest gap of those wanted.
    pub(crate) fn longest(&self, wanted: impl Fn(&Gap) -> bool) -> Option<Gap> {
        let gaps = self.buckets.iter().flatten();
        gaps.filter(|gap| wanted(gap))
            .max_by_key(|gap| gap.length)
            .copied()
    }
}

/// Violations that are kept to be shown; more are only counted.
const VIOLATIONS_SHOWN: usize = 20;

/// Violations that were found.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    /// How many there were.
    pub count: u64,
    /// The first ones.
    pub first: Vec<Violation>,
}

impl Violations {
    /// One more.
    pub(crate) fn add(&mut self, violation: Violation) {
        self.count += 1;
        if self.first.len() < VIOLATIONS_SHOWN {
            self.first.push(violation);
        }
    }

    /// Those of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.count += other.count;
        let room = VIOLATIONS_SHOWN - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// What one client measured.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Latencies of what succeeded, in nanoseconds.
    pub latencies: BTreeMap<Operation, Histogram<u64>>,
    /// Times without success.
    pub gaps: Gaps,
    /// What failed.
    pub errors: Failures,
    /// Compare-and-swaps that another client's write came before; each was tried anew.
    pub conflicts: u64,
    /// What the store did that it must not do.
    pub violations: Violations,
}

impl Measured {
    /// Nothing yet, in a run that begins then.
    pub(crate) fn new(begin: Instant) -> Self {
        Self {
            latencies: BTreeMap::new(),
            gaps: Gaps::new(begin),
            errors: Failures::default(),
            conflicts: 0,
            violations: Violations::default(),
        }
    }

    /// An operation succeeded.
    pub(crate) fn succeed(&mut self, operation: Operation, since: Instant, now: Instant) {
        let nanos = now.saturating_duration_since(since).as_nanos();
        self.latencies
            .entry(operation)
            .or_insert_with(histogram)
            .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX).max(1));
        self.gaps.close(now);
    }
}

/// One hour at most, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds that hdrhistogram allows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(ends_in_ms: &[u64]) -> Gaps {
        let begin = Instant::now();
        let mut gaps = Gaps::new(begin);
        for end in ends_in_ms {
            gaps.close(begin + Duration::from_millis(*end));
        }
        gaps
    }

    #[test]
    fn the_longest_gap_is_found_with_its_end() {
        let longest = gaps(&[10, 20, 220, 230, 1_000, 1_001]).longest(|_| true);
        let milli = Duration::from_millis;
        assert_eq!(
            longest,
            Some(Gap {
                end: milli(1_000),
                length: milli(770)
            })
        );
    }

    #[test]
    fn a_gap_belongs_to_the_windows_that_it_touches() {
        let gaps = gaps(&[100, 900, 1_000, 1_100, 1_600, 1_700]);
        let milli = Duration::from_millis;
        let within = |from, to| {
            let window = Window {
                from: milli(from),
                to: milli(to),
            };
            let longest = gaps.longest(|gap| gap.touches(&window));
            longest.map(|gap| gap.length.as_millis())
        };
        assert_eq!(within(0, 50), Some(100));
        assert_eq!(within(300, 400), Some(800));
        assert_eq!(within(950, 1_050), Some(100));
        assert_eq!(within(1_050, 1_300), Some(500));
        assert_eq!(within(1_800, 1_900), None);
    }
}
