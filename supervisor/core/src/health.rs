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
        self.failures = 0;
        self.trouble = None;
        self.suspicion = None;
        self.probing = match &spec.liveness {
            Some(liveness) => Probing::Next(now + liveness.every),
            None => Probing::Off,
        };
        // What it said itself about its watchdog counts more.
        let interval = match (&spec.kind, self.watchdog) {
            (_, Some((interval, _))) => Some(interval),
            (Kind::Foreign(Readiness::Notify), None) => spec.watchdog,
            (Kind::Native | Kind::Foreign(_) | Kind::Task, None) => None,
        };
        self.watchdog = interval.map(|interval| (interval, now + interval));
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
    pub(crate) fn pass(&mut self, spec: &ServiceSpec, now: Time) -> Vec<Check> {
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
        match (self.probing, &spec.liveness) {
            (Probing::Next(at), Some(liveness)) if at <= now => {
                self.asked += 1;
                let number = self.asked;
                let until = now + liveness.timeout + PROBE_GRACE;
                self.probing = Probing::Asked { number, until };
                checks.push(Check::Probe { number });
            }
            (Probing::Asked { number, until }, Some(_)) if until <= now => {
                let failed = Err("it was not answered".to_owned());
                checks.extend(self.probed(spec, number, failed, now));
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
        spec: &ServiceSpec,
        number: u64,
        result: Result<(), String>,
        now: Time,
    ) -> Option<Check> {
        let asked = matches!(self.probing, Probing::Asked { number: last, .. } if last == number);
        let Some(Liveness {
            every, failures, ..
        }) = spec.liveness.as_ref().filter(|_| asked)
        else {
            return None;
        };
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
