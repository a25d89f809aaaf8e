//! What a connection counts in its meter.

use insula_contract::meters::Outcome;

use super::call::{Call, Stage};
use super::{Answered, Calls, Failure};
use crate::channel;

impl Calls {
    /// Counts a call that was sent or kept.
    #[inline]
    pub(super) fn count_begun(&self, stage: &Stage) {
        if self.meter.block().is_none() {
            return;
        }
        self.meter.called(match stage {
            Stage::Sent { pending, .. } => channel::sent_bytes(pending).len(),
            Stage::Kept { bytes, .. } => bytes.len(),
            Stage::Finished(_) | Stage::Free => 0,
        });
    }

    /// Counts a call that failed before it was sent or kept.
    #[cold]
    pub(in crate::client) fn count_failed(&self, failure: Failure) {
        self.meter.failed(failure.into());
    }

    /// Counts a call whose outcome is taken.
    #[inline]
    pub(super) fn count_outcome(&self, begun_ns: u64, outcome: &Result<Answered, Failure>) {
        let (ended, answer) = match outcome {
            Ok(Answered::Response(answer)) => (Outcome::Ok, answer.bytes().len()),
            Ok(Answered::Error(answer)) => (Outcome::Failed, answer.bytes().len()),
            Err(failure) => ((*failure).into(), 0),
        };
        self.meter.ended(ended, begun_ns, answer);
    }

    /// Counts a call that is given up, if its outcome was not taken.
    #[inline]
    pub(super) fn count_released(&self, call: &Call) {
        match call.stage {
            Stage::Free => {}
            Stage::Sent { .. } | Stage::Kept { .. } | Stage::Finished(_) => self.meter.dropped(),
        }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DeadlineExceeded => Self::DeadlineExceeded,
            Failure::Unavailable => Self::Unavailable,
            Failure::OutcomeUnknown => Self::OutcomeUnknown,
            Failure::Overloaded => Self::Overloaded,
            Failure::QuotaExceeded => Self::QuotaExceeded,
            Failure::TooLarge { .. } => Self::TooLarge,
            Failure::TooManyInFlight { .. } => Self::TooManyInFlight,
            Failure::Refused(_) => Self::Refused,
            Failure::Broken(_) => Self::Broken,
        }
    }
}
