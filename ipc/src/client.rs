//! The consumer's end: edges, connections, calls and their answers.
//!
//! An [`Edge`] is what the supervisor gave: share it between threads. A [`Connection`] is one
//! thread's use of it; each takes one of the edge's few client slots. A call is a [`Ticket`] from
//! its sending to its [`Response`], and at most [`Contract::IN_FLIGHT`] tickets and held responses
//! exist on a connection at once.
//!
//! What a connection does when its provider changes is in `calls`.

pub mod aio;
mod budget;
pub(crate) mod bytes;
mod calls;
mod edge;
mod late;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

pub use crate::items::{Item, Items};
pub use edge::{ConnectError, Edge};

pub use crate::trace::TraceContext;

use insula_contract::id::Attempt;

use crate::clock;
use crate::contract::{Contract, ErrorOf, Message, Method};
use crate::payload::WriteInPlace;
use crate::trace;
pub(crate) use calls::Spec;
use calls::{Answered, Calls, Failure};

/// What a caller may say about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallOptions {
    /// How long to wait for the answer; the method's own deadline unless given.
    pub deadline: Option<Duration>,
    /// How long of that to wait while nobody provides the contract; until the deadline unless
    /// given.
    pub wait_for_provider: Option<Duration>,
    /// The trace that the call belongs to; the thread's current one unless given.
    pub trace: TraceContext,
    /// Sends calls with the same key to the same of several instances while it serves; also held
    /// there while it holds. The method's own key unless given.
    pub key: Option<u64>,
}

/// Why a call has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E: Debug> {
    /// The contract's own error: the request was executed and this is its answer.
    #[error("answered with an error: {0:?}")]
    Failed(E),
    /// No answer until the deadline. The request may have been, and may still be, executed.
    #[error("no answer before the deadline")]
    DeadlineExceeded,
    /// Nobody executes requests of the contract now. This one was not executed.
    #[error("nobody provides the contract now")]
    Unavailable,
    /// The provider died with the request, which is neither idempotent nor `once`, or which cannot
    /// be sent again, since the edge that it was sent on ended with its supervisor. It may have
    /// been executed, entirely or in part.
    #[error("the provider died with the request, which may have been executed")]
    OutcomeUnknown,
    /// The provider has more to do than it can, and the request waited too long. Not executed.
    #[error("the provider is overloaded")]
    Overloaded,
    /// This edge has sent more than its provider takes from it. Not executed.
    #[error("more requests than this edge may send")]
    QuotaExceeded,
    /// The request is longer than its contract says, or cannot be encoded. Not sent.
    #[error("request does not fit into {max} bytes")]
    TooLarge {
        /// The most that fits.
        max: usize,
    },
    /// As many requests as the contract allows are outstanding, or their responses still held. Not
    /// sent.
    #[error("{max} requests are outstanding already")]
    TooManyInFlight {
        /// How many the contract allows.
        max: usize,
    },
    /// The provider does not understand the request. Not executed.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The channel or the answer in it is not what it should be. The request may have been
    /// executed.
    #[error("broken channel: {0}")]
    Broken(&'static str),
}

/// Why a provider does not understand a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not know the method.
    #[error("unknown method")]
    UnknownMethod,
    /// It cannot decode the request.
    #[error("malformed request")]
    MalformedRequest,
}

/// An answer that cannot be decoded as the method's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed response")]
pub struct Malformed;

impl<E: Debug> From<Malformed> for CallError<E> {
    fn from(Malformed: Malformed) -> Self {
        Self::Broken("malformed response")
    }
}

impl<E: Debug> From<Failure> for CallError<E> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DeadlineExceeded => Self::DeadlineExceeded,
            Failure::Unavailable => Self::Unavailable,
            Failure::OutcomeUnknown => Self::OutcomeUnknown,
            Failure::Overloaded => Self::Overloaded,
            Failure::QuotaExceeded => Self::QuotaExceeded,
            Failure::TooLarge { max } => Self::TooLarge { max },
            Failure::TooManyInFlight { max } => Self::TooManyInFlight { max },
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Broken(what) => Self::Broken(what),
        }
    }
}

/// One thread's use of an edge, made by [`Edge::connect`].
///
/// Cheap to clone within the thread; it does not move to another one.
#[derive(Debug, Clone)]
pub struct Connection {
    calls: Rc<Calls>,
}

impl Connection {
    /// Sends a request and waits for its answer.
    #[inline]
    pub fn call<M: Method>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> Result<Response<M>, CallError<ErrorOf<M>>> {
        self.submit::<M>(request, options)?.wait()
    }

    /// Sends a request without waiting.
    ///
    /// While nobody can take it, it is kept and sent by a later poll or wait on this connection.
    #[inline]
    pub fn submit<M: Method>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> Result<Ticket<M>, CallError<ErrorOf<M>>> {
        const { assert!(!M::STREAMING, "a streaming method is called by `items`") };
        let options = CallOptions {
            key: options.key.or_else(|| M::key(request)),
            ..options
        };
        self.submit_encoded::<M>(|chunk| M::Request::encode(request, chunk), options)
    }

    /// Sends a request that `write` writes straight into shared memory, without waiting.
    ///
    /// `write` is called again where the first place turns out to be none that can be sent. The
    /// request is not looked at: it has the key that `options` give, if any.
    #[inline]
    pub fn submit_with<M: Method>(
        &self,
        write: impl Fn(
            &mut <M::Request as WriteInPlace>::Place,
        ) -> <M::Request as WriteInPlace>::Written,
        options: CallOptions,
    ) -> Result<Ticket<M>, CallError<ErrorOf<M>>>
    where
        M::Request: WriteInPlace,
    {
        const { assert!(!M::STREAMING, "a streaming method is called by `items`") };
        self.submit_encoded::<M>(|chunk| M::Request::write(chunk, &write), options)
    }

    #[inline]
    fn submit_encoded<M: Method>(
        &self,
        encode: impl Fn(&mut [u8]) -> Option<usize>,
        options: CallOptions,
    ) -> Result<Ticket<M>, CallError<ErrorOf<M>>> {
        self.submit_spec(self.spec::<M>(&options), M::Request::ENCODED_MAX, encode)
    }

    /// What is known of a call of `M` that begins now.
    #[inline]
    pub(crate) fn spec<M: Method>(&self, options: &CallOptions) -> Spec {
        let now = clock::now_ns();
        let deadline = options.deadline.unwrap_or(M::DEADLINE);
        let deadline_ns = now.saturating_add(clock::nanos(deadline));
        let provider_until_ns = match options.wait_for_provider {
            Some(wait) => now.saturating_add(clock::nanos(wait)).min(deadline_ns),
            None => deadline_ns,
        };
        Spec {
            method: M::ID,
            safety: M::SAFETY,
            begun_ns: now,
            deadline_ns,
            provider_until_ns,
            trace: trace::of_call(options.trace),
            key: options.key,
            only: None,
        }
    }

    #[inline]
    pub(crate) fn submit_spec<M: Method>(
        &self,
        spec: Spec,
        request_max: usize,
        encode: impl Fn(&mut [u8]) -> Option<usize>,
    ) -> Result<Ticket<M>, CallError<ErrorOf<M>>> {
        debug_assert_eq!(
            (M::Contract::NAME, M::Contract::MAJOR),
            self.calls.contract(),
            "a method of another contract"
        );
        let index = self
            .calls
            .submit(spec, request_max, encode)
            .inspect_err(|failure| self.calls.count_failed(*failure))?;
        Ok(Ticket {
            calls: Some(self.calls.clone()),
            index,
            method: PhantomData,
        })
    }

    /// How often a wake-up that was due did not come, so that only the bound on every sleep found
    /// the work. Above 0 only with a dead, broken or hostile peer.
    pub fn rescues(&self) -> u64 {
        self.calls.rescues()
    }

    /// Waits until at least one outstanding request of this connection has an outcome to poll;
    /// returns at once where none is outstanding.
    pub fn wait_any(&self) {
        self.calls.wait_any();
    }
}

/// A request that is on its way; dropping it gives up the answer.
///
/// What its server has not begun to execute by then is not executed any more; what it has begun is.
#[must_use]
#[derive(Debug)]
pub struct Ticket<M: Method> {
    /// `None` once the outcome was taken.
    calls: Option<Rc<Calls>>,
    index: usize,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> Ticket<M> {
    /// Waits for the answer, at most until the call's deadline.
    #[inline]
    pub fn wait(mut self) -> Result<Response<M>, CallError<ErrorOf<M>>> {
        if let Some(calls) = &self.calls {
            calls.wait(self.index);
        }
        self.take()
    }

    /// Waits for the answer; with it, who gave it.
    #[expect(
        clippy::type_complexity,
        reason = "a call's outcome beside one more word"
    )]
    pub(crate) fn wait_from(
        mut self,
    ) -> Result<(Response<M>, Option<Attempt>), CallError<ErrorOf<M>>> {
        if let Some(calls) = &self.calls {
            calls.wait(self.index);
        }
        let from = self.lies_at();
        self.take().map(|response| (response, from))
    }

    /// Wants no answer, and lets the request be executed.
    pub(crate) fn abandon(mut self) {
        if let Some(calls) = self.calls.take() {
            calls.abandon(self.index);
        }
    }

    /// The attempt that has the request, or has answered it.
    pub(crate) fn lies_at(&self) -> Option<Attempt> {
        self.calls.as_ref()?.lies_at(self.index)
    }

    /// Looks for the answer without waiting; `None` while there is none.
    ///
    /// Once it has returned the outcome, it returns [`CallError::Broken`].
    pub fn poll(&mut self) -> Option<Result<Response<M>, CallError<ErrorOf<M>>>> {
        match &self.calls {
            Some(calls) if !calls.progress(self.index) => None,
            _ => Some(self.take()),
        }
    }

    #[inline]
    fn take(&mut self) -> Result<Response<M>, CallError<ErrorOf<M>>> {
        let Some(calls) = self.calls.take() else {
            return Err(CallError::Broken("the outcome was taken before"));
        };
        match calls.take(self.index) {
            Ok(Answered::Response(answer)) => Ok(Response {
                answer: Some(answer),
                calls,
                index: self.index,
                method: PhantomData,
            }),
            Ok(Answered::Error(answer)) => {
                let error = <ErrorOf<M> as Message>::decode(answer.bytes());
                drop(answer);
                calls.release(self.index);
                Err(error.map_or(CallError::Broken("malformed error"), CallError::Failed))
            }
            Err(failure) => {
                calls.release(self.index);
                Err(failure.into())
            }
        }
    }
}

impl<M: Method> Drop for Ticket<M> {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.take() {
            calls.release(self.index);
        }
    }
}

/// An answer, lying in the shared chunk until dropped.
#[derive(Debug)]
pub struct Response<M: Method> {
    /// Taken only by `drop`, which gives the chunk back before the call's place.
    answer: Option<calls::Answer>,
    calls: Rc<Calls>,
    index: usize,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> Response<M> {
    /// Reads the response in place; texts and bytes borrow from the chunk.
    #[inline]
    pub fn get(&self) -> Result<<M::Response as Message>::View<'_>, Malformed> {
        M::Response::decode(self.bytes()).ok_or(Malformed)
    }

    /// The encoded response.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.answer.as_ref().map_or(&[], calls::Answer::bytes)
    }
}

impl<M: Method> Drop for Response<M> {
    fn drop(&mut self) {
        drop(self.answer.take());
        self.calls.release(self.index);
    }
}
