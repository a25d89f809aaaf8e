//! The provider's end: taking requests from many edges, executing and answering them.

use std::error::Error;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::ServedEdge;

use crate::client::TraceContext;
use crate::contract::{Contract, ErrorOf, Message, Method};

/// The identity of a `once` request, the same however often it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceKey {
    /// Whose request it is.
    pub consumer: Attempt,
    /// Which of the consumer's connections sent it.
    pub slot: u8,
    /// Its number on that connection.
    pub sequence: u64,
}

/// What a server knows of a request besides its content.
#[derive(Debug, Clone, Copy)]
pub struct CallContext {
    /// The edge that it came on.
    pub edge: EdgeId,
    /// Who sent it, and under which number.
    pub key: OnceKey,
    /// The trace that it belongs to.
    pub trace: TraceContext,
    /// When the caller stops waiting, in nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline_ns: u64,
}

/// What sort of answer a recorded body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// The method's response.
    Response,
    /// The contract's error.
    Error,
}

/// A recorded answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What sort of answer it is.
    pub kind: AnswerKind,
    /// The encoded answer.
    pub body: Vec<u8>,
}

/// Why a journal did not do what it was asked; its transaction is to be aborted.
#[derive(Debug, thiserror::Error)]
#[error("journal failed")]
pub struct JournalError(#[source] pub Box<dyn Error + Send + Sync>);

/// Keeps the answers of `once` requests in the transaction of their effects.
///
/// Between `begin` and `commit` or `abort`, what [`Dispatch::dispatch`] writes belongs to the same
/// transaction.
pub trait Journal {
    /// Begins the transaction of a batch.
    fn begin(&mut self) -> Result<(), JournalError>;
    /// The recorded answer to the request, if it was executed before.
    fn recall(&mut self, key: OnceKey) -> Result<Option<Recorded>, JournalError>;
    /// Records an answer, and drops those of the same connection below `forget_below`.
    fn record(
        &mut self,
        key: OnceKey,
        forget_below: u64,
        kind: AnswerKind,
        body: &[u8],
    ) -> Result<(), JournalError>;
    /// Makes effects and answers durable together.
    fn commit(&mut self) -> Result<(), JournalError>;
    /// Undoes the batch.
    fn abort(&mut self);
    /// Drops all answers to a consumer that is gone.
    fn forget(&mut self, consumer: Attempt) -> Result<(), JournalError>;
}

/// Executes the requests of one contract; `#[contract]` makes an adapter from its server trait.
pub trait Dispatch {
    /// The contract.
    type Contract: Contract;

    /// Executes one request and answers it through `reply`.
    fn dispatch(
        &mut self,
        call: &CallContext,
        method: u16,
        request: &[u8],
        reply: ReplySlot<'_>,
    ) -> Answer;
}

/// Proof that a request was answered; only a [`ReplySlot`] makes it.
#[must_use]
#[derive(Debug)]
pub struct Answer(());

/// The place for one answer, in the chunk that the client will read.
#[derive(Debug)]
pub struct ReplySlot<'a> {
    chunk: &'a mut [u8],
}

impl ReplySlot<'_> {
    /// Answers with the method's response, encoded straight into the chunk.
    pub fn send<M: Method>(self, response: &<M::Response as Message>::View<'_>) -> Answer {
        let _ = (self.chunk, response);
        Answer(())
    }

    /// Answers with the contract's error.
    pub fn fail<M: Method>(self, error: &ErrorOf<M>) -> Answer {
        let _ = error;
        Answer(())
    }

    /// Answers that the request cannot be decoded; nothing was executed.
    pub fn bad_request(self) -> Answer {
        Answer(())
    }

    /// Answers that the method does not exist; nothing was executed.
    pub fn unknown_method(self) -> Answer {
        Answer(())
    }
}

/// Why an edge cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It is an edge of another contract.
    #[error("the edge is of `{edge}`, this server serves `{served}`")]
    OtherContract {
        /// The edge's contract.
        edge: String,
        /// What this server serves.
        served: String,
    },
}

/// Wakes a parked server from any thread.
#[derive(Debug, Clone)]
pub struct Waker {
    _control: Arc<()>,
}

impl Waker {
    /// Makes the server's next, or current, [`Server::park`] return.
    pub fn wake(&self) {}
}

/// Serves one contract on any number of edges, from one thread.
#[derive(Debug)]
pub struct Server<D, J> {
    dispatch: D,
    journal: J,
    _thread_bound: PhantomData<*mut ()>,
}

impl<D: Dispatch, J: Journal> Server<D, J> {
    /// A server without edges, that leads from the start.
    ///
    /// `attempt` and `slot` are the process's own, from the supervisor's welcome.
    pub fn new(attempt: Attempt, slot: u8, spin: Duration, dispatch: D, journal: J) -> Self {
        let _ = (attempt, slot, spin);
        Self {
            dispatch,
            journal,
            _thread_bound: PhantomData,
        }
    }

    /// Opens its end of an edge's channel and tells the clients.
    pub fn serve(&mut self, edge: ServedEdge, page: OwnedFd) -> Result<(), ServeError> {
        let _ = (edge, page);
        unimplemented!()
    }

    /// Closes the edge of a consumer that is gone, and forgets its recorded answers.
    pub fn unserve(&mut self, edge: EdgeId, consumer: Attempt) {
        let _ = (edge, consumer);
    }

    /// Takes, executes and answers one batch of requests; whether there were any.
    pub fn turn(&mut self) -> bool {
        unimplemented!()
    }

    /// Spins for its time, then sleeps until a request arrives or its [`Waker`] is used.
    pub fn park(&mut self) {}

    /// Executes nothing more: what waits or arrives is refused, and goes elsewhere.
    pub fn drain(&mut self) {}

    /// Whether requests are executed (a leader) or refused as by a follower.
    pub fn lead(&mut self, lead: bool) {
        let _ = lead;
    }

    /// What wakes this server.
    pub fn waker(&self) -> Waker {
        unimplemented!()
    }

    /// The service's own part.
    pub fn dispatch_mut(&mut self) -> &mut D {
        &mut self.dispatch
    }

    /// The journal.
    pub fn journal_mut(&mut self) -> &mut J {
        &mut self.journal
    }
}
