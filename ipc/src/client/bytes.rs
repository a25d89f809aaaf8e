//! Calls whose request and answer are bytes already: the ground of calls by schema and of the
//! async client, which carries requests to another thread.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use super::calls::{Answered, Calls, Spec};
use super::{CallError, CallOptions, Connection};
use crate::channel::bytes_of;
use crate::clock;
use crate::contract::Safety;
use crate::raw::Line;

/// What is known of a method without its types.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MethodNumbers {
    pub(crate) id: u16,
    pub(crate) safety: Safety,
    pub(crate) deadline: Duration,
    pub(crate) request_max: usize,
}

/// An answer, copied out of its chunk.
#[derive(Debug)]
pub(crate) enum AnswerBytes {
    Response(Copied),
    /// The contract's error.
    Error(Copied),
}

/// Bytes, aligned as in their chunk: fixed values are read in place.
#[derive(Debug)]
pub(crate) struct Copied {
    lines: Box<[Line]>,
    length: usize,
}

impl Copied {
    fn of(bytes: &[u8]) -> Self {
        let lines = bytes.chunks(size_of::<Line>()).map(|chunk| {
            let mut line = Line([0; size_of::<Line>()]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        });
        Self {
            lines: lines.collect(),
            length: bytes.len(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytes_of(&self.lines)[..self.length]
    }
}

pub(crate) type Outcome = Result<AnswerBytes, CallError<Infallible>>;

/// A request that is on its way; dropping it gives up the answer.
#[derive(Debug)]
pub(crate) struct ByteTicket {
    /// `None` once the outcome was taken.
    calls: Option<Rc<Calls>>,
    index: usize,
}

impl Connection {
    pub(in crate::client) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Sends a request that is encoded already, without waiting.
    pub(crate) fn submit_bytes(
        &self,
        method: MethodNumbers,
        request: &[u8],
        options: CallOptions,
    ) -> Result<ByteTicket, CallError<Infallible>> {
        let now = clock::now_ns();
        let deadline = options.deadline.unwrap_or(method.deadline);
        let deadline_ns = now.saturating_add(clock::nanos(deadline));
        let provider_until_ns = match options.wait_for_provider {
            Some(wait) => now.saturating_add(clock::nanos(wait)).min(deadline_ns),
            None => deadline_ns,
        };
        let spec = Spec {
            method: method.id,
            safety: method.safety,
            begun_ns: now,
            deadline_ns,
            provider_until_ns,
            trace: crate::trace::of_call(options.trace),
            key: options.key,
            only: None,
        };
        let index = self.calls.submit(spec, method.request_max, |chunk| {
            chunk.get_mut(..request.len())?.copy_from_slice(request);
            Some(request.len())
        })?;
        Ok(ByteTicket {
            calls: Some(self.calls.clone()),
            index,
        })
    }
}

impl CallError<Infallible> {
    /// The same error of a call whose contract has errors of its own.
    pub(crate) fn widen<E: std::fmt::Debug>(self) -> CallError<E> {
        match self {
            Self::Failed(never) => match never {},
            Self::DeadlineExceeded => CallError::DeadlineExceeded,
            Self::Unavailable => CallError::Unavailable,
            Self::OutcomeUnknown => CallError::OutcomeUnknown,
            Self::Overloaded => CallError::Overloaded,
            Self::QuotaExceeded => CallError::QuotaExceeded,
            Self::TooLarge { max } => CallError::TooLarge { max },
            Self::TooManyInFlight { max } => CallError::TooManyInFlight { max },
            Self::Refused(refusal) => CallError::Refused(refusal),
            Self::Broken(what) => CallError::Broken(what),
        }
    }
}

impl ByteTicket {
    /// Waits for the answer, at most until the call's deadline.
    pub(crate) fn wait(mut self) -> Outcome {
        if let Some(calls) = &self.calls {
            calls.wait(self.index);
        }
        self.take()
    }

    /// Looks for the answer without waiting; `None` while there is none.
    pub(crate) fn poll(&mut self) -> Option<Outcome> {
        match &self.calls {
            Some(calls) if !calls.progress(self.index) => None,
            _ => Some(self.take()),
        }
    }

    fn take(&mut self) -> Outcome {
        let Some(calls) = self.calls.take() else {
            return Err(CallError::Broken("the outcome was taken before"));
        };
        // Copied and dropped before the call's place is given back.
        let outcome = match calls.take(self.index) {
            Ok(Answered::Response(answer)) => Ok(AnswerBytes::Response(Copied::of(answer.bytes()))),
            Ok(Answered::Error(answer)) => Ok(AnswerBytes::Error(Copied::of(answer.bytes()))),
            Err(failure) => Err(failure.into()),
        };
        calls.release(self.index);
        outcome
    }
}

impl Drop for ByteTicket {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.take() {
            calls.release(self.index);
        }
    }
}
