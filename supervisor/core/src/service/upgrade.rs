//! A replacement: from a second process beside the place to the cut-over, or back.

use insula_contract::line::ToService;
use semver::Version;

use super::replica::LEAD_TIMEOUT;
use super::seats::Obstacle;
use super::{Place, Service, Upgrade};
use crate::event::{Record, RefusalKind, UpgradeStep};
use crate::process::{Outcome, Phase};
use crate::turn::Turn;

impl Service {
    /// Starts the replacement, if a process can be started beside the old one now; whether that
    /// is worth waiting for.
    pub(super) fn begin_upgrade(&mut self, turn: &mut Turn, at: usize, to: Version) -> bool {
        let incoming = match self.launch_first(turn, at, to.clone()) {
            Ok(incoming) => incoming,
            Err(Obstacle::Slot) => return true,
            Err(Obstacle::Room(why)) => {
                let profile = &self.releases[&to].profile;
                let text = format!("{to} finds no place: profile `{profile}` {why}");
                self.not_replaced(turn, at, RefusalKind::NoRoom, &text);
                return false;
            }
        };
        let replica = &mut self.replicas[at];
        replica.upgrade = Some(Upgrade {
            from: replica.version.clone(),
            to,
            step: UpgradeStep::Starting,
            incoming,
            failed: None,
        });
        self.record_upgrade(turn, at);
        true
    }

    pub(super) fn record_upgrade(&self, turn: &mut Turn, at: usize) {
        let step = self.replicas[at]
            .upgrade
            .as_ref()
            .map(|u| (u.from.clone(), u.to.clone(), u.step));
        turn.records.push(Record::Upgrade {
            service: self.name.clone(),
            step,
        });
    }

    pub(super) fn incoming_prepared(&mut self, turn: &mut Turn, at: usize) {
        if !self.has_store() {
            self.cut_over(turn, at);
            return;
        }
        let epoch = self.epoch;
        let deadline = turn.now + self.spec_at(at).drain_timeout;
        let Place::Up(old) = &mut self.replicas[at].place else {
            return;
        };
        let (attempt, slot) = (old.attempt, old.slot);
        if old.phase != Phase::Ready {
            let text = "the old process was not ready to hand over its store".to_owned();
            self.abort_upgrade(turn, at, RefusalKind::AbnormalTermination, text);
            return;
        }
        old.enter(Phase::Yielding(epoch), Some(deadline));
        if let Some(upgrade) = &mut self.replicas[at].upgrade {
            upgrade.step = UpgradeStep::Yielding;
        }
        self.record_upgrade(turn, at);
        self.publish_holding(turn, at, attempt, slot);
        turn.say(attempt, ToService::Yield { epoch });
    }

    pub(super) fn lead_incoming(&mut self, turn: &mut Turn, at: usize) {
        if self.replicas[at].upgrade.is_none() || self.writer_remains(at) {
            return;
        }
        let epoch = self.next_epoch(turn);
        let deadline = turn.now + LEAD_TIMEOUT;
        let Some(upgrade) = &mut self.replicas[at].upgrade else {
            return;
        };
        upgrade.step = UpgradeStep::Leading;
        upgrade
            .incoming
            .enter(Phase::Leading(epoch), Some(deadline));
        let attempt = upgrade.incoming.attempt;
        turn.say(attempt, ToService::Lead { epoch });
        self.record_upgrade(turn, at);
    }

    pub(super) fn cut_over(&mut self, turn: &mut Turn, at: usize) {
        let Some(upgrade) = self.replicas[at].upgrade.take() else {
            return;
        };
        let mut incoming = upgrade.incoming;
        incoming.enter(Phase::Ready, None);
        incoming
            .health
            .begin(&self.releases[&incoming.version], turn.now);
        let (attempt, slot) = (incoming.attempt, incoming.slot);
        self.record_began(turn, at, &incoming, false);
        let old = std::mem::replace(&mut self.replicas[at].place, Place::Up(incoming));
        self.replicas[at].version = upgrade.to.clone();
        self.record_upgrade(turn, at);
        self.publish_serving(turn, at, attempt, slot);
        if let Place::Up(old) = old {
            let (attempt, slot) = (old.attempt, old.slot);
            if old.drained {
                self.publish_left(turn, at, slot, Some(attempt), false);
            } else {
                // Until it owes no answer, what lies there stays there.
                self.publish_holding(turn, at, attempt, slot);
            }
            self.replicas[at].leaving.push(old);
            self.drain(turn, at, attempt);
        }
        self.replicas[at].history.clear();
        self.replaced(at);
        turn.note(
            &self.name,
            format!(
                "{} took over from {} as attempt {}",
                upgrade.to, upgrade.from, attempt
            ),
        );
    }

    /// Gives the replacement up; the old process serves on, or leads again.
    pub(crate) fn abort_upgrade(
        &mut self,
        turn: &mut Turn,
        at: usize,
        kind: RefusalKind,
        text: String,
    ) {
        let Some(upgrade) = &mut self.replicas[at].upgrade else {
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
                self.end_upgrade(turn, at, kind, &text);
                self.dismiss(turn, at, incoming);
            }
        }
    }

    pub(super) fn incoming_ended(&mut self, turn: &mut Turn, at: usize, outcome: Outcome) {
        let Some(upgrade) = &self.replicas[at].upgrade else {
            return;
        };
        let attempt = upgrade.incoming.attempt;
        let text = match &upgrade.failed {
            Some(reason) => reason.clone(),
            None => format!("the new process (attempt {attempt}) {outcome} before it could serve"),
        };
        let incoming = upgrade.incoming.clone();
        let failed = upgrade.failed.is_some();
        self.bury(turn, at, &incoming, outcome);
        if !failed && self.goes_on(at, &incoming, outcome) {
            self.next_incoming(turn, at, &incoming);
            return;
        }
        self.end_upgrade(turn, at, RefusalKind::AbnormalTermination, &text);
    }

    /// Forgets the replacement and lets the old release go on.
    pub(super) fn end_upgrade(
        &mut self,
        turn: &mut Turn,
        at: usize,
        kind: RefusalKind,
        text: &str,
    ) {
        if self.replicas[at].upgrade.take().is_none() {
            return;
        }
        self.record_upgrade(turn, at);
        self.not_replaced(turn, at, kind, text);
        match &mut self.replicas[at].place {
            // It was to hand over, or had: `settle` lets it lead again once it says so.
            Place::Up(_) => {}
            Place::Vacant => {
                self.replicas[at].place = Place::Backoff { until: turn.now };
                turn.dirty.insert(self.name.clone());
            }
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Dormant { .. } => {}
        }
    }
}
