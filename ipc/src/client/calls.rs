//! The outstanding calls of one connection, and what becomes of them when the route changes.
//!
//! A call is **sent** (it lies at one attempt), **kept** (it lies with nobody), or **finished**.
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
//! A kept call is sent, with its old number, as soon as the route serves; after a refusal not
//! before the route changes or a short pause ends. While the route holds, a sent call waits where
//! it is: its attempt may still answer.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::sync::atomic::Ordering;

use insula_contract::edge::{SERVER_SLOTS, Waiter, pair_directory};
use insula_contract::id::Attempt;
use insula_contract::route::{RouteEntry, RouteState, Target};

use super::edge::Edge;
use super::{Refusal, TraceContext};
use crate::channel::{self, ClientEnd, Look, NotSent, Pending, Received, Sample, Sizes};
use crate::clock;
use crate::contract::Safety;
use crate::header::{RequestHeader, Status, VERSION};
use crate::wake::{self, Watched};

/// A parked client looks again after this time, and rings its server whatever its flag says: a
/// page can be written by a broken peer.
const PARK_MAX_NS: u64 = 100_000_000;
/// The pause before a refused call is sent again to the same attempt; doubled up to the last.
const PAUSE_FIRST_NS: u64 = 200_000;
const PAUSE_LAST_NS: u64 = 20_000_000;
/// Looks between two readings of the clock while spinning.
const LOOKS_PER_CLOCK: u32 = 32;

/// Why a call has no answer; [`super::CallError`] without the contract's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    DeadlineExceeded,
    Unavailable,
    OutcomeUnknown,
    TooLarge { max: usize },
    TooManyInFlight { max: usize },
    Refused(Refusal),
    Broken(&'static str),
}

/// What is known of a call before it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub(super) method: u16,
    pub(super) safety: Safety,
    pub(super) deadline_ns: u64,
    pub(super) provider_until_ns: u64,
    pub(super) trace: TraceContext,
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

    fn route(&self) -> u64 {
        self.entry().targets[0].load(Ordering::SeqCst)
    }

    fn waiter(&self) -> &Waiter {
        &self.edge.page().page().clients[usize::from(self.slot)]
    }

    /// The server's waiter; `None` for a slot that no page has.
    fn server(&self, slot: u8) -> Option<&Waiter> {
        self.edge.page().page().servers.get(usize::from(slot))
    }
}

#[derive(Debug)]
enum Stage {
    /// No call uses this place, or its outcome was taken and only its response is held.
    Free,
    Sent {
        pending: Pending,
        to: Attempt,
    },
    Kept {
        bytes: Vec<u8>,
        /// Not to be sent before, unless the route changes.
        not_before_ns: u64,
    },
    Finished(Result<Answered, Failure>),
}

#[derive(Debug)]
struct Call {
    spec: Spec,
    sequence: u64,
    /// An attempt died or left with it, so that it may have been executed.
    maybe_executed: bool,
    pause_ns: u64,
    stage: Stage,
    /// Keeps the channel's place and the request's chunk while an answer lies in `stage`.
    answered: Option<Pending>,
}

/// The attempt that this connection is connected to.
#[derive(Debug)]
struct Link {
    attempt: Attempt,
    slot: u8,
    end: ClientEnd,
}

#[derive(Debug)]
struct State {
    /// The route word that was acted upon last.
    seen: u64,
    link: Option<Link>,
    /// An attempt that could not be connected to, and when to try again.
    retry_link_ns: u64,
    next_sequence: u64,
    calls: Box<[Call]>,
    free: Vec<usize>,
}

/// All calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    // Declared before `place`: ends of channels are dropped before the slot is given back.
    state: RefCell<State>,
    contract: (&'static str, u16),
    sizes: Sizes,
    place: Place,
    warned: Cell<bool>,
    rescues: Cell<u64>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.calls = Box::default();
        state.link = None;
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
                deadline_ns: 0,
                provider_until_ns: 0,
                trace: TraceContext::default(),
            },
            sequence: 0,
            maybe_executed: false,
            pause_ns: 0,
            stage: Stage::Free,
            answered: None,
        };
        let state = State {
            seen: Target::NONE.to_word(),
            link: None,
            retry_link_ns: 0,
            next_sequence,
            calls: std::iter::repeat_with(free_call)
                .take(sizes.in_flight)
                .collect(),
            free: (0..sizes.in_flight).rev().collect(),
        };
        Self {
            state: RefCell::new(state),
            contract,
            sizes,
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
        let word = self.place.route();
        if word != state.seen || state.link.is_none() {
            self.follow_route(state, word);
        }
        let Some(&index) = state.free.last() else {
            return Err(Failure::TooManyInFlight {
                max: self.sizes.in_flight,
            });
        };
        let sequence = state.next_sequence;
        let header = self.header(state, &spec, sequence);
        let too_large = Failure::TooLarge { max: request_max };
        let bounded = &|chunk: &mut [u8]| {
            let end = chunk.len().min(request_max);
            encode(&mut chunk[..end])
        };
        let ready = Target::from_word(state.seen).state == RouteState::Serve;
        let stage = match &state.link {
            Some(link) if ready => match link.end.send(header, bounded) {
                Ok(pending) => {
                    self.ring(link);
                    Stage::Sent {
                        pending,
                        to: link.attempt,
                    }
                }
                Err(NotSent::TooLong) => return Err(too_large),
                Err(NotSent::NotNow) => {
                    let bytes = write_down(request_max, bounded).ok_or(too_large)?;
                    let not_before_ns = clock::now_ns().saturating_add(PAUSE_FIRST_NS);
                    Stage::Kept {
                        bytes,
                        not_before_ns,
                    }
                }
            },
            _ => {
                let bytes = write_down(request_max, bounded).ok_or(too_large)?;
                Stage::Kept {
                    bytes,
                    not_before_ns: 0,
                }
            }
        };
        state.free.pop();
        state.next_sequence += 1;
        let call = &mut state.calls[index];
        call.spec = spec;
        call.sequence = sequence;
        call.maybe_executed = false;
        call.pause_ns = PAUSE_FIRST_NS;
        call.stage = stage;
        Ok(index)
    }

    fn header(&self, state: &State, spec: &Spec, sequence: u64) -> RequestHeader {
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
            flags: 0,
            slot: self.place.slot,
            length: 0,
            reserved: 0,
            sequence,
            forget_below,
            deadline_ns: spec.deadline_ns,
            trace_id: spec.trace.trace_id,
            span_id: spec.trace.span_id,
        }
    }

    fn ring(&self, link: &Link) {
        wake::published();
        if let Some(server) = self.place.server(link.slot) {
            wake::ring(server);
        }
    }

    /// Follows the route and looks for the call's answer; whether it is finished.
    pub(super) fn progress(&self, index: usize) -> bool {
        let state = &mut *self.state.borrow_mut();
        self.look(state, index) || self.check_time(state, index)
    }

    /// Takes the outcome of a finished call; it keeps its place until released.
    #[inline]
    pub(super) fn take(&self, index: usize) -> Result<Answered, Failure> {
        let call = &mut self.state.borrow_mut().calls[index];
        match std::mem::replace(&mut call.stage, Stage::Free) {
            Stage::Finished(outcome) => outcome,
            other => {
                call.stage = other;
                Err(Failure::Broken("the call has no outcome yet"))
            }
        }
    }

    /// Frees the call's place.
    #[inline]
    pub(super) fn release(&self, index: usize) {
        let state = &mut *self.state.borrow_mut();
        let call = &mut state.calls[index];
        // A sample goes before the pending response that it came through.
        call.stage = Stage::Free;
        call.answered = None;
        state.free.push(index);
    }

    /// Waits until the call is finished.
    #[inline]
    pub(super) fn wait(&self, index: usize) {
        self.wait_for(
            |calls, state| calls.look(state, index),
            |calls, state| calls.check_time(state, index),
        );
    }

    /// Waits until any call is finished, or none is outstanding.
    pub(super) fn wait_any(&self) {
        let any = |state: &mut State, one: &mut dyn FnMut(&mut State, usize) -> bool| {
            let mut outstanding = false;
            for index in 0..state.calls.len() {
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
        let spin_ns = self.place.edge.spin_ns();
        let mut spin_until = None;
        let mut looks = 0_u32;
        loop {
            if look(self, state) {
                return;
            }
            looks = looks.wrapping_add(1);
            if spin_ns > 0 && !looks.is_multiple_of(LOOKS_PER_CLOCK) {
                std::hint::spin_loop();
                continue;
            }
            if late(self, state) {
                return;
            }
            let now = clock::now_ns();
            if spin_ns > 0 && now < *spin_until.get_or_insert(now.saturating_add(spin_ns)) {
                continue;
            }
            self.park(state, now, &mut look);
        }
    }

    /// Sleeps until the bell, a route change, or the next point in time that matters.
    fn park(&self, state: &mut State, now: u64, look: &mut impl FnMut(&Self, &mut State) -> bool) {
        let change = &self.place.entry().change;
        let route = Watched {
            word: change,
            seen: change.load(Ordering::SeqCst),
        };
        let waiter = self.place.waiter();
        let bell = wake::lie_down(waiter);
        if look(self, state) || self.place.route() != state.seen {
            wake::get_up(waiter);
            return;
        }
        let until = state.next_time(now.saturating_add(PARK_MAX_NS));
        if until > now {
            wake::wait_any(&[bell, route], Some(until - now));
        }
        wake::get_up(waiter);
        if clock::now_ns() >= now.saturating_add(PARK_MAX_NS) {
            self.rescue(state, bell.seen, look);
        }
    }

    /// After the longest sleep: rings the server whatever its flag says.
    #[cold]
    fn rescue(
        &self,
        state: &mut State,
        bell_seen: u32,
        look: &mut impl FnMut(&Self, &mut State) -> bool,
    ) {
        let waiting = state
            .calls
            .iter()
            .any(|call| matches!(call.stage, Stage::Sent { .. }));
        let unrung = self.place.waiter().bell.load(Ordering::SeqCst) == bell_seen;
        if let Some(link) = &state.link
            && waiting
            && let Some(server) = self.place.server(link.slot)
        {
            if server.asleep.load(Ordering::SeqCst) != 0 {
                self.rescues.set(self.rescues.get() + 1);
            }
            wake::ring_always(server);
        }
        if look(self, state) && unrung {
            self.rescues.set(self.rescues.get() + 1);
        }
    }

    /// Follows the route where it changed and looks for one call's answer.
    #[inline]
    fn look(&self, state: &mut State, index: usize) -> bool {
        let word = self.place.route();
        if word != state.seen {
            self.follow_route(state, word);
        }
        let call = &mut state.calls[index];
        match &call.stage {
            Stage::Sent { .. } => call.look(),
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
        let gone = Target::from_word(state.seen).state == RouteState::Gone;
        let call = &mut state.calls[index];
        let Spec {
            deadline_ns,
            provider_until_ns,
            ..
        } = call.spec;
        match &call.stage {
            Stage::Sent { .. } if now >= deadline_ns => {
                if !call.look() {
                    call.finish(Err(Failure::DeadlineExceeded));
                }
            }
            Stage::Kept { .. } if now >= deadline_ns || (gone && now >= provider_until_ns) => {
                let failure = if call.maybe_executed {
                    Failure::DeadlineExceeded
                } else {
                    Failure::Unavailable
                };
                call.finish(Err(failure));
            }
            Stage::Sent { .. } | Stage::Kept { .. } | Stage::Finished(_) | Stage::Free => {}
        }
        matches!(call.stage, Stage::Finished(_))
    }

    /// Acts upon a route word: decides what lies at an attempt that is left, connects to the one
    /// that serves, and sends what is kept.
    #[cold]
    fn follow_route(&self, state: &mut State, word: u64) {
        let changed = word != state.seen;
        state.seen = word;
        let target = Target::from_word(word);
        // Loaded after the target: a drained predecessor is named before its successor.
        let drained = Attempt(self.place.entry().drained.load(Ordering::SeqCst));
        if changed {
            state.retry_link_ns = 0;
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
    fn send_kept(&self, state: &mut State) {
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

    /// The next point in time at which a call must be looked at, at most `latest`.
    fn next_time(&self, latest: u64) -> u64 {
        let gone = Target::from_word(self.seen).state == RouteState::Gone;
        let serves = Target::from_word(self.seen).state == RouteState::Serve;
        let latest = if serves && self.link.is_none() && self.retry_link_ns > 0 {
            latest.min(self.retry_link_ns)
        } else {
            latest
        };
        self.calls
            .iter()
            .fold(latest, |next, call| match &call.stage {
                Stage::Sent { .. } => next.min(call.spec.deadline_ns),
                Stage::Kept { not_before_ns, .. } => {
                    let mut next = next.min(call.spec.deadline_ns);
                    if gone {
                        next = next.min(call.spec.provider_until_ns);
                    }
                    if serves && self.link.is_some() {
                        next = next.min(*not_before_ns);
                    }
                    next
                }
                Stage::Finished(_) | Stage::Free => next,
            })
    }
}

impl Call {
    fn finish(&mut self, outcome: Result<Answered, Failure>) {
        self.stage = Stage::Finished(outcome);
    }

    fn is_due(&self, now: u64) -> bool {
        matches!(&self.stage, Stage::Kept { not_before_ns, .. } if now >= *not_before_ns)
    }

    /// Looks for the answer to a call that is sent; whether it is finished.
    #[inline]
    fn look(&mut self) -> bool {
        let Stage::Sent { pending, .. } = &self.stage else {
            return false;
        };
        match channel::look(pending) {
            Look::Nothing => false,
            Look::Answer(received) => self.accept(received),
            Look::Malformed(what) => {
                self.finish(Err(Failure::Broken(what)));
                true
            }
        }
    }

    fn accept(&mut self, received: Received) -> bool {
        let Received {
            status,
            sample,
            length,
        } = received;
        let answer = Answer { sample, length };
        let Stage::Sent { pending, .. } = std::mem::replace(&mut self.stage, Stage::Free) else {
            return false;
        };
        let outcome = match status {
            Status::Response => Ok(Answered::Response(answer)),
            Status::Error => Ok(Answered::Error(answer)),
            Status::Draining | Status::NotLeading | Status::Unable => {
                drop(answer);
                let bytes = channel::sent_bytes(&pending).to_vec();
                let not_before_ns = clock::now_ns().saturating_add(self.pause_ns);
                self.pause_ns = (self.pause_ns * 2).min(PAUSE_LAST_NS);
                self.stage = Stage::Kept {
                    bytes,
                    not_before_ns,
                };
                return false;
            }
            Status::Expired => Err(Failure::DeadlineExceeded),
            Status::MalformedRequest => Err(Failure::Refused(Refusal::MalformedRequest)),
            Status::UnknownMethod => Err(Failure::Refused(Refusal::UnknownMethod)),
            Status::AnswerTooLong => Err(Failure::Broken("the answer did not fit its chunk")),
        };
        if outcome.is_ok() {
            self.answered = Some(pending);
        }
        self.finish(outcome);
        true
    }

    /// Decides what becomes of the call under a new route.
    fn route_changed(&mut self, target: Target, drained: Attempt) {
        if let Stage::Kept { not_before_ns, .. } = &mut self.stage {
            *not_before_ns = 0;
            return;
        }
        let Stage::Sent { to, .. } = &self.stage else {
            return;
        };
        let to = *to;
        if to == target.attempt && target.state != RouteState::Gone {
            return;
        }
        // The answer may have come before its sender went.
        if self.look() {
            return;
        }
        match std::mem::replace(&mut self.stage, Stage::Free) {
            Stage::Sent { pending, .. } => {
                let certain = drained == to;
                let again = match self.spec.safety {
                    Safety::Idempotent | Safety::Once => true,
                    Safety::AtMostOnce => certain,
                };
                if again {
                    self.maybe_executed |= !certain;
                    let bytes = channel::sent_bytes(&pending).to_vec();
                    self.stage = Stage::Kept {
                        bytes,
                        not_before_ns: 0,
                    };
                } else {
                    self.finish(Err(Failure::OutcomeUnknown));
                }
            }
            // The last look found a refusal.
            Stage::Kept { bytes, .. } => {
                self.stage = Stage::Kept {
                    bytes,
                    not_before_ns: 0,
                }
            }
            other @ (Stage::Finished(_) | Stage::Free) => self.stage = other,
        }
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
