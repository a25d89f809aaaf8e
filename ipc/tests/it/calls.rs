//! Calls between a connection and a server in one process, the test playing the supervisor.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::contract::*;
use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge, Refusal};
use insula_ipc::contract::{CONNECTIONS, Contract, Method};
use insula_ipc::server::{Server, Waker};
use insula_ipc::testing::Host;

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);

fn connect(host: &Host) -> Connection {
    edge(host).connect::<Ledger>().unwrap()
}

fn edge(host: &Host) -> Edge {
    Edge::new(
        host.used::<Ledger>(CONSUMER),
        host.routes(),
        host.page(),
        Duration::ZERO,
    )
    .unwrap()
}

fn text(text: &str) -> Text<'_> {
    Text { text }
}

fn within(duration: Duration) -> CallOptions {
    CallOptions {
        deadline: Some(duration),
        ..CallOptions::default()
    }
}

/// A server on the test's own thread, turned by hand.
fn server(host: &Host, attempt: Attempt, slot: u8) -> Server<Service, FileJournal> {
    host.open_pair(attempt, CONSUMER);
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut server = Server::new(attempt, slot, Duration::ZERO, service, journal);
    server
        .serve(host.served::<Ledger>(CONSUMER), host.page())
        .unwrap();
    server
}

type Order = Box<dyn FnOnce(&mut Server<Service, FileJournal>) + Send>;

/// A server on a thread of its own, that turns and parks until told otherwise.
struct Running {
    waker: Waker,
    orders: mpsc::Sender<Order>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(host: &Host, attempt: Attempt, slot: u8, spin: Duration) -> Self {
        host.open_pair(attempt, CONSUMER);
        let (served, page) = (host.served::<Ledger>(CONSUMER), host.page());
        let (orders, inbox) = mpsc::channel::<Order>();
        let (tell, told) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let journal = FileJournal::default();
            let service = Service {
                journal: journal.clone(),
                ..Service::default()
            };
            let mut server = Server::new(attempt, slot, spin, service, journal);
            server.serve(served, page).unwrap();
            tell.send(server.waker()).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                while let Ok(order) = inbox.try_recv() {
                    order(&mut server);
                }
                if !server.turn() {
                    server.park();
                }
            }
        });
        let waker = told.recv().unwrap();
        Self {
            waker,
            orders,
            stop,
            thread: Some(thread),
        }
    }

    fn order(&self, order: impl FnOnce(&mut Server<Service, FileJournal>) + Send + 'static) {
        let (tell, told) = mpsc::channel();
        self.orders
            .send(Box::new(move |server| {
                order(server);
                tell.send(()).unwrap();
            }))
            .unwrap();
        self.waker.wake();
        told.recv_timeout(WATCHDOG).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_call_is_answered_parked_and_spinning() {
    for (index, spin) in [Duration::ZERO, Duration::from_micros(20), Duration::MAX]
        .iter()
        .enumerate()
    {
        let host = Host::new(&format!("answered-{index}"));
        let _server = Running::start(&host, A, 0, *spin);
        host.publish(RouteState::Serve, A, 0, None);
        let edge = Edge::new(
            host.used::<Ledger>(CONSUMER),
            host.routes(),
            host.page(),
            *spin,
        )
        .unwrap();
        let connection = edge.connect::<Ledger>().unwrap();
        for round in 0..200 {
            let said = format!("round {round}");
            let response = connection
                .call::<Echo>(&text(&said), CallOptions::default())
                .unwrap();
            assert_eq!(response.get().unwrap().text, said);
        }
        let longest = "x".repeat(TEXT_MAX);
        let response = connection
            .call::<Echo>(&text(&longest), CallOptions::default())
            .unwrap();
        assert_eq!(response.get().unwrap().text, longest);
        let error = connection
            .call::<Refuse>(&text("four"), CallOptions::default())
            .unwrap_err();
        assert_eq!(error, CallError::Failed(LedgerError::Refused(4)));
    }
}

#[test]
fn requests_are_pipelined_up_to_the_contracts_limit() {
    let host = Host::new("pipelined");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let names: Vec<String> = (0..Ledger::IN_FLIGHT)
        .map(|n| format!("request {n}"))
        .collect();
    let mut tickets: Vec<_> = names
        .iter()
        .map(|name| {
            connection
                .submit::<Echo>(&text(name), CallOptions::default())
                .unwrap()
        })
        .collect();
    let full = CallError::TooManyInFlight {
        max: Ledger::IN_FLIGHT,
    };
    let options = CallOptions::default();
    assert_eq!(
        connection
            .submit::<Echo>(&text("one more"), options)
            .unwrap_err(),
        full
    );
    assert!(tickets[0].poll().is_none());
    assert!(server.turn());
    connection.wait_any();
    let responses: Vec<_> = tickets
        .into_iter()
        .map(|ticket| ticket.wait().unwrap())
        .collect();
    for (name, response) in names.iter().zip(&responses) {
        assert_eq!(response.get().unwrap().text, name);
    }
    // A held response keeps its place.
    assert_eq!(
        connection
            .submit::<Echo>(&text("one more"), options)
            .unwrap_err(),
        full
    );
    drop(responses);
    for _ in 0..100 {
        let ticket = connection.submit::<Echo>(&text("again"), options).unwrap();
        assert!(server.turn());
        assert_eq!(ticket.wait().unwrap().get().unwrap().text, "again");
    }
}

#[test]
fn a_dropped_ticket_is_not_executed_and_frees_its_place() {
    let host = Host::new("dropped");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let executed = server.dispatch_mut().executed.clone();
    for _ in 0..20 * Ledger::IN_FLIGHT {
        let ticket = connection.submit::<Echo>(&text("unwanted"), CallOptions::default());
        drop(ticket.unwrap());
    }
    server.turn();
    let ticket = connection
        .submit::<Echo>(&text("wanted"), CallOptions::default())
        .unwrap();
    let mut ticket = Some(ticket);
    wait_until("the wanted answer", || {
        server.turn();
        match ticket.as_mut().unwrap().poll() {
            Some(outcome) => outcome.unwrap().get().unwrap().text == "wanted",
            None => false,
        }
    });
    assert_eq!(*executed.borrow(), [Echo::ID]);
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let host = Host::new("oversize");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let long = "x".repeat(TEXT_MAX + 1);
    let error = connection
        .call::<Echo>(&text(&long), CallOptions::default())
        .unwrap_err();
    assert_eq!(
        error,
        CallError::TooLarge {
            max: Ledger::REQUEST_MAX
        }
    );
    assert!(!server.turn());
}

#[test]
fn an_unknown_method_is_refused() {
    let host = Host::new("unknown");
    let _server = Running::start(&host, A, 0, Duration::ZERO);
    host.publish(RouteState::Serve, A, 0, None);
    let error = connect(&host)
        .call::<Unheard>(&text(""), CallOptions::default())
        .unwrap_err();
    assert_eq!(error, CallError::Refused(Refusal::UnknownMethod));
}

#[test]
fn a_deadline_ends_a_call_and_an_expired_request_is_not_executed() {
    let host = Host::new("deadline");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let executed = server.dispatch_mut().executed.clone();
    let ticket = connection
        .submit::<Add>(&text("late"), within(Duration::from_millis(20)))
        .unwrap();
    let late = ticket.wait().unwrap_err();
    assert_eq!(late, CallError::DeadlineExceeded);
    let mut ticket = connection
        .submit::<Add>(&text("later"), within(Duration::ZERO))
        .unwrap();
    let sent = Instant::now();
    wait_until("the server's coarse clock", || {
        sent.elapsed() > Duration::from_millis(20)
    });
    assert!(server.turn());
    assert_eq!(
        ticket.poll().unwrap().unwrap_err(),
        CallError::DeadlineExceeded
    );
    assert!(executed.borrow().is_empty());
}

#[test]
fn without_a_provider_a_call_waits_as_long_as_it_may() {
    let host = Host::new("gone");
    let connection = connect(&host);
    let options = CallOptions {
        wait_for_provider: Some(Duration::from_millis(20)),
        ..CallOptions::default()
    };
    let error = connection
        .call::<Echo>(&text("anybody?"), options)
        .unwrap_err();
    assert_eq!(error, CallError::Unavailable);

    // Serving, but its channel is not open yet: the call is kept until it is.
    let ticket = connection
        .submit::<Echo>(&text("anybody?"), CallOptions::default())
        .unwrap();
    host.publish(RouteState::Serve, A, 0, None);
    let host = Arc::new(host);
    let theirs = host.clone();
    let thread = std::thread::spawn(move || Running::start(&theirs, A, 0, Duration::ZERO));
    assert_eq!(ticket.wait().unwrap().get().unwrap().text, "anybody?");
    drop(thread.join().unwrap());
}

#[test]
fn a_held_request_goes_to_the_successor() {
    let host = Host::new("hold");
    let first = Running::start(&host, A, 0, Duration::ZERO);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    connection
        .call::<Echo>(&text("before"), CallOptions::default())
        .unwrap();

    host.publish(RouteState::Hold, A, 0, None);
    let mut held = connection
        .submit::<Risk>(&text("held"), CallOptions::default())
        .unwrap();
    assert!(held.poll().is_none());
    first.order(Server::drain);
    let second = Running::start(&host, B, 1, Duration::ZERO);
    assert!(
        held.poll().is_none(),
        "nothing is sent while the route holds"
    );
    host.publish(RouteState::Serve, B, 1, Some(A));
    assert_eq!(held.wait().unwrap().get().unwrap().text, "held");
    second.order(|server| {
        assert_eq!(*server.dispatch_mut().executed.borrow(), [Risk::ID]);
    });
}

#[test]
fn what_a_draining_server_refuses_is_executed_by_its_successor() {
    let host = Host::new("drain");
    let mut first = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let mut ticket = connection
        .submit::<Risk>(&text("risky"), CallOptions::default())
        .unwrap();
    first.drain();
    assert!(ticket.poll().is_none());
    // Sent after the last look of the drained server, so not even refused.
    let unseen = connection
        .submit::<Risk>(&text("unseen"), CallOptions::default())
        .unwrap();
    let mut second = server(&host, B, 1);
    host.publish(RouteState::Serve, B, 1, Some(A));
    let mut outcomes = vec![ticket, unseen];
    wait_until("both answers", || {
        second.turn();
        outcomes.retain_mut(|ticket| ticket.poll().map(Result::unwrap).is_none());
        outcomes.is_empty()
    });
    assert!(first.dispatch_mut().executed.borrow().is_empty());
    assert_eq!(
        *second.dispatch_mut().executed.borrow(),
        [Risk::ID, Risk::ID]
    );
}

#[test]
fn the_fate_of_a_request_at_a_server_that_left_depends_on_its_safety() {
    let host = Host::new("safety");
    let mut first = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let options = CallOptions::default();
    let mut risk = connection.submit::<Risk>(&text("risk"), options).unwrap();
    let mut echo = connection.submit::<Echo>(&text("echo"), options).unwrap();
    let mut add = connection.submit::<Add>(&text("add"), options).unwrap();
    host.publish(RouteState::Gone, A, 0, None);
    assert_eq!(risk.poll().unwrap().unwrap_err(), CallError::OutcomeUnknown);
    assert!(echo.poll().is_none());
    let mut second = server(&host, B, 1);
    host.publish(RouteState::Serve, B, 1, None);
    assert!(echo.poll().is_none());
    assert!(second.turn());
    assert_eq!(echo.poll().unwrap().unwrap().get().unwrap().text, "echo");
    assert_eq!(add.poll().unwrap().unwrap().get().unwrap(), 1);
    assert!(!first.turn(), "what its client gave up is not executed");
}

#[test]
fn an_answer_that_lies_there_is_taken_although_its_server_left() {
    let host = Host::new("answered-and-left");
    let mut first = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let ticket = connection
        .submit::<Risk>(&text("answered"), CallOptions::default())
        .unwrap();
    assert!(first.turn());
    host.publish(RouteState::Gone, A, 0, None);
    drop(first);
    host.close_pair(A, CONSUMER);
    assert_eq!(ticket.wait().unwrap().get().unwrap().text, "answered");
}

#[test]
fn a_follower_refuses_and_the_same_request_is_executed_once_it_leads() {
    let host = Host::new("follower");
    let server = Running::start(&host, A, 0, Duration::ZERO);
    server.order(|server| server.lead(false));
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let error = connection
        .call::<Add>(&text(""), within(Duration::from_millis(50)))
        .unwrap_err();
    // At its deadline it was kept here, or on its way to be refused once more.
    assert!(matches!(
        error,
        CallError::Unavailable | CallError::DeadlineExceeded
    ));
    server.order(|server| assert!(server.dispatch_mut().executed.borrow().is_empty()));
    let ticket = connection
        .submit::<Add>(&text(""), CallOptions::default())
        .unwrap();
    server.order(|server| server.lead(true));
    assert_eq!(ticket.wait().unwrap().get().unwrap(), 1);
}

#[test]
fn a_batch_is_one_commit_and_its_answers_wait_for_it() {
    let host = Host::new("batch");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let options = CallOptions::default();
    let mut adds: Vec<_> = (0..5)
        .map(|_| connection.submit::<Add>(&text(""), options).unwrap())
        .collect();
    let mut echo = connection.submit::<Echo>(&text("now"), options).unwrap();
    let journal = server.journal_mut().clone();
    let seen = Rc::new(RefCell::new(None));
    {
        // At the moment of the commit the read is answered, and no write.
        let connection = connection.clone();
        let seen = seen.clone();
        let mut extra = Some(connection.submit::<Add>(&text(""), options).unwrap());
        journal.after_commit(move || {
            let echoed = echo.poll().map(|outcome| outcome.unwrap());
            let added = extra.as_mut().unwrap().poll().is_some();
            *seen.borrow_mut() = Some((echoed.is_some(), added));
        });
    }
    assert!(server.turn());
    assert_eq!(*seen.borrow(), Some((true, false)));
    assert_eq!(journal.commits(), 1);
    let totals: Vec<u64> = adds
        .iter_mut()
        .map(|add| add.poll().unwrap().unwrap().get().unwrap())
        .collect();
    assert_eq!(totals, [1, 2, 3, 4, 5]);
}

#[test]
fn a_failed_commit_answers_nobody_and_the_requests_come_again() {
    let host = Host::new("failed-commit");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let journal = server.journal_mut().clone();
    journal.fail_commits(2);
    let mut adds: Vec<_> = (0..3)
        .map(|_| {
            connection
                .submit::<Add>(&text(""), CallOptions::default())
                .unwrap()
        })
        .collect();
    let mut totals = Vec::new();
    wait_until("three answers", || {
        server.turn();
        adds.retain_mut(|add| match add.poll() {
            Some(outcome) => {
                totals.push(outcome.unwrap().get().unwrap());
                false
            }
            None => true,
        });
        adds.is_empty()
    });
    totals.sort_unstable();
    assert_eq!(totals, [1, 2, 3]);
    assert_eq!(journal.total(), 3);
}

#[test]
fn answers_are_forgotten_once_their_client_has_them() {
    let host = Host::new("forget");
    let server = Running::start(&host, A, 0, Duration::ZERO);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    for _ in 0..50 {
        connection
            .call::<Add>(&text(""), CallOptions::default())
            .unwrap();
    }
    let (edge, consumer) = {
        let used = host.used::<Ledger>(CONSUMER);
        (used.edge, used.consumer)
    };
    server.order(move |server| {
        assert_eq!(server.journal_mut().kept(), 1);
        server.unserve(edge, consumer);
        assert_eq!(server.journal_mut().kept(), 0);
        assert_eq!(server.edges().count(), 0);
    });
}

#[test]
fn a_slot_that_is_used_again_goes_on_with_its_numbers() {
    let host = Host::new("slots");
    let _server = Running::start(&host, A, 0, Duration::ZERO);
    host.publish(RouteState::Serve, A, 0, None);
    let edge = edge(&host);
    for expected in 1..=10 {
        let connection = edge.connect::<Ledger>().unwrap();
        let response = connection
            .call::<Add>(&text(""), CallOptions::default())
            .unwrap();
        assert_eq!(
            response.get().unwrap(),
            expected,
            "not the recorded answer of another"
        );
    }
    let all: Vec<_> = (0..CONNECTIONS)
        .map(|_| edge.connect::<Ledger>().unwrap())
        .collect();
    assert!(edge.connect::<Ledger>().is_err());
    for connection in &all {
        connection
            .call::<Echo>(&text("hi"), CallOptions::default())
            .unwrap();
    }
}

#[test]
fn an_end_whose_directory_is_gone_is_dropped_in_peace() {
    let host = Host::new("unlinked");
    let mut server = server(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let connection = connect(&host);
    let answered = connection
        .submit::<Echo>(&text("answered"), CallOptions::default())
        .unwrap();
    assert!(server.turn());
    let response = answered.wait().unwrap();
    let waiting = connection
        .submit::<Echo>(&text("waiting"), CallOptions::default())
        .unwrap();
    host.close_pair(A, CONSUMER);
    // What is mapped goes on working.
    assert!(server.turn());
    assert_eq!(waiting.wait().unwrap().get().unwrap().text, "waiting");
    let pending = connection
        .submit::<Echo>(&text("pending"), CallOptions::default())
        .unwrap();
    drop(server);
    assert_eq!(response.get().unwrap().text, "answered");
    drop((response, pending, connection));
}
