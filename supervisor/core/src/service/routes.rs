//! What a service's routes say: a target for each process, in the place of its slot.
//!
//! A process that serves is a target, and so is one that leaves, held, until it owes no answer:
//! new requests go elsewhere, and those that lie there are answered. Where a replica has nobody
//! and soon will, a target without an attempt holds the requests that find no other; where it sleeps,
//! that target says so, and who holds a request there tells the supervisor.

use insula_contract::id::{Attempt, ContractId};
use insula_contract::route::{RouteState, TARGETS, Target};

use super::{Place, Service};
use crate::event::Action;
use crate::turn::Turn;

/// A route of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its index in the table.
    pub index: u32,
    /// What was published last, by slot.
    pub targets: [Target; TARGETS],
}

impl Route {
    /// A route on which nobody served yet.
    pub fn new(index: u32) -> Self {
        Self {
            index,
            targets: [Target::NONE; TARGETS],
        }
    }
}

/// Nobody, who will come.
fn nobody(slot: u8, at: usize) -> Target {
    Target {
        state: RouteState::Hold,
        attempt: Attempt(0),
        slot,
        replica: at as u8,
    }
}

impl Service {
    /// Whether requests for one of its contracts are served now, or would be as soon as there is one.
    pub fn is_served(&self, contract: &ContractId) -> bool {
        self.routes.get(contract).is_some_and(|route| {
            route
                .targets
                .iter()
                .any(|target| matches!(target.state, RouteState::Serve | RouteState::Dormant))
        })
    }

    fn publish(&mut self, turn: &mut Turn, slot: u8, target: Target, drained: Option<Attempt>) {
        let place = usize::from(slot);
        for route in self.routes.values_mut() {
            if route.targets[place] != target || drained.is_some() {
                route.targets[place] = target;
                turn.actions.push(Action::Publish {
                    route: route.index,
                    place,
                    target,
                    drained,
                });
            }
        }
        turn.dirty.insert(self.name.clone());
    }

    /// A replica's process takes requests from now on.
    pub(super) fn publish_serving(
        &mut self,
        turn: &mut Turn,
        at: usize,
        attempt: Attempt,
        slot: u8,
    ) {
        let target = Target {
            state: RouteState::Serve,
            attempt,
            slot,
            replica: at as u8,
        };
        self.publish(turn, slot, target, None);
        if self.replicas[at].holds == Some(slot) {
            self.replicas[at].holds = None;
        }
        self.publish_down(turn, at);
    }

    /// A process takes no new requests; those that it has stay with it.
    pub(super) fn publish_holding(
        &mut self,
        turn: &mut Turn,
        at: usize,
        attempt: Attempt,
        slot: u8,
    ) {
        let target = Target {
            attempt,
            ..nobody(slot, at)
        };
        self.publish(turn, slot, target, None);
    }

    /// A process takes nothing and answers nothing any more; `drained` if it owes no answer, `soon`
    /// if requests are to wait for the replica's next one.
    pub(super) fn publish_left(
        &mut self,
        turn: &mut Turn,
        at: usize,
        slot: u8,
        drained: Option<Attempt>,
        soon: bool,
    ) {
        let replica = &mut self.replicas[at];
        if soon && replica.holds.is_none() {
            replica.holds = Some(slot);
        }
        let target = if replica.holds == Some(slot) && soon {
            nobody(slot, at)
        } else {
            Target::NONE
        };
        self.publish(turn, slot, target, drained);
        if !soon {
            self.publish_down(turn, at);
        }
    }

    /// Requests do not wait for a replica any more.
    pub(super) fn publish_down(&mut self, turn: &mut Turn, at: usize) {
        if let Some(slot) = self.replicas[at].holds.take() {
            self.publish(turn, slot, Target::NONE, None);
        }
    }

    /// Makes a route table that an earlier daemon left fit: whoever is not alive is no target.
    ///
    /// Living processes stay as they are until they say that they are ready.
    pub(crate) fn publish_restored(&mut self, turn: &mut Turn) {
        for route in self.routes.values() {
            turn.actions.push(Action::CleanRoute {
                route: route.index,
                keep: self.processes().map(|process| process.attempt).collect(),
            });
        }
        // Nobody waits for what was given up.
        let comes = |at: &usize| {
            let replica = &self.replicas[*at];
            let rests = matches!(
                replica.place,
                Place::Exited { .. } | Place::Fatal { .. } | Place::Dormant { .. }
            );
            replica.current().is_none() && !rests && self.is_wanted_up(*at)
        };
        let waiting = (0..self.replicas.len()).find(comes);
        if let (Some(at), Some(slot)) = (waiting, self.free_slot(None)) {
            self.replicas[at].holds = Some(slot);
            self.publish(turn, slot, nobody(slot, at), None);
        }
        for at in 0..self.replicas.len() {
            if matches!(self.replicas[at].place, Place::Dormant { .. })
                && let Some(slot) = self.free_slot(None)
            {
                self.publish_dormant(turn, at, slot, None);
            }
        }
    }

    /// A replica's process is gone, and the next one comes when somebody wants it.
    pub(super) fn publish_dormant(
        &mut self,
        turn: &mut Turn,
        at: usize,
        slot: u8,
        drained: Option<Attempt>,
    ) {
        let holds = *self.replicas[at].holds.get_or_insert(slot);
        if holds != slot {
            self.publish(turn, slot, Target::NONE, drained);
        }
        let target = Target {
            state: RouteState::Dormant,
            ..nobody(holds, at)
        };
        self.publish(turn, holds, target, drained.filter(|_| holds == slot));
    }

    /// A dormant replica's next process comes.
    pub(super) fn publish_awaited(&mut self, turn: &mut Turn, at: usize) {
        if let Some(slot) = self.replicas[at].holds {
            self.publish(turn, slot, nobody(slot, at), None);
        }
    }
}
