//! Replies of many items, from real servers to real clients.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::{ServedEdge, UsedEdge};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Edge, Items};
use insula_ipc::contract::Contract;
use insula_ipc::payload::{InPlace, Text};
use insula_ipc::server::{Answer, CallContext, NoJournal, Reply, ReplyItems, Server, Sink};
use insula_ipc::testing::{self, Host};
use insula_ipc::{Message, contract};

use crate::common::{WATCHDOG, wait_until};
use crate::process::{Process, say, stay, variable};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);
/// The most bytes of a row.
const ROW: usize = 30_000;

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) enum BookError {
    Torn(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) struct Scan<'a> {
    #[message(max = 20)]
    title: Text<'a>,
    rows: u64,
    /// Ends with an error instead.
    torn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc)]
pub(crate) struct Row<'a> {
    number: u64,
    #[message(max = ROW)]
    content: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc, fixed)]
#[repr(C)]
pub(crate) struct Mark {
    page: u64,
    line: u64,
}

/// Rows, many at a time.
#[contract(name = "book", major = 1, error = BookError, in_flight = 4, crate = insula_ipc)]
pub(crate) trait Book {
    /// Short rows.
    #[method(id = 1, streaming, idempotent, deadline = "60s")]
    fn scan(request: Scan<'_>) -> Row<'_>;
    /// Rows of all lengths.
    #[method(id = 2, streaming, deadline = "60s")]
    fn mixed() -> Row<'_>;
    /// Marks.
    #[method(id = 3, streaming, idempotent, deadline = "60s", key = rows)]
    fn marks(request: Scan<'_>) -> InPlace<'_, Mark>;
    /// How many sources were dropped.
    #[method(id = 4, idempotent, deadline = "60s")]
    fn dropped() -> u64;
}

/// Counts the sources that end.
#[derive(Default, Clone)]
struct Counts {
    pulled: Rc<Cell<u64>>,
    dropped: Rc<Cell<u64>>,
}

struct OnDrop(Rc<Cell<u64>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[derive(Default)]
struct Shelf {
    counts: Counts,
    /// Called once, before a call is answered.
    before: Option<Box<dyn FnOnce()>>,
}

fn length_of(number: u64) -> usize {
    // Short ones, long ones, and some of the greatest length.
    match number % 7 {
        0 => ROW,
        1 => 15_000,
        2 => 0,
        _ => (number as usize * 37) % 500,
    }
}

impl BookServer for Shelf {
    fn scan(
        &mut self,
        _: &CallContext,
        request: Scan<'_>,
        reply: ReplyItems<'_, book::Scan>,
    ) -> Answer {
        if request.title == "missing" {
            return reply.fail(&BookError::Torn(0));
        }
        let (pulled, dropped) = (
            self.counts.pulled.clone(),
            OnDrop(self.counts.dropped.clone()),
        );
        let (rows, torn) = (request.rows, request.torn);
        let mut number = 0;
        reply.send(move |sink: Sink<'_, book::Scan>| {
            let _ends = &dropped;
            if number == rows {
                return match torn {
                    true => sink.fail(&BookError::Torn(rows)),
                    false => sink.end(),
                };
            }
            number += 1;
            pulled.set(number);
            sink.item(&Row {
                number: number - 1,
                content: b"row",
            })
        })
    }

    fn mixed(&mut self, _: &CallContext, reply: ReplyItems<'_, book::Mixed>) -> Answer {
        let mut number = 0;
        reply.send(move |sink: Sink<'_, book::Mixed>| {
            if number == 300 {
                return sink.end();
            }
            number += 1;
            let content = vec![number as u8; length_of(number - 1)];
            sink.item(&Row {
                number: number - 1,
                content: &content,
            })
        })
    }

    fn marks(
        &mut self,
        _: &CallContext,
        request: Scan<'_>,
        reply: ReplyItems<'_, book::Marks>,
    ) -> Answer {
        let mut left = request.rows;
        reply.send(move |sink: Sink<'_, book::Marks>| {
            if left == 0 {
                return sink.end();
            }
            left -= 1;
            sink.item_with(|mark| {
                *mark = Mark {
                    page: left,
                    line: 7,
                };
            })
        })
    }

    fn dropped(&mut self, _: &CallContext, reply: Reply<'_, book::Dropped>) -> Answer {
        if let Some(before) = self.before.take() {
            before();
        }
        reply.send(&self.counts.dropped.get())
    }
}

type BookService = Server<BookDispatch<Shelf>, NoJournal>;

fn serve(attempt: Attempt, slot: u8, served: ServedEdge, page: OwnedFd) -> BookService {
    let dispatch = BookDispatch(Shelf::default());
    let mut server = Server::new(attempt, slot, Duration::ZERO, dispatch, NoJournal);
    server.serve(served, page).unwrap();
    server
}

fn edge(host: &Host) -> Edge {
    let used = host.used::<Book>(CONSUMER);
    Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap()
}

fn scan(rows: u64) -> Scan<'static> {
    Scan {
        title: Text::new("any"),
        rows,
        torn: false,
    }
}

/// Runs a server that turns and parks, until the test is over.
fn with_server<T>(name: &str, act: impl FnOnce(&Host, &BookClient) -> T) -> T {
    struct Stop<'a>(&'a AtomicBool, &'a insula_ipc::server::Waker);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
            self.1.wake();
        }
    }
    let host = Host::new(name);
    host.open_pair(A, CONSUMER);
    let (served, page) = (host.served::<Book>(CONSUMER), host.page());
    let stop = AtomicBool::new(false);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|threads| {
        let stopped = &stop;
        threads.spawn(move || {
            let mut server = serve(A, 0, served, page);
            tell.send(server.waker()).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                if !server.turn() {
                    server.park();
                }
            }
        });
        let waker = told.recv_timeout(WATCHDOG).unwrap();
        let _stop = Stop(&stop, &waker);
        host.publish(RouteState::Serve, A, 0, None);
        act(&host, &BookClient::connect(&edge(&host)).unwrap())
    })
}

/// All that is left to read.
fn rest<M>(items: &mut Items<M>) -> (Vec<u64>, Option<CallError<BookError>>)
where
    M: insula_ipc::items::Streaming<Response = Row<'static>, Contract = Book>,
{
    let mut numbers = Vec::new();
    loop {
        match items.next() {
            Ok(Some(item)) => numbers.push(item.get().unwrap().number),
            Ok(None) => return (numbers, None),
            Err(error) => return (numbers, Some(error)),
        }
    }
}

#[test]
fn every_item_comes_once_and_in_order() {
    with_server("items-order", |_, client| {
        for rows in [0, 1, 63, 64, 65, 10_000] {
            let mut items = client.scan(&scan(rows)).unwrap();
            assert_eq!(rest(&mut items), ((0..rows).collect(), None));
            assert!(items.next().unwrap().is_none());
        }
        let mut items = client.marks(&scan(1000)).unwrap();
        for left in (0..1000).rev() {
            let mark = items.next().unwrap().unwrap().get().unwrap();
            assert_eq!(mark.page().get(), left);
            assert_eq!(mark.line().get(), 7);
        }
        assert!(items.next().unwrap().is_none());
    });
}

#[test]
fn items_of_all_lengths_share_chunks_or_have_their_own() {
    with_server("items-lengths", |_, client| {
        let mut items = client.mixed().unwrap();
        for number in 0..300 {
            let item = items.next().unwrap().unwrap();
            let row = item.get().unwrap();
            assert_eq!(row.number, number);
            assert_eq!(row.content.len(), length_of(number));
            assert!(row.content.iter().all(|byte| *byte == (number + 1) as u8));
        }
        assert!(items.next().unwrap().is_none());
    });
}

#[test]
fn an_error_ends_the_items_and_comes_after_them() {
    with_server("items-error", |_, client| {
        for rows in [0, 1, 64, 100] {
            let request = Scan {
                torn: true,
                ..scan(rows)
            };
            let mut items = client.scan(&request).unwrap();
            let torn = CallError::Failed(BookError::Torn(rows));
            assert_eq!(rest(&mut items), ((0..rows).collect(), Some(torn)));
            assert!(items.next().unwrap().is_none(), "nothing after an error");
        }
        let missing = Scan {
            title: Text::new("missing"),
            ..scan(3)
        };
        let error = client.scan(&missing).unwrap().next().unwrap_err();
        assert_eq!(error, CallError::Failed(BookError::Torn(0)));
    });
}

#[test]
fn a_reply_by_schema_is_an_array() {
    use insula_ipc::dynamic::{DynamicCallError, DynamicClient};
    use serde_json::json;
    with_server("items-schema", |host, _| {
        let client = DynamicClient::connect(&edge(host), Book::schema()).unwrap();
        let options = CallOptions::default();
        let call = |rows: u64, torn: bool| {
            let request = json!({"title": "any", "rows": rows, "torn": torn});
            client.call("scan", &request, options)
        };
        let rows = (0..200).map(|number| json!({"number": number, "content": "row"}));
        assert_eq!(
            call(200, false).unwrap(),
            rows.collect::<serde_json::Value>()
        );
        let Err(DynamicCallError::Failed(error)) = call(100, true) else {
            panic!("an error");
        };
        assert_eq!(error, json!({"Torn": 100}));
    });
}

#[test]
fn replies_and_calls_take_turns_on_one_connection() {
    with_server("items-turns", |_, client| {
        let mut one = client.scan(&scan(1000)).unwrap();
        for number in 0..500 {
            assert_eq!(one.next().unwrap().unwrap().get().unwrap().number, number);
        }
        // Requests of the connection are few; who finds none left waits for its own.
        let dropped = client.dropped().unwrap();
        assert_eq!(dropped.get().unwrap(), 0);
        drop(dropped);
        let mut other = client.scan(&scan(70)).unwrap();
        assert_eq!(rest(&mut other), ((0..70).collect(), None));
        assert_eq!(rest(&mut one), ((500..1000).collect(), None));
        assert_eq!(client.dropped().unwrap().get().unwrap(), 2);
    });
}

/// A server on the test's own thread, turned by hand.
fn by_hand(host: &Host, attempt: Attempt, slot: u8) -> (BookService, Counts) {
    host.open_pair(attempt, CONSUMER);
    let mut server = serve(attempt, slot, host.served::<Book>(CONSUMER), host.page());
    let counts = server.dispatch_mut().0.counts.clone();
    (server, counts)
}

#[test]
fn nothing_is_computed_for_who_does_not_read() {
    let host = Host::new("items-credit");
    let (mut server, counts) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    let mut items = client.scan(&scan(100_000)).unwrap();
    assert_eq!(counts.pulled.get(), 0);
    while server.turn() {}
    assert_eq!(counts.pulled.get(), 64, "one answer");
    assert_eq!(items.next().unwrap().unwrap().get().unwrap().number, 0);
    while server.turn() {}
    assert_eq!(counts.pulled.get(), 3 * 64, "and two ahead");
    for _ in 1..64 {
        items.next().unwrap().unwrap();
    }
    assert!(!server.turn(), "nothing is asked for before it is needed");
    assert_eq!(items.next().unwrap().unwrap().get().unwrap().number, 64);
    while server.turn() {}
    assert_eq!(counts.pulled.get(), 4 * 64);
    assert_eq!(server.open_sources(), 1);
    drop(items);
    server.turn();
    assert_eq!((server.open_sources(), counts.dropped.get()), (0, 1));

    // Also where the first answer was not waited for.
    let items = client.scan(&scan(100_000)).unwrap();
    server.turn();
    assert_eq!(server.open_sources(), 1);
    drop(items);
    server.turn();
    assert_eq!((server.open_sources(), counts.dropped.get()), (0, 2));
}

#[test]
fn a_source_ends_at_the_deadline_and_with_its_client() {
    let host = Host::new("items-deadline");
    let (mut server, counts) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    // The server has to take it before its deadline: on a host that is slow, a later one.
    let mut deadline = Duration::from_millis(100);
    let mut items = loop {
        let options = CallOptions {
            deadline: Some(deadline),
            ..CallOptions::default()
        };
        let mut items = client.scan_with(&scan(100_000), options).unwrap();
        server.turn();
        match items.next() {
            Ok(first) => {
                assert!(first.is_some());
                break items;
            }
            Err(error) => assert_eq!(error, CallError::DeadlineExceeded),
        }
        assert!(deadline < WATCHDOG, "watchdog: a request is taken in time");
        deadline *= 2;
    };
    let opened = server.open_sources() + counts.dropped.get() as usize;
    assert!(opened >= 1, "it was opened");
    // Nobody rings: the server wakes by itself, or its watchdog wakes it.
    let waker = server.waker();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            if is_done.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                waker.wake();
            }
        });
        let begun = Instant::now();
        while server.open_sources() > 0 {
            assert!(begun.elapsed() < WATCHDOG, "watchdog: a source ends");
            server.park();
            server.turn();
        }
        drop(done);
    });
    let dropped = counts.dropped.get();
    assert!(dropped >= 1);
    let (read, error) = rest(&mut items);
    assert!(read.len() >= 63, "what was there is read: {}", read.len());
    assert_eq!(error, Some(CallError::DeadlineExceeded));

    let _items = client.scan(&scan(100_000)).unwrap();
    server.turn();
    assert_eq!(server.open_sources(), 1);
    server.unserve(EdgeId(1), CONSUMER);
    assert_eq!(
        (server.open_sources(), counts.dropped.get()),
        (0, dropped + 1)
    );
}

#[test]
fn a_connection_has_no_more_sources_than_requests() {
    let host = Host::new("items-quota");
    let (mut server, _) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    let mut open = Vec::new();
    for _ in 0..Book::IN_FLIGHT {
        let items = client.scan(&scan(100_000)).unwrap();
        server.turn();
        open.push(items);
    }
    assert_eq!(server.open_sources(), Book::IN_FLIGHT);
    // Its answers lie there and hold the connection's requests.
    let held = client.scan(&scan(1)).unwrap_err();
    let max = Book::IN_FLIGHT;
    assert_eq!(held, CallError::TooManyInFlight { max });
    let mut left = open.pop().unwrap();
    assert!(left.next().is_ok());
    // One that was given up by its deadline alone still counts.
    std::mem::forget(left);
}

#[test]
fn a_reply_is_not_resumed_elsewhere() {
    let host = Host::new("items-route");
    let (mut first, _) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    let mut items = client.scan(&scan(100_000)).unwrap();
    let mut drained = client.scan(&scan(100_000)).unwrap();
    first.turn();
    assert!(items.next().unwrap().is_some());
    first.drain();
    assert_eq!(first.open_sources(), 0);
    let (mut second, counts) = by_hand(&host, B, 1);
    host.publish(RouteState::Serve, B, 1, Some(A));
    let (read, error) = rest(&mut items);
    assert_eq!(read, Vec::from_iter(1..64));
    assert_eq!(error, Some(CallError::OutcomeUnknown));
    let (read, error) = rest(&mut drained);
    assert_eq!(read, Vec::from_iter(0..64));
    assert_eq!(error, Some(CallError::OutcomeUnknown));
    assert!(!second.turn(), "the successor was not asked");

    // One whose opening has no answer yet is opened at the successor.
    let mut items = client.scan(&scan(3)).unwrap();
    second.drain();
    assert_eq!(counts.pulled.get(), 0);
    let (mut third, _) = by_hand(&host, Attempt(3), 2);
    host.publish(RouteState::Serve, Attempt(3), 2, Some(B));
    // Waits once, so that it is sent again; then the answer lies there.
    let mut ticket = client.submit_dropped(CallOptions::default()).unwrap();
    assert!(ticket.poll().is_none());
    while third.turn() {}
    assert_eq!(rest(&mut items), (vec![0, 1, 2], None));
}

/// The answer to a request that was given up while it was executed lies in the place that the next
/// request uses.
#[test]
fn an_answer_is_not_lost_behind_one_that_nobody_wants() {
    let host = Host::new("items-given-up");
    let (mut server, _) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    // Places are used in turn: in one of these rounds it is the same one.
    for steps in 0..12 {
        give_up_while_executed(&client, &mut server, steps);
    }
}

fn give_up_while_executed(client: &BookClient, server: &mut BookService, steps: usize) {
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    let submit = move |client: &BookClient| client.submit_dropped(options).unwrap();
    let given_up = submit(client);
    let others: Vec<_> = (1..Book::IN_FLIGHT).map(|_| submit(client)).collect();
    let next = Rc::new(Cell::new(None));
    server.dispatch_mut().0.before = Some(Box::new({
        let (next, client) = (next.clone(), client.clone());
        move || {
            drop(given_up);
            for _ in 0..steps {
                drop(submit(&client));
            }
            next.set(Some(submit(&client)));
        }
    }));
    server.turn();
    for mut ticket in others.into_iter().chain(next.take()) {
        let answered = loop {
            match ticket.poll() {
                Some(answered) => break answered.unwrap(),
                None => server.turn(),
            };
        };
        assert_eq!(answered.get().unwrap(), 0);
    }
}

/// Not a test: what the children of the tests below run.
#[test]
fn role() {
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    let page = testing::inherited(variable("PAGE").parse().unwrap());
    let routes = testing::inherited(variable("ROUTES").parse().unwrap());
    let contract = "book@1".parse().unwrap();
    match role.as_str() {
        "reader" => {
            let used = UsedEdge {
                edge: EdgeId(1),
                contract,
                provider: "provider".parse().unwrap(),
                parent: variable("PARENT"),
                route: 0,
                consumer: CONSUMER,
                policy: Default::default(),
            };
            let edge = Edge::new(used, &routes, page, Duration::ZERO).unwrap();
            let client = BookClient::connect(&edge).unwrap();
            let mut items = client.scan(&scan(100_000)).unwrap();
            items.next().unwrap().unwrap();
            say("reading");
            stay();
        }
        "server" => {
            let served = ServedEdge {
                edge: EdgeId(1),
                contract,
                parent: variable("PARENT"),
                consumer_name: "consumer".to_owned(),
                consumer: CONSUMER,
                limits: Default::default(),
            };
            let mut server = serve(A, 0, served, page);
            say("serving");
            loop {
                if !server.turn() {
                    server.park();
                }
            }
        }
        _ => panic!("no such role"),
    }
}

#[test]
fn a_killed_reader_leaves_nothing_open() {
    let host = Host::new("items-reader-killed");
    let (mut server, counts) = by_hand(&host, A, 0);
    host.publish(RouteState::Serve, A, 0, None);
    let mut child = Process::start("replies::role", "reader", &host, &[]);
    wait_until("a source", || {
        server.turn();
        server.open_sources() == 1
    });
    child.says("reading");
    child.kill();
    host.close_pair(A, CONSUMER);
    while server.turn() {}
    server.unserve(EdgeId(1), CONSUMER);
    assert_eq!((server.open_sources(), counts.dropped.get()), (0, 1));
}

#[test]
fn a_killed_server_ends_the_items() {
    let host = Host::new("items-server-killed");
    host.open_pair(A, CONSUMER);
    let mut child = Process::start("replies::role", "server", &host, &[]);
    child.says("serving");
    host.publish(RouteState::Serve, A, 0, None);
    let client = BookClient::connect(&edge(&host)).unwrap();
    let mut items = client.scan(&scan(1_000_000)).unwrap();
    for _ in 0..100 {
        items.next().unwrap().unwrap();
    }
    child.kill();
    host.publish(RouteState::Gone, A, 0, None);
    host.close_pair(A, CONSUMER);
    let (read, error) = rest(&mut items);
    assert_eq!(read, Vec::from_iter(100..100 + read.len() as u64));
    assert!(read.len() <= 4 * 64, "{}", read.len());
    assert_eq!(error, Some(CallError::OutcomeUnknown));
}
