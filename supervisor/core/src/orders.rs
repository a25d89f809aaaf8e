//! What a person orders of one service.

use std::sync::Arc;

use semver::Version;

use crate::event::{Done, Record, Refusal, RefusalKind, RequestId};
use crate::service::{Goal, INSTANCES_MAX, Place, Service, Why};
use crate::spec::{Kind, ServiceSpec};
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
            .is_serving()
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
        if let Some(rollout) = &self.rollout {
            let text = match rollout.why {
                Why::Upgrade => format!("{} is being upgraded to {}", self.name, rollout.to),
                Why::Restart => format!("{} is being restarted", self.name),
            };
            self.refuse(turn, request, RefusalKind::Busy, text);
        }
        self.rollout.is_some()
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
        self.start_all(turn);
    }

    /// Starts every instance that is down, whatever it was left down for.
    fn start_all(&mut self, turn: &mut Turn) {
        self.wake(turn);
        for replica in self.replicas.iter_mut().filter(|replica| replica.wanted) {
            match &replica.place {
                Place::Stopped
                | Place::Backoff { .. }
                | Place::Exited { .. }
                | Place::Fatal { .. }
                | Place::Waiting { .. } => {
                    replica.history.clear();
                    replica.place = Place::Backoff { until: turn.now };
                }
                // What is under way ends in a start.
                Place::Up(_) | Place::Vacant | Place::Dormant { .. } => {}
            }
        }
    }

    pub(crate) fn order_stop(&mut self, turn: &mut Turn, request: RequestId) {
        self.want(turn, Goal::Down);
        if self.processes().next().is_none() {
            let at_rest = self.replicas.iter().all(|replica| match &replica.place {
                Place::Stopped | Place::Exited { .. } | Place::Fatal { .. } => true,
                Place::Waiting { .. }
                | Place::Vacant
                | Place::Backoff { .. }
                | Place::Up(_)
                | Place::Dormant { .. } => false,
            });
            let answer = if at_rest {
                Done::NotRunning
            } else {
                Done::Stopped
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
        if self.is_serving() && self.runs_beside() {
            let version = self.active.clone();
            self.begin_rollout(turn, version, Why::Restart, Some(request));
        } else if self.has_process_in_place() || self.is_ready() {
            // A task that is done is done again.
            self.want(turn, Goal::Up);
            self.until_ready.push((request, Done::Restarted));
            self.put_all(turn);
        } else {
            self.order_start(turn, request, Done::Restarted);
        }
    }

    fn has_process_in_place(&self) -> bool {
        self.replicas
            .iter()
            .any(|replica| replica.current().is_some())
    }

    /// Sees to it that every replica runs the active release in a fresh process.
    fn put_all(&mut self, turn: &mut Turn) {
        for at in 0..self.replicas.len() {
            let version = self.active.clone();
            self.put(turn, at, version);
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
        if self.is_serving() && self.runs_beside() {
            self.begin_rollout(turn, to, Why::Upgrade, Some(request));
            return;
        }
        // Nobody can serve beside the other: what runs ends first.
        let coming = self.goal == Goal::Up
            && self.replicas.iter().any(|replica| match &replica.place {
                Place::Up(_)
                | Place::Backoff { .. }
                | Place::Waiting { .. }
                | Place::Fatal { .. }
                | Place::Dormant { .. } => true,
                Place::Stopped | Place::Vacant | Place::Exited { .. } => false,
            });
        self.make_active(turn, to.clone());
        if coming {
            self.until_ready
                .push((request, Done::Upgraded { from, to }));
            self.put_all(turn);
        } else {
            for replica in &mut self.replicas {
                replica.version = to.clone();
            }
            turn.answer(request, Ok(Done::Upgraded { from, to }));
        }
        self.fit_replicas(turn);
    }

    /// Takes other specs of its releases; what runs is replaced where it must be.
    pub(crate) fn configure(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        specs: Vec<ServiceSpec>,
        restart: bool,
    ) {
        let before = self.spec().clone();
        for spec in specs {
            self.releases.insert(spec.version.clone(), Arc::new(spec));
        }
        let restart = restart || !before.runs_as(self.spec());
        self.judge_anew(turn);
        // What it is to be by now is found out when it runs.
        self.wake(turn);
        self.fit_replicas(turn);
        if restart && self.goal == Goal::Up {
            self.order_restart(turn, request);
        } else {
            turn.answer(request, Ok(Done::Configured));
        }
    }

    pub(crate) fn order_scale(&mut self, turn: &mut Turn, request: RequestId, to: u16) {
        if self.refuse_if_busy(turn, request) {
            return;
        }
        let from = self.wanted();
        let reason = if to == 0 {
            Some("at least one is needed; `stop` takes it down".to_owned())
        } else if to > INSTANCES_MAX {
            Some(format!("a service has at most {INSTANCES_MAX}"))
        } else if to > 1 && self.spec().kind == Kind::Task {
            Some("a task is done once".to_owned())
        } else if to > 1 && self.has_store() {
            Some("its store is written by one process at a time".to_owned())
        } else if to > 1 && !self.runs_beside() {
            Some("it listens on fixed ports, which only one process can have".to_owned())
        } else {
            None
        };
        if let Some(reason) = reason {
            let text = format!("{} cannot have {to} instances: {reason}", self.name);
            self.refuse(turn, request, RefusalKind::NotScalable, text);
            return;
        }
        if self.scale != Some(to) {
            self.scale = Some(to);
            turn.records.push(Record::Scale {
                service: self.name.clone(),
                instances: to,
            });
        }
        let done = Done::Scaled { from, to };
        if self.goal == Goal::Up {
            self.until_ready.push((request, done));
            self.start_all(turn);
        } else {
            turn.answer(request, Ok(done));
        }
        self.fit_replicas(turn);
    }
}
