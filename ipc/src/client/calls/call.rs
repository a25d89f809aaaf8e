//! One call: its stages, and what an answer or a change of the route makes of it.

use insula_contract::id::Attempt;
use insula_contract::route::{RouteState, Target};

use super::super::Refusal;
use super::{Answer, Answered, Failure, PAUSE_LAST_NS, Spec};
use crate::channel::{self, Look, Pending, Received};
use crate::clock;
use crate::contract::Safety;
use crate::header::Status;

#[derive(Debug)]
pub(super) enum Stage {
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
pub(super) struct Call {
    pub(super) spec: Spec,
    pub(super) sequence: u64,
    /// An attempt died or left with it, so that it may have been executed.
    pub(super) maybe_executed: bool,
    pub(super) pause_ns: u64,
    pub(super) stage: Stage,
    /// Keeps the channel's place and the request's chunk while an answer lies in `stage`.
    pub(super) answered: Option<Pending>,
}

impl Call {
    pub(super) fn finish(&mut self, outcome: Result<Answered, Failure>) {
        self.stage = Stage::Finished(outcome);
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        matches!(&self.stage, Stage::Kept { not_before_ns, .. } if now >= *not_before_ns)
    }

    /// Looks for the answer to a call that is sent; whether it is finished.
    #[inline]
    pub(super) fn look(&mut self) -> bool {
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
    pub(super) fn route_changed(&mut self, target: Target, drained: impl Fn(Attempt) -> bool) {
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
                let certain = drained(to);
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
