//! Following the route: which attempt the connection is connected to, and what is sent to it.

use std::sync::atomic::Ordering;

use insula_contract::edge::pair_directory;
use insula_contract::id::Attempt;
use insula_contract::route::{RouteState, Target};

use super::call::Stage;
use super::{Calls, Failure, Link, PAUSE_FIRST_NS, PAUSE_LAST_NS, State};
use crate::channel::{ClientEnd, NotSent};
use crate::clock;

impl Calls {
    /// Acts upon a route word: decides what lies at an attempt that is left, connects to the one
    /// that serves, and sends what is kept.
    #[cold]
    pub(super) fn follow_route(&self, state: &mut State, word: u64) {
        let changed = word != state.seen;
        state.seen = word;
        let target = Target::from_word(word);
        if changed {
            state.retry_link_ns = 0;
            // Looked up after the target: who left cleanly is named before its successor.
            let drained = |attempt: Attempt| self.place.entry().has_drained(attempt);
            for call in &mut state.calls {
                call.route_changed(target, drained);
            }
            if state.link.as_ref().is_some_and(|link| {
                link.attempt != target.attempt || target.state == RouteState::Gone
            }) {
                state.link = None;
            }
        }
        self.send_kept(state);
    }

    /// Connects to the route's target where it serves and has opened its end.
    fn connect(&self, state: &mut State) {
        let target = Target::from_word(state.seen);
        if target.state != RouteState::Serve || state.link.is_some() {
            return;
        }
        let Some(server) = self.place.server(target.slot) else {
            return;
        };
        if server.open.load(Ordering::SeqCst) != target.attempt.0 {
            return;
        }
        let now = clock::now_ns();
        if now < state.retry_link_ns {
            return;
        }
        let used = self.place.edge.used();
        let directory = format!(
            "{}/{}",
            used.parent,
            pair_directory(target.attempt, used.consumer)
        );
        match ClientEnd::open(&directory, self.sizes) {
            Ok(end) => {
                state.link = Some(Link {
                    attempt: target.attempt,
                    slot: target.slot,
                    end,
                });
            }
            Err(error) => {
                state.retry_link_ns = now + PAUSE_LAST_NS;
                if !self.warned.replace(true) {
                    tracing::warn!(contract = %used.contract, "cannot connect: {error}");
                }
            }
        }
    }

    /// Sends the kept calls whose pause is over, in the order of their numbers.
    #[cold]
    pub(super) fn send_kept(&self, state: &mut State) {
        self.connect(state);
        if state.link.is_none() || Target::from_word(state.seen).state != RouteState::Serve {
            return;
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
        let mut sent = false;
        for (sequence, index) in due {
            let header = self.header(state, &state.calls[index].spec, sequence);
            let Some(link) = &state.link else { return };
            let call = &mut state.calls[index];
            let Stage::Kept {
                bytes,
                not_before_ns,
            } = &mut call.stage
            else {
                continue;
            };
            let copied = link.end.send(header, |chunk| {
                chunk.get_mut(..bytes.len())?.copy_from_slice(bytes);
                Some(bytes.len())
            });
            match copied {
                Ok(pending) => {
                    call.stage = Stage::Sent {
                        pending,
                        to: link.attempt,
                    };
                    sent = true;
                }
                Err(NotSent::TooLong) => {
                    call.finish(Err(Failure::Broken("a kept request does not fit")));
                }
                Err(NotSent::NotNow) => *not_before_ns = now + PAUSE_FIRST_NS,
            }
        }
        if sent && let Some(link) = &state.link {
            self.ring(link);
        }
    }
}
