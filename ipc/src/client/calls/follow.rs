//! Following the route: which attempts the connection is connected to, and what is sent to them.

use std::sync::atomic::Ordering;

use insula_contract::edge::pair_directory;
use insula_contract::route::{TARGETS, Target};

use super::call::Stage;
use super::peers::{Choice, has_left};
use super::{Calls, Failure, PAUSE_FIRST_NS, PAUSE_LAST_NS, State};
use crate::channel::{ClientEnd, NotSent};
use crate::clock;

impl Calls {
    /// Acts upon a change of the route: decides what lies at attempts that are left, connects to
    /// those that serve, and sends what is kept.
    #[cold]
    pub(super) fn follow_route(&self, state: &mut State, change: u32) {
        if change != state.seen {
            state.seen = change;
            let entry = self.place.entry();
            for place in 0..TARGETS {
                let old = state.peers.target(place);
                let new = entry.target(place);
                if old == new {
                    continue;
                }
                if has_left(old, new) {
                    // Looked up after the target: who left cleanly is named before its successor.
                    let drained = entry.has_drained(old.attempt);
                    for call in &mut state.calls {
                        call.attempt_left(place as u8, drained, &mut state.peers);
                    }
                }
                state.peers.follow(place, new);
            }
            for call in &mut state.calls {
                call.try_again();
            }
        }
        self.connect(state);
        self.send_kept(state);
    }

    /// On an edge that no supervisor knows any more: leaves attempts that its route still names,
    /// because nobody writes to that table any more, and that are over.
    #[cold]
    pub(super) fn leave_dead(&self, state: &mut State) {
        for place in 0..TARGETS {
            let target = state.peers.target(place);
            if target == Target::NONE || !self.place.edge.is_over(target) {
                continue;
            }
            for call in &mut state.calls {
                call.attempt_left(place as u8, false, &mut state.peers);
            }
            state.peers.follow(place, Target::NONE);
            state.peers.count();
        }
    }

    /// Connects to a target that serves and has opened its end.
    ///
    /// To one at a time: making a connection takes longer than many calls, and those that are
    /// connected can do with them meanwhile.
    fn connect(&self, state: &mut State) {
        for peer in state.peers.missing_mut() {
            let opened = self
                .place
                .server(peer.target.slot)
                .is_some_and(|server| server.open.load(Ordering::SeqCst) == peer.target.attempt.0);
            if !opened {
                continue;
            }
            let now = clock::now_ns();
            if now < peer.retry_link_ns {
                continue;
            }
            let used = self.place.edge.used();
            let pair = pair_directory(peer.target.attempt, used.consumer);
            match ClientEnd::open(&format!("{}/{pair}", used.parent), self.sizes) {
                Ok(end) => {
                    peer.link = Some(end);
                    break;
                }
                Err(error) => {
                    peer.retry_link_ns = now + PAUSE_LAST_NS;
                    if !self.warned.replace(true) {
                        tracing::warn!(contract = %used.contract, "cannot connect: {error}");
                    }
                }
            }
        }
        state.peers.count();
    }

    /// Connects where a connection is missing, and sends the kept calls whose pause is over, in the
    /// order of their numbers.
    #[cold]
    pub(super) fn send_kept(&self, state: &mut State) {
        if !state.peers.is_complete() {
            self.connect(state);
        }
        let now = clock::now_ns();
        let mut due: Vec<(u64, usize)> = state
            .calls
            .iter()
            .enumerate()
            .filter(|(_, call)| call.is_due(now))
            .map(|(index, call)| (call.sequence, index))
            .collect();
        due.sort_unstable();
        let mut rung = 0_u32;
        for (sequence, index) in due {
            let call = &mut state.calls[index];
            if let Some(only) = call.spec.only
                && !state.peers.has_attempt(only)
            {
                call.finish(Err(Failure::OutcomeUnknown));
                continue;
            }
            let bound = call.bound(self.place.edge.used().policy.once);
            let choice = match call.spec.only {
                Some(only) => state.peers.of_attempt(only),
                None => state.peers.choose_bound(call.spec.key, bound, now),
            };
            let to = match choice {
                Choice::To(to) => to,
                Choice::Never if call.maybe_executed_at.is_none() => {
                    state.calls[index].finish(Err(Failure::Unavailable));
                    continue;
                }
                Choice::Wait | Choice::Never => continue,
            };
            let header = self.header(state, &state.calls[index].spec, sequence, now);
            let call = &mut state.calls[index];
            let Stage::Kept {
                bytes,
                not_before_ns,
                paid,
                crowded,
            } = &mut call.stage
            else {
                continue;
            };
            if !*paid && !state.peers.may_retry(sequence, now) {
                *not_before_ns = now + PAUSE_LAST_NS;
                continue;
            }
            *paid = true;
            let copied = state.peers.send(to, header, |chunk| {
                chunk.get_mut(..bytes.len())?.copy_from_slice(bytes);
                Some(bytes.len())
            });
            match copied {
                Ok(pending) => {
                    self.meter.resent();
                    call.stage = Stage::Sent { pending, to };
                    rung |= 1 << to;
                }
                Err(NotSent::TooLong) => {
                    call.finish(Err(Failure::Broken("a kept request does not fit")));
                }
                Err(NotSent::NotNow) => {
                    *not_before_ns = now + PAUSE_FIRST_NS;
                    *crowded = true;
                }
            }
        }
        for place in (0..TARGETS as u8).filter(|place| rung & 1 << place != 0) {
            self.place.ring(&mut state.peers, place);
        }
    }
}
