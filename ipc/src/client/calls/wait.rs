//! Waiting for calls: spinning, parking, and what a passing time does to them.

use std::sync::atomic::Ordering;

use super::call::Stage;
use super::peers::{Peer, Verdict};
use super::{Calls, Failure, Spec, State};
use crate::client::late::late_ns;
use crate::clock;
use crate::wake::{self, Last};

/// A parked client looks again after this time, and rings its server whatever its flag says: a
/// page can be written by a broken peer.
pub(super) const PARK_MAX_NS: u64 = 100_000_000;
/// Looks between two readings of the clock while spinning.
const LOOKS_PER_CLOCK: u32 = 32;

impl Calls {
    /// Follows the route and looks for the call's answer; whether it is finished.
    pub(in crate::client) fn progress(&self, index: usize) -> bool {
        let state = &mut *self.state.borrow_mut();
        self.look(state, index) || self.check_time(state, index)
    }

    /// Waits until the call is finished.
    #[inline]
    pub(in crate::client) fn wait(&self, index: usize) {
        self.wait_for(
            |calls, state| calls.look(state, index),
            |calls, state| calls.check_time(state, index),
        );
    }

    /// Waits until any call is finished, or none is outstanding.
    pub(in crate::client) fn wait_any(&self) {
        let any = |state: &mut State, one: &mut dyn FnMut(&mut State, usize) -> bool| {
            let mut outstanding = false;
            for index in 0..state.calls.len() {
                if state.abandoned.contains(&index) {
                    continue;
                }
                match state.calls[index].stage {
                    Stage::Free => continue,
                    Stage::Sent { .. } | Stage::Kept { .. } => outstanding = true,
                    Stage::Finished(_) => return true,
                }
                if one(state, index) {
                    return true;
                }
            }
            !outstanding
        };
        self.wait_for(
            |calls, state| any(state, &mut |state, index| calls.look(state, index)),
            |calls, state| any(state, &mut |state, index| calls.check_time(state, index)),
        );
    }

    /// Spins, then parks, until `look` or, at every reading of the clock, `late` says so.
    #[inline]
    fn wait_for(
        &self,
        mut look: impl FnMut(&Self, &mut State) -> bool,
        mut late: impl FnMut(&Self, &mut State) -> bool,
    ) {
        let state = &mut *self.state.borrow_mut();
        if look(self, state) {
            return;
        }
        // A park that ended for nothing is no reason to spin again.
        let mut spin_ns = state.spin.begin(self.place.edge.spin_ns());
        let mut spin_until = None;
        let mut looks = 0_u32;
        loop {
            looks = looks.wrapping_add(1);
            if spin_ns > 0 && !looks.is_multiple_of(LOOKS_PER_CLOCK) {
                std::hint::spin_loop();
                if look(self, state) {
                    state.spin.paid();
                    return;
                }
                continue;
            }
            if late(self, state) {
                return;
            }
            let now = clock::now_ns();
            if spin_ns > 0 {
                if now < *spin_until.get_or_insert(now.saturating_add(spin_ns)) {
                    continue;
                }
                state.spin.in_vain();
                spin_ns = 0;
            }
            self.park(state, now, &mut look);
            if look(self, state) {
                return;
            }
        }
    }

    /// Sleeps until the bell or the next point in time that matters.
    ///
    /// Who changes the route rings the bell, so that one word suffices. A change that nobody rings
    /// for, as the supervisor died in between, is seen after the longest sleep.
    fn park(&self, state: &mut State, now: u64, look: &mut impl FnMut(&Self, &mut State) -> bool) {
        let route_seen = state.seen;
        let waiter = self.place.waiter();
        let bell_seen = waiter.bell.load(Ordering::SeqCst);
        let latest = now.saturating_add(PARK_MAX_NS);
        wake::park_then(
            &mut (state, look),
            std::iter::once(waiter),
            None,
            |(state, look)| {
                let found = look(self, state) || self.place.change() != route_seen;
                let until = state.next_time(now, latest);
                if found || until <= now {
                    return Last::Work;
                }
                self.meter.woke();
                Last::Nothing(Some(until - now))
            },
            |(state, look)| {
                if clock::now_ns() >= latest {
                    self.rescue(state, bell_seen, look);
                }
            },
        );
    }

    /// After the longest sleep, and before getting up: rings the servers whatever their flags say.
    ///
    /// What it counts, it counts only where nothing but a lost wake-up explains it: not for a
    /// server that was rung, or is awake, and only waits for a processor.
    #[cold]
    pub(super) fn rescue(
        &self,
        state: &mut State,
        bell_seen: u32,
        look: &mut impl FnMut(&Self, &mut State) -> bool,
    ) {
        let sleeps = |slot| {
            let server = self.place.server(slot);
            server.is_some_and(|server| server.asleep.load(Ordering::SeqCst) != 0)
        };
        if look(self, state) {
            // Whoever answered has gone to sleep since, and rings before it does that.
            let all_sleep = state.peers.iter().all(|peer| sleeps(peer.target.slot));
            let unrung = self.place.waiter().bell.load(Ordering::SeqCst) == bell_seen;
            self.rescues
                .set(self.rescues.get() + u64::from(all_sleep && unrung));
            return;
        }
        let waited_for = |peer: &&mut Peer| peer.outstanding > 0;
        for peer in state.peers.iter_mut().filter(waited_for) {
            if sleeps(peer.target.slot) && !peer.was_rung {
                // It may be between going to sleep and its last look; not twice in a row.
                if !std::mem::replace(&mut peer.suspected, true) {
                    continue;
                }
                self.rescues.set(self.rescues.get() + 1);
            }
            if let Some(server) = self.place.server(peer.target.slot) {
                wake::ring_always(server);
            }
        }
    }

    /// Follows the route where it changed and looks for one call's answer.
    #[inline]
    fn look(&self, state: &mut State, index: usize) -> bool {
        let change = self.place.change();
        if change != state.seen {
            self.follow_route(state, change);
        }
        let call = &mut state.calls[index];
        match &call.stage {
            Stage::Sent { .. } => call.look(&mut state.peers),
            Stage::Kept { .. } => {
                self.send_kept(state);
                false
            }
            Stage::Finished(_) => true,
            Stage::Free => true,
        }
    }

    /// Ends the call if its time is over.
    fn check_time(&self, state: &mut State, index: usize) -> bool {
        let now = clock::now_ns();
        if self.place.edge.is_orphaned() {
            self.leave_dead(state);
        }
        let gone = state.peers.all_gone();
        let call = &mut state.calls[index];
        let Spec {
            begun_ns,
            deadline_ns,
            provider_until_ns,
            ..
        } = call.spec;
        if matches!(call.stage, Stage::Kept { .. }) && state.peers.any_asleep() {
            self.place.edge.want(state.seen, begun_ns, now);
        }
        if now >= late_ns(begun_ns, deadline_ns) {
            let waits = match &call.stage {
                Stage::Sent { .. } => !call.look(&mut state.peers),
                // Somebody serves, and does not even connect.
                Stage::Kept { .. } => state.peers.missing().next().is_some(),
                Stage::Finished(_) | Stage::Free => false,
            };
            if waits {
                self.place.edge.late().say(begun_ns, now);
            }
        }
        match &call.stage {
            Stage::Sent { .. } if now >= deadline_ns => {
                if !call.look(&mut state.peers) {
                    call.leave(&mut state.peers, Verdict::Bad);
                    call.finish(Err(Failure::DeadlineExceeded));
                }
            }
            // Nobody who comes will take it.
            Stage::Kept { .. } if self.place.edge.is_orphaned() && !state.peers.any_in_reach() => {
                let failure = match call.maybe_executed_at {
                    Some(_) => Failure::OutcomeUnknown,
                    None => Failure::Unavailable,
                };
                call.finish(Err(failure));
            }
            Stage::Kept { crowded, .. }
                if now >= deadline_ns || (gone && now >= provider_until_ns) =>
            {
                let failure = match call.maybe_executed_at {
                    Some(_) => Failure::DeadlineExceeded,
                    // Somebody serves, and had no room for it.
                    None if *crowded && state.peers.any_ready() => Failure::Overloaded,
                    None => Failure::Unavailable,
                };
                call.finish(Err(failure));
            }
            Stage::Sent { .. } | Stage::Kept { .. } | Stage::Finished(_) | Stage::Free => {}
        }
        matches!(call.stage, Stage::Finished(_))
    }
}

impl State {
    /// The next point in time after `now` at which something is due, at most `latest`.
    pub(super) fn next_time(&self, now: u64, latest: u64) -> u64 {
        let gone = self.peers.all_gone();
        let latest = self
            .peers
            .missing()
            .map(|peer| peer.retry_link_ns)
            .filter(|time| *time > now)
            .fold(latest, u64::min);
        self.calls
            .iter()
            .fold(latest, |next, call| match &call.stage {
                Stage::Sent { .. } => next.min(call.spec.deadline_ns),
                Stage::Kept { not_before_ns, .. } => {
                    let mut next = next.min(call.spec.deadline_ns);
                    if gone {
                        next = next.min(call.spec.provider_until_ns);
                    }
                    // What could be sent by now and was not waits for a change, not for a time.
                    if *not_before_ns > now {
                        next = next.min(*not_before_ns);
                    }
                    next
                }
                Stage::Finished(_) | Stage::Free => next,
            })
    }
}
