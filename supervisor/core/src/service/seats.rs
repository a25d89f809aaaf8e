//! Which seats a service's instances have, and when they give them back.

use insula_contract::id::Attempt;
use semver::Version;

use super::{Dependency, Place, Service};
use crate::event::{RefusalKind, Rest};
use crate::placement::WhyNot;
use crate::process::Process;
use crate::seats::{NoRoom, Seats};
use crate::turn::Turn;

/// What stands in the way of a launch.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Processes that leave have all slots.
    Slot,
    /// There is no place for it on the host.
    Room(WhyNot),
}

impl Service {
    /// The seat for a process of a replica: one that the replica has, or a new one.
    pub(super) fn take_seat(
        &mut self,
        turn: &mut Turn,
        at: usize,
        version: &Version,
        attempt: Attempt,
    ) -> Result<Option<u64>, WhyNot> {
        if turn.seats.are_off() {
            return Ok(None);
        }
        let request = turn.seats.request(&self.releases[version]);
        let own: Vec<u64> = self.seats_of(at).collect();
        for id in own {
            let has = turn.seats.host().request(id);
            if has.is_some_and(|has| has.asks_as(&request)) {
                return Ok(Some(id));
            }
            // It will not be used again, and may be what is lacking.
            if !self.processes().any(|process| process.seat == Some(id)) {
                self.seats.remove(&id);
                turn.seats.host_mut().remove(id);
            }
        }
        turn.seats.host_mut().add(attempt.0, request)?;
        self.seats.insert(attempt.0, at);
        Ok(Some(attempt.0))
    }

    fn seats_of(&self, at: usize) -> impl Iterator<Item = u64> {
        let of = self.seats.iter().filter(move |(_, of)| **of == at);
        of.map(|(id, _)| *id)
    }

    /// Gives back the seats that nobody uses and nobody will use soon.
    pub(crate) fn release_seats(&mut self, seats: &mut Seats) {
        let unused: Vec<u64> = self
            .seats
            .iter()
            .filter(|(id, at)| {
                let used = self.processes().any(|process| process.seat == Some(**id));
                !used && !self.comes_back(**at)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            self.seats.remove(&id);
            seats.host_mut().remove(id);
        }
    }

    /// Gives all seats back.
    pub(crate) fn leave_seats(&mut self, seats: &mut Seats) {
        for id in std::mem::take(&mut self.seats).into_keys() {
            seats.host_mut().remove(id);
        }
    }

    /// Whether a replica without a process will have one by itself.
    fn comes_back(&self, at: usize) -> bool {
        let Some(replica) = self.replicas.get(at) else {
            return false;
        };
        match &replica.place {
            Place::Backoff { .. } | Place::Vacant | Place::Dormant { .. } => true,
            Place::Up(_)
            | Place::Stopped
            | Place::Waiting { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => false,
        }
    }

    /// There is no place for a replica's process: it waits for room, or is given up where there
    /// never will be.
    pub(super) fn refuse_room(&mut self, turn: &mut Turn, at: usize, why: WhyNot) {
        let text = self.no_room_text(at, &why);
        turn.note(&self.name, text.clone());
        self.publish_down(turn, at);
        self.fail_orders(turn, RefusalKind::NoRoom, &text);
        if why.fits_alone {
            let since = turn.seats.host().freed();
            let room = Dependency::Room(Box::new(NoRoom { why, since }));
            self.replicas[at].place = Place::Waiting {
                on: vec![room],
                tell_at: None,
            };
        } else {
            self.rest(turn, at, Rest::Fatal(text));
        }
    }

    pub(super) fn no_room_text(&self, at: usize, why: &WhyNot) -> String {
        let profile = &self.spec_at(at).profile;
        format!(
            "cannot place {}: profile `{profile}` {why}",
            self.instance(at)
        )
    }

    /// Whether a replica that waits could start now: not before room has become free, where that is
    /// what it waits for, and not into room that becomes free while everything ends (`None`).
    pub(crate) fn may_try(&self, at: usize, freed: Option<u64>) -> bool {
        match &self.replicas[at].place {
            Place::Waiting { on, .. } => on.iter().all(|needed| match needed {
                Dependency::Room(room) => freed.is_some_and(|freed| room.since != freed),
                Dependency::Contract(_) | Dependency::Service(_) => true,
            }),
            Place::Stopped
            | Place::Up(_)
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Dormant { .. } => false,
        }
    }

    /// Takes up the seat of a process that an earlier daemon started.
    pub(crate) fn adopt_seat(&mut self, at: usize, process: &mut Process, id: u64) {
        process.seat = Some(id);
        self.seats.insert(id, at);
    }
}
