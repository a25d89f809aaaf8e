//! A replacement of all instances, one after the other, and the way back when one fails.

use std::collections::BTreeSet;

use semver::Version;

use super::{Goal, Place, Service, Turn};
use crate::event::{Done, Record, Refusal, RefusalKind, RequestId};

/// Why processes are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// To run another release.
    Upgrade,
    /// To run fresh processes of the same.
    Restart,
}

/// A replacement of all instances under way; at most one of them is being replaced at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The release that serves.
    pub from: Version,
    /// The release that shall.
    pub to: Version,
    /// Why.
    pub why: Why,
    /// Who waits for it.
    pub request: Option<RequestId>,
    /// The replicas that run the new release, or would.
    pub done: BTreeSet<usize>,
    /// Why it goes back, once it does.
    pub failed: Option<(RefusalKind, String)>,
}

impl Service {
    pub(crate) fn begin_rollout(
        &mut self,
        turn: &mut Turn,
        to: Version,
        why: Why,
        request: Option<RequestId>,
    ) {
        self.rollout = Some(Rollout {
            from: self.active.clone(),
            to,
            why,
            request,
            done: BTreeSet::new(),
            failed: None,
        });
        self.roll_on(turn);
    }

    /// A replica's replacement serves.
    pub(super) fn replaced(&mut self, at: usize) {
        if let Some(rollout) = &mut self.rollout {
            if rollout.failed.is_some() {
                rollout.done.remove(&at);
            } else {
                rollout.done.insert(at);
            }
        }
    }

    /// A replica's replacement came to nothing.
    pub(super) fn not_replaced(
        &mut self,
        turn: &mut Turn,
        at: usize,
        kind: RefusalKind,
        text: &str,
    ) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        if rollout.failed.is_none() {
            rollout.failed = Some((kind, text.to_owned()));
        } else {
            // Not even the way back works beside the process that is there.
            rollout.done.remove(&at);
            let back = rollout.from.clone();
            self.put(turn, at, back);
        }
    }

    /// Begins the next replica's replacement when none is under way.
    pub(super) fn roll_on(&mut self, turn: &mut Turn) {
        while let Some(rollout) = &self.rollout
            && self
                .replicas
                .iter()
                .all(|replica| replica.upgrade.is_none())
        {
            let back = rollout.failed.is_some();
            if back && rollout.why == Why::Restart {
                self.end_rollout(turn);
                return;
            }
            let to = if back { &rollout.from } else { &rollout.to }.clone();
            let next = (0..self.replicas.len())
                .filter(|at| self.replicas[*at].wanted)
                .find(|at| rollout.done.contains(at) == back);
            let Some(at) = next else {
                self.end_rollout(turn);
                return;
            };
            if self.replicas[at].is_ready() {
                // Without a slot it begins when a process that leaves has given one back.
                if self.begin_upgrade(turn, at, to) {
                    return;
                }
                continue;
            }
            self.put(turn, at, to);
            self.replaced(at);
        }
    }

    /// Lets a replica run another release from its next start on, and sees to that start.
    pub(crate) fn put(&mut self, turn: &mut Turn, at: usize, version: Version) {
        self.replicas[at].version = version;
        turn.dirty.insert(self.name.clone());
        if self.goal_of(at) == Goal::Down {
            return;
        }
        match &self.replicas[at].place {
            Place::Up(_) => {
                self.rouse(turn, at);
                self.send_away(turn, at);
            }
            Place::Dormant { .. } => self.rouse(turn, at),
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => {
                self.replicas[at].history.clear();
                self.replicas[at].place = Place::Backoff { until: turn.now };
            }
            Place::Vacant => {}
        }
    }

    /// All replicas run what they shall, or would.
    fn end_rollout(&mut self, turn: &mut Turn) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        let Rollout {
            from,
            to,
            why,
            request,
            failed,
            ..
        } = rollout;
        if let Some((kind, text)) = failed {
            let serving = self
                .is_serving()
                .then(|| format!("{} {from} serves", self.name));
            let what = match why {
                Why::Upgrade => format!("{} {to} was rolled back: {text}", self.name),
                Why::Restart => format!("{} was not restarted: {text}", self.name),
            };
            turn.note(&self.name, what.clone());
            if let Some(request) = request {
                let hint = Some(format!("`insulactl logs {}` shows its output", self.name));
                turn.answer(
                    request,
                    Err(Refusal {
                        kind,
                        text: what,
                        serving,
                        hint,
                    }),
                );
            }
            return;
        }
        let done = match why {
            Why::Upgrade => {
                self.make_active(turn, to.clone());
                Done::Upgraded { from, to }
            }
            Why::Restart => Done::Restarted,
        };
        if let Some(request) = request {
            if self.is_coming() {
                // Answered as soon as all are ready, which most often they are.
                self.until_ready.push((request, done));
            } else {
                turn.answer(request, Ok(done));
            }
        }
        // The release may ask for another number of instances.
        self.fit_replicas(turn);
    }

    /// Makes another release the active one.
    pub(crate) fn make_active(&mut self, turn: &mut Turn, to: Version) {
        let from = std::mem::replace(&mut self.active, to);
        if from == self.active {
            return;
        }
        self.previous = Some(from);
        turn.records.push(Record::Active {
            service: self.name.clone(),
            active: self.active.clone(),
            previous: self.previous.clone(),
        });
    }

    /// Gives the rollout up because the service is to be down.
    pub(super) fn cancel_rollout(&mut self, turn: &mut Turn) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        if let Some(request) = rollout.request {
            let refusal = Refusal {
                kind: RefusalKind::Superseded,
                text: format!("{} is to be stopped", self.name),
                serving: None,
                hint: None,
            };
            turn.answer(request, Err(refusal));
        }
        for replica in &mut self.replicas {
            replica.version = self.active.clone();
        }
    }
}
