//! When an instance counts as bad.
//!
//! ```text
//!            enough failures                    its time is over, and a call is sent
//!   closed ──────────────────► open until T ───────────────────────────────────────► trying
//!     ▲ ▲                         │   ▲                                                │ │
//!     │ └──────── success ────────┘   └──── failure: open for twice as long ───────────┘ │
//!     └──────────────────────────── success ─────────────────────────────────────────────┘
//! ```
//!
//! The last 64 outcomes are the bits of a word, so that a success after successes, which is nearly
//! all of them, costs a look at it. A success counts whenever it comes: an instance that answers
//! is in order, also if the call was made before.

use insula_contract::policy::BreakerPolicy;

use crate::clock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_ns: u64,
    },
    /// One call tries whether it is in order again.
    Trying,
}

/// The breaker of one instance.
#[derive(Debug)]
pub(super) struct Breaker {
    /// The last outcomes, the newest in the lowest bit, a failure as 1. Not 0 unless closed.
    history: u64,
    state: State,
    /// How long it opens the next time; 0 for as long as the policy says.
    open_for_ns: u64,
}

impl Breaker {
    pub(super) const CLOSED: Self = Self {
        history: 0,
        state: State::Closed,
        open_for_ns: 0,
    };

    /// Whether nothing speaks against the instance.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether a call may be sent for a better reason than that there is nobody else.
    pub(super) fn allows(&self, now_ns: u64) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until_ns } => now_ns >= until_ns,
            State::Trying => false,
        }
    }

    /// Notes that a call was sent.
    #[inline]
    pub(super) fn sent(&mut self) {
        if self.history != 0
            && let State::Open { .. } = self.state
        {
            self.state = State::Trying;
        }
    }

    /// Notes that the instance answered; whether that closed the breaker.
    #[inline]
    pub(super) fn succeeded(&mut self) -> bool {
        self.history != 0 && self.succeeded_again()
    }

    #[cold]
    fn succeeded_again(&mut self) -> bool {
        if self.is_closed() {
            self.history <<= 1;
            false
        } else {
            *self = Self::CLOSED;
            true
        }
    }

    /// Notes a failure; whether it opened the breaker.
    #[cold]
    pub(super) fn failed(&mut self, policy: &BreakerPolicy, now_ns: u64) -> bool {
        self.history = self.history << 1 | 1;
        let opens = match self.state {
            State::Closed => {
                let row = self.history.trailing_ones();
                let all = self.history.count_ones();
                policy.consecutive != 0 && row >= u32::from(policy.consecutive).min(64)
                    || policy.of_64 != 0 && all >= u32::from(policy.of_64).min(64)
            }
            State::Open { .. } => false,
            State::Trying => true,
        };
        if opens {
            let first = clock::nanos(policy.open_for);
            let last = clock::nanos(policy.open_at_most).max(first);
            let open_for_ns = self.open_for_ns.clamp(first, last);
            self.open_for_ns = open_for_ns.saturating_mul(2).min(last);
            self.state = State::Open {
                until_ns: now_ns.saturating_add(open_for_ns),
            };
        }
        opens
    }

    /// Notes that a call ended without saying anything about the instance: another one may try.
    #[inline]
    pub(super) fn abandoned(&mut self) {
        if self.history != 0 && self.state == State::Trying {
            self.state = State::Open { until_ns: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn policy() -> BreakerPolicy {
        BreakerPolicy {
            consecutive: 3,
            of_64: 10,
            open_for: Duration::from_millis(100),
            open_at_most: Duration::from_millis(350),
            fail_fast: false,
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::CLOSED;
        for _ in 0..2 {
            assert!(!breaker.failed(&policy(), 0));
            assert!(!breaker.failed(&policy(), 0));
            assert!(!breaker.succeeded());
        }
        assert!(breaker.allows(0));
        assert!(!breaker.failed(&policy(), 0));
        assert!(!breaker.failed(&policy(), 0));
        assert!(breaker.failed(&policy(), 7 * MS));
        assert!(!breaker.is_closed() && !breaker.allows(107 * MS - 1));
        assert!(breaker.allows(107 * MS));
    }

    #[test]
    fn many_failures_among_successes_open_it_and_old_ones_are_forgotten() {
        let mut breaker = Breaker::CLOSED;
        for round in 0..10 {
            assert_eq!(breaker.failed(&policy(), 0), round == 9, "{round}");
            if round < 9 {
                breaker.succeeded();
            }
        }
        let mut breaker = Breaker::CLOSED;
        for _ in 0..100 {
            assert!(!breaker.failed(&policy(), 0));
            for _ in 0..7 {
                breaker.succeeded();
            }
        }
    }

    #[test]
    fn one_call_tries_and_each_try_that_fails_doubles_the_wait() {
        let mut breaker = Breaker::CLOSED;
        for _ in 0..3 {
            breaker.failed(&policy(), 0);
        }
        let mut now = 0;
        for wait in [100, 200, 350, 350] {
            assert!(!breaker.allows(now + wait * MS - 1), "{wait}");
            now += wait * MS;
            assert!(breaker.allows(now), "{wait}");
            breaker.sent();
            assert!(!breaker.allows(now), "one at a time");
            // A failure of an earlier call while it is open changes nothing.
            assert!(breaker.failed(&policy(), now));
            assert!(!breaker.failed(&policy(), now + 1));
        }
        now += 350 * MS;
        breaker.sent();
        breaker.abandoned();
        assert!(breaker.allows(now), "nothing was learned");
        breaker.sent();
        assert!(breaker.succeeded());
        assert!(breaker.is_closed());
        // It begins with the first wait again.
        for _ in 0..3 {
            breaker.failed(&policy(), now);
        }
        assert!(breaker.allows(now + 100 * MS));
    }

    #[test]
    fn a_policy_of_zeros_never_opens_it() {
        let never = BreakerPolicy {
            consecutive: 0,
            of_64: 0,
            ..policy()
        };
        let mut breaker = Breaker::CLOSED;
        for _ in 0..200 {
            assert!(!breaker.failed(&never, 0));
        }
        assert!(breaker.allows(0));
    }

    proptest! {
        #[test]
        fn whatever_happens_it_lets_calls_through_again(
            steps in proptest::collection::vec((0_u8..4, 0_u64..200 * MS), 0..300),
        ) {
            let mut breaker = Breaker::CLOSED;
            let mut now = 1;
            for (step, gap) in steps {
                now += gap;
                match step {
                    0 => { breaker.succeeded(); }
                    1 => { breaker.failed(&policy(), now); }
                    2 if breaker.allows(now) => breaker.sent(),
                    _ => breaker.abandoned(),
                }
                prop_assert!(breaker.history != 0 || breaker.is_closed());
            }
            breaker.abandoned();
            prop_assert!(breaker.allows(now + 350 * MS));
            breaker.sent();
            breaker.succeeded();
            prop_assert!(breaker.allows(now));
        }
    }
}
