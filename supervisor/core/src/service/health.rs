//! What is heard about the health of a service's processes, and what follows from it.

use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::line::ToService;

use super::{Replica, Service};
use crate::event::{Action, Notice, Vitality};
use crate::health::{Check, Health};
use crate::process::Phase;
use crate::spec::{Kind, ServiceSpec};
use crate::turn::Turn;

impl Service {
    /// The health of an attempt that is on its routes, with its release.
    fn health_mut(&mut self, attempt: Attempt) -> Option<(&mut Health, &ServiceSpec)> {
        let process = self
            .replicas
            .iter_mut()
            .filter_map(Replica::current_mut)
            .find(|process| process.attempt == attempt && process.phase == Phase::Ready)?;
        let spec = &self.releases[&process.version];
        Some((&mut process.health, spec))
    }

    /// The replica whose process is this attempt, and the process's slot.
    fn place_of(&self, attempt: Attempt) -> Option<(usize, u8)> {
        self.replicas.iter().enumerate().find_map(|(at, replica)| {
            let process = replica.current()?;
            (process.attempt == attempt).then_some((at, process.slot))
        })
    }

    fn follow(&mut self, turn: &mut Turn, attempt: Attempt, check: Option<Check>) {
        match check {
            Some(Check::Probe { number }) => turn.actions.push(Action::Probe { attempt, number }),
            Some(Check::Ping { ping }) => turn.say(attempt, ToService::Ping { ping }),
            Some(Check::Examine) => turn.actions.push(Action::Examine { attempt }),
            Some(Check::Kill { reason }) => {
                let Some((at, slot)) = self.place_of(attempt) else {
                    return;
                };
                self.kill(turn, attempt, reason);
                // Nothing new goes to it; what it has is decided about when it is gone.
                self.publish_holding(turn, at, attempt, slot);
            }
            None => {}
        }
    }

    /// What its processes must show may be another thing than before.
    pub(crate) fn judge_anew(&mut self, turn: &Turn) {
        for replica in &mut self.replicas {
            if let Some(process) = replica.current_mut().filter(|p| p.phase == Phase::Ready) {
                let spec = &self.releases[&process.version];
                process.health.begin(spec, turn.now);
            }
        }
    }

    /// Takes what is due about the health of its processes.
    pub(crate) fn check_health(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            let Some(process) = replica.current_mut().filter(|p| p.phase == Phase::Ready) else {
                continue;
            };
            let checks = {
                let liveness = self.releases[&process.version].liveness.as_ref();
                process.health.pass(liveness, now)
            };
            due.extend(checks.into_iter().map(|check| (process.attempt, check)));
        }
        for (attempt, check) in due {
            // One that is killed for the first reason is asked nothing more.
            if self.health_mut(attempt).is_some() {
                self.follow(turn, attempt, Some(check));
            }
        }
    }

    pub(crate) fn probed(
        &mut self,
        turn: &mut Turn,
        attempt: Attempt,
        number: u64,
        result: Result<(), String>,
    ) {
        let now = turn.now;
        if let Some((health, spec)) = self.health_mut(attempt) {
            let check = health.probed(spec.liveness.as_ref(), number, result, now);
            self.follow(turn, attempt, check);
        }
    }

    pub(crate) fn suspected(&mut self, turn: &mut Turn, attempt: Attempt, waited: Duration) {
        let now = turn.now;
        if let Some((health, spec)) = self.health_mut(attempt) {
            // Only a native service can be pinged.
            let patience = spec.watchdog.filter(|_| spec.kind == Kind::Native);
            let check = health.suspect(patience, waited, now);
            self.follow(turn, attempt, check);
        }
    }

    pub(crate) fn ponged(&mut self, attempt: Attempt, ping: u64) {
        if let Some((health, _)) = self.health_mut(attempt) {
            health.ponged(ping);
        }
    }

    pub(crate) fn examined(&mut self, turn: &mut Turn, attempt: Attempt, vitality: Vitality) {
        if let Some((health, _)) = self.health_mut(attempt) {
            let check = health.examined(vitality);
            self.follow(turn, attempt, check);
        }
    }

    pub(crate) fn notified(&mut self, turn: &mut Turn, attempt: Attempt, notice: Notice) {
        let now = turn.now;
        let Some(process) = self.process_mut(attempt) else {
            return;
        };
        match notice {
            Notice::Status(text) => process.health.status = (!text.is_empty()).then_some(text),
            Notice::Watchdog => process.health.fed(now),
            Notice::WatchdogUsec(interval) => process.health.set_watchdog(interval, now),
            Notice::ExtendTimeout(by) => {
                if let Some(deadline) = &mut process.deadline {
                    *deadline = (*deadline).max(now + by);
                }
            }
            Notice::WatchdogTrigger => {
                if process.phase == Phase::Ready {
                    let reason = "watchdog: it said that it does not work".to_owned();
                    self.follow(turn, attempt, Some(Check::Kill { reason }));
                }
            }
            Notice::Reloading => turn.note(&self.name, format!("attempt {attempt} reloads")),
            Notice::Stopping => turn.note(&self.name, format!("attempt {attempt} is ending")),
        }
    }
}
