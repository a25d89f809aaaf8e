//! When best-effort work is stopped for others, and for how long.
//!
//! Requests that lie too long at a service that is to be quick stop all best-effort work for a
//! moment; longer when it happens again soon, never longer than [`STOP_MAX`] at a time, so that
//! whoever is stopped still answers its probes and its stop signal. Where stopping it changes
//! nothing, it is not what is in the way, and goes on for a while.

use std::time::Duration;

use crate::time::Time;

/// The first stop.
const STOP_MIN: Duration = Duration::from_millis(20);
/// The longest stop.
pub const STOP_MAX: Duration = Duration::from_millis(200);
/// What it runs for at least between two stops.
const RUN_MIN: Duration = Duration::from_millis(10);
/// After so long without lateness all is forgotten.
const CALM: Duration = Duration::from_secs(1);
/// Lateness this soon after a stop began is still of before it.
const SETTLING: Duration = Duration::from_millis(5);
/// Stops in a row that changed nothing, after which it is left alone.
const IN_VAIN_MAX: u32 = 4;
/// How long it is left alone the first time, and at most.
const LEAVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What best-effort work is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Go on.
    Run,
    /// Be still.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Running {
        since: Option<Time>,
    },
    Stopped {
        since: Time,
        until: Time,
        late: bool,
    },
    Left {
        until: Time,
    },
}

/// The course of all best-effort work of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    now: Now,
    /// When requests were last late.
    late: Option<Time>,
    /// Stops in a row.
    row: u32,
    /// Stops in a row during which requests were late all the same.
    in_vain: u32,
    /// How often it was left alone in a row.
    left: u32,
}

impl Default for Aside {
    fn default() -> Self {
        Self {
            now: Now::Running { since: None },
            late: None,
            row: 0,
            in_vain: 0,
            left: 0,
        }
    }
}

impl Aside {
    /// What to do from `now` on; `late` if requests were late since the last turn.
    pub fn turn(&mut self, now: Time, late: bool) -> Course {
        if late {
            self.late = Some(now);
        } else if self.late.is_some_and(|at| now.since(at) >= CALM) {
            // A stop or a leave that is under way ends as it was meant to.
            self.late = None;
            self.row = 0;
            self.in_vain = 0;
            self.left = 0;
        }
        match &mut self.now {
            Now::Running { since } => {
                let ran = since.is_none_or(|since| now.since(since) >= RUN_MIN);
                if late && ran {
                    let stop = (STOP_MIN * 2_u32.pow(self.row.min(10))).min(STOP_MAX);
                    self.row += 1;
                    self.now = Now::Stopped {
                        since: now,
                        until: now + stop,
                        late: false,
                    };
                }
            }
            Now::Stopped {
                since,
                until,
                late: was_late,
            } => {
                *was_late |= late && now.since(*since) >= SETTLING;
                if now >= *until {
                    self.in_vain = if *was_late { self.in_vain + 1 } else { 0 };
                    self.now = Now::Running { since: Some(now) };
                    if self.in_vain >= IN_VAIN_MAX {
                        let leave = (LEAVE.0 * 2_u32.pow(self.left.min(10))).min(LEAVE.1);
                        self.left += 1;
                        self.in_vain = 0;
                        self.now = Now::Left { until: now + leave };
                    }
                }
            }
            Now::Left { until } => {
                if now >= *until {
                    self.now = Now::Running { since: None };
                }
            }
        }
        match self.now {
            Now::Stopped { .. } => Course::Stop,
            Now::Running { .. } | Now::Left { .. } => Course::Run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stops of so many milliseconds, turn by turn: when each began and how long it was.
    fn stops(ms: u64, late: impl Fn(u64, bool) -> bool) -> Vec<(u64, u64)> {
        let mut aside = Aside::default();
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut stopped = false;
        for at in 1..=ms {
            let course = aside.turn(Time(at * 1_000_000), late(at, stopped));
            match (stopped, course) {
                (false, Course::Stop) => found.push((at, 1)),
                (true, Course::Stop) => found.last_mut().unwrap().1 += 1,
                _ => {}
            }
            stopped = course == Course::Stop;
        }
        found
    }

    #[test]
    fn what_is_never_late_never_stops_it() {
        assert_eq!(stops(10_000, |_, _| false), []);
    }

    #[test]
    fn it_stops_in_the_turn_in_which_requests_are_late_and_goes_on_by_itself() {
        assert_eq!(stops(5_000, |at, _| at == 100), [(100, 20)]);
    }

    #[test]
    fn it_stops_for_longer_when_its_running_makes_them_late_each_time_and_for_200_ms_at_most() {
        let found = stops(1_000, |_, stopped| !stopped);
        let lengths: Vec<_> = found.iter().map(|(_, length)| *length).collect();
        assert_eq!(lengths[..6], [20, 40, 80, 160, 200, 200]);
        for pair in found.windows(2) {
            let ran = pair[1].0 - (pair[0].0 + pair[0].1);
            assert_eq!(ran, 10, "it runs between two stops");
        }
    }

    #[test]
    fn a_second_without_lateness_forgets_the_row() {
        let found = stops(5_000, |at, _| at == 100 || at == 130 || at == 1_500);
        assert_eq!(found, [(100, 20), (130, 40), (1_500, 20)]);
    }

    #[test]
    fn it_is_left_alone_where_stopping_it_changes_nothing() {
        let found = stops(20_000, |_, _| true);
        let stopped: u64 = found.iter().map(|(_, length)| length).sum();
        assert!(stopped < 20_000 / 5, "{stopped} ms of 20 s: {found:?}");
        let fourth = found[3];
        assert!(found[4].0 - (fourth.0 + fourth.1) >= 1_000, "{found:?}");
    }
}
