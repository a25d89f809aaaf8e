//! More requests than a server can or may execute.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::policy::{EdgeLimits, EdgePolicy, RateLimit, RetryPolicy, Shedding};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge, Ticket};
use insula_ipc::contract::{CONNECTIONS, Contract, Method};
use insula_ipc::server::{Answer, CallContext, Dispatch, NoJournal, ReplySlot, Server};
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service, wait_until};
use crate::contract::{Add, Echo, Ledger, LedgerError, TEXT_MAX, Text};

const A: Attempt = Attempt(1);
const FLOODER: Attempt = Attempt(501);
const POLITE: Attempt = Attempt(502);

type Ours = Server<Service, FileJournal>;

fn text(text: &str) -> Text<'_> {
    Text { text }
}

/// Never sends a refused request again.
fn stubborn() -> EdgePolicy {
    EdgePolicy {
        retries: RetryPolicy {
            percent: 0,
            reserve: 0,
            per_second: 0,
        },
        ..EdgePolicy::default()
    }
}

fn edge_with(host: &Host, consumer: Attempt, policy: EdgePolicy) -> Edge {
    let mut used = host.used::<Ledger>(consumer);
    used.policy = policy;
    Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap()
}

fn connect(host: &Host, consumer: Attempt) -> Connection {
    edge_with(host, consumer, stubborn())
        .connect::<Ledger>()
        .unwrap()
}

/// A server without edges, turned by hand.
fn server() -> Ours {
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    Server::new(A, 0, Duration::ZERO, service, journal)
}

/// Adds the edge that this host stands for.
fn serve(server: &mut Ours, host: &Host, consumer: Attempt, limits: EdgeLimits) {
    host.open_pair(A, consumer);
    let mut edge = host.served::<Ledger>(consumer);
    edge.edge = EdgeId(consumer.0);
    edge.limits = limits;
    server.serve(edge, host.page()).unwrap();
    host.publish(RouteState::Serve, A, 0, None);
}

/// Turns until every ticket has its outcome; who answered in which order does not matter.
fn outcomes<M: Method<Contract = Ledger>>(
    server: &mut Ours,
    tickets: Vec<Ticket<M>>,
) -> Vec<Result<(), CallError<LedgerError>>> {
    let mut left = tickets;
    let mut all = Vec::new();
    wait_until("all outcomes", || {
        server.turn();
        left.retain_mut(|ticket| match ticket.poll() {
            Some(outcome) => {
                all.push(outcome.map(drop));
                false
            }
            None => true,
        });
        left.is_empty()
    });
    all
}

fn submit(connection: &Connection, count: usize) -> Vec<Ticket<Echo>> {
    (0..count)
        .map(|_| {
            connection
                .submit::<Echo>(&text("work"), CallOptions::default())
                .unwrap()
        })
        .collect()
}

fn count(
    outcomes: &[Result<(), CallError<LedgerError>>],
    wanted: &CallError<LedgerError>,
) -> usize {
    outcomes
        .iter()
        .filter(|outcome| outcome.as_ref().err() == Some(wanted))
        .count()
}

#[test]
fn beyond_its_rate_an_edge_is_refused_and_told_so() {
    let host = Host::new("rate");
    let mut server = server();
    let rate = RateLimit {
        // The next token comes long after the test.
        per_second: 1,
        burst: 5,
    };
    let limits = EdgeLimits {
        rate: Some(rate),
        ..EdgeLimits::default()
    };
    serve(&mut server, &host, FLOODER, limits);
    let connection = connect(&host, FLOODER);
    let begun = Instant::now();
    let tickets = submit(&connection, Ledger::IN_FLIGHT);
    let all = outcomes(&mut server, tickets);
    let refilled = begun.elapsed().as_secs() as usize;
    let executed = server.dispatch_mut().executed.borrow().len();
    assert!((5..=5 + refilled).contains(&executed), "{executed}");
    let refused = count(&all, &CallError::QuotaExceeded);
    assert_eq!(refused, Ledger::IN_FLIGHT - executed);
}

#[test]
fn only_so_many_requests_of_an_edge_wait_at_once() {
    let host = Host::new("waiting");
    let mut server = server();
    let limits = EdgeLimits {
        waiting: Some(3),
        ..EdgeLimits::default()
    };
    serve(&mut server, &host, FLOODER, limits);
    let edge = edge_with(&host, FLOODER, stubborn());
    let connections: Vec<_> = (0..2).map(|_| edge.connect::<Ledger>().unwrap()).collect();
    // One after the other, any number.
    for _ in 0..20 {
        let all = outcomes(&mut server, submit(&connections[0], 1));
        assert_eq!(all, [Ok(())]);
    }
    // Over both connections, three at once.
    let mut tickets = submit(&connections[0], 4);
    tickets.extend(submit(&connections[1], 4));
    let all = outcomes(&mut server, tickets);
    assert_eq!(count(&all, &CallError::QuotaExceeded), 5);
    assert_eq!(server.dispatch_mut().executed.borrow().len(), 23);
    // What waits here and is given up is not executed, and makes room.
    let given_up = submit(&connections[0], 3);
    let ran = server.dispatch_mut().executed.clone();
    let first = Rc::new(RefCell::new(Some(given_up)));
    let mut wanted = submit(&connections[1], 1);
    {
        // While the first of them is executed, its client gives up the rest.
        let first = first.clone();
        server.dispatch_mut().before = Some(Box::new(move |_| drop(first.borrow_mut().take())));
    }
    wait_until("the one that came fourth", || {
        server.turn();
        wanted.retain_mut(|ticket| ticket.poll().is_none());
        wanted.is_empty()
    });
    assert_eq!(
        ran.borrow().len(),
        24,
        "of four, one was refused, two given up"
    );
}

#[test]
fn under_overload_the_late_are_refused_and_goodput_stays() {
    let host = Host::new("shed");
    let mut server = server();
    let target = Duration::from_millis(30);
    let limits = EdgeLimits {
        shedding: Some(Shedding {
            target,
            interval: Duration::from_millis(60),
        }),
        ..EdgeLimits::default()
    };
    serve(&mut server, &host, FLOODER, limits);
    // A handler that takes its time: eight times four requests wait far longer than the target.
    server.dispatch_mut().before = Some(Box::new(|_| {
        let end = Instant::now() + Duration::from_millis(5);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }));
    let edge = edge_with(&host, FLOODER, stubborn());
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| edge.connect::<Ledger>().unwrap())
        .collect();
    let (mut answered, mut refused) = (0_usize, 0_usize);
    let mut tickets: Vec<Vec<Ticket<Echo>>> = connections.iter().map(|_| Vec::new()).collect();
    wait_until("enough of both", || {
        for (connection, tickets) in connections.iter().zip(&mut tickets) {
            let room = Ledger::IN_FLIGHT - tickets.len();
            tickets.extend(submit(connection, room));
        }
        server.turn();
        for tickets in &mut tickets {
            tickets.retain_mut(|ticket| match ticket.poll() {
                None => true,
                Some(Ok(_)) => {
                    answered += 1;
                    false
                }
                Some(Err(CallError::Overloaded)) => {
                    refused += 1;
                    false
                }
                Some(Err(other)) => panic!("{other}"),
            });
        }
        answered >= 60 && refused >= 60
    });
    let executed = server.dispatch_mut().executed.borrow().len();
    let lying: usize = tickets.iter().map(Vec::len).sum();
    assert!(
        executed <= answered + lying,
        "the refused were not executed"
    );
    // Once the flood ends and the server was idle, nothing is refused.
    drop(tickets);
    wait_until("the end of the flood", || !server.turn());
    // However long it waited: one late request is no overload.
    let late = submit(&connections[0], 1);
    let sent = Instant::now();
    wait_until("its lateness", || sent.elapsed() > target * 2);
    assert_eq!(outcomes(&mut server, late), [Ok(())]);
    for _ in 0..5 {
        assert_eq!(outcomes(&mut server, submit(&connections[0], 1)), [Ok(())]);
    }
}

/// Notes whose requests are executed, in their order.
#[derive(Default)]
struct Order {
    whose: Rc<RefCell<Vec<Attempt>>>,
    /// Called before each answer.
    before: Option<Box<dyn FnMut(Attempt)>>,
}

impl Dispatch for Order {
    type Contract = Ledger;

    fn dispatch(&mut self, call: &CallContext, _: u16, _: &[u8], reply: ReplySlot<'_>) -> Answer {
        self.whose.borrow_mut().push(call.key.consumer);
        if let Some(before) = &mut self.before {
            before(call.key.consumer);
        }
        reply.send::<Echo>(&text("done"))
    }
}

#[test]
fn a_request_that_finds_no_room_until_its_deadline_was_not_executed_for_that_reason() {
    let host = Host::new("no-room");
    let mut server = server();
    serve(&mut server, &host, POLITE, nothing());
    let connection = connect(&host, POLITE);
    let options = CallOptions {
        deadline: Some(Duration::from_millis(20)),
        ..CallOptions::default()
    };
    // Given up, and still in the channel: the server is at something else.
    let first = connection.call::<Echo>(&text("first"), options);
    assert_eq!(first.unwrap_err(), CallError::DeadlineExceeded);
    for _ in 1..Ledger::IN_FLIGHT {
        drop(
            connection
                .submit::<Echo>(&text("given up"), options)
                .unwrap(),
        );
    }
    let call = connection.call::<Echo>(&text("late"), options);
    assert_eq!(call.unwrap_err(), CallError::Overloaded);
    drop(server);
    // Without anybody it is as it was.
    host.publish(RouteState::Gone, A, 0, None);
    let call = connection.call::<Echo>(&text("nobody"), options);
    assert_eq!(call.unwrap_err(), CallError::Unavailable);
}

#[test]
fn a_polite_consumer_waits_for_at_most_one_request_of_a_flooding_one() {
    let hosts = [Host::new("flooder"), Host::new("polite")];
    let whose = Rc::new(RefCell::new(Vec::new()));
    let service = Order {
        whose: whose.clone(),
        before: None,
    };
    let mut server = Server::new(A, 0, Duration::ZERO, service, NoJournal);
    for (host, consumer) in hosts.iter().zip([FLOODER, POLITE]) {
        host.open_pair(A, consumer);
        let mut edge = host.served::<Ledger>(consumer);
        edge.edge = EdgeId(consumer.0);
        server.serve(edge, host.page()).unwrap();
        host.publish(RouteState::Serve, A, 0, None);
    }
    let flood = edge_with(&hosts[0], FLOODER, stubborn());
    let flooders: Vec<_> = (0..CONNECTIONS)
        .map(|_| flood.connect::<Ledger>().unwrap())
        .collect();
    let polite = connect(&hosts[1], POLITE);
    // The polite one's next request is sent while the flooder's are executed.
    let waiting: Rc<RefCell<Option<Ticket<Echo>>>> = Rc::default();
    let sent_at = Rc::new(RefCell::new(Vec::new()));
    {
        let (waiting, sent_at, whose) = (waiting.clone(), sent_at.clone(), whose.clone());
        let polite = polite.clone();
        server.dispatch_mut().before = Some(Box::new(move |consumer| {
            let mut waiting = waiting.borrow_mut();
            if consumer == FLOODER && waiting.is_none() {
                let ticket = polite.submit::<Echo>(&text("please"), CallOptions::default());
                *waiting = Some(ticket.unwrap());
                sent_at.borrow_mut().push(whose.borrow().len());
            }
        }));
    }
    let mut floods: Vec<Ticket<Echo>> = Vec::new();
    let mut answered = 0;
    wait_until("a hundred polite answers", || {
        floods.retain_mut(|ticket| ticket.poll().is_none());
        for flooder in &flooders {
            while let Ok(ticket) = flooder.submit::<Echo>(&text("me"), CallOptions::default()) {
                floods.push(ticket);
            }
        }
        server.turn();
        let mut waiting = waiting.borrow_mut();
        if waiting
            .as_mut()
            .is_some_and(|ticket| ticket.poll().is_some())
        {
            *waiting = None;
            answered += 1;
        }
        answered == 100
    });
    let whose = whose.borrow();
    for &sent in sent_at.borrow().iter().take(100) {
        let own = whose[sent..].iter().position(|one| *one == POLITE);
        assert!(
            own.is_some_and(|behind| behind <= 1),
            "{own:?} requests before it"
        );
    }
}

/// Whether a thread waits for its bell, a futex between processes.
fn sleeps(task: &str) -> bool {
    let Ok(call) = std::fs::read_to_string(task) else {
        return false;
    };
    let mut words = call.split(' ');
    words.next() == Some(&libc::SYS_futex.to_string())
        && words.nth(1) == Some(&format!("{:#x}", libc::FUTEX_WAIT_BITSET))
}

#[test]
fn a_polite_sleeper_is_woken_before_the_flood_is_through() {
    let hosts = Arc::new([Host::new("flooder-2"), Host::new("polite-2")]);
    let mut server = Server::new(A, 0, Duration::ZERO, Order::default(), NoJournal);
    for (host, consumer) in hosts.iter().zip([FLOODER, POLITE]) {
        host.open_pair(A, consumer);
        let mut edge = host.served::<Ledger>(consumer);
        edge.edge = EdgeId(consumer.0);
        server.serve(edge, host.page()).unwrap();
        host.publish(RouteState::Serve, A, 0, None);
    }
    let theirs = hosts.clone();
    let (tell, told) = mpsc::channel();
    let polite = std::thread::spawn(move || {
        let connection = connect(&theirs[1], POLITE);
        tell.send(nix::unistd::gettid()).unwrap();
        let answered = connection
            .call::<Echo>(&text("please"), CallOptions::default())
            .map(drop);
        (answered, connection.rescues())
    });
    let task = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
    let flooder = connect(&hosts[0], FLOODER);
    let flood = submit(&flooder, Ledger::IN_FLIGHT);
    let polite = Rc::new(polite);
    {
        // The flooder's next handler goes on only once the polite one has been woken: nobody but
        // the turn that it belongs to can do that.
        let (polite, mut executed) = (polite.clone(), false);
        server.dispatch_mut().before = Some(Box::new(move |consumer| {
            if consumer == POLITE {
                executed = true;
            } else if executed {
                wait_until("the polite one's end", || polite.is_finished());
            }
        }));
    }
    let whose = server.dispatch_mut().whose.clone();
    // Before anything is executed, both have sent, and the polite one sleeps.
    wait_until("the polite one's sleep", || sleeps(&task));
    assert!(server.turn());
    assert!(whose.borrow().contains(&POLITE));
    drop(flood);
    server.dispatch_mut().before = None;
    let polite = Rc::into_inner(polite).unwrap();
    let (answered, rescues) = polite.join().unwrap();
    assert_eq!((answered, rescues), (Ok(()), 0));
}

#[test]
fn a_once_answer_that_did_not_fit_is_recorded_with_its_effect() {
    let host = Host::new("too-long");
    let mut server = server();
    serve(&mut server, &host, FLOODER, EdgeLimits::default());
    let journal = server.journal_mut().clone();
    let edge = edge_with(&host, FLOODER, stubborn());
    let connection = edge.connect::<Ledger>().unwrap();
    let lost = connection
        .submit::<Add>(&text(&"x".repeat(TEXT_MAX)), CallOptions::default())
        .unwrap();
    server.dispatch_mut().too_long = true;
    server.turn();
    assert_eq!(
        lost.wait().unwrap_err(),
        CallError::Broken("the answer did not fit its chunk")
    );
    assert_eq!((journal.total(), journal.kept()), (1, 1));
}

#[test]
fn a_new_leader_forgets_who_died_while_nobody_led() {
    let hosts = [Host::new("dead"), Host::new("alive")];
    let mut server = server();
    for (host, consumer) in hosts.iter().zip([FLOODER, POLITE]) {
        serve(&mut server, host, consumer, EdgeLimits::default());
        let connection = connect(host, consumer);
        let ticket = connection.submit::<Add>(&text(""), CallOptions::default());
        assert_eq!(outcomes(&mut server, vec![ticket.unwrap()]), [Ok(())]);
    }
    assert_eq!(server.journal_mut().kept(), 2);
    server.lead(false);
    server.unserve(EdgeId(FLOODER.0), FLOODER);
    assert_eq!(server.journal_mut().kept(), 2, "a follower does not write");
    server.lead(true);
    assert_eq!(server.journal_mut().kept(), 1);
}

/// A policy whose budget has so many retries and earns `percent` of each hundred calls.
fn budget(percent: u8, reserve: u32) -> EdgePolicy {
    EdgePolicy {
        retries: RetryPolicy {
            percent,
            reserve,
            per_second: 0,
        },
        ..EdgePolicy::default()
    }
}

/// Limits under which nothing is executed any more.
fn nothing() -> EdgeLimits {
    EdgeLimits {
        waiting: Some(0),
        ..EdgeLimits::default()
    }
}

#[test]
fn the_budget_bounds_what_is_sent_when_everything_is_refused() {
    let host = Host::new("budget");
    let mut server = server();
    serve(&mut server, &host, FLOODER, nothing());
    let edge = edge_with(&host, FLOODER, budget(10, 7));
    // Two connections share it.
    let connections: Vec<_> = (0..2).map(|_| edge.connect::<Ledger>().unwrap()).collect();
    const CALLS: usize = 400;
    for round in 0..CALLS / 8 {
        let all = outcomes(&mut server, submit(&connections[round % 2], 8));
        assert_eq!(count(&all, &CallError::QuotaExceeded), 8);
    }
    let sent = server.refused();
    assert!(sent > CALLS + 7, "some were sent again: {sent}");
    assert!(
        sent <= CALLS + CALLS / 10 + 7,
        "{sent} sent for {CALLS} calls"
    );
}

#[test]
fn a_call_refused_now_and_then_is_sent_again_and_answered() {
    let host = Host::new("again");
    let mut server = server();
    let limits = EdgeLimits {
        waiting: Some(1),
        ..EdgeLimits::default()
    };
    serve(&mut server, &host, FLOODER, limits);
    let edge = edge_with(&host, FLOODER, budget(10, 100));
    let connection = edge.connect::<Ledger>().unwrap();
    let all = outcomes(&mut server, submit(&connection, 8));
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!(server.refused() > 0);
}

#[test]
fn refusals_of_a_cut_over_cost_nothing_of_the_budget() {
    let host = Host::new("free");
    let mut first = server();
    serve(&mut first, &host, FLOODER, EdgeLimits::default());
    first.lead(false);
    let edge = edge_with(&host, FLOODER, stubborn());
    let connection = edge.connect::<Ledger>().unwrap();
    let mut tickets = submit(&connection, 8);
    wait_until("many refusals", || {
        first.turn();
        assert!(tickets.iter_mut().all(|ticket| ticket.poll().is_none()));
        first.refused() > 50
    });
    first.lead(true);
    let all = outcomes(&mut first, tickets);
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

#[test]
fn an_instance_that_does_not_answer_is_avoided() {
    let host = Host::new("bad");
    let mut silent = server();
    serve(&mut silent, &host, FLOODER, EdgeLimits::default());
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut good = Server::new(Attempt(2), 1, Duration::ZERO, service, journal);
    host.open_pair(Attempt(2), FLOODER);
    let edge = host.served::<Ledger>(FLOODER);
    good.serve(edge, host.page()).unwrap();
    let mut policy = stubborn();
    policy.breaker.consecutive = 3;
    policy.breaker.open_for = Duration::from_secs(3600);
    let edge = edge_with(&host, FLOODER, policy);
    let connection = edge.connect::<Ledger>().unwrap();
    let soon = CallOptions {
        deadline: Some(Duration::from_millis(1)),
        ..CallOptions::default()
    };
    // While it is the only one.
    for _ in 0..3 {
        let late = connection.call::<Echo>(&text("late"), soon).unwrap_err();
        assert_eq!(late, CallError::DeadlineExceeded);
    }
    host.publish_at(1, RouteState::Serve, Attempt(2), 1, None);
    let before = good.dispatch_mut().executed.borrow().len();
    for _ in 0..100 {
        assert_eq!(outcomes(&mut good, submit(&connection, 1)), [Ok(())]);
    }
    assert_eq!(good.dispatch_mut().executed.borrow().len(), before + 100);
}

#[test]
fn with_fail_fast_calls_to_a_bad_instance_end_at_once_and_one_tries_again() {
    let host = Host::new("fast");
    let mut server = server();
    serve(&mut server, &host, FLOODER, EdgeLimits::default());
    let mut policy = stubborn();
    policy.breaker.consecutive = 2;
    let open_for = Duration::from_millis(200);
    policy.breaker.open_for = open_for;
    policy.breaker.fail_fast = true;
    let connection = edge_with(&host, FLOODER, policy)
        .connect::<Ledger>()
        .unwrap();
    let soon = CallOptions {
        deadline: Some(Duration::from_millis(1)),
        ..CallOptions::default()
    };
    let begun = Instant::now();
    for _ in 0..2 {
        let late = connection.call::<Echo>(&text("late"), soon).unwrap_err();
        assert_eq!(late, CallError::DeadlineExceeded);
    }
    // Its time over, one call tries, and only one.
    let mut probe = None;
    wait_until("the probe", || {
        match connection.submit::<Echo>(&text("now?"), CallOptions::default()) {
            Ok(ticket) => probe = Some(ticket),
            Err(error) => assert_eq!(error, CallError::Unavailable),
        }
        probe.is_some()
    });
    assert!(begun.elapsed() >= open_for, "a call was made before");
    let second = connection.submit::<Echo>(&text("now?"), CallOptions::default());
    assert_eq!(second.unwrap_err(), CallError::Unavailable);
    assert_eq!(outcomes(&mut server, vec![probe.unwrap()]), [Ok(())]);
    for _ in 0..20 {
        assert_eq!(outcomes(&mut server, submit(&connection, 1)), [Ok(())]);
    }
}
