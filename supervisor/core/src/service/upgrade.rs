//! A replacement: from a second process beside the place to the cut-over, or back.

use insula_contract::line::ToService;
use insula_contract::route::{RouteState, Target};
use semver::Version;

use super::{LEAD_TIMEOUT, Place, Service, Turn, Upgrade, Why};
use crate::event::{Done, Record, Refusal, RefusalKind, RequestId, UpgradeStep};
use crate::process::{Outcome, Phase};

impl Service {
    pub(crate) fn begin_upgrade(
        &mut self,
        turn: &mut Turn,
        to: Version,
        why: Why,
        request: Option<RequestId>,
    ) {
        let incoming = self.launch_process(turn, to.clone());
        let from = self.active.clone();
        self.upgrade = Some(Upgrade {
            from,
            to,
            step: UpgradeStep::Starting,
            why,
            incoming,
            request,
            failed: None,
        });
        self.record_upgrade(turn);
    }

    pub(super) fn record_upgrade(&self, turn: &mut Turn) {
        let step = self
            .upgrade
            .as_ref()
            .map(|u| (u.from.clone(), u.to.clone(), u.step));
        turn.records.push(Record::Upgrade {
            service: self.name.clone(),
            step,
        });
    }

    pub(super) fn incoming_prepared(&mut self, turn: &mut Turn) {
        if !self.has_store() {
            self.cut_over(turn);
            return;
        }
        let epoch = self.epoch;
        let deadline = turn.now + self.spec().drain_timeout;
        let Place::Up(old) = &mut self.place else {
            return;
        };
        let attempt = old.attempt;
        if old.phase != Phase::Ready {
            let text = "the old process was not ready to hand over its store".to_owned();
            self.abort_upgrade(turn, RefusalKind::AbnormalTermination, text);
            return;
        }
        old.enter(Phase::Yielding(epoch), Some(deadline));
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.step = UpgradeStep::Yielding;
        }
        self.record_upgrade(turn);
        self.publish_state(turn, RouteState::Hold, None);
        turn.say(attempt, ToService::Yield { epoch });
    }

    pub(super) fn lead_incoming(&mut self, turn: &mut Turn) {
        if self.upgrade.is_none() || self.writer_remains() {
            return;
        }
        let epoch = self.next_epoch(turn);
        let deadline = turn.now + LEAD_TIMEOUT;
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        upgrade.step = UpgradeStep::Leading;
        upgrade
            .incoming
            .enter(Phase::Leading(epoch), Some(deadline));
        let attempt = upgrade.incoming.attempt;
        turn.say(attempt, ToService::Lead { epoch });
        self.record_upgrade(turn);
    }

    pub(super) fn cut_over(&mut self, turn: &mut Turn) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let mut incoming = upgrade.incoming;
        incoming.enter(Phase::Ready, None);
        let target = Target {
            state: RouteState::Serve,
            attempt: incoming.attempt,
            slot: incoming.slot,
        };
        let old = std::mem::replace(&mut self.place, Place::Up(incoming));
        if upgrade.from != upgrade.to {
            self.previous = Some(upgrade.from.clone());
            self.active = upgrade.to.clone();
            turn.records.push(Record::Active {
                service: self.name.clone(),
                active: upgrade.to.clone(),
                previous: Some(upgrade.from.clone()),
            });
        }
        self.record_upgrade(turn);
        let drained = match &old {
            Place::Up(old) => old.drained.then_some(old.attempt),
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => None,
        };
        self.publish(turn, target, drained);
        if let Place::Up(old) = old {
            let attempt = old.attempt;
            self.leaving.push(old);
            self.drain(turn, attempt);
        }
        self.history.clear();
        if let Some(request) = upgrade.request {
            let done = match upgrade.why {
                Why::Upgrade => Done::Upgraded {
                    from: upgrade.from.clone(),
                    to: upgrade.to.clone(),
                },
                Why::Restart => Done::Restarted,
            };
            turn.answer(request, Ok(done));
        }
        for (request, done) in std::mem::take(&mut self.until_ready) {
            turn.answer(request, Ok(done));
        }
        turn.note(
            &self.name,
            format!(
                "{} took over from {} as attempt {}",
                upgrade.to, upgrade.from, target.attempt
            ),
        );
    }

    /// Gives the replacement up; the old process serves on, or leads again.
    pub(crate) fn abort_upgrade(&mut self, turn: &mut Turn, kind: RefusalKind, text: String) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match upgrade.step {
            UpgradeStep::Leading => {
                // It may have led: nobody else does before it is gone.
                if upgrade.failed.is_none() {
                    upgrade.failed = Some(text.clone());
                    let attempt = upgrade.incoming.attempt;
                    self.kill(turn, attempt, text);
                }
            }
            UpgradeStep::Starting | UpgradeStep::Yielding | UpgradeStep::Finishing => {
                let incoming = upgrade.incoming.clone();
                self.end_upgrade(turn, kind, &text);
                self.dismiss(turn, incoming);
            }
        }
    }

    pub(super) fn incoming_ended(&mut self, turn: &mut Turn, outcome: Outcome) {
        let Some(upgrade) = &self.upgrade else { return };
        let attempt = upgrade.incoming.attempt;
        let text = match &upgrade.failed {
            Some(reason) => reason.clone(),
            None => format!("the new process (attempt {attempt}) {outcome} before it could serve"),
        };
        let incoming = upgrade.incoming.clone();
        self.bury(turn, &incoming, outcome);
        self.end_upgrade(turn, RefusalKind::AbnormalTermination, &text);
    }

    /// Forgets the replacement and lets the old release go on.
    pub(super) fn end_upgrade(&mut self, turn: &mut Turn, kind: RefusalKind, text: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        self.record_upgrade(turn);
        let serving = self
            .current()
            .map(|_| format!("{} {} serves", self.name, upgrade.from));
        let what = match upgrade.why {
            Why::Upgrade => format!("{} {} was rolled back: {text}", self.name, upgrade.to),
            Why::Restart => format!("{} was not restarted: {text}", self.name),
        };
        turn.note(&self.name, what.clone());
        if let Some(request) = upgrade.request {
            turn.answer(
                request,
                Err(Refusal {
                    kind,
                    text: what,
                    serving,
                    hint: Some(format!("`insulactl logs {}` shows its output", self.name)),
                }),
            );
        }
        match &mut self.place {
            // It was to hand over, or had: `settle` lets it lead again once it says so.
            Place::Up(_) => {}
            Place::Vacant => {
                self.place = Place::Backoff { until: turn.now };
                turn.dirty.insert(self.name.clone());
            }
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => {}
        }
    }
}
