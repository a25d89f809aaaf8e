//! The outstanding calls of one connection, and what becomes of them when the route changes.
//!
//! A call is **sent** (it lies at one attempt), **kept** (it lies with nobody), or **finished**.
//! Which of several instances it is sent to is decided in `peers`.
//!
//! ```text
//!            sent to A ── answer ──────────────────────────────► finished
//!             │  ▲  │
//!     refused │  │  └─ route leaves A, no answer lies there:
//!   (not exe- │  │       A had drained, or the method is        otherwise:
//!      cuted) │  │       idempotent or `once`                   outcome unknown ► finished
//!             ▼  │         │
//!            kept ◄────────┘
//!             └─ deadline, or nobody provides for too long ───► finished
//! ```
//!
//! A kept call is sent, with its old number, as soon as an instance serves that it may go to;
//! after a refusal not before the route changes or a short pause ends, unless another instance
//! serves. A refusal because a server leaves or does not lead costs nothing; one because it cannot
//! or will not execute the request costs a retry from the edge's budget, without which the call
//! ends (overload, quota) or waits for one (unable). While its target holds, a sent call waits where it is: its attempt may still answer.

mod breaker;
mod call;
mod counting;
mod follow;
mod peers;
mod wait;
mod watch;

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;

use insula_contract::edge::{SERVER_SLOTS, Waiter};
use insula_contract::id::Attempt;
use insula_contract::route::RouteEntry;

use super::edge::Edge;
use super::{Refusal, TraceContext};
use crate::channel::{self, NotSent, Sample, Sizes};
use crate::contract::Safety;
use crate::header::{RequestHeader, SAMPLED, VERSION, sent_at};
use crate::meters::Meter;
use crate::spin::Spin;
use crate::wake;
use call::{Call, Stage};
use peers::{Choice, Peers, Verdict};

/// The pause before a refused call is sent again to the same attempt; doubled up to the last.
const PAUSE_FIRST_NS: u64 = 200_000;
const PAUSE_LAST_NS: u64 = 20_000_000;

/// Why a call has no answer; [`super::CallError`] without the contract's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    DeadlineExceeded,
    Unavailable,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    TooLarge { max: usize },
    TooManyInFlight { max: usize },
    Refused(Refusal),
    Broken(&'static str),
}

/// What is known of a call before it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) method: u16,
    pub(crate) safety: Safety,
    pub(crate) begun_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) provider_until_ns: u64,
    pub(crate) trace: TraceContext,
    /// Calls with the same key go to the same instance while it serves.
    pub(crate) key: Option<u64>,
    /// It is for this attempt alone, or for nobody.
    pub(crate) only: Option<Attempt>,
}

/// An answer in its chunk.
#[derive(Debug)]
pub(super) struct Answer {
    sample: Sample,
    length: usize,
}

impl Answer {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        channel::answer_bytes(&self.sample, self.length)
    }
}

/// An answer and its sort.
#[derive(Debug)]
pub(super) enum Answered {
    Response(Answer),
    Error(Answer),
}

/// Where a connection lives: its edge and its client slot, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) edge: Edge,
    pub(super) slot: u16,
}

impl Place {
    fn entry(&self) -> &RouteEntry {
        self.edge.routes().entry()
    }

    #[inline]
    fn change(&self) -> u32 {
        self.entry().change.load(Ordering::SeqCst)
    }

    fn waiter(&self) -> &Waiter {
        &self.edge.page().page().clients[usize::from(self.slot)]
    }

    /// The server's waiter; `None` for a slot that no page has.
    fn server(&self, slot: u8) -> Option<&Waiter> {
        self.edge.page().page().servers.get(usize::from(slot))
    }

    fn ring(&self, peers: &mut Peers, place: u8) {
        wake::published();
        if let Some(server) = self.server(peers.at(place).target.slot) {
            peers.rung(place, wake::ring(server));
        }
    }
}

#[derive(Debug)]
struct State {
    /// The entry's `change` that was acted upon last.
    seen: u32,
    peers: Peers,
    next_sequence: u64,
    calls: Box<[Call]>,
    free: Vec<usize>,
    /// Calls whose answers nobody wants, the oldest first.
    abandoned: Vec<usize>,
    spin: Spin,
}

/// All calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    // Declared before `place`: ends of channels are dropped before the slot is given back.
    state: RefCell<State>,
    contract: (&'static str, u16),
    sizes: Sizes,
    place: Place,
    meter: Meter,
    warned: Cell<bool>,
    rescues: Cell<u64>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.calls = Box::default();
        state.peers.clear();
        self.place
            .edge
            .release(self.place.slot, state.next_sequence);
    }
}

impl Calls {
    pub(super) fn new(
        place: Place,
        contract: (&'static str, u16),
        sizes: Sizes,
        next_sequence: u64,
    ) -> Self {
        let free_call = || Call {
            spec: Spec {
                method: 0,
                safety: Safety::AtMostOnce,
                begun_ns: 0,
                deadline_ns: 0,
                provider_until_ns: 0,
                trace: TraceContext::default(),
                key: None,
                only: None,
            },
            sequence: 0,
            maybe_executed_at: None,
            pause_ns: 0,
            stage: Stage::Free,
            answered: None,
            answered_by: None,
        };
        let state = State {
            // Anything else than what is there: nothing was acted upon yet.
            seen: place.change().wrapping_sub(1),
            peers: Peers::new(
                place.edge.clone(),
                next_sequence,
                RandomState::new().hash_one(place.slot),
            ),
            next_sequence,
            calls: std::iter::repeat_with(free_call)
                .take(sizes.in_flight)
                .collect(),
            free: (0..sizes.in_flight).rev().collect(),
            abandoned: Vec::new(),
            spin: Spin::default(),
        };
        Self {
            state: RefCell::new(state),
            contract,
            sizes,
            meter: place.edge.claim_meter(),
            place,
            warned: Cell::new(false),
            rescues: Cell::new(0),
        }
    }

    pub(super) fn rescues(&self) -> u64 {
        self.rescues.get()
    }

    pub(super) fn contract(&self) -> (&'static str, u16) {
        self.contract
    }

    /// Sends a request, or keeps it where nobody can take it now; the index of its call.
    #[inline]
    pub(super) fn submit(
        &self,
        spec: Spec,
        request_max: usize,
        encode: impl Fn(&mut [u8]) -> Option<usize>,
    ) -> Result<usize, Failure> {
        let state = &mut *self.state.borrow_mut();
        if !state.abandoned.is_empty() {
            self.reap(state);
        }
        let change = self.place.change();
        if change != state.seen || !state.peers.is_complete() {
            self.follow_route(state, change);
        }
        let Some(&index) = state.free.last() else {
            return Err(Failure::TooManyInFlight {
                max: self.sizes.in_flight,
            });
        };
        let sequence = state.next_sequence;
        let header = self.header(state, &spec, sequence, spec.begun_ns);
        let too_large = Failure::TooLarge { max: request_max };
        let bounded = &|chunk: &mut [u8]| {
            let end = chunk.len().min(request_max);
            encode(&mut chunk[..end])
        };
        let choice = match (spec.only, state.peers.sole()) {
            (Some(only), _) => state.peers.of_attempt(only),
            (None, Some(place)) => Choice::To(place),
            (None, None) => state.peers.choose(spec.key, spec.begun_ns),
        };
        let stage = match choice {
            Choice::To(to) => match state.peers.send(to, header, bounded) {
                Ok(pending) => {
                    self.place.ring(&mut state.peers, to);
                    Stage::Sent { pending, to }
                }
                Err(NotSent::TooLong) => return Err(too_large),
                Err(NotSent::NotNow) => {
                    let bytes = write_down(request_max, bounded).ok_or(too_large)?;
                    let not_before_ns = spec.begun_ns.saturating_add(PAUSE_FIRST_NS);
                    Stage::Kept {
                        bytes,
                        not_before_ns,
                        paid: true,
                        crowded: true,
                    }
                }
            },
            Choice::Wait => {
                if state.peers.any_asleep() {
                    let begun_ns = spec.begun_ns;
                    self.place.edge.want(state.seen, begun_ns, begun_ns);
                }
                Stage::Kept {
                    bytes: write_down(request_max, bounded).ok_or(too_large)?,
                    not_before_ns: 0,
                    paid: true,
                    crowded: false,
                }
            }
            Choice::Never => return Err(Failure::Unavailable),
        };
        self.count_begun(&stage);
        state.free.pop();
        state.next_sequence += 1;
        let call = &mut state.calls[index];
        call.spec = spec;
        call.sequence = sequence;
        call.maybe_executed_at = None;
        call.answered_by = None;
        call.pause_ns = PAUSE_FIRST_NS;
        call.stage = stage;
        Ok(index)
    }

    fn header(&self, state: &State, spec: &Spec, sequence: u64, now_ns: u64) -> RequestHeader {
        // A server that keeps answers drops those below this number. Looking through the calls is
        // worth it only where the answer is surely kept.
        let alone = state.free.len() == state.calls.len();
        let forget_below = match spec.safety {
            _ if alone => sequence,
            Safety::Once => state.oldest_wanted().min(sequence),
            Safety::Idempotent | Safety::AtMostOnce => 0,
        };
        RequestHeader {
            version: VERSION,
            method: spec.method,
            flags: if spec.trace.sampled { SAMPLED } else { 0 },
            slot: self.place.slot,
            length: 0,
            sent: sent_at(now_ns),
            sequence,
            forget_below,
            deadline_ns: spec.deadline_ns,
            trace_id: spec.trace.trace_id,
            span_id: spec.trace.span_id,
        }
    }

    /// The attempt that has a call or has answered it.
    pub(super) fn lies_at(&self, index: usize) -> Option<Attempt> {
        let state = self.state.borrow();
        let call = &state.calls[index];
        match &call.stage {
            Stage::Sent { to, .. } => Some(state.peers.at(*to).target.attempt),
            Stage::Free | Stage::Kept { .. } | Stage::Finished(_) => call.answered_by,
        }
    }

    /// Takes the outcome of a finished call; it keeps its place until released.
    #[inline]
    pub(super) fn take(&self, index: usize) -> Result<Answered, Failure> {
        let call = &mut self.state.borrow_mut().calls[index];
        match std::mem::replace(&mut call.stage, Stage::Free) {
            Stage::Finished(outcome) => {
                self.count_outcome(call.spec.begun_ns, &outcome);
                outcome
            }
            other => {
                call.stage = other;
                Err(Failure::Broken("the call has no outcome yet"))
            }
        }
    }

    /// Leaves the call to itself: it is executed, and its place freed once it was, or when it is
    /// needed.
    pub(super) fn abandon(&self, index: usize) {
        self.state.borrow_mut().abandoned.push(index);
    }

    /// Frees the call's place.
    #[inline]
    pub(super) fn release(&self, index: usize) {
        let state = &mut *self.state.borrow_mut();
        let call = &mut state.calls[index];
        self.count_released(call);
        // What lies there already must not lie in the way of the next answer in this place.
        call.look(&mut state.peers);
        // A sample goes before the pending response that it came through.
        call.leave(&mut state.peers, Verdict::Nothing);
        call.answered = None;
        state.free.push(index);
    }

    /// Frees the places of abandoned calls that were answered, and of the oldest one where none is
    /// free.
    #[cold]
    fn reap(&self, state: &mut State) {
        let State {
            abandoned,
            calls,
            peers,
            free,
            ..
        } = state;
        abandoned.retain(|index| {
            let call = &mut calls[*index];
            let lies_there = matches!(call.stage, Stage::Sent { .. } | Stage::Kept { .. });
            if lies_there && !call.look(peers) && !free.is_empty() {
                return true;
            }
            self.count_released(call);
            call.leave(peers, Verdict::Nothing);
            call.answered = None;
            free.push(*index);
            false
        });
    }
}

impl State {
    /// The lowest number among the requests that still want an answer.
    fn oldest_wanted(&self) -> u64 {
        self.calls
            .iter()
            .filter(|call| matches!(call.stage, Stage::Sent { .. } | Stage::Kept { .. }))
            .map(|call| call.sequence)
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// Encodes a request that cannot be written into a chunk now.
fn write_down(
    request_max: usize,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<Vec<u8>> {
    let mut bytes = vec![0; request_max];
    let length = encode(&mut bytes)?;
    bytes.truncate(length);
    Some(bytes)
}

const _: () = assert!(crate::contract::CONNECTIONS <= insula_contract::edge::CLIENT_SLOTS);
const _: () = assert!(SERVER_SLOTS <= 256, "a slot is a byte of the route word");
