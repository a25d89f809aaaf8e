//! What the two ends of an edge count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::meters::{Counts, Outcome, Role};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge};
use insula_ipc::contract::Contract;
use insula_ipc::meters::{Meters, has_steady_tsc};
use insula_ipc::server::Server;
use insula_ipc::testing::{self, Host};

use crate::common::{FileJournal, Service, wait_until};
use crate::contract::{Add, Echo, Ledger, Refuse, Risk, TEXT_MAX, Text};

const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);
const CONSUMER: Attempt = Attempt(700);

fn meters() -> Meters {
    Meters::new(testing::meters(), has_steady_tsc()).unwrap()
}

fn server(
    host: &Host,
    attempt: Attempt,
    slot: u8,
    meters: &Meters,
) -> Server<Service, FileJournal> {
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut server = Server::new(attempt, slot, Duration::ZERO, service, journal);
    server.meter(meters.clone());
    host.open_pair(attempt, CONSUMER);
    server
        .serve(host.served::<Ledger>(CONSUMER), host.page())
        .unwrap();
    server
}

fn connect(host: &Host, meters: &Meters) -> Connection {
    let used = host.used::<Ledger>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    edge.meter(meters);
    edge.connect::<Ledger>().unwrap()
}

fn counts(meters: &Meters, role: Role) -> Counts {
    let mut sum = Counts::default();
    for (subject, counts) in meters.read() {
        assert_eq!(subject.consumer, CONSUMER);
        if subject.role == role {
            sum.add(&counts);
        }
    }
    sum
}

fn text(text: &str) -> Text<'_> {
    Text { text }
}

#[test]
fn both_ends_count_what_the_calls_did() {
    let host = Host::new("meters-kinds");
    let (ours, theirs) = (meters(), meters());
    let connection = connect(&host, &ours);
    let soon = CallOptions {
        deadline: Some(Duration::from_millis(5)),
        ..CallOptions::default()
    };
    let unavailable = connection.call::<Echo>(&text("x"), soon);
    assert!(matches!(unavailable, Err(CallError::Unavailable)));

    let mut first = server(&host, A, 0, &theirs);
    host.publish(RouteState::Serve, A, 0, None);
    for _ in 0..20 {
        let mut ticket = connection
            .submit::<Echo>(&text("hello"), CallOptions::default())
            .unwrap();
        wait_until("an answer", || {
            first.turn();
            ticket.poll().is_some_and(|outcome| outcome.is_ok())
        });
    }
    let mut once = connection
        .submit::<Add>(&text("7"), CallOptions::default())
        .unwrap();
    wait_until("an answer to a `once` request", || {
        first.turn();
        once.poll().is_some_and(|outcome| outcome.is_ok())
    });
    let mut refuse = connection
        .submit::<Refuse>(&text("no"), CallOptions::default())
        .unwrap();
    wait_until("the contract's error", || {
        first.turn();
        matches!(refuse.poll(), Some(Err(CallError::Failed(_))))
    });
    let too_long = "x".repeat(TEXT_MAX + 1);
    let too_large = connection.submit::<Echo>(&text(&too_long), CallOptions::default());
    assert!(matches!(too_large, Err(CallError::TooLarge { .. })));
    let late = connection.call::<Echo>(&text("late"), soon);
    assert!(matches!(late, Err(CallError::DeadlineExceeded)));
    // The one whose caller waits no more is refused, if it is taken at all.
    first.turn();

    let outstanding: Vec<_> = (0..Ledger::IN_FLIGHT)
        .map(|_| connection.submit::<Risk>(&text("risk"), CallOptions::default()))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(counts(&ours, Role::Consumer).in_flight(), 8);
    let one_more = connection.submit::<Risk>(&text("risk"), CallOptions::default());
    assert!(matches!(one_more, Err(CallError::TooManyInFlight { .. })));
    // The provider dies with them, and the next takes over.
    drop(first);
    let mut second = server(&host, B, 1, &theirs);
    host.publish(RouteState::Serve, B, 1, None);
    for (index, ticket) in outstanding.into_iter().enumerate() {
        if index < 5 {
            let outcome = ticket.wait();
            assert!(matches!(outcome, Err(CallError::OutcomeUnknown)));
        } else {
            drop(ticket);
        }
    }
    second.turn();

    let consumer = counts(&ours, Role::Consumer);
    let expected = [
        (Outcome::Ok, 21),
        (Outcome::Failed, 1),
        (Outcome::DeadlineExceeded, 1),
        (Outcome::Unavailable, 1),
        (Outcome::OutcomeUnknown, 5),
        (Outcome::TooLarge, 1),
        (Outcome::TooManyInFlight, 1),
        (Outcome::Dropped, 3),
    ];
    for outcome in Outcome::ALL {
        let wanted = expected.iter().find(|(kind, _)| *kind == outcome);
        assert_eq!(
            consumer.ended(outcome),
            wanted.map_or(0, |(_, count)| *count),
            "{outcome:?}"
        );
    }
    assert_eq!((consumer.begun, consumer.in_flight()), (34, 0));
    // All but what was not sent, and what was given up, lasted some time.
    assert_eq!(consumer.buckets.count(), 34 - 2 - 3);
    assert!(consumer.bytes_out > 20 * 5 && consumer.bytes_in > 20 * 5);
    assert!(consumer.longest_ns > 0 && consumer.sum_ns >= consumer.longest_ns);
    assert!(consumer.wakes > 0, "it slept until its deadline");

    let provider = counts(&theirs, Role::Provider);
    assert_eq!(provider.ended(Outcome::Ok), 21);
    assert_eq!(provider.ended(Outcome::Failed), 1);
    assert_eq!(provider.in_flight(), 0);
    assert_eq!(provider.buckets.count(), provider.begun);
    assert!(provider.bytes_in > 20 * 5 && provider.bytes_out > 20 * 5);
}

#[test]
fn a_request_that_is_sent_again_is_counted() {
    let host = Host::new("meters-resent");
    let (ours, theirs) = (meters(), meters());
    let connection = connect(&host, &ours);
    let first = server(&host, A, 0, &theirs);
    host.publish(RouteState::Serve, A, 0, None);
    let mut ticket = connection
        .submit::<Echo>(&text("again"), CallOptions::default())
        .unwrap();
    assert_eq!(counts(&ours, Role::Consumer).resent, 0);
    drop(first);
    let mut second = server(&host, B, 1, &theirs);
    host.publish(RouteState::Serve, B, 1, None);
    wait_until("an answer of the successor", || {
        second.turn();
        ticket.poll().is_some_and(|outcome| outcome.is_ok())
    });
    let consumer = counts(&ours, Role::Consumer);
    assert_eq!((consumer.begun, consumer.resent), (1, 1));
    assert_eq!(consumer.ended(Outcome::Ok), 1);
}

#[test]
fn a_reader_beside_the_writer_sees_counts_grow_and_fit() {
    let host = Host::new("meters-reader");
    let (ours, theirs) = (meters(), meters());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut earlier = Counts::default();
            let mut looks = 0_u32;
            while !over.load(Ordering::Relaxed) || looks == 0 {
                let now = counts(&ours, Role::Consumer);
                assert!(now.begun >= earlier.begun && now.sum_ns >= earlier.sum_ns);
                for (now, earlier) in now.ended.iter().zip(&earlier.ended) {
                    assert!(now >= earlier);
                }
                for (now, earlier) in now.buckets.0.iter().zip(&earlier.buckets.0) {
                    assert!(now >= earlier);
                }
                assert!(now.begun >= now.ended_in_all(), "ended before it began");
                assert!(now.bytes_out >= earlier.bytes_out);
                earlier = now;
                looks += 1;
            }
        });
        let connection = connect(&host, &ours);
        let mut server = server(&host, A, 0, &theirs);
        host.publish(RouteState::Serve, A, 0, None);
        for _ in 0..5_000 {
            let mut ticket = connection
                .submit::<Echo>(&text("x"), CallOptions::default())
                .unwrap();
            wait_until("an answer", || {
                server.turn();
                ticket.poll().is_some()
            });
        }
        over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(counts(&ours, Role::Consumer).ended(Outcome::Ok), 5_000);
}
