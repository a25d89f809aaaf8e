//! The budget of an edge for sending refused requests again.
//!
//! All connections of an edge share it. It is asked only when something was refused, and learns
//! then how many calls were made meanwhile: a call that is answered pays nothing for it.

use insula_contract::policy::RetryPolicy;

/// Of what a retry costs; calls and seconds earn parts of one.
const RETRY: u64 = 100;

/// What is left, in hundredths of a retry.
#[derive(Debug)]
pub(super) struct Budget {
    policy: RetryPolicy,
    left: u64,
    /// Until when the seconds were counted; 0 before the first time.
    counted_ns: u64,
}

impl Budget {
    /// A full one.
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            left: u64::from(policy.reserve) * RETRY,
            counted_ns: 0,
        }
    }

    /// Takes a retry, if there is one, after `calls` more calls were made.
    pub(super) fn take(&mut self, calls: u64, now_ns: u64) -> bool {
        let most = u64::from(self.policy.reserve) * RETRY;
        if self.counted_ns == 0 {
            self.counted_ns = now_ns;
        }
        // What does not make a whole hundredth yet is counted the next time.
        let by_time = match u64::from(self.policy.per_second) * RETRY {
            0 => 0,
            per_second => {
                let each_ns = 1_000_000_000_u64.div_ceil(per_second);
                let parts = now_ns.saturating_sub(self.counted_ns) / each_ns;
                self.counted_ns += parts * each_ns;
                parts
            }
        };
        let by_calls = calls.saturating_mul(u64::from(self.policy.percent));
        let earned = by_time.saturating_add(by_calls);
        self.left = self.left.saturating_add(earned).min(most);
        let enough = self.left >= RETRY;
        if enough {
            self.left -= RETRY;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn without_a_reserve_nothing_is_ever_sent_again() {
        let mut budget = Budget::new(RetryPolicy {
            percent: 100,
            reserve: 0,
            per_second: 100,
        });
        assert!(!budget.take(1000, SECOND));
        assert!(!budget.take(1000, 100 * SECOND));
    }

    #[test]
    fn a_used_up_budget_comes_back_with_calls_and_with_time() {
        let mut budget = Budget::new(RetryPolicy {
            percent: 10,
            reserve: 5,
            per_second: 2,
        });
        for _ in 0..5 {
            assert!(budget.take(0, SECOND));
        }
        assert!(!budget.take(9, SECOND));
        assert!(budget.take(1, SECOND), "ten calls");
        assert!(!budget.take(0, SECOND + SECOND / 2 - 1));
        assert!(budget.take(0, SECOND + SECOND / 2), "half a second");
        // Never more than the reserve.
        let later = 1000 * SECOND;
        assert_eq!((0..20).filter(|_| budget.take(0, later)).count(), 5);
    }

    proptest! {
        #[test]
        fn retries_stay_within_the_reserve_the_share_and_the_rate(
            percent in 0_u8..=100,
            reserve in 0_u32..50,
            per_second in 0_u32..50,
            steps in proptest::collection::vec((0_u64..40, 0_u64..SECOND), 1..300),
        ) {
            let mut budget = Budget::new(RetryPolicy { percent, reserve, per_second });
            let (mut calls, mut now, mut retries) = (0, SECOND, 0_u64);
            for (more, gap) in steps {
                calls += more;
                now += gap;
                retries += u64::from(budget.take(more, now));
            }
            let most = u64::from(reserve) * 100
                + calls * u64::from(percent)
                + (now - SECOND) * u64::from(per_second) / 10_000_000;
            prop_assert!(retries * 100 <= most, "{} retries", retries);
        }
    }
}
