//! What a person orders of one service.

use semver::Version;

use crate::event::{Done, Record, Refusal, RefusalKind, RequestId};
use crate::process::Phase;
use crate::service::{Goal, Place, Service, Why};
use crate::turn::Turn;

impl Service {
    /// Changes what is wanted; orders for the opposite have lost.
    fn want(&mut self, turn: &mut Turn, goal: Goal) {
        let (lost, order): (Vec<_>, _) = match goal {
            Goal::Up => (std::mem::take(&mut self.until_stopped), "started"),
            Goal::Down => {
                let ready = std::mem::take(&mut self.until_ready);
                (
                    ready.into_iter().map(|(request, _)| request).collect(),
                    "stopped",
                )
            }
        };
        for request in lost {
            let text = format!("{} is to be {order}", self.name);
            self.refuse(turn, request, RefusalKind::Superseded, text);
        }
        if self.goal != goal {
            self.goal = goal;
            turn.records.push(Record::Goal {
                service: self.name.clone(),
                up: goal == Goal::Up,
            });
        }
    }

    fn refuse(&self, turn: &mut Turn, request: RequestId, kind: RefusalKind, text: String) {
        let serving = self
            .is_ready()
            .then(|| format!("{} {} serves", self.name, self.active));
        turn.answer(
            request,
            Err(Refusal {
                kind,
                text,
                serving,
                hint: None,
            }),
        );
    }

    fn refuse_if_busy(&self, turn: &mut Turn, request: RequestId) -> bool {
        if let Some(upgrade) = &self.upgrade {
            let text = match upgrade.why {
                Why::Upgrade => format!("{} is being upgraded to {}", self.name, upgrade.to),
                Why::Restart => format!("{} is being restarted", self.name),
            };
            self.refuse(turn, request, RefusalKind::Busy, text);
        }
        self.upgrade.is_some()
    }

    /// Whether two of its processes can run side by side: one that listens on fixed ports cannot.
    fn runs_beside(&self) -> bool {
        self.releases.values().all(|spec| spec.listen.is_empty())
    }

    pub(crate) fn order_start(&mut self, turn: &mut Turn, request: RequestId, done: Done) {
        if self.goal == Goal::Up && self.is_ready() {
            turn.answer(request, Ok(Done::AlreadyStarted));
            return;
        }
        self.want(turn, Goal::Up);
        self.until_ready.push((request, done));
        match &self.place {
            Place::Stopped
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Waiting { .. } => {
                self.history.clear();
                self.place = Place::Backoff { until: turn.now };
            }
            // What is under way ends in a start.
            Place::Up(_) | Place::Vacant => {}
        }
    }

    pub(crate) fn order_stop(&mut self, turn: &mut Turn, request: RequestId) {
        self.want(turn, Goal::Down);
        if self.processes().next().is_none() {
            let answer = match &self.place {
                Place::Stopped | Place::Exited { .. } | Place::Fatal { .. } => Done::NotRunning,
                Place::Waiting { .. } | Place::Vacant | Place::Backoff { .. } | Place::Up(_) => {
                    Done::Stopped
                }
            };
            self.settle(turn);
            turn.answer(request, Ok(answer));
        } else {
            self.until_stopped.push(request);
            self.settle(turn);
        }
    }

    pub(crate) fn order_restart(&mut self, turn: &mut Turn, request: RequestId) {
        if self.refuse_if_busy(turn, request) {
            return;
        }
        match &self.place {
            Place::Up(process) if process.phase == Phase::Ready && self.runs_beside() => {
                let version = self.active.clone();
                self.begin_upgrade(turn, version, Why::Restart, Some(request));
            }
            Place::Up(_) => {
                self.want(turn, Goal::Up);
                self.until_ready.push((request, Done::Restarted));
                self.send_away(turn);
            }
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => self.order_start(turn, request, Done::Restarted),
        }
    }

    pub(crate) fn order_upgrade(&mut self, turn: &mut Turn, request: RequestId, to: Version) {
        if self.refuse_if_busy(turn, request) {
            return;
        }
        let Some(spec) = self.releases.get(&to) else {
            let known: Vec<_> = self.releases.keys().map(ToString::to_string).collect();
            let text = format!(
                "{} {to} is not installed; installed are {}",
                self.name,
                known.join(", ")
            );
            self.refuse(turn, request, RefusalKind::NoRelease, text);
            return;
        };
        if to == self.active {
            turn.answer(request, Ok(Done::AlreadyActive { version: to }));
            return;
        }
        let schema = |data: &Option<crate::spec::DataSpec>| data.as_ref().map(|data| data.schema);
        let (new, old) = (schema(&spec.data), schema(&self.spec().data));
        if new != old {
            let text = format!(
                "{} {to} keeps its data in schema {}, {} in schema {}: data is not migrated yet",
                self.name,
                new.unwrap_or(0),
                self.active,
                old.unwrap_or(0)
            );
            self.refuse(turn, request, RefusalKind::ContractRefused, text);
            return;
        }
        let from = self.active.clone();
        match &self.place {
            Place::Up(process) if process.phase == Phase::Ready && self.runs_beside() => {
                self.begin_upgrade(turn, to, Why::Upgrade, Some(request));
            }
            Place::Up(_) if self.goal == Goal::Up => {
                self.switch(turn, to.clone());
                self.until_ready
                    .push((request, Done::Upgraded { from, to }));
                self.send_away(turn);
            }
            Place::Backoff { .. } | Place::Waiting { .. } | Place::Fatal { .. }
                if self.goal == Goal::Up =>
            {
                self.switch(turn, to.clone());
                self.order_start(turn, request, Done::Upgraded { from, to });
            }
            Place::Up(_)
            | Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => {
                self.switch(turn, to.clone());
                turn.answer(request, Ok(Done::Upgraded { from, to }));
            }
        }
    }

    /// Makes another release the active one; nothing runs of either, or it will be stopped.
    fn switch(&mut self, turn: &mut Turn, to: Version) {
        let from = std::mem::replace(&mut self.active, to);
        self.previous = Some(from);
        turn.records.push(Record::Active {
            service: self.name.clone(),
            active: self.active.clone(),
            previous: self.previous.clone(),
        });
    }
}
