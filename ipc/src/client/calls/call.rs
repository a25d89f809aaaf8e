//! One call: its stages, and what an answer or a change of the route makes of it.

use insula_contract::id::Attempt;
use insula_contract::policy::OnceScope;

use super::super::Refusal;
use super::peers::{Peers, Verdict};
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
        /// The place of the instance in the route entry.
        to: u8,
    },
    Kept {
        bytes: Vec<u8>,
        /// Not to be sent before, unless the route changes.
        not_before_ns: u64,
        /// Whether it may be sent without a retry from the edge's budget.
        paid: bool,
        /// Whether it was last not sent because there was no room for it.
        crowded: bool,
    },
    Finished(Result<Answered, Failure>),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) spec: Spec,
    pub(super) sequence: u64,
    /// An attempt of this instance died or left with it, so that it may have been executed.
    pub(super) maybe_executed_at: Option<u8>,
    pub(super) pause_ns: u64,
    pub(super) stage: Stage,
    /// Keeps the channel's place and the request's chunk while an answer lies in `stage`.
    pub(super) answered: Option<Pending>,
    /// Who has answered it.
    pub(super) answered_by: Option<Attempt>,
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
    pub(super) fn look(&mut self, peers: &mut Peers) -> bool {
        let Stage::Sent { pending, .. } = &self.stage else {
            return false;
        };
        match channel::look(pending) {
            Look::Nothing => false,
            Look::Answer(received) => self.accept(received, peers),
            Look::Malformed(what) => {
                self.leave(peers, Verdict::Nothing);
                self.finish(Err(Failure::Broken(what)));
                true
            }
        }
    }

    fn accept(&mut self, received: Received, peers: &mut Peers) -> bool {
        let Received {
            status,
            sample,
            length,
        } = received;
        let answer = Answer { sample, length };
        let Stage::Sent { pending, to } = self.leave(peers, verdict(status)) else {
            return false;
        };
        let outcome = match status {
            Status::Response => Ok(Answered::Response(answer)),
            Status::Error => Ok(Answered::Error(answer)),
            Status::Draining
            | Status::NotLeading
            | Status::Unable
            | Status::Overloaded
            | Status::QuotaExceeded => {
                drop(answer);
                return self.refused(status, &pending, to, peers);
            }
            Status::Abandoned if self.spec.safety == Safety::Idempotent => {
                drop(answer);
                return self.refused(Status::Unable, &pending, to, peers);
            }
            Status::Abandoned => Err(Failure::OutcomeUnknown),
            Status::Expired => Err(Failure::DeadlineExceeded),
            Status::MalformedRequest => Err(Failure::Refused(Refusal::MalformedRequest)),
            Status::UnknownMethod => Err(Failure::Refused(Refusal::UnknownMethod)),
            Status::AnswerTooLong => Err(Failure::Broken("the answer did not fit its chunk")),
        };
        if outcome.is_ok() {
            self.answered = Some(pending);
            self.answered_by = Some(peers.at(to).target.attempt);
        }
        self.finish(outcome);
        true
    }

    /// Keeps a call that was refused, to be sent again, or ends it; whether it is finished.
    #[cold]
    fn refused(&mut self, status: Status, pending: &Pending, to: u8, peers: &mut Peers) -> bool {
        let now = clock::now_ns();
        let pause_ns = peers.jitter(self.pause_ns);
        let later_ns = now.saturating_add(pause_ns);
        self.pause_ns = (self.pause_ns * 2).min(PAUSE_LAST_NS);
        let failure = match status {
            Status::Overloaded => Some(Failure::Overloaded),
            Status::QuotaExceeded => Some(Failure::QuotaExceeded),
            _ => None,
        };
        // What may have been executed before cannot end as if it had not been.
        if let Some(failure) = failure
            && self.maybe_executed_at.is_none()
            && (later_ns >= self.spec.deadline_ns || !peers.may_retry(self.sequence, now))
        {
            self.finish(Err(failure));
            return true;
        }
        let leaves = matches!(status, Status::Draining | Status::NotLeading);
        if status == Status::Unable && self.spec.safety == Safety::Once {
            // Its effect may have been made durable all the same.
            self.maybe_executed_at = Some(peers.at(to).target.replica);
        }
        peers.shun(
            to,
            if leaves {
                now + PAUSE_LAST_NS
            } else {
                later_ns
            },
        );
        let elsewhere = leaves && peers.has_better(to, self.spec.key, now);
        self.stage = Stage::Kept {
            bytes: channel::sent_bytes(pending).to_vec(),
            not_before_ns: if elsewhere { now } else { later_ns },
            paid: status != Status::Unable,
            crowded: false,
        };
        false
    }

    /// Takes the call from where it lies; what it was.
    #[inline]
    pub(super) fn leave(&mut self, peers: &mut Peers, verdict: Verdict) -> Stage {
        let stage = std::mem::replace(&mut self.stage, Stage::Free);
        if let Stage::Sent { to, .. } = &stage {
            peers.settled(*to, verdict);
        }
        stage
    }

    /// Decides what becomes of the call once the attempt in `place` is no more called.
    ///
    /// `drained`: that attempt had executed or refused all that it had received.
    pub(super) fn attempt_left(&mut self, place: u8, drained: bool, peers: &mut Peers) {
        if !matches!(&self.stage, Stage::Sent { to, .. } if *to == place) {
            return;
        }
        // The answer may have come before its sender went.
        if self.look(peers) {
            return;
        }
        match self.leave(peers, Verdict::Nothing) {
            Stage::Sent { pending, to } => {
                let again = match self.spec.safety {
                    Safety::Idempotent | Safety::Once => true,
                    Safety::AtMostOnce => drained,
                };
                if again {
                    if !drained {
                        self.maybe_executed_at = Some(peers.at(to).target.replica);
                    }
                    let bytes = channel::sent_bytes(&pending).to_vec();
                    self.stage = Stage::Kept {
                        bytes,
                        not_before_ns: 0,
                        paid: true,
                        crowded: false,
                    };
                } else {
                    self.finish(Err(Failure::OutcomeUnknown));
                }
            }
            // The last look found a refusal.
            other @ (Stage::Kept { .. } | Stage::Finished(_) | Stage::Free) => self.stage = other,
        }
    }

    /// The only instance that the call may go to, where that may have executed it and no other
    /// would know.
    pub(super) fn bound(&self, scope: OnceScope) -> Option<u8> {
        match (scope, self.spec.safety) {
            (OnceScope::Instance, Safety::Once) => self.maybe_executed_at,
            (OnceScope::Instance, Safety::Idempotent | Safety::AtMostOnce)
            | (OnceScope::Service, _) => None,
        }
    }

    /// Lets a kept call try again at once, after a change of the route.
    pub(super) fn try_again(&mut self) {
        if let Stage::Kept {
            not_before_ns,
            paid,
            ..
        } = &mut self.stage
        {
            *not_before_ns = 0;
            *paid = true;
        }
    }
}

/// What an answer says about the instance that gave it.
fn verdict(status: Status) -> Verdict {
    match status {
        Status::Response
        | Status::Error
        | Status::MalformedRequest
        | Status::UnknownMethod
        | Status::AnswerTooLong => Verdict::Good,
        Status::Unable | Status::Overloaded | Status::Expired | Status::Abandoned => Verdict::Bad,
        Status::Draining | Status::NotLeading | Status::QuotaExceeded => Verdict::Nothing,
    }
}
