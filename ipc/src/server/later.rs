//! Answers that are given after the turn in which their requests were taken, from any thread.
//!
//! The request and the chunk for its answer stay with the server; what the handler takes along is
//! a number. So a handler may be a future, or a thread among several ([`super::Workers`]), while
//! the server goes on with other requests. What its client gave up, or whose edge is closed, is
//! thrown away when it comes.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use insula_contract::id::{Attempt, EdgeId};

use super::edges::OpenEdge;
use super::{Answer, Waker};
use crate::channel::{Loaned, Taken};
use crate::contract::{ErrorOf, Message, Method};
use crate::header::Status;

/// Requests that may be owed an answer at once, unless another number is asked for.
pub(super) const LIMIT: usize = 256;

/// An answer that came.
#[derive(Debug)]
struct Given {
    number: u64,
    status: Status,
    body: Vec<u8>,
}

/// Where answers arrive.
#[derive(Debug)]
struct Inbox {
    given: Mutex<Vec<Given>>,
    /// Whether there are any: a load instead of a lock in each turn.
    any: AtomicBool,
    waker: Waker,
}

/// A request that is owed an answer.
struct Owed {
    edge: (EdgeId, Attempt),
    slot: u8,
    taken: Taken,
    chunk: Loaned,
}

/// What a server owes.
pub(super) struct Desk {
    inbox: Arc<Inbox>,
    owed: BTreeMap<u64, Owed>,
    next: u64,
    limit: usize,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("owed", &self.owed.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            inbox: Arc::new(Inbox {
                given: Mutex::default(),
                any: AtomicBool::new(false),
                waker,
            }),
            owed: BTreeMap::new(),
            next: 1,
            limit: LIMIT,
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Whether nothing more may be taken before an answer comes.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.owed.len() >= self.limit
    }

    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether an answer came.
    #[inline]
    pub(super) fn has_given(&self) -> bool {
        self.inbox.any.load(Ordering::SeqCst)
    }

    /// A number for an answer that comes later.
    fn begin(&mut self) -> (u64, Arc<Inbox>) {
        let number = self.next;
        self.next += 1;
        (number, self.inbox.clone())
    }

    /// Keeps the request that was answered with such a number.
    pub(super) fn keep(
        &mut self,
        number: u64,
        edge: (EdgeId, Attempt),
        slot: u8,
        taken: Taken,
        chunk: Loaned,
    ) {
        let owed = Owed {
            edge,
            slot,
            taken,
            chunk,
        };
        self.owed.insert(number, owed);
    }

    /// Drops what is owed to a consumer that is gone.
    pub(super) fn forget(&mut self, edge: EdgeId, consumer: Attempt) {
        self.owed.retain(|_, owed| owed.edge != (edge, consumer));
    }

    /// Sends the answers that came; whether there were any.
    pub(super) fn send(&mut self, edges: &[OpenEdge]) -> bool {
        if !self.inbox.any.swap(false, Ordering::SeqCst) {
            return false;
        }
        let given = std::mem::take(&mut *lock(&self.inbox.given));
        let some = !given.is_empty();
        for Given {
            number,
            status,
            body,
        } in given
        {
            let Some(mut owed) = self.owed.remove(&number) else {
                continue;
            };
            let Some(edge) = edges.iter().find(|edge| edge.id() == owed.edge) else {
                continue;
            };
            let (status, length) = match owed.chunk.bytes_mut().get_mut(..body.len()) {
                Some(place) => {
                    place.copy_from_slice(&body);
                    (status, body.len())
                }
                None => (Status::AnswerTooLong, 0),
            };
            edge.note(owed.slot);
            edge.meter.answered(status, length);
            owed.chunk.seal(status, length).send();
            // The way of the answer is open as long as this lives.
            drop(owed.taken);
            crate::wake::published();
            edge.ring();
        }
        some
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A promise to answer one request, for any thread.
///
/// Dropped without an answer, it says that the request was abandoned: it may have been executed,
/// so that its client ends with [`crate::client::CallError::OutcomeUnknown`] unless the method is
/// idempotent.
#[derive(Debug)]
pub(super) struct Promise {
    /// `None` once it was kept, and where nobody waits.
    to: Option<(u64, Arc<Inbox>)>,
}

impl Promise {
    /// A promise to a request of this turn, and what to answer it with now; to nobody where there
    /// is no server that could wait.
    pub(super) fn make(desk: Option<&mut Desk>) -> (Answer, Self) {
        match desk {
            Some(desk) => {
                let (number, inbox) = desk.begin();
                let answer = Answer {
                    later: number,
                    ..Answer::of(Status::Abandoned)
                };
                let to = Some((number, inbox));
                (answer, Self { to })
            }
            None => (Answer::of(Status::Unable), Self { to: None }),
        }
    }

    pub(super) fn keep(mut self, status: Status, body: Vec<u8>) {
        self.give(status, body);
    }

    fn give(&mut self, status: Status, body: Vec<u8>) {
        let Some((number, inbox)) = self.to.take() else {
            return;
        };
        lock(&inbox.given).push(Given {
            number,
            status,
            body,
        });
        inbox.any.store(true, Ordering::SeqCst);
        inbox.waker.wake();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.give(Status::Abandoned, Vec::new());
    }
}

/// The answer to one request, to be given later and from any thread; made by
/// [`super::Reply::later`].
///
/// Dropped without an answer, it ends the call as
/// [`outcome unknown`](crate::client::CallError::OutcomeUnknown), or lets the client repeat it
/// where the method is idempotent.
#[must_use = "a request that is not answered is abandoned"]
pub struct Later<M> {
    promise: Promise,
    method: PhantomData<fn() -> M>,
}

impl<M> fmt::Debug for Later<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

impl<M: Method> Later<M> {
    pub(super) fn new(promise: Promise) -> Self {
        Self {
            promise,
            method: PhantomData,
        }
    }

    /// Answers with the method's response.
    pub fn send(self, response: &<M::Response as Message>::View<'_>) {
        self.encode::<M::Response>(Status::Response, response);
    }

    /// Answers with the contract's error.
    pub fn fail(self, error: &ErrorOf<M>) {
        self.encode::<ErrorOf<M>>(Status::Error, error);
    }

    fn encode<T: Message>(self, status: Status, value: &T::View<'_>) {
        // Zeroed pages that nobody touches are not there, however large the largest value is.
        let mut body = vec![0; T::ENCODED_MAX];
        match T::encode(value, &mut body) {
            Some(length) => {
                body.truncate(length);
                self.promise.keep(status, body);
            }
            None => self.promise.keep(Status::AnswerTooLong, Vec::new()),
        }
    }
}
