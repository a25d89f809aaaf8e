//! Calls as futures, for any executor.
//!
//! An [`AsyncEdge`] is shared between tasks and threads. Its connection belongs to one thread of
//! the process, which all such edges share, 63 of them; a call crosses to that thread by a
//! queue and one wake word, which the thread waits for together with the doorbells and routes of
//! its connections, and the answer wakes the task. So a call costs two crossings between threads
//! more than one on a [`super::Connection`], and a copy of request and answer; idle edges cost
//! nothing.
//!
//! Calls are sent in the order in which they were made. As many as the contract allows are on their
//! way at once; [`WAITING_MAX`] more wait for their turn, their deadlines running. Dropping a call
//! gives its answer up and its place back; what was sent may be executed.

mod reactor;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use super::bytes::{AnswerBytes, Copied, MethodNumbers};
use super::{CallError, CallOptions, ConnectError, Edge, Malformed};
use crate::channel::Sizes;
use crate::clock;
use crate::contract::{Contract, ErrorOf, Message, Method};
use reactor::{Handle, Order, Slot};

/// Calls that wait for one of the contract's places, on each edge.
pub const WAITING_MAX: usize = 1024;

/// The first try at a place for a request; longer ones follow.
const REQUEST_FIRST: usize = 512;

/// Why there is no async edge.
#[derive(Debug, thiserror::Error)]
pub enum AsyncConnectError {
    /// The edge cannot be used.
    #[error("cannot use the edge")]
    Connect(#[from] ConnectError),
    /// The edge is to another contract.
    #[error("the edge is to `{0}`")]
    OtherContract(String),
    /// The thread for all async edges cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// An edge whose calls are futures; clone it, or share it between tasks and threads.
#[derive(Debug)]
pub struct AsyncEdge<C: Contract> {
    handle: Arc<Handle>,
    /// Calls that are not yet over.
    pending: Arc<AtomicUsize>,
    contract: PhantomData<fn() -> C>,
}

impl<C: Contract> Clone for AsyncEdge<C> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            pending: self.pending.clone(),
            contract: PhantomData,
        }
    }
}

impl<C: Contract> AsyncEdge<C> {
    /// Takes one of the edge's connections for the process's thread.
    ///
    /// Waits for that thread, which takes microseconds.
    pub fn connect(edge: &Edge) -> Result<Self, AsyncConnectError> {
        if edge.used().contract != C::id() {
            return Err(AsyncConnectError::OtherContract(
                edge.used().contract.to_string(),
            ));
        }
        let handle = reactor::open(edge, (C::NAME, C::MAJOR), Sizes::of::<C>())?;
        Ok(Self {
            handle: Arc::new(handle),
            pending: Arc::new(AtomicUsize::new(0)),
            contract: PhantomData,
        })
    }

    /// Sends a request; it is on its way whether or not the future is polled.
    pub fn call<M: Method<Contract = C>>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> AsyncCall<M> {
        const {
            assert!(
                !M::STREAMING,
                "a streaming method is called by `Connection::items`"
            )
        };
        let max = C::IN_FLIGHT.max(1) + WAITING_MAX;
        let pending = Pending::of(&self.pending);
        let refused = if pending.before >= max {
            CallError::TooManyInFlight { max }
        } else if let Some(bytes) = encode::<M::Request>(request) {
            let slot = Arc::new(Slot::default());
            let deadline = options.deadline.unwrap_or(M::DEADLINE);
            self.handle.order(Order::Call {
                connection: self.handle.connection(),
                method: MethodNumbers {
                    id: M::ID,
                    safety: M::SAFETY,
                    deadline: M::DEADLINE,
                    request_max: M::Request::ENCODED_MAX,
                },
                request: bytes,
                options: CallOptions {
                    key: options.key.or_else(|| M::key(request)),
                    ..options
                },
                deadline_ns: clock::now_ns().saturating_add(clock::nanos(deadline)),
                slot: slot.clone(),
            });
            let sent = Sent {
                slot,
                handle: self.handle.clone(),
                _pending: pending,
            };
            return AsyncCall {
                state: State::Sent(sent),
                method: PhantomData,
            };
        } else {
            let max = M::Request::ENCODED_MAX;
            CallError::TooLarge { max }
        };
        AsyncCall {
            state: State::Refused(Some(refused)),
            method: PhantomData,
        }
    }
}

fn encode<T: Message>(value: &T::View<'_>) -> Option<Vec<u8>> {
    let mut room = T::ENCODED_MAX.min(REQUEST_FIRST);
    loop {
        let mut bytes = vec![0; room];
        match T::encode(value, &mut bytes) {
            Some(length) => {
                bytes.truncate(length);
                return Some(bytes);
            }
            None if room >= T::ENCODED_MAX => return None,
            None => room = room.saturating_mul(16).min(T::ENCODED_MAX),
        }
    }
}

/// Counts a call for as long as it lives.
#[derive(Debug)]
struct Pending {
    before: usize,
    count: Arc<AtomicUsize>,
}

impl Pending {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        Self {
            before: count.fetch_add(1, Ordering::Relaxed),
            count: count.clone(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call on its way. Dropping it gives up the answer, not the execution.
#[must_use = "a call that is dropped gives its answer up"]
#[derive(Debug)]
pub struct AsyncCall<M: Method> {
    state: State<ErrorOf<M>>,
    method: PhantomData<fn() -> M>,
}

#[derive(Debug)]
enum State<E: std::fmt::Debug> {
    /// Not sent; `None` once that was told.
    Refused(Option<CallError<E>>),
    Sent(Sent),
}

#[derive(Debug)]
struct Sent {
    slot: Arc<Slot>,
    handle: Arc<Handle>,
    _pending: Pending,
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.slot.give_up() {
            self.handle.nudge();
        }
    }
}

// No part of it is pinned.
impl<M: Method> Unpin for AsyncCall<M> {}

impl<M: Method> Future for AsyncCall<M> {
    type Output = Result<AsyncResponse<M>, CallError<ErrorOf<M>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let taken = "the outcome was taken before";
        let sent = match &mut self.state {
            State::Refused(refused) => {
                return Poll::Ready(Err(refused.take().unwrap_or(CallError::Broken(taken))));
            }
            State::Sent(sent) => sent,
        };
        let Some(outcome) = sent.slot.poll(context.waker()) else {
            return Poll::Pending;
        };
        self.state = State::Refused(None);
        Poll::Ready(match outcome {
            Ok(AnswerBytes::Response(answer)) => Ok(AsyncResponse {
                answer,
                method: PhantomData,
            }),
            Ok(AnswerBytes::Error(error)) => Err(<ErrorOf<M> as Message>::decode(error.bytes())
                .map_or(CallError::Broken("malformed error"), CallError::Failed)),
            Err(error) => Err(error.widen()),
        })
    }
}

/// An answer, copied out of its chunk.
#[derive(Debug)]
pub struct AsyncResponse<M: Method> {
    answer: Copied,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> AsyncResponse<M> {
    /// Reads the response; texts and bytes borrow from it.
    pub fn get(&self) -> Result<<M::Response as Message>::View<'_>, Malformed> {
        M::Response::decode(self.bytes()).ok_or(Malformed)
    }

    /// The encoded response.
    pub fn bytes(&self) -> &[u8] {
        self.answer.bytes()
    }
}
