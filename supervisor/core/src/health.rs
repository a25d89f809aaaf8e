//! Whether a process that is on its routes still does its work.
//!
//! Three things can speak against it, each only where it is asked for: a liveness probe that fails,
//! a `WATCHDOG=1` that does not come, and a request that its client calls late. Nothing here runs
//! while nobody asks: an idle native service has no timer.
//!
//! A late request alone proves nothing. It makes a suspicion: the process is pinged, and is cleared
//! by a pong within its watchdog time. Else the shell is asked what it knows ([`Vitality`]), as it
//! is about one that was to say that it lives and did not: a process that moves on is cleared, one
//! that gets no processor is given the same time again, and only one that is stuck is killed.

use std::time::Duration;

use crate::event::Vitality;
use crate::spec::{Kind, Liveness, Readiness, ServiceSpec};
use crate::time::Time;

/// Beyond the timeout of a probe, how long its answer is waited for.
const PROBE_GRACE: Duration = Duration::from_secs(5);

/// What speaks against a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// A request to it is late; it was sent this ping.
    Late { ping: u64 },
    /// It was to say that it lives, and did not.
    Silent,
}

/// Something speaks against a process, and it has to show that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspicion {
    doubt: Doubt,
    /// When the shell is asked.
    until: Time,
    /// How long it is given each time.
    patience: Duration,
}

/// Where the liveness probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Probing {
    /// There is none.
    #[default]
    Off,
    /// Nobody is asked until then.
    Next(Time),
    /// It was asked; without an answer it counts as failed then.
    Asked { number: u64, until: Time },
}

/// What is known about a process's health.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// What it says of itself, for people.
    pub status: Option<String>,
    /// Why it is not well, while it is not.
    pub trouble: Option<String>,
    probing: Probing,
    /// Failures of the probe in a row.
    failures: u32,
    /// How often it says that it lives, and when it is late.
    watchdog: Option<(Duration, Time)>,
    suspicion: Option<Suspicion>,
    /// Probes and pings so far.
    asked: u64,
}

/// What is to be done about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// Do its probe.
    Probe { number: u64 },
    /// Say ping.
    Ping { ping: u64 },
    /// Ask the shell about it.
    Examine,
    /// Kill it.
    Kill { reason: String },
}

/// What is said of a process that is to say that it lives.
fn silence(interval: Duration) -> String {
    format!(
        "it did not say for {:.1} s that it lives",
        interval.as_secs_f64()
    )
}

impl Health {
    /// From now on it must show that it works.
    pub(crate) fn begin(&mut self, spec: &ServiceSpec, now: Time) {
        // What it said itself about its watchdog counts more.
        let interval = match (&spec.kind, self.watchdog) {
            (_, Some((interval, _))) => Some(interval),
            (Kind::Foreign(Readiness::Notify), None) => spec.watchdog,
            (Kind::Native | Kind::Foreign(_) | Kind::Task, None) => None,
        };
        self.start(spec.liveness.as_ref(), interval, now);
    }

    fn start(&mut self, liveness: Option<&Liveness>, watchdog: Option<Duration>, now: Time) {
        self.failures = 0;
        self.trouble = None;
        self.suspicion = None;
        self.probing = match liveness {
            Some(liveness) => Probing::Next(now + liveness.every),
            None => Probing::Off,
        };
        self.watchdog = watchdog.map(|interval| (interval, now + interval));
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let probing = match self.probing {
            Probing::Off => None,
            Probing::Next(at) | Probing::Asked { until: at, .. } => Some(at),
        };
        let watchdog = self.watchdog.map(|(_, at)| at);
        let suspicion = self.suspicion.map(|suspicion| suspicion.until);
        [probing, watchdog, suspicion].into_iter().flatten().min()
    }

    /// What time has made due.
    pub(crate) fn pass(&mut self, liveness: Option<&Liveness>, now: Time) -> Vec<Check> {
        let mut checks = Vec::new();
        if let Some((interval, at)) = self.watchdog
            && at <= now
        {
            self.watchdog = Some((interval, now + interval));
            self.trouble = Some(silence(interval));
            self.suspicion = Some(Suspicion {
                doubt: Doubt::Silent,
                until: now + interval,
                patience: interval,
            });
            checks.push(Check::Examine);
        }
        match (self.probing, liveness) {
            (Probing::Next(at), Some(liveness)) if at <= now => {
                self.asked += 1;
                let number = self.asked;
                let until = now + liveness.timeout + PROBE_GRACE;
                self.probing = Probing::Asked { number, until };
                checks.push(Check::Probe { number });
            }
            (Probing::Asked { number, until }, Some(_)) if until <= now => {
                let failed = Err("it was not answered".to_owned());
                checks.extend(self.probed(liveness, number, failed, now));
            }
            // The release of this name has no probe any more.
            (Probing::Next(_) | Probing::Asked { .. }, None) => self.probing = Probing::Off,
            (Probing::Off | Probing::Next(_) | Probing::Asked { .. }, _) => {}
        }
        if let Some(suspicion) = &mut self.suspicion
            && suspicion.until <= now
        {
            suspicion.until = now + suspicion.patience;
            checks.push(Check::Examine);
        }
        checks
    }

    /// Takes in the answer to a probe.
    pub(crate) fn probed(
        &mut self,
        liveness: Option<&Liveness>,
        number: u64,
        result: Result<(), String>,
        now: Time,
    ) -> Option<Check> {
        let asked = matches!(self.probing, Probing::Asked { number: last, .. } if last == number);
        let Liveness {
            every, failures, ..
        } = liveness.filter(|_| asked)?;
        self.probing = Probing::Next(now + *every);
        match result {
            Ok(()) => {
                self.failures = 0;
                self.trouble = None;
                None
            }
            Err(reason) => {
                self.failures += 1;
                let trouble = format!(
                    "its probe failed {} of {failures} times: {reason}",
                    self.failures
                );
                self.trouble = Some(trouble.clone());
                (self.failures >= *failures).then(|| {
                    self.probing = Probing::Off;
                    Check::Kill { reason: trouble }
                })
            }
        }
    }

    /// It said that it lives.
    pub(crate) fn fed(&mut self, now: Time) {
        if let Some((interval, at)) = &mut self.watchdog {
            *at = now + *interval;
        }
        if self.suspicion.is_some_and(|it| it.doubt == Doubt::Silent) {
            self.clear();
        }
    }

    /// It said how often it will say that it lives.
    pub(crate) fn set_watchdog(&mut self, interval: Duration, now: Time) {
        self.watchdog = (!interval.is_zero()).then(|| (interval, now + interval));
    }

    /// A request to it is late.
    pub(crate) fn suspect(
        &mut self,
        patience: Option<Duration>,
        waited: Duration,
        now: Time,
    ) -> Option<Check> {
        let patience = patience.filter(|_| self.suspicion.is_none())?;
        self.asked += 1;
        self.suspicion = Some(Suspicion {
            doubt: Doubt::Late { ping: self.asked },
            until: now + patience,
            patience,
        });
        self.trouble = Some(format!(
            "a request has waited for {:.1} s",
            waited.as_secs_f64()
        ));
        Some(Check::Ping { ping: self.asked })
    }

    /// It answered a ping.
    pub(crate) fn ponged(&mut self, ping: u64) {
        if self
            .suspicion
            .is_some_and(|suspicion| suspicion.doubt == Doubt::Late { ping })
        {
            self.clear();
        }
    }

    /// The shell has looked at it.
    pub(crate) fn examined(&mut self, vitality: Vitality) -> Option<Check> {
        let Suspicion {
            doubt, patience, ..
        } = self.suspicion?;
        match vitality {
            Vitality::Working => {
                self.clear();
                None
            }
            Vitality::Starved => None,
            Vitality::Stuck(how) => {
                self.suspicion = None;
                self.watchdog = None;
                let what = match doubt {
                    Doubt::Late { .. } => {
                        format!("it answered nothing for {:.1} s", patience.as_secs_f64())
                    }
                    Doubt::Silent => silence(patience),
                };
                let reason = format!("watchdog: {what}: {how}");
                Some(Check::Kill { reason })
            }
        }
    }

    /// Nothing speaks against it any more.
    fn clear(&mut self) {
        self.suspicion = None;
        if self.failures == 0 {
            self.trouble = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// A health whose probe is due a second from zero and may fail twice.
    fn probed() -> (Health, Liveness) {
        let liveness = Liveness {
            probe: crate::spec::Probe::Tcp(([127, 0, 0, 1], 1).into()),
            every: SECOND,
            timeout: SECOND,
            failures: 2,
        };
        let mut health = Health::default();
        health.start(Some(&liveness), None, at(0));
        (health, liveness)
    }

    fn kills(check: Option<Check>) -> bool {
        matches!(check, Some(Check::Kill { .. }))
    }

    #[test]
    fn a_probe_that_fails_so_often_in_a_row_kills_and_a_success_forgets() {
        let (mut health, liveness) = probed();
        let asked = Some(&liveness);
        let fail = |health: &mut Health, number, ms| {
            health.probed(asked, number, Err("refused".to_owned()), at(ms))
        };
        assert_eq!(health.pass(asked, at(999)), vec![]);
        assert_eq!(
            health.pass(asked, at(1_000)),
            vec![Check::Probe { number: 1 }]
        );
        assert_eq!(fail(&mut health, 1, 1_001), None);
        assert!(health.trouble.is_some());
        assert_eq!(fail(&mut health, 1, 1_002), None, "the same answer again");
        assert_eq!(
            health.pass(asked, at(2_001)),
            vec![Check::Probe { number: 2 }]
        );
        assert_eq!(health.probed(asked, 2, Ok(()), at(2_002)), None);
        assert_eq!(health.trouble, None);
        assert_eq!(
            health.pass(asked, at(3_002)),
            vec![Check::Probe { number: 3 }]
        );
        assert!(!kills(fail(&mut health, 3, 3_003)));
        assert_eq!(
            health.pass(asked, at(4_003)),
            vec![Check::Probe { number: 4 }]
        );
        assert!(kills(fail(&mut health, 4, 4_004)));
    }

    #[test]
    fn a_probe_that_nobody_answers_counts_as_failed() {
        let (mut health, liveness) = probed();
        let _ = health.pass(Some(&liveness), at(1_000));
        assert_eq!(health.pass(Some(&liveness), at(6_999)), vec![]);
        let _ = health.pass(Some(&liveness), at(7_000));
        assert!(health.trouble.is_some());
    }

    #[test]
    fn who_does_not_say_in_time_that_it_lives_is_killed() {
        let mut health = Health::default();
        health.start(None, Some(SECOND), at(0));
        health.fed(at(900));
        assert_eq!(health.pass(None, at(1_899)), vec![]);
        assert_eq!(health.pass(None, at(1_900)), vec![Check::Examine]);
        assert_eq!(health.examined(Vitality::Starved), None);
        assert_eq!(health.pass(None, at(2_900)).last(), Some(&Check::Examine));
        let stuck = Vitality::Stuck("it waits".to_owned());
        assert!(kills(health.examined(stuck)));
        let mut health = Health::default();
        health.start(None, Some(SECOND), at(0));
        health.set_watchdog(Duration::ZERO, at(1));
        assert_eq!(health.next_deadline(), None);
    }

    #[test]
    fn a_suspect_is_cleared_by_a_pong_or_by_its_work_and_killed_only_when_stuck() {
        let waited = SECOND;
        let suspect = |health: &mut Health, ms| health.suspect(Some(SECOND), waited, at(ms));
        let mut health = Health::default();
        assert_eq!(health.suspect(None, waited, at(0)), None, "no watchdog");
        assert_eq!(suspect(&mut health, 0), Some(Check::Ping { ping: 1 }));
        assert_eq!(suspect(&mut health, 1), None, "it is suspected already");
        health.ponged(1);
        assert_eq!(
            (health.next_deadline(), health.trouble.clone()),
            (None, None)
        );
        assert_eq!(health.examined(Vitality::Stuck("x".to_owned())), None);
        assert_eq!(suspect(&mut health, 2), Some(Check::Ping { ping: 2 }));
        health.ponged(1);
        assert_eq!(health.pass(None, at(1_002)), vec![Check::Examine]);
        assert_eq!(health.examined(Vitality::Starved), None);
        assert_eq!(health.pass(None, at(2_002)), vec![Check::Examine]);
        assert_eq!(health.examined(Vitality::Working), None);
        assert_eq!(health.next_deadline(), None);
        let _ = suspect(&mut health, 3_000);
        let _ = health.pass(None, at(4_000));
        assert!(kills(
            health.examined(Vitality::Stuck("it waits".to_owned()))
        ));
    }
}
