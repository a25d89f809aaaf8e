//! Putting a service away that nobody uses, and waking it.
//!
//! All its instances go together, and the way out is the usual one: what they took they answer,
//! and a store is given up between two transactions. Whoever wants the service meanwhile, or
//! later, brings it back by a start as any other: it may have to wait for what it needs. Its seats
//! on the host stay its own, so that it finds its place again; a next daemon gives them away.

use std::collections::BTreeSet;

use insula_contract::id::Attempt;

use super::{Goal, Place, Service};
use crate::event::Rest;
use crate::process::Phase;
use crate::turn::Turn;

impl Service {
    /// Whether an instance that is wanted is put away.
    pub fn is_dormant(&self) -> bool {
        self.replicas
            .iter()
            .any(|replica| replica.wanted && matches!(replica.place, Place::Dormant { .. }))
    }

    /// Whether it is put away, or on the way there.
    pub fn is_asleep(&self) -> bool {
        self.is_dormant() || self.processes().any(|process| process.sleeps)
    }

    /// The processes that a look at what it does has to be about: one for each instance, all on
    /// their routes. `None` while anything else goes on.
    pub fn at_rest(&self) -> Option<BTreeSet<Attempt>> {
        let quiet = self.goal == Goal::Up
            && !self.retired
            && self.rollout.is_none()
            && self.until_ready.is_empty()
            && self.until_stopped.is_empty();
        let alone = self.replicas.iter().all(|replica| {
            let trouble = replica.current().is_none_or(|p| p.health.trouble.is_some());
            replica.wanted
                && replica.is_ready()
                && !trouble
                && replica.upgrade.is_none()
                && replica.leaving.is_empty()
        });
        let attempts = self.processes().map(|process| process.attempt);
        (quiet && alone).then(|| attempts.collect())
    }

    /// Puts it away, if these are its processes and nothing is done with them.
    pub(crate) fn put_away(&mut self, turn: &mut Turn, looked_at: &BTreeSet<Attempt>) {
        if self.at_rest().as_ref() != Some(looked_at) {
            return;
        }
        turn.note(&self.name, "is put away: nobody uses it".to_owned());
        for at in 0..self.replicas.len() {
            if let Place::Up(process) = &mut self.replicas[at].place {
                process.sleeps = true;
            }
            self.send_away(turn, at);
        }
    }

    /// A process that was told to go as nobody uses it is gone.
    pub(super) fn fall_asleep(
        &mut self,
        turn: &mut Turn,
        at: usize,
        slot: u8,
        drained: Option<Attempt>,
    ) {
        self.rest(turn, at, Rest::Dormant(turn.now));
        self.publish_dormant(turn, at, slot, drained);
    }

    /// Brings it back, or has it come back as soon as it is gone.
    pub(crate) fn wake(&mut self, turn: &mut Turn) {
        for at in 0..self.replicas.len() {
            if self.is_wanted_up(at) {
                self.rouse(turn, at);
            }
        }
    }

    /// Instances sleep together: where not all of them do, none does.
    pub(crate) fn wake_in_part(&mut self, turn: &mut Turn) {
        let mut wanted = self.replicas.iter().filter(|replica| replica.wanted);
        if !wanted.all(|replica| matches!(replica.place, Place::Dormant { .. })) {
            self.wake(turn);
        }
    }

    /// Has an instance start that is put away, or is about to be.
    pub(super) fn rouse(&mut self, turn: &mut Turn, at: usize) {
        match &mut self.replicas[at].place {
            Place::Dormant { .. } => {
                self.stir(turn, at);
                self.replicas[at].place = Place::Backoff { until: turn.now };
                self.publish_awaited(turn, at);
                turn.note(&self.name, "is wanted again".to_owned());
            }
            // It is started again when it is gone.
            Place::Up(process) => process.sleeps = false,
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => {}
        }
    }

    /// What does not hold of what is put away, in words.
    pub(crate) fn check_dormant(&self, found: &mut Vec<String>) {
        let name = &self.name;
        for replica in &self.replicas {
            let dormant = matches!(replica.place, Place::Dormant { .. });
            if dormant && (self.goal == Goal::Down || !replica.wanted) {
                found.push(format!("{name} is dormant and should be down"));
            }
            if dormant && replica.processes().next().is_some() {
                found.push(format!("{name} is dormant and has a process"));
            }
            if dormant && !replica.rested {
                found.push(format!("{name} is dormant, and that is not recorded"));
            }
            if dormant && replica.holds.is_none() {
                found.push(format!("{name} is dormant, and its routes do not say so"));
            }
        }
        for process in self.processes().filter(|process| process.sleeps) {
            match process.phase {
                Phase::Draining | Phase::Stopping | Phase::Killing => {}
                Phase::Launching
                | Phase::Starting
                | Phase::Running
                | Phase::Prepared
                | Phase::Leading(_)
                | Phase::Ready
                | Phase::Yielding(_) => {
                    found.push(format!("{name} is put away and not told to go"));
                }
            }
        }
        if self.is_asleep() && !self.until_ready.is_empty() {
            found.push(format!("{name} sleeps while somebody waits for its start"));
        }
    }
}
