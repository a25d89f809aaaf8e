//! Calls as futures: many at once, given up, through deaths of the provider.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::contract::*;
use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::aio::{AsyncCall, AsyncConnectError, AsyncEdge, WAITING_MAX};
use insula_ipc::client::{CallError, CallOptions, ConnectError, Edge};
use insula_ipc::contract::{CONNECTIONS, Contract};
use insula_ipc::server::{Answer, CallContext, NoJournal, Reply, Server};
use insula_ipc::testing::Host;

const CONSUMER: Attempt = Attempt(700);
const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);

/// Blocks the thread until woken: the smallest executor.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

fn wait<F: Future + Unpin>(mut future: F) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let end = Instant::now() + WATCHDOG;
    loop {
        let mut context = Context::from_waker(&waker);
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut context) {
            return output;
        }
        let mut rung = bell.rung.lock().unwrap();
        while !std::mem::take(&mut *rung) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nobody woke the task");
            rung = bell.changed.wait_timeout(rung, left).unwrap().0;
        }
    }
}

fn edge(host: &Host, spin: Duration) -> Edge {
    let used = host.used::<Ledger>(CONSUMER);
    Edge::new(used, host.routes(), host.page(), spin).unwrap()
}

/// A server on a thread of its own, until dropped.
struct Running {
    stop: Arc<AtomicBool>,
    executed: Arc<AtomicUsize>,
    waker: insula_ipc::server::Waker,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(host: &Host, attempt: Attempt, slot: u8) -> Self {
        host.open_pair(attempt, CONSUMER);
        let (served, page) = (host.served::<Ledger>(CONSUMER), host.page());
        let (stop, executed) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (tell, told) = std::sync::mpsc::channel();
        let (stopped, counted) = (stop.clone(), Arc::clone(&executed));
        let thread = std::thread::spawn(move || {
            let journal = FileJournal::default();
            let service = Service {
                journal: journal.clone(),
                before: Some(Box::new(move |_| {
                    let counted: &AtomicUsize = &counted;
                    counted.fetch_add(1, Ordering::SeqCst);
                })),
                ..Service::default()
            };
            let mut server = Server::new(attempt, slot, Duration::ZERO, service, journal);
            server.serve(served, page).unwrap();
            tell.send(server.waker()).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                if !server.turn() {
                    server.park();
                }
            }
        });
        Self {
            stop,
            executed,
            waker: told.recv().unwrap(),
            thread: Some(thread),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn echo(edge: &AsyncEdge<Ledger>, text: &str) -> AsyncCall<Echo> {
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    edge.call::<Echo>(&Text { text }, options)
}

#[test]
fn more_calls_than_the_contract_allows_at_once_are_all_answered() {
    for (index, spin) in [Duration::ZERO, Duration::from_micros(20)]
        .into_iter()
        .enumerate()
    {
        let host = Host::new(&format!("futures-{index}"));
        let _server = Running::start(&host, A, 0);
        host.publish(RouteState::Serve, A, 0, None);
        let edge = AsyncEdge::<Ledger>::connect(&edge(&host, spin)).unwrap();
        std::thread::scope(|threads| {
            for thread in 0..4 {
                let edge = edge.clone();
                threads.spawn(move || {
                    for round in 0..20 {
                        let texts: Vec<_> = (0..Ledger::IN_FLIGHT * 2)
                            .map(|n| format!("{thread} {round} {n} {}", "x".repeat(n * 90)))
                            .collect();
                        let calls: Vec<_> = texts.iter().map(|text| echo(&edge, text)).collect();
                        for (text, call) in texts.iter().zip(calls) {
                            assert_eq!(wait(call).unwrap().get().unwrap().text, text);
                        }
                    }
                });
            }
        });
        let refused = edge.call::<Refuse>(&Text { text: "four" }, CallOptions::default());
        let error = wait(refused).unwrap_err();
        assert_eq!(error, CallError::Failed(LedgerError::Refused(4)));
        let long = "x".repeat(TEXT_MAX + 1);
        let error = wait(echo(&edge, &long)).unwrap_err();
        assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    }
}

#[test]
fn a_call_that_is_dropped_gives_its_place_to_the_next() {
    let host = Host::new("futures-dropped");
    // Nobody serves yet: what is sent is kept.
    let edge = AsyncEdge::<Ledger>::connect(&edge(&host, Duration::ZERO)).unwrap();
    let given_up = |count| (0..count).map(|_| echo(&edge, "given up"));
    let mut calls: Vec<_> = given_up(Ledger::IN_FLIGHT).collect();
    // Once this one is over, those before it have their places.
    let soon = CallOptions {
        deadline: Some(Duration::from_millis(10)),
        ..CallOptions::default()
    };
    let late = edge.call::<Echo>(&Text { text: "late" }, soon);
    assert_eq!(wait(late).unwrap_err(), CallError::DeadlineExceeded);
    calls.extend(given_up(WAITING_MAX));
    let max = Ledger::IN_FLIGHT + WAITING_MAX;
    assert_eq!(
        wait(echo(&edge, "one more")).unwrap_err(),
        CallError::TooManyInFlight { max }
    );
    calls.truncate(1);
    // Once this one is over, the thread that makes the calls knows of those that were dropped.
    let over = edge.call::<Echo>(&Text { text: "over" }, soon);
    assert!(wait(over).is_err());
    let wanted = echo(&edge, "wanted");
    let server = Running::start(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    assert_eq!(wait(wanted).unwrap().get().unwrap().text, "wanted");
    let first = calls.pop().unwrap();
    assert_eq!(wait(first).unwrap().get().unwrap().text, "given up");
    assert_eq!(server.executed.load(Ordering::SeqCst), 2);
}

#[test]
fn a_deadline_ends_a_call_that_waits_and_a_new_provider_answers_one_that_was_kept() {
    let host = Host::new("futures-deadline");
    let edge = AsyncEdge::<Ledger>::connect(&edge(&host, Duration::ZERO)).unwrap();
    let soon = CallOptions {
        deadline: Some(Duration::from_millis(20)),
        ..CallOptions::default()
    };
    // The contract's places are taken, and one more waits.
    let calls: Vec<_> = (0..Ledger::IN_FLIGHT)
        .map(|_| echo(&edge, "kept"))
        .collect();
    let late = edge.call::<Echo>(&Text { text: "late" }, soon);
    assert_eq!(wait(late).unwrap_err(), CallError::DeadlineExceeded);
    let first = Running::start(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    for call in calls {
        assert_eq!(wait(call).unwrap().get().unwrap().text, "kept");
    }
    drop(first);
    host.publish(RouteState::Hold, A, 0, None);
    let held = echo(&edge, "held");
    let _second = Running::start(&host, B, 1);
    host.publish(RouteState::Serve, B, 1, None);
    assert_eq!(wait(held).unwrap().get().unwrap().text, "held");
}

/// Says numbers again.
#[insula_ipc::contract(name = "again", major = 1, error = Never, crate = insula_ipc)]
trait Again {
    /// The number.
    #[method(id = 1, idempotent, deadline = "60s")]
    fn number(request: u64) -> u64;
    /// Always seven.
    #[method(id = 2, idempotent, deadline = "60s")]
    fn seven() -> u64;
}

#[derive(Debug, Clone, PartialEq, insula_ipc::Message)]
#[message(crate = insula_ipc)]
enum Never {
    Nothing,
}

struct Numbers;

impl AgainServer for Numbers {
    fn number(&mut self, _: &CallContext, request: u64, reply: Reply<'_, again::Number>) -> Answer {
        reply.send(&request)
    }

    fn seven(&mut self, _: &CallContext, reply: Reply<'_, again::Seven>) -> Answer {
        reply.send(&7)
    }
}

#[test]
fn a_generated_client_has_a_future_for_each_method() {
    let host = Host::new("futures-typed");
    let used = host.used::<Again>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    host.open_pair(A, CONSUMER);
    let (served, page) = (host.served::<Again>(CONSUMER), host.page());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let mut server = Server::new(A, 0, Duration::ZERO, AgainDispatch(Numbers), NoJournal);
        server.serve(served, page).unwrap();
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            if !server.turn() {
                std::thread::yield_now();
            }
        }
    });
    host.publish(RouteState::Serve, A, 0, None);
    let client = AgainAsyncClient::connect(&edge).unwrap();
    let calls: Vec<_> = (0..100).map(|number| client.number(&number)).collect();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(wait(call).unwrap().get().unwrap(), number as u64);
    }
    assert_eq!(wait(client.seven()).unwrap().get().unwrap(), 7);
    drop(stop);
    server.join().unwrap();
}

#[test]
fn an_async_edge_takes_a_connection_and_gives_it_back() {
    let host = Host::new("futures-slots");
    let edge = edge(&host, Duration::ZERO);
    let taken: Vec<_> = (0..CONNECTIONS)
        .map(|_| AsyncEdge::<Ledger>::connect(&edge).unwrap())
        .collect();
    let refused = AsyncEdge::<Ledger>::connect(&edge).unwrap_err();
    let no_slot = AsyncConnectError::Connect(ConnectError::NoSlot);
    assert_eq!(refused.to_string(), no_slot.to_string());
    drop(taken);
    // Closed by the other thread, in its own time.
    wait_until("a free connection", || edge.connect::<Ledger>().is_ok());
}
