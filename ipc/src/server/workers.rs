//! A contract served by several threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use insula_contract::schema::TypeSchema;

use super::later::Promise;
use super::{Answer, CallContext, Dispatch, ReplySlot};
use crate::clock;
use crate::contract::Contract;
use crate::header::Status;

/// Executes requests on threads of its own, each with a handler of its own.
///
/// It is a [`Dispatch`] itself: the server's thread takes requests and sends answers, and one of
/// the threads executes each request in between, on a copy of it. Requests of one client may
/// overtake each other. Not for contracts with `once` methods, whose answers belong to one
/// transaction.
pub struct Workers<D: Dispatch> {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    /// How many requests had been executed when it was last asked whether any are.
    executed: u64,
    contract: std::marker::PhantomData<fn() -> D>,
}

/// One request that a thread is to execute.
struct Job {
    call: CallContext,
    method: u16,
    request: Vec<u8>,
    promise: Promise,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Requests that threads took.
    begun: u64,
    /// Of these, what was executed.
    executed: u64,
    ended: bool,
}

impl<D: Dispatch> fmt::Debug for Workers<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl<D: Dispatch> Workers<D> {
    /// Starts as many threads; `handler` makes the handler of each.
    ///
    /// # Errors
    /// A thread could not be started, or the contract has a streaming method, whose items come
    /// from the server's own thread.
    pub fn start(
        threads: usize,
        handler: impl Fn() -> D + Send + Clone + 'static,
    ) -> io::Result<Self> {
        const {
            assert!(
                !<D::Contract as Contract>::NEEDS_JOURNAL,
                "a contract with `once` methods is served by one thread"
            );
        }
        if D::Contract::schema()
            .methods
            .iter()
            .any(|method| matches!(method.response, TypeSchema::Items(_)))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a contract with streaming methods is served by one thread",
            ));
        }
        let mut workers = Self {
            queue: Arc::new(Queue::default()),
            threads: Vec::new(),
            executed: 0,
            contract: std::marker::PhantomData,
        };
        for number in 0..threads.max(1) {
            let (queue, handler) = (workers.queue.clone(), handler.clone());
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(&queue, handler()))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl<D: Dispatch> Dispatch for Workers<D> {
    type Contract = D::Contract;

    fn is_moving(&mut self) -> bool {
        let state = self.queue.state();
        let executed = state.executed;
        let busy = state.begun - executed >= self.threads.len() as u64;
        drop(state);
        let stands = busy && executed == self.executed;
        self.executed = executed;
        !stands
    }

    fn dispatch(
        &mut self,
        call: &CallContext,
        method: u16,
        request: &[u8],
        reply: ReplySlot<'_>,
    ) -> Answer {
        let (answer, promise) = reply.promise();
        let job = Job {
            call: *call,
            method,
            request: request.to_vec(),
            promise,
        };
        self.queue.with(|state| state.jobs.push_back(job));
        answer
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_one();
    }

    /// The next job; `None` once there will be none.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.begun += 1;
                return Some(job);
            }
            if state.ended {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts a request as executed when dropped.
struct Executed<'a>(&'a Queue);

impl Drop for Executed<'_> {
    fn drop(&mut self) {
        self.0.state().executed += 1;
    }
}

fn work<D: Dispatch>(queue: &Queue, mut handler: D) {
    let _guard = super::turn::AbortOnPanic;
    let mut chunk = vec![0; <D::Contract as Contract>::RESPONSE_MAX];
    while let Some(job) = queue.next() {
        let _executed = Executed(queue);
        if clock::coarse_ns() >= job.call.deadline_ns {
            job.promise.keep(Status::Expired, Vec::new());
            continue;
        }
        let Answer { status, length, .. } = handler.dispatch(
            &job.call,
            job.method,
            &job.request,
            ReplySlot::new(&mut chunk),
        );
        let body = match status {
            Status::Response | Status::Error => chunk[..length].to_vec(),
            _ => Vec::new(),
        };
        job.promise.keep(status, body);
    }
}

impl<D: Dispatch> Drop for Workers<D> {
    fn drop(&mut self) {
        self.queue.with(|state| state.ended = true);
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}
