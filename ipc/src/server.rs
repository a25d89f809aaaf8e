//! The provider's end: taking requests from many edges, executing and answering them.
//!
//! One thread owns a [`Server`] and alternates [`Server::turn`] and [`Server::park`]. A turn takes
//! a batch, in turns from all edges. Answers to `once` requests are held back until the journal
//! has committed the whole batch; all others leave at once.

mod admission;
mod bells;
mod edges;
mod later;
mod reply;
mod turn;
mod workers;

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::ServedEdge;

pub use crate::channel::ChannelError;
use crate::channel::Sizes;
use crate::client::TraceContext;
use crate::clock;
use crate::contract::{Contract, ErrorOf, Message, Method};
use crate::header::Status;
pub use crate::items::{Pulled, ReplyItems, Sink, Source};
use crate::items::{Sources, Streaming};
use crate::memory::MapError;
use crate::meters::Meters;
use crate::payload::WriteInPlace;
use crate::spin::Spin;
use crate::stream::Outlets;
use bells::{Control, Watchers};
use edges::OpenEdge;
pub use later::Later;
use later::{Desk, Promise};
pub use reply::Reply;
use turn::{Held, Methods};
pub use workers::Workers;

/// Edges that one server can serve. Up to 127 its own thread waits for; for each 127 more it has a
/// thread that does nothing else.
pub const EDGES_MAX: usize = 4096;

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
    /// When the caller stops waiting, in nanoseconds of `CLOCK_MONOTONIC`.
    pub deadline_ns: u64,
}

/// What sort of answer a recorded body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// The method's response.
    Response,
    /// The contract's error.
    Error,
    /// None: it was executed, and its answer did not fit its chunk. The body is empty.
    TooLong,
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
    /// Makes effects and answers durable together. After an error nothing is known of them, and
    /// the transaction is over.
    fn commit(&mut self) -> Result<(), JournalError>;
    /// Undoes the batch.
    fn abort(&mut self);
    /// Drops all answers to a consumer that is gone, in a transaction of its own.
    fn forget(&mut self, consumer: Attempt) -> Result<(), JournalError>;
    /// Drops all answers to consumers other than these, in a transaction of its own.
    ///
    /// For those that died while nobody led. Keeps all unless implemented, which is safe and wastes
    /// room.
    fn retain(&mut self, consumers: &[Attempt]) -> Result<(), JournalError> {
        let _ = consumers;
        Ok(())
    }
}

/// The journal of a service whose contract has no `once` method.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

#[derive(Debug, thiserror::Error)]
#[error("this service has no journal")]
struct Missing;

impl Journal for NoJournal {
    fn begin(&mut self) -> Result<(), JournalError> {
        Err(JournalError(Box::new(Missing)))
    }
    fn recall(&mut self, _: OnceKey) -> Result<Option<Recorded>, JournalError> {
        Err(JournalError(Box::new(Missing)))
    }
    fn record(&mut self, _: OnceKey, _: u64, _: AnswerKind, _: &[u8]) -> Result<(), JournalError> {
        Err(JournalError(Box::new(Missing)))
    }
    fn commit(&mut self) -> Result<(), JournalError> {
        Err(JournalError(Box::new(Missing)))
    }
    fn abort(&mut self) {}
    fn forget(&mut self, _: Attempt) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Executes the requests of one contract; `#[contract]` makes an adapter from its server trait.
pub trait Dispatch {
    /// The contract.
    type Contract: Contract;

    /// The contract's streams; none unless it has any.
    fn outlets(&self) -> Option<&Outlets> {
        None
    }

    /// Whether requests are executed: not where all threads that do so have been in the same
    /// requests since the last time that this was asked.
    ///
    /// Asked on the server's own thread, so that one which executes them itself need not say more.
    fn is_moving(&mut self) -> bool {
        true
    }

    /// Executes one request and answers it through `reply`.
    ///
    /// `request` lies in memory that the client can still write to: what is read twice may differ.
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
pub struct Answer {
    pub(crate) status: Status,
    pub(crate) length: usize,
    /// The number of the answer that comes later; 0 for this one.
    pub(crate) later: u64,
}

impl Answer {
    #[inline]
    pub(crate) const fn new(status: Status, length: usize) -> Self {
        Self {
            status,
            length,
            later: 0,
        }
    }

    pub(crate) const fn of(status: Status) -> Self {
        Self::new(status, 0)
    }
}

/// The place for one answer, in the chunk that the client will read.
#[derive(Debug)]
pub struct ReplySlot<'a> {
    chunk: &'a mut [u8],
    /// The server's; none where there is no server that could go on with one.
    sources: Option<&'a mut Sources>,
    /// The server's; none where nobody could wait for an answer.
    desk: Option<&'a mut Desk>,
}

impl<'a> ReplySlot<'a> {
    pub(crate) fn new(chunk: &'a mut [u8]) -> Self {
        Self {
            chunk,
            sources: None,
            desk: None,
        }
    }

    #[inline]
    fn of_server(chunk: &'a mut [u8], sources: &'a mut Sources, desk: &'a mut Desk) -> Self {
        Self {
            chunk,
            sources: Some(sources),
            desk: Some(desk),
        }
    }

    /// Answers later: what to answer now, and the promise.
    fn promise(self) -> (Answer, Promise) {
        Promise::make(self.desk)
    }

    /// Executes a request of a streaming method; `open` is its handler.
    pub fn items<M: Streaming>(
        self,
        call: &CallContext,
        body: &[u8],
        open: impl FnOnce(<M::Request as Message>::View<'_>, ReplyItems<'_, M>) -> Answer,
    ) -> Answer {
        match self.sources {
            Some(sources) => sources.execute(call, body, self.chunk, open),
            None => Sources::default().execute(call, body, self.chunk, open),
        }
    }

    /// Answers with the method's response, encoded straight into the chunk.
    #[inline]
    pub fn send<M: Method>(self, response: &<M::Response as Message>::View<'_>) -> Answer {
        Self::sealed(Status::Response, M::Response::encode(response, self.chunk))
    }

    /// Answers with the contract's error.
    pub fn fail<M: Method>(self, error: &ErrorOf<M>) -> Answer {
        Self::sealed(Status::Error, ErrorOf::<M>::encode(error, self.chunk))
    }

    /// Answers with what `write` writes straight into the chunk.
    #[inline]
    pub fn send_with<M: Method>(
        self,
        write: impl FnOnce(
            &mut <M::Response as WriteInPlace>::Place,
        ) -> <M::Response as WriteInPlace>::Written,
    ) -> Answer
    where
        M::Response: WriteInPlace,
    {
        Self::sealed(Status::Response, M::Response::write(self.chunk, write))
    }

    #[inline]
    fn sealed(status: Status, written: Option<usize>) -> Answer {
        match written {
            Some(length) => Answer::new(status, length),
            None => Answer::of(Status::AnswerTooLong),
        }
    }

    /// Answers that the request cannot be decoded; nothing was executed.
    pub fn bad_request(self) -> Answer {
        Answer::of(Status::MalformedRequest)
    }

    /// Answers that the method does not exist; nothing was executed.
    pub fn unknown_method(self) -> Answer {
        Answer::of(Status::UnknownMethod)
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
    /// More edges than one server can serve.
    #[error("{EDGES_MAX} edges are served already")]
    TooMany,
    /// The edge's page is unusable.
    #[error("cannot use the page of the edge")]
    Page(#[source] MapError),
    /// The page has no server slot of this number.
    #[error("no server slot {0}")]
    NoSlot(u8),
    /// The channel could not be made.
    #[error("cannot make the channel")]
    Channel(#[source] ChannelError),
    /// The thread that waits for the bells of further edges could not be started.
    #[error("cannot start a thread that waits for further edges")]
    Watcher(#[source] std::io::Error),
}

/// Wakes a parked server from any thread.
#[derive(Debug, Clone)]
pub struct Waker {
    control: Arc<Control>,
}

impl Waker {
    /// Makes the server's next, or current, [`Server::park`] return.
    pub fn wake(&self) {
        self.control.tell();
    }
}

/// What a server does with the requests that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Leading,
    Following,
    Draining,
}

/// Serves one contract on up to [`EDGES_MAX`] edges, from one thread.
///
/// A panic of the service's own code aborts the process: its successor answers what was sent again.
pub struct Server<D, J> {
    attempt: Attempt,
    slot: u8,
    spin_ns: u64,
    spin: Spin,
    sizes: Sizes,
    methods: Methods,
    mode: Mode,
    edges: Vec<OpenEdge>,
    watchers: Watchers,
    /// The edge at which the next turn begins.
    first: usize,
    held: Vec<Held>,
    /// When a request was first found to have waited too long since the server was idle; 0 before.
    late_since_ns: u64,
    /// An edge could not be served, so that a consumer may live that is not among the edges.
    missed_edge: bool,
    refused: usize,
    outlets: Option<Outlets>,
    meters: Option<Meters>,
    sources: Sources,
    desk: Desk,
    control: Arc<Control>,
    /// The control word as the last park left it.
    control_seen: u32,
    /// There is one edge, on whose bell alone the server sleeps.
    sleeps_on_bell: bool,
    dispatch: D,
    journal: J,
    thread_bound: PhantomData<*mut ()>,
}

impl<D, J> fmt::Debug for Server<D, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("attempt", &self.attempt)
            .field("mode", &self.mode)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

impl<D: Dispatch, J: Journal> Server<D, J> {
    /// A server without edges, that leads from the start.
    ///
    /// `attempt` and `slot` are the process's own, from the supervisor's welcome; `spin` is how
    /// long [`Server::turn`] spins for a request, [`Duration::MAX`] for ever.
    pub fn new(attempt: Attempt, slot: u8, spin: Duration, dispatch: D, journal: J) -> Self {
        let control = Arc::new(Control::default());
        Self {
            attempt,
            slot,
            spin_ns: clock::nanos(spin),
            spin: Spin::default(),
            sizes: Sizes::of::<D::Contract>(),
            methods: Methods::of::<D::Contract>(),
            mode: Mode::Leading,
            edges: Vec::new(),
            watchers: Watchers::default(),
            first: 0,
            held: Vec::new(),
            late_since_ns: 0,
            missed_edge: false,
            refused: 0,
            outlets: dispatch.outlets().cloned(),
            meters: None,
            sources: Sources::default(),
            desk: Desk::new(Waker {
                control: control.clone(),
            }),
            control,
            control_seen: 0,
            sleeps_on_bell: false,
            dispatch,
            journal,
            thread_bound: PhantomData,
        }
    }

    /// Has requests on edges that are served from now on counted in the process's meters.
    pub fn meter(&mut self, meters: Meters) {
        self.meters = Some(meters);
    }

    /// Opens its end of an edge's channel and tells the clients.
    ///
    /// An edge that is served for the same consumer already stays as it is; for another consumer
    /// of the same edge it is served anew.
    pub fn serve(&mut self, edge: ServedEdge, page: OwnedFd) -> Result<(), ServeError> {
        let served = D::Contract::id();
        if edge.contract != served {
            return Err(ServeError::OtherContract {
                edge: edge.contract.to_string(),
                served: served.to_string(),
            });
        }
        if self
            .edges
            .iter()
            .any(|open| open.is(edge.edge, edge.consumer))
        {
            return Ok(());
        }
        let opened = if self.edges.len() == EDGES_MAX {
            Err(ServeError::TooMany)
        } else {
            OpenEdge::open(
                edge,
                page,
                self.attempt,
                self.slot,
                self.sizes,
                self.meters.as_ref(),
            )
        };
        self.missed_edge |= opened.is_err();
        let mut open = opened?;
        let own = self.edges.iter().filter(|edge| !edge.is_watched()).count();
        if own == bells::PER_THREAD {
            let watched = self.watchers.watch(&self.control, open.bell());
            self.missed_edge |= watched.is_err();
            watched.map_err(ServeError::Watcher)?;
        }
        open.announce(self.attempt);
        self.edges.push(open);
        self.choose_bell();
        Ok(())
    }

    /// Closes the edge of a consumer that is gone; a leader also forgets the answers recorded for
    /// it.
    pub fn unserve(&mut self, edge: EdgeId, consumer: Attempt) {
        if let Some(outlets) = &self.outlets {
            outlets.unserve(edge, consumer);
        }
        self.sources.forget(edge, consumer);
        self.desk.forget(edge, consumer);
        self.edges.retain(|open| !open.is(edge, consumer));
        self.watchers.forget((edge, consumer));
        self.choose_bell();
        self.first = 0;
        if D::Contract::NEEDS_JOURNAL
            && self.mode == Mode::Leading
            && let Err(error) = self.journal.forget(consumer)
        {
            tracing::warn!(%consumer, "cannot forget answers: {error}: {:?}", error.0);
        }
    }

    /// The edges that are open, with their consumers.
    pub fn edges(&self) -> impl Iterator<Item = (EdgeId, Attempt)> + '_ {
        self.edges.iter().map(OpenEdge::id)
    }

    /// Executes nothing more: what waits is refused now, and what arrives in later turns, and goes
    /// elsewhere. All that was owed has been answered when this returns. It is final.
    pub fn drain(&mut self) {
        self.mode = Mode::Draining;
        self.sources.clear();
        while self.turn_now() {}
        while self.desk.owed() > 0 {
            self.park();
            while self.turn_now() {}
        }
    }

    /// How many requests may be owed an answer by [`Later`] at once; 256 unless said otherwise.
    ///
    /// While as many are, no more are taken: they wait in their channels.
    pub fn limit_owed(&mut self, limit: usize) {
        self.desk.set_limit(limit);
    }

    /// Requests that are owed an answer by [`Later`].
    pub fn owed(&self) -> usize {
        self.desk.owed()
    }

    /// Says whether requests are executed (by a leader) or refused (by a follower).
    ///
    /// Without effect on a server that drains. A follower that becomes the leader forgets what is
    /// recorded for consumers that it does not serve: they died while nobody led. So the edges of
    /// all living consumers are to be served before.
    pub fn lead(&mut self, lead: bool) {
        let before = self.mode;
        self.mode = match self.mode {
            Mode::Draining => Mode::Draining,
            Mode::Leading | Mode::Following if lead => Mode::Leading,
            Mode::Leading | Mode::Following => Mode::Following,
        };
        if self.mode != Mode::Leading {
            self.sources.clear();
        }
        if D::Contract::NEEDS_JOURNAL
            && (before, self.mode) == (Mode::Following, Mode::Leading)
            && !self.missed_edge
        {
            let consumers: Vec<Attempt> = self.edges().map(|(_, consumer)| consumer).collect();
            if let Err(error) = self.journal.retain(&consumers) {
                tracing::warn!("cannot forget answers: {error}: {:?}", error.0);
            }
        }
    }

    /// How many requests were answered without being executed, for whatever reason.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// Replies of items that have begun and not ended.
    pub fn open_sources(&self) -> usize {
        self.sources.count()
    }

    /// What wakes this server.
    pub fn waker(&self) -> Waker {
        Waker {
            control: self.control.clone(),
        }
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
