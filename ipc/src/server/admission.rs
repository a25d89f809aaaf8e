//! What a server executes for one edge, and what it refuses instead.
//!
//! Requests beyond a rate, and under overload those that have waited too long. What an edge with
//! the default limits costs is one look at a flag.

use std::cell::Cell;

use insula_contract::policy::{EdgeLimits, RateLimit, Shedding};

use crate::clock;
use crate::header::Status;

/// The limits of one edge and how far they are used up.
#[derive(Debug)]
pub(super) struct Admission {
    rate: Option<Bucket>,
    shedding: Option<Shedding>,
}

impl Admission {
    pub(super) fn new(limits: &EdgeLimits) -> Self {
        Self {
            rate: limits.rate.map(Bucket::new),
            shedding: limits.shedding,
        }
    }

    /// Whether nothing is ever refused.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.rate.is_none() && self.shedding.is_none()
    }

    /// Why a request is refused, if it is.
    ///
    /// `late_since_ns` is when a request was first found late since the server was idle, 0 before;
    /// `coarse_ns` the coarse clock, `now` the precise one, which only a rate needs.
    pub(super) fn refusal(
        &self,
        waited_ns: u64,
        late_since_ns: &mut u64,
        coarse_ns: u64,
        now: impl FnOnce() -> u64,
    ) -> Option<Status> {
        if let Some(shedding) = &self.shedding
            && waited_ns > clock::nanos(shedding.target)
        {
            if *late_since_ns == 0 {
                *late_since_ns = coarse_ns;
            } else if coarse_ns.saturating_sub(*late_since_ns) >= clock::nanos(shedding.interval) {
                return Some(Status::Overloaded);
            }
        }
        match &self.rate {
            Some(bucket) if !bucket.take(now()) => Some(Status::QuotaExceeded),
            _ => None,
        }
    }
}

/// A token bucket, kept as the time at which it is full again (the generic cell rate algorithm).
#[derive(Debug)]
struct Bucket {
    /// Between two requests at the limit.
    interval_ns: u64,
    /// So far the full bucket may lie ahead.
    burst_ns: u64,
    full_at_ns: Cell<u64>,
}

impl Bucket {
    fn new(limit: RateLimit) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(limit.per_second.max(1));
        Self {
            interval_ns,
            burst_ns: interval_ns * u64::from(limit.burst.max(1)),
            full_at_ns: Cell::new(0),
        }
    }

    /// Takes a token, if there is one.
    fn take(&self, now_ns: u64) -> bool {
        let full_at_ns = self.full_at_ns.get().max(now_ns) + self.interval_ns;
        let has_one = full_at_ns - now_ns <= self.burst_ns;
        if has_one {
            self.full_at_ns.set(full_at_ns);
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn edge(rate: Option<RateLimit>, shedding: Option<Shedding>) -> Admission {
        Admission::new(&EdgeLimits {
            rate,
            shedding,
            waiting: None,
        })
    }

    #[test]
    fn the_default_limits_refuse_nothing() {
        assert!(Admission::new(&EdgeLimits::default()).is_free());
    }

    #[test]
    fn only_what_waited_too_long_is_shed_and_only_after_an_interval_without_a_pause() {
        let shedding = Shedding {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        };
        let edge = edge(None, Some(shedding));
        let mut late = 0;
        let at = |waited: u64, now: u64, late: &mut u64| {
            edge.refusal(waited * MS, late, now * MS, || unreachable!())
        };
        assert_eq!(at(4, 1000, &mut late), None);
        assert_eq!(late, 0);
        assert_eq!(at(6, 1010, &mut late), None, "late for the first time");
        assert_eq!(at(50, 1109, &mut late), None, "not yet for an interval");
        assert_eq!(at(6, 1110, &mut late), Some(Status::Overloaded));
        assert_eq!(at(5, 1111, &mut late), None, "this one is in time");
        assert_eq!(at(6, 1112, &mut late), Some(Status::Overloaded));
        // A pause of the server.
        late = 0;
        assert_eq!(at(6, 1113, &mut late), None);
    }

    proptest! {
        #[test]
        fn a_bucket_never_gives_more_than_its_burst_and_rate(
            per_second in 1_u32..5_000,
            burst in 1_u32..50,
            gaps in proptest::collection::vec(0_u64..3_000_000, 1..400),
        ) {
            let edge = edge(Some(RateLimit { per_second, burst }), None);
            let (begun, mut now, mut taken) = (77 * MS, 77 * MS, 0_u64);
            for gap in gaps {
                now += gap;
                taken += u64::from(edge.refusal(0, &mut 0, 0, || now).is_none());
                let interval = 1_000_000_000 / u64::from(per_second);
                let most = u64::from(burst) + (now - begun) / interval;
                prop_assert!(taken <= most, "{} of {}", taken, most);
            }
            // And it fills up again.
            now += 1_000_000_000 * (u64::from(burst) / u64::from(per_second) + 1);
            for _ in 0..burst {
                prop_assert_eq!(edge.refusal(0, &mut 0, 0, || now), None);
            }
            prop_assert_eq!(edge.refusal(0, &mut 0, 0, || now), Some(Status::QuotaExceeded));
        }
    }
}
