//! When to start a process again: back-off, its reset, and the restart intensity.
//!
//! The first end after a stable time is followed by a start at once. Each further one waits twice
//! as long as the one before, with up to a quarter of jitter, to a cap. More than the allowed
//! number of ends within the window is a crash loop, ready in between or not; one that ends some
//! times in a row without ever being ready is left down earlier.
//!
//! From the third on, the starts of all that fail in a row have turns on the host (see `pace`).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// The numbers of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartLimits {
    /// Wait before the second start in a row.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// Running as long as this forgets earlier failures.
    pub stable: Duration,
    /// Ends in a row before it was ever ready, after which it is left down.
    pub start_tries: u32,
    /// Restarts allowed within the window.
    pub intensity: usize,
    /// The window.
    pub window: Duration,
}

impl Default for RestartLimits {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            stable: Duration::from_secs(10),
            start_tries: 4,
            intensity: 10,
            window: Duration::from_secs(60),
        }
    }
}

/// What to do after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Start again after this time.
    Again(Duration),
    /// Too many ends in the window: leave it until a person clears it.
    CrashLoop,
    /// It never became ready, too often in a row: leave it until a person clears it.
    NeverReady,
}

/// The ends of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartHistory {
    ends: VecDeque<Time>,
    in_a_row: u32,
    never_ready: u32,
    /// All restarts since the service was started by a person, for `status`.
    pub restarts: u64,
}

impl RestartHistory {
    /// Takes in an end of an attempt that was launched at `launched`; `chance` is a random number.
    pub fn ended(
        &mut self,
        limits: &RestartLimits,
        was_ready: bool,
        launched: Time,
        now: Time,
        chance: u64,
    ) -> Verdict {
        if now.since(launched) >= limits.stable {
            self.in_a_row = 0;
        }
        while self
            .ends
            .front()
            .is_some_and(|&end| now.since(end) >= limits.window)
        {
            self.ends.pop_front();
        }
        self.ends.push_back(now);
        self.never_ready = if was_ready { 0 } else { self.never_ready + 1 };
        if self.ends.len() > limits.intensity {
            return Verdict::CrashLoop;
        }
        if self.never_ready >= limits.start_tries {
            return Verdict::NeverReady;
        }
        self.restarts += 1;
        let wait = match self.in_a_row {
            0 => Duration::ZERO,
            n => limits
                .base
                .saturating_mul(1 << (n - 1).min(20))
                .min(limits.cap),
        };
        self.in_a_row += 1;
        let quarter = u64::try_from(wait.as_nanos() / 4).unwrap_or(u64::MAX);
        let jitter = if quarter == 0 { 0 } else { chance % quarter };
        Verdict::Again(wait + Duration::from_nanos(jitter))
    }

    /// Whether the next start is one of several in a row that did not help.
    pub fn loops(&self) -> bool {
        self.in_a_row > 2
    }

    /// The next start is put off for this time, though it was due: the window does not move on
    /// meanwhile, so that a crash loop is one however many there are at once.
    pub fn held_back(&mut self, time: Duration) {
        for end in &mut self.ends {
            *end = *end + time;
        }
    }

    /// Forgets all of it: a person started the service anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RestartLimits = RestartLimits {
        base: Duration::from_millis(100),
        cap: Duration::from_millis(800),
        stable: Duration::from_secs(10),
        start_tries: 100,
        intensity: 6,
        window: Duration::from_secs(60),
    };

    fn wait(history: &mut RestartHistory, launched: u64, now: u64) -> Option<u64> {
        let ms = |t: u64| Time(t * 1_000_000);
        match history.ended(&LIMITS, true, ms(launched), ms(now), 0) {
            Verdict::Again(wait) => Some(u64::try_from(wait.as_millis()).unwrap()),
            Verdict::CrashLoop | Verdict::NeverReady => None,
        }
    }

    #[test]
    fn what_never_gets_ready_is_left_down_after_some_tries() {
        let limits = RestartLimits {
            start_tries: 3,
            ..LIMITS
        };
        let mut history = RestartHistory::default();
        let mut end = |ready| history.ended(&limits, ready, Time(0), Time(5), 0);
        assert!(matches!(end(false), Verdict::Again(_)));
        assert!(matches!(end(false), Verdict::Again(_)));
        assert!(matches!(end(true), Verdict::Again(_)));
        assert!(matches!(end(false), Verdict::Again(_)));
        assert!(matches!(end(false), Verdict::Again(_)));
        assert_eq!(end(false), Verdict::NeverReady);
    }

    #[test]
    fn waits_double_to_the_cap_and_a_crash_loop_ends_them() {
        let mut history = RestartHistory::default();
        let waits: Vec<_> = (0..7)
            .map(|n| wait(&mut history, n * 10, n * 10 + 5))
            .collect();
        let doubled = [
            Some(0),
            Some(100),
            Some(200),
            Some(400),
            Some(800),
            Some(800),
            None,
        ];
        assert_eq!(waits, doubled);
    }

    #[test]
    fn a_stable_time_resets_the_wait() {
        let mut history = RestartHistory::default();
        let _ = wait(&mut history, 0, 5);
        assert_eq!(wait(&mut history, 10, 15), Some(100));
        assert_eq!(wait(&mut history, 100, 10_100), Some(0));
    }

    #[test]
    fn ends_outside_the_window_do_not_count() {
        let mut history = RestartHistory::default();
        for n in 0..100 {
            assert!(
                wait(&mut history, n * 11_000, n * 11_000 + 10_500).is_some(),
                "end {n}"
            );
        }
    }

    #[test]
    fn a_wait_for_its_turn_is_no_time_without_failures() {
        let seconds = |t: u64| Time(t * 1_000_000_000);
        let mut history = RestartHistory::default();
        let mut verdicts = Vec::new();
        for n in 0..7 {
            let now = seconds(n * 40);
            verdicts.push(history.ended(&LIMITS, true, now, now, 0));
            history.held_back(Duration::from_secs(39));
        }
        assert_eq!(verdicts.last(), Some(&Verdict::CrashLoop), "{verdicts:?}");
    }

    #[test]
    fn two_ends_in_a_row_are_no_loop() {
        let mut history = RestartHistory::default();
        let _ = wait(&mut history, 0, 5);
        let _ = wait(&mut history, 10, 15);
        assert!(!history.loops());
        let _ = wait(&mut history, 20, 25);
        assert!(history.loops());
        let _ = wait(&mut history, 30, 10_030);
        assert!(!history.loops(), "it ran for a stable time");
    }

    #[test]
    fn jitter_stays_below_a_quarter() {
        for chance in [0, 1, 24_999_999, u64::MAX] {
            let mut history = RestartHistory {
                in_a_row: 1,
                ..RestartHistory::default()
            };
            let Verdict::Again(wait) = history.ended(&LIMITS, true, Time(0), Time(5), chance)
            else {
                panic!("no crash loop yet");
            };
            assert!(
                wait >= LIMITS.base && wait < LIMITS.base * 5 / 4,
                "{wait:?}"
            );
        }
    }
}
