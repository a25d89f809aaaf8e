//! The consumer's end: connections, calls and their answers.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use insula_contract::line::UsedEdge;

use crate::contract::{Contract, ErrorOf, Message, Method};

/// The trace that a call belongs to, in the terms of W3C Trace Context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The trace's id; all zero for none.
    pub trace_id: [u8; 16],
    /// The id of the span that makes the call.
    pub span_id: [u8; 8],
}

/// What a caller may say about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallOptions {
    /// How long to wait for the answer; the method's own deadline unless given.
    pub deadline: Option<Duration>,
    /// How long of that to wait while nobody provides the contract; until the deadline unless
    /// given.
    pub wait_for_provider: Option<Duration>,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
}

/// Why a call has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// The contract's own error: the request was executed and this is its answer.
    #[error("answered with an error: {0:?}")]
    Failed(E),
    /// No answer until the deadline. The request may have been, and may still be, executed.
    #[error("no answer before the deadline")]
    DeadlineExceeded,
    /// Nobody provides the contract. The request was not executed.
    #[error("nobody provides the contract now")]
    Unavailable,
    /// The provider died with the request, which is neither idempotent nor `once`. It may have
    /// been executed, entirely or in part.
    #[error("the provider died with the request, which may have been executed")]
    OutcomeUnknown,
    /// The request is longer than its contract says. Not sent.
    #[error("request does not fit into {max} bytes")]
    TooLarge {
        /// The most that fits.
        max: usize,
    },
    /// As many requests as the contract allows are outstanding. Not sent.
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

impl<E> From<Malformed> for CallError<E> {
    fn from(Malformed: Malformed) -> Self {
        Self::Broken("malformed response")
    }
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The edge is to another contract.
    #[error("the edge is to `{edge}`, not to `{wanted}`")]
    OtherContract {
        /// What the edge is to.
        edge: String,
        /// What was asked for.
        wanted: String,
    },
}

/// One thread's use of an edge.
///
/// Cheap to clone within the thread; it does not move to another one.
#[derive(Debug, Clone)]
pub struct Connection {
    _thread_bound: Rc<()>,
}

impl Connection {
    /// Connects to whoever provides `C` at the edge.
    ///
    /// `routes` is the read-only route table, `page` the edge's page, `slot` the number of this
    /// connection among the consumer's connections on the edge, below
    /// [`CONNECTIONS`](crate::contract::CONNECTIONS).
    pub fn open<C: Contract>(
        edge: UsedEdge,
        routes: OwnedFd,
        page: OwnedFd,
        slot: u8,
        spin: Duration,
    ) -> Result<Self, ConnectError> {
        let _ = (edge, routes, page, slot, spin);
        unimplemented!()
    }

    /// Sends a request and waits for its answer.
    pub fn call<M: Method>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> Result<Response<M>, CallError<ErrorOf<M>>> {
        self.submit::<M>(request, options)?.wait()
    }

    /// Sends a request without waiting.
    pub fn submit<M: Method>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> Result<Ticket<M>, CallError<ErrorOf<M>>> {
        let _ = (request, options);
        unimplemented!()
    }
}

/// A request that is on its way; dropping it gives up the answer, not the execution.
#[must_use]
#[derive(Debug)]
pub struct Ticket<M: Method> {
    _method: PhantomData<fn() -> M>,
    _thread_bound: Rc<()>,
}

impl<M: Method> Ticket<M> {
    /// Waits for the answer, at most until the call's deadline.
    pub fn wait(self) -> Result<Response<M>, CallError<ErrorOf<M>>> {
        unimplemented!()
    }

    /// Looks for the answer without waiting; `None` while there is none.
    ///
    /// After an answer was returned, further polls return [`CallError::Broken`].
    pub fn poll(&mut self) -> Option<Result<Response<M>, CallError<ErrorOf<M>>>> {
        unimplemented!()
    }
}

/// An answer, lying in the shared chunk until dropped.
#[derive(Debug)]
pub struct Response<M: Method> {
    _method: PhantomData<fn() -> M>,
    _thread_bound: Rc<()>,
}

impl<M: Method> Response<M> {
    /// Reads the response in place; texts and bytes borrow from the chunk.
    pub fn get(&self) -> Result<<M::Response as Message>::View<'_>, Malformed> {
        postcard::from_bytes(self.bytes()).map_err(|_| Malformed)
    }

    /// The encoded response.
    pub fn bytes(&self) -> &[u8] {
        unimplemented!()
    }
}
