//! One turn of a server: a batch of requests, taken, executed, committed and answered.

use insula_contract::edge::CLIENT_SLOTS;
use insula_contract::schema::SafetySchema;

use super::edges::{Next, OpenEdge};
use super::{
    Answer, AnswerKind, CallContext, Dispatch, Journal, JournalError, Mode, OnceKey, ReplySlot,
    Server,
};
use crate::channel::{Sealed, Taken};
use crate::client::TraceContext;
use crate::clock;
use crate::contract::Contract;
use crate::header::{RequestHeader, SAMPLED, Status, VERSION};
use crate::stream::Outlets;

/// Requests of one turn at most.
const BATCH: usize = 256;
/// Requests of one turn from one edge at most, so that the batch of one that floods, and with it the
/// commit that others wait for, does not grow.
const PER_EDGE: usize = 16;
/// Looks between two readings of the clock while spinning.
const LOOKS_PER_CLOCK: u32 = 32;

/// Which methods are `once`, by number.
#[derive(Debug)]
pub(super) struct Methods {
    once: Vec<bool>,
}

impl Methods {
    pub(super) fn of<C: Contract>() -> Self {
        let mut once = Vec::new();
        for method in C::schema().methods {
            let index = usize::from(method.id);
            if once.len() <= index {
                once.resize(index + 1, false);
            }
            once[index] = method.safety == SafetySchema::Once;
        }
        Self { once }
    }

    #[inline]
    fn is_once(&self, method: u16) -> bool {
        self.once.get(usize::from(method)).copied().unwrap_or(false)
    }
}

/// An answer that waits for the commit of its batch.
pub(super) struct Held {
    /// Index of its edge.
    edge: usize,
    slot: u8,
    answer: Sealed,
    /// Kept until the answer is sent: dropping it closes the answer's way.
    _request: Taken,
}

/// Requests taken from one edge before the next one has its turn.
///
/// As few as one, so that a request waits for at most one of each other edge; more where there are
/// so many edges that looking at all of them after each request would cost more than the requests.
fn quantum(edges: usize) -> usize {
    match edges {
        0 | 1 => PER_EDGE,
        _ => (edges / 8).next_power_of_two().min(PER_EDGE),
    }
}

/// Aborts the process when a panic unwinds through it: a handler's panic must not end in a lost
/// answer beside a living server.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl<D: Dispatch, J: Journal> Server<D, J> {
    /// Takes, executes and answers one batch of requests; whether there were any.
    ///
    /// Where none waits it spins for the server's time, until one does or its waker is used.
    pub fn turn(&mut self) -> bool {
        if self.turn_now() {
            return true;
        }
        let spin_ns = self.spin.begin(self.spin_ns);
        if spin_ns == 0 {
            return false;
        }
        let until = clock::now_ns().saturating_add(spin_ns);
        let mut looks = 0_u32;
        while self.control.now() == self.control_seen {
            if self.turn_now() {
                self.spin.paid();
                return true;
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_PER_CLOCK) && clock::now_ns() >= until {
                self.spin.in_vain();
                break;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// A turn without spinning.
    pub(super) fn turn_now(&mut self) -> bool {
        let _guard = AbortOnPanic;
        self.look_at_streams();
        if !self.sources.is_empty() {
            self.sources.expire(clock::coarse_ns());
        }
        let edges = std::mem::take(&mut self.edges);
        let sent = self.desk.has_given() && self.desk.send(&edges);
        let worked = self.turn_over(&edges) || sent;
        self.edges = edges;
        worked
    }

    /// Lets subscribers join and leave.
    #[inline]
    fn look_at_streams(&self) {
        let Some(outlets) = &self.outlets else { return };
        for edge in &self.edges {
            if Outlets::is_wanted(edge.waiter()) {
                outlets.look(&edge.seat());
            }
        }
    }

    /// Whether a subscriber wants to join or leave.
    pub(super) fn has_wishes(&self) -> bool {
        let wanted = |edge: &OpenEdge| Outlets::is_wanted(edge.waiter());
        self.outlets.is_some() && self.edges.iter().any(wanted)
    }

    fn turn_over(&mut self, edges: &[OpenEdge]) -> bool {
        let mut taken_in_all = 0;
        let mut writing = false;
        let quantum = quantum(edges.len());
        // A lone request does not wait for company, and a batch ends where nothing new came.
        'batch: for _ in 0..PER_EDGE / quantum {
            if self.desk.is_full() {
                break;
            }
            let before = taken_in_all;
            for step in 0..edges.len() {
                let index = (self.first + step) % edges.len();
                let edge = &edges[index];
                let mut more = true;
                for _ in 0..quantum {
                    let Some(next) = edge.receive() else {
                        more = false;
                        break;
                    };
                    taken_in_all += 1;
                    self.answer(edges, index, next, &mut writing);
                    if taken_in_all == BATCH || self.desk.is_full() {
                        self.first = (index + 1) % edges.len();
                        break 'batch;
                    }
                }
                // Who has nothing more here waits for what it was answered, and not for the rest
                // of the others' batch.
                if edges.len() > 1 && edge.has_answered() && !(more && edge.has_requests()) {
                    crate::wake::published();
                    edge.ring();
                }
            }
            if taken_in_all == before {
                break;
            }
        }
        if taken_in_all == 0 {
            self.late_since_ns = 0;
            return false;
        }
        if writing {
            let committed = self.journal.commit();
            self.settle(edges, committed);
        }
        debug_assert!(
            self.held.is_empty(),
            "an answer was held without a transaction"
        );
        crate::wake::published();
        for edge in edges {
            edge.ring();
        }
        true
    }

    /// Answers one request, or holds its answer back for the commit.
    #[inline]
    fn answer(&mut self, edges: &[OpenEdge], index: usize, next: Next, writing: &mut bool) {
        let edge = &edges[index];
        let (taken, surplus) = match next {
            Next::Request(taken) => (taken, false),
            Next::Surplus(taken) => (taken, true),
        };
        let header = taken.header();
        edge.meter
            .taken(header.length, |now_ns| header.waited_ns(now_ns));
        // Without a chunk there is no way to answer, so nothing may be executed: the client, which
        // holds all of them against the protocol, runs into its deadline.
        let Some(mut reply) = edge.loan(&taken) else {
            return;
        };
        let once = self.methods.is_once(header.method);
        let refusal = match self.mode {
            _ if header.version != VERSION || usize::from(header.slot) >= CLIENT_SLOTS => {
                Some(Status::MalformedRequest)
            }
            _ if once && header.sequence == 0 => Some(Status::MalformedRequest),
            Mode::Draining => Some(Status::Draining),
            Mode::Following => Some(Status::NotLeading),
            Mode::Leading => {
                let coarse_ns = clock::coarse_ns();
                if coarse_ns >= header.deadline_ns {
                    Some(Status::Expired)
                } else if surplus {
                    Some(Status::QuotaExceeded)
                } else if edge.admission().is_free() {
                    None
                } else {
                    let waited_ns = header.waited_ns(coarse_ns);
                    let late = &mut self.late_since_ns;
                    let admission = edge.admission();
                    admission.refusal(waited_ns, late, coarse_ns, clock::now_ns)
                }
            }
        };
        let slot = (header.slot % CLIENT_SLOTS as u16) as u8;
        let request = match (refusal, taken.bytes(header.length)) {
            (None, Some(request)) => request,
            (refusal, _) => {
                let status = refusal.unwrap_or(Status::MalformedRequest);
                self.refused += 1;
                edge.note(slot);
                edge.meter.answered(status, 0);
                return reply.seal(status, 0).send();
            }
        };
        let call = context(edge, &header, slot);
        // What the request brings about belongs to its trace, and so do the lines that are logged.
        let _entered = (!call.trace.is_none()).then(|| call.trace.enter());
        let _span =
            tracing::debug_span!("request", trace = %call.trace, method = header.method).entered();
        if !once {
            let reply_slot =
                ReplySlot::of_server(reply.bytes_mut(), &mut self.sources, &mut self.desk);
            let answer = self
                .dispatch
                .dispatch(&call, header.method, request, reply_slot);
            if answer.later != 0 {
                return self.desk.keep(answer.later, edge.id(), slot, taken, reply);
            }
            edge.note(slot);
            edge.meter.answered(answer.status, answer.length);
            return reply.seal(answer.status, answer.length).send();
        }
        match self.once(&call, &header, request, reply.bytes_mut(), writing) {
            Ok(answer) => {
                edge.meter.answered(answer.status, answer.length);
                let answer = reply.seal(answer.status, answer.length);
                self.held.push(Held {
                    edge: index,
                    slot,
                    answer,
                    _request: taken,
                });
            }
            Err(error) => {
                report(&error);
                edge.meter.answered(Status::Unable, 0);
                let answer = reply.seal(Status::Unable, 0);
                self.held.push(Held {
                    edge: index,
                    slot,
                    answer,
                    _request: taken,
                });
                // What the transaction holds of this request cannot be told apart from the rest.
                if std::mem::take(writing) {
                    self.journal.abort();
                }
                self.refuse_held(edges);
            }
        }
    }

    /// Executes a `once` request in the batch's transaction, or repeats its recorded answer.
    fn once(
        &mut self,
        call: &CallContext,
        header: &RequestHeader,
        request: &[u8],
        chunk: &mut [u8],
        writing: &mut bool,
    ) -> Result<Answer, JournalError> {
        if !*writing {
            self.journal.begin()?;
            *writing = true;
        }
        if let Some(recorded) = self.journal.recall(call.key)? {
            let status = match recorded.kind {
                AnswerKind::Response => Status::Response,
                AnswerKind::Error => Status::Error,
                AnswerKind::TooLong => Status::AnswerTooLong,
            };
            let length = recorded.body.len();
            return Ok(match chunk.get_mut(..length) {
                Some(place) => {
                    place.copy_from_slice(&recorded.body);
                    Answer::new(status, length)
                }
                None => Answer::of(Status::AnswerTooLong),
            });
        }
        let answer = self
            .dispatch
            .dispatch(call, header.method, request, ReplySlot::new(chunk));
        let kind = match answer.status {
            Status::Response => AnswerKind::Response,
            Status::Error => AnswerKind::Error,
            Status::AnswerTooLong => AnswerKind::TooLong,
            // Nothing was executed.
            _ => return Ok(answer),
        };
        let forget_below = header.forget_below.min(header.sequence);
        self.journal
            .record(call.key, forget_below, kind, &chunk[..answer.length])?;
        Ok(answer)
    }

    /// Sends the answers that were held back, or refuses their requests where the commit failed.
    fn settle(&mut self, edges: &[OpenEdge], committed: Result<(), JournalError>) {
        match committed {
            Ok(()) => {
                for held in self.held.drain(..) {
                    edges[held.edge].note(held.slot);
                    held.answer.send();
                }
            }
            Err(error) => {
                report(&error);
                self.refuse_held(edges);
            }
        }
    }

    /// Refuses the requests whose effects were undone, or may have been: sent again, each finds
    /// its recorded answer or is executed.
    fn refuse_held(&mut self, edges: &[OpenEdge]) {
        for mut held in self.held.drain(..) {
            edges[held.edge].note(held.slot);
            held.answer.refuse(Status::Unable);
            held.answer.send();
        }
    }
}

fn context(edge: &OpenEdge, header: &RequestHeader, slot: u8) -> CallContext {
    let (edge, consumer) = edge.id();
    CallContext {
        edge,
        key: OnceKey {
            consumer,
            slot,
            sequence: header.sequence,
        },
        trace: TraceContext {
            trace_id: header.trace_id,
            span_id: header.span_id,
            sampled: header.flags & SAMPLED != 0,
        },
        deadline_ns: header.deadline_ns,
    }
}

fn report(error: &JournalError) {
    tracing::error!("{error}: {}", error.0);
}
