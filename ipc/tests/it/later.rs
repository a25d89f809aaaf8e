//! Answers that come after the turn of their requests, and several threads behind one contract.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge};
use insula_ipc::contract::Method;
use insula_ipc::server::{Answer, CallContext, Dispatch, Later, NoJournal, Reply, Server, Workers};
use insula_ipc::testing::Host;
use insula_ipc::{Message, contract};

use crate::common::WATCHDOG;

const PROVIDER: Attempt = Attempt(1);
const CONSUMER: Attempt = Attempt(9);

/// Two methods that say their number back.
#[contract(name = "slow", major = 1, error = Never, in_flight = 8, crate = insula_ipc)]
pub(crate) trait Slow {
    /// May be executed twice.
    #[method(id = 1, idempotent, deadline = "60s")]
    fn repeat(request: Number) -> Number;
    /// May not.
    #[method(id = 2, deadline = "60s")]
    fn risk(request: Number) -> Number;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[message(crate = insula_ipc)]
pub(crate) struct Number {
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[message(crate = insula_ipc)]
pub(crate) enum Never {
    Nothing,
}

/// Gives the promises away.
#[derive(Clone)]
struct Promising {
    repeats: mpsc::Sender<(u64, Later<slow::Repeat>)>,
    risks: mpsc::Sender<(u64, Later<slow::Risk>)>,
}

impl SlowServer for Promising {
    fn repeat(
        &mut self,
        _: &CallContext,
        request: Number,
        reply: Reply<'_, slow::Repeat>,
    ) -> Answer {
        let (answer, later) = reply.later();
        self.repeats.send((request.number, later)).unwrap();
        answer
    }

    fn risk(&mut self, _: &CallContext, request: Number, reply: Reply<'_, slow::Risk>) -> Answer {
        let (answer, later) = reply.later();
        self.risks.send((request.number, later)).unwrap();
        answer
    }
}

struct Promised {
    repeats: mpsc::Receiver<(u64, Later<slow::Repeat>)>,
    risks: mpsc::Receiver<(u64, Later<slow::Risk>)>,
}

fn promising() -> (Promising, Promised) {
    let (repeats, repeated) = mpsc::channel();
    let (risks, risked) = mpsc::channel();
    let promised = Promised {
        repeats: repeated,
        risks: risked,
    };
    (Promising { repeats, risks }, promised)
}

/// Serves on a thread of its own while `then` runs with a connection, and is drained after it.
fn with_server<D: Dispatch<Contract = Slow> + 'static>(
    name: &str,
    limit: usize,
    dispatch: impl FnOnce() -> D + Send,
    then: impl FnOnce(&Connection),
) {
    let host = Host::new(name);
    host.open_pair(PROVIDER, CONSUMER);
    let (ready, readied) = mpsc::channel();
    std::thread::scope(|threads| {
        let (stop, stopped) = mpsc::channel::<()>();
        let host = &host;
        let serving = threads.spawn(move || {
            let mut server = Server::new(PROVIDER, 0, Duration::ZERO, dispatch(), NoJournal);
            server.limit_owed(limit);
            server
                .serve(host.served::<Slow>(CONSUMER), host.page())
                .unwrap();
            ready.send(server.waker()).unwrap();
            while let Err(mpsc::TryRecvError::Empty) = stopped.try_recv() {
                if !server.turn() {
                    server.park();
                }
            }
            server.drain();
            assert_eq!(server.owed(), 0);
        });
        let waker = readied.recv_timeout(WATCHDOG).unwrap();
        host.publish(RouteState::Serve, PROVIDER, 0, None);
        let edge = Edge::new(
            host.used::<Slow>(CONSUMER),
            host.routes(),
            host.page(),
            Duration::ZERO,
        )
        .unwrap();
        let connection = edge.connect::<Slow>().unwrap();
        then(&connection);
        drop(connection);
        drop(stop);
        waker.wake();
        serving.join().unwrap();
    });
}

fn number(number: u64) -> Number {
    Number { number }
}

#[test]
fn answers_come_in_any_order_and_from_any_thread() {
    let (promising, promised) = promising();
    with_server(
        "later",
        8,
        move || SlowDispatch(promising),
        |connection| {
            let options = CallOptions::default();
            let tickets: Vec<_> = (0..3)
                .map(|n| {
                    connection
                        .submit::<slow::Repeat>(&number(n), options)
                        .unwrap()
                })
                .collect();
            let mut owed: Vec<_> = (0..3)
                .map(|_| promised.repeats.recv_timeout(WATCHDOG).unwrap())
                .collect();
            // The last comes first; each call gets its own.
            owed.reverse();
            std::thread::spawn(move || {
                for (n, later) in owed {
                    later.send(&number(n * 10));
                }
            });
            for (n, ticket) in (0..).zip(tickets) {
                assert_eq!(ticket.wait().unwrap().get().unwrap(), number(n * 10));
            }
            assert_eq!(connection.rescues(), 0);
        },
    );
}

#[test]
fn what_is_dropped_is_abandoned_and_repeated_only_where_that_is_safe() {
    let (promising, promised) = promising();
    with_server(
        "abandoned",
        8,
        move || SlowDispatch(promising),
        |connection| {
            let options = CallOptions::default();
            let risk = connection
                .submit::<slow::Risk>(&number(1), options)
                .unwrap();
            drop(promised.risks.recv_timeout(WATCHDOG).unwrap());
            assert_eq!(risk.wait().unwrap_err(), CallError::OutcomeUnknown);

            let repeat = connection
                .submit::<slow::Repeat>(&number(2), options)
                .unwrap();
            drop(promised.repeats.recv_timeout(WATCHDOG).unwrap());
            let answering = std::thread::spawn(move || {
                let (n, later) = promised.repeats.recv_timeout(WATCHDOG).unwrap();
                later.send(&number(n));
            });
            assert_eq!(repeat.wait().unwrap().get().unwrap(), number(2));
            answering.join().unwrap();
        },
    );
}

#[test]
fn no_more_is_taken_than_may_be_owed() {
    let (promising, promised) = promising();
    with_server(
        "limit",
        2,
        move || SlowDispatch(promising),
        |connection| {
            let options = CallOptions::default();
            let tickets: Vec<_> = (0..5)
                .map(|n| {
                    connection
                        .submit::<slow::Repeat>(&number(n), options)
                        .unwrap()
                })
                .collect();
            let mut owed = Vec::new();
            for _ in 0..2 {
                owed.push(promised.repeats.recv_timeout(WATCHDOG).unwrap());
            }
            for left in [3, 2, 1] {
                // It cannot be shown that a third never comes, but each that is answered makes room
                // for exactly one.
                assert!(promised.repeats.try_recv().is_err(), "{left} too early");
                let (n, later) = owed.remove(0);
                later.send(&number(n));
                owed.push(promised.repeats.recv_timeout(WATCHDOG).unwrap());
            }
            for (n, later) in owed {
                later.send(&number(n));
            }
            for (n, ticket) in (0..).zip(tickets) {
                assert_eq!(ticket.wait().unwrap().get().unwrap(), number(n));
            }
        },
    );
}

#[test]
fn a_drain_waits_for_what_is_owed() {
    let (promising, promised) = promising();
    let kept = RefCell::new(None);
    let (taken, was_taken) = mpsc::channel();
    let answering = std::thread::spawn(move || {
        let (n, later) = promised.repeats.recv_timeout(WATCHDOG).unwrap();
        taken.send(()).unwrap();
        // Long enough for a server that does not wait to be gone.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
        later.send(&number(n));
    });
    with_server(
        "drain",
        8,
        move || SlowDispatch(promising),
        |connection| {
            let options = CallOptions::default();
            let ticket = connection
                .submit::<slow::Repeat>(&number(7), options)
                .unwrap();
            was_taken.recv_timeout(WATCHDOG).unwrap();
            *kept.borrow_mut() = Some(ticket);
        },
    );
    answering.join().unwrap();
    // The server is gone, and its answer is there.
    let ticket = kept.into_inner().unwrap();
    assert_eq!(ticket.wait().unwrap().get().unwrap(), number(7));
}

/// Answers when as many requests are being executed as there are threads.
#[derive(Clone)]
struct Together {
    all: Arc<Barrier>,
    executed: Arc<AtomicUsize>,
}

impl SlowServer for Together {
    fn repeat(
        &mut self,
        _: &CallContext,
        request: Number,
        reply: Reply<'_, slow::Repeat>,
    ) -> Answer {
        self.all.wait();
        self.executed.fetch_add(1, Ordering::Relaxed);
        reply.send(&request)
    }

    fn risk(&mut self, _: &CallContext, request: Number, reply: Reply<'_, slow::Risk>) -> Answer {
        reply.send(&request)
    }
}

#[test]
fn several_threads_execute_at_once() {
    const THREADS: usize = 4;
    let together = Together {
        all: Arc::new(Barrier::new(THREADS)),
        executed: Arc::default(),
    };
    let executed = together.executed.clone();
    let workers = move || Workers::start(THREADS, move || SlowDispatch(together.clone())).unwrap();
    with_server("workers", 8, workers, |connection| {
        for _ in 0..10 {
            // One thread alone would wait for the others for ever.
            let options = CallOptions::default();
            let tickets: Vec<_> = (0..THREADS as u64)
                .map(|n| {
                    connection
                        .submit::<slow::Repeat>(&number(n), options)
                        .unwrap()
                })
                .collect();
            for (n, ticket) in (0..).zip(tickets) {
                assert_eq!(ticket.wait().unwrap().get().unwrap(), number(n));
            }
        }
        let risk = connection.call::<slow::Risk>(&number(5), CallOptions::default());
        assert_eq!(risk.unwrap().get().unwrap(), number(5));
    });
    assert_eq!(executed.load(Ordering::Relaxed), 10 * THREADS);
    assert_eq!(slow::Repeat::ID, 1);
}
