//! Several instances behind one contract.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_contract::policy::OnceScope;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge, Response, Ticket};
use insula_ipc::contract::{CONNECTIONS, Contract, Method};
use insula_ipc::server::Server;
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service, WATCHDOG, wait_until};
use crate::contract::{Add, Echo, Ledger, Risk, Text};

const CONSUMER: Attempt = Attempt(500);

type Ours = Server<Service, FileJournal>;

fn text(text: &str) -> Text<'_> {
    Text { text }
}

fn keyed(key: u64) -> CallOptions {
    CallOptions {
        key: Some(key),
        ..CallOptions::default()
    }
}

fn connect(host: &Host) -> Connection {
    connect_with(host, OnceScope::Service)
}

fn connect_with(host: &Host, once: OnceScope) -> Connection {
    let mut used = host.used::<Ledger>(CONSUMER);
    used.policy.once = once;
    Edge::new(used, host.routes(), host.page(), Duration::ZERO)
        .unwrap()
        .connect::<Ledger>()
        .unwrap()
}

/// A server that is turned by hand.
fn server(host: &Host, attempt: Attempt, slot: u8) -> Ours {
    server_with(host, attempt, slot, FileJournal::default())
}

fn server_with(host: &Host, attempt: Attempt, slot: u8, journal: FileJournal) -> Ours {
    host.open_pair(attempt, CONSUMER);
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

/// Instances in the places from 0, all serving.
fn instances(host: &Host, count: u8) -> Vec<Ours> {
    (0..count)
        .map(|place| {
            let attempt = Attempt(u64::from(place) + 1);
            let server = server(host, attempt, place);
            host.publish_at(usize::from(place), RouteState::Serve, attempt, place, None);
            server
        })
        .collect()
}

fn executed(server: &mut Ours) -> usize {
    server.dispatch_mut().executed.borrow().len()
}

/// Turns the servers until the ticket has its outcome.
fn reap<M: Method<Contract = Ledger>>(servers: &mut [Ours], ticket: Ticket<M>) -> Response<M> {
    let mut ticket = ticket;
    let mut outcome = None;
    wait_until("an outcome", || {
        for server in servers.iter_mut() {
            server.turn();
        }
        outcome = ticket.poll();
        outcome.is_some()
    });
    outcome.unwrap().unwrap()
}

#[test]
fn calls_spread_over_the_instances() {
    let host = Host::new("spread");
    let mut servers = instances(&host, 3);
    let connection = connect(&host);
    for _ in 0..300 {
        let ticket = connection.submit::<Echo>(&text("spread"), CallOptions::default());
        reap(&mut servers, ticket.unwrap());
    }
    let counts: Vec<_> = servers.iter_mut().map(executed).collect();
    assert_eq!(counts.iter().sum::<usize>(), 300);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
}

#[test]
fn of_two_instances_the_less_busy_one_gets_every_call() {
    let host = Host::new("less-busy");
    let mut servers = instances(&host, 2);
    let connection = connect(&host);
    let options = CallOptions::default();
    let mut lying = Vec::new();
    for _ in 0..Ledger::IN_FLIGHT / 2 {
        // Keys that go to the first one.
        let key = (0..).find(|key| place_of(&connection, &mut servers, *key) == 0);
        lying.push(
            connection
                .submit::<Echo>(&text("lying"), keyed(key.unwrap()))
                .unwrap(),
        );
    }
    let before = executed(&mut servers[1]);
    for _ in 0..20 {
        let ticket = connection.submit::<Echo>(&text("free"), options).unwrap();
        reap(&mut servers[1..], ticket);
    }
    assert_eq!(executed(&mut servers[1]), before + 20);
}

/// The place that answers calls with this key.
fn place_of(connection: &Connection, servers: &mut [Ours], key: u64) -> usize {
    let before: Vec<_> = servers.iter_mut().map(executed).collect();
    let ticket = connection.submit::<Echo>(&text("where?"), keyed(key));
    reap(servers, ticket.unwrap());
    let after: Vec<_> = servers.iter_mut().map(executed).collect();
    let places: Vec<_> = (0..before.len())
        .filter(|place| after[*place] != before[*place])
        .collect();
    assert_eq!(places.len(), 1, "executed once");
    places[0]
}

#[test]
fn a_key_stays_with_its_place_through_restarts_and_moves_only_when_it_goes() {
    let host = Host::new("keys");
    let mut servers = instances(&host, 3);
    let connection = connect(&host);
    let places = |servers: &mut [Ours], connection: &Connection| -> BTreeMap<u64, usize> {
        (0..40)
            .map(|key| (key, place_of(connection, servers, key)))
            .collect()
    };
    let first = places(&mut servers, &connection);
    for place in 0..3 {
        assert!(first.values().any(|other| *other == place), "{first:?}");
    }
    assert_eq!(
        places(&mut servers, &connect(&host)),
        first,
        "another client agrees"
    );

    // Another attempt in the same place.
    host.publish_at(1, RouteState::Hold, Attempt(2), 1, None);
    servers[1].drain();
    let successor = server(&host, Attempt(9), 9);
    host.publish_at(1, RouteState::Serve, Attempt(9), 9, Some(Attempt(2)));
    servers[1] = successor;
    assert_eq!(places(&mut servers, &connection), first);

    // Gone: its keys go elsewhere, the others stay; and back.
    host.publish_at(1, RouteState::Gone, Attempt(9), 9, None);
    let without = places(&mut servers, &connection);
    for (key, place) in &without {
        assert_ne!(*place, 1);
        assert!(first[key] == 1 || first[key] == *place);
    }
    host.close_pair(Attempt(9), CONSUMER);
    servers[1] = server(&host, Attempt(10), 1);
    host.publish_at(1, RouteState::Serve, Attempt(10), 1, None);
    assert_eq!(places(&mut servers, &connection), first);
}

#[test]
fn while_a_place_holds_its_keys_wait_and_others_go_on() {
    let host = Host::new("key-holds");
    let mut servers = instances(&host, 2);
    let connection = connect(&host);
    let key = (0..).find(|key| place_of(&connection, &mut servers, *key) == 1);
    host.publish_at(1, RouteState::Hold, Attempt(2), 1, None);
    let mut waiting = connection
        .submit::<Risk>(&text("waiting"), keyed(key.unwrap()))
        .unwrap();
    let before = executed(&mut servers[1]);
    for _ in 0..20 {
        let ticket = connection.submit::<Risk>(&text("free"), CallOptions::default());
        reap(&mut servers, ticket.unwrap());
        assert!(waiting.poll().is_none());
    }
    assert_eq!(executed(&mut servers[1]), before);
    host.publish_at(1, RouteState::Serve, Attempt(2), 1, None);
    reap(&mut servers, waiting);
    assert_eq!(executed(&mut servers[1]), before + 1);
}

#[test]
fn what_one_instance_refuses_because_it_leaves_goes_to_another() {
    let host = Host::new("leaves");
    let mut servers = instances(&host, 2);
    let connection = connect(&host);
    // The route still says that both serve.
    servers[0].drain();
    for _ in 0..50 {
        let ticket = connection.submit::<Risk>(&text("risk"), CallOptions::default());
        reap(&mut servers, ticket.unwrap());
    }
    assert_eq!(executed(&mut servers[0]), 0);
    assert_eq!(executed(&mut servers[1]), 50);
}

#[test]
fn each_target_decides_the_fate_of_what_lies_at_it_alone() {
    let host = Host::new("fates");
    let mut servers = instances(&host, 3);
    let connection = connect(&host);
    let keys: Vec<u64> = (0..3)
        .map(|place| {
            (0..)
                .find(|key| place_of(&connection, &mut servers, *key) == place)
                .unwrap()
        })
        .collect();
    let mut risks: Vec<_> = keys
        .iter()
        .map(|key| {
            connection
                .submit::<Risk>(&text("risk"), keyed(*key))
                .unwrap()
        })
        .collect();
    // Place 0 dies, place 1 leaves cleanly without having seen it, place 2 stays.
    let stayed = executed(&mut servers[2]);
    host.publish_at(0, RouteState::Gone, Attempt(1), 0, None);
    host.publish_at(1, RouteState::Gone, Attempt(2), 1, Some(Attempt(2)));
    let unknown = risks[0].poll().unwrap().unwrap_err();
    assert_eq!(unknown, CallError::OutcomeUnknown);
    assert!(risks[1].poll().is_none() && risks[2].poll().is_none());
    for risk in risks.drain(1..) {
        reap(&mut servers[2..], risk);
    }
    assert_eq!(executed(&mut servers[2]), stayed + 2);
}

#[test]
fn eight_turns_behind_a_client_still_knows_who_had_drained() {
    let host = Host::new("behind");
    let _first = server(&host, Attempt(1), 0);
    host.publish(RouteState::Serve, Attempt(1), 0, None);
    let connection = connect(&host);
    let options = CallOptions::default();
    let risk = connection.submit::<Risk>(&text("risk"), options).unwrap();
    // Attempts that this client never sees come and go.
    for attempt in 1..=8 {
        let next = Attempt(attempt + 1);
        host.publish(RouteState::Serve, next, 3, Some(Attempt(attempt)));
    }
    let mut last = [server(&host, Attempt(10), 4)];
    host.publish(RouteState::Serve, Attempt(10), 4, None);
    reap(&mut last, risk);

    // One more than is remembered is not certain any more.
    let mut risk = connection.submit::<Risk>(&text("risk"), options).unwrap();
    for attempt in 10..=18 {
        let next = Attempt(attempt + 1);
        host.publish(RouteState::Serve, next, 3, Some(Attempt(attempt)));
    }
    assert_eq!(risk.poll().unwrap().unwrap_err(), CallError::OutcomeUnknown);
}

#[test]
fn where_each_instance_has_its_store_a_once_request_goes_to_its_place_only() {
    for scope in [OnceScope::Service, OnceScope::Instance] {
        let host = Host::new(&format!("once-{scope:?}"));
        let mut servers = instances(&host, 2);
        let connection = connect_with(&host, scope);
        let key = (0..).find(|key| place_of(&connection, &mut servers, *key) == 0);
        let mut add = connection
            .submit::<Add>(&text("add"), keyed(key.unwrap()))
            .unwrap();
        let before = executed(&mut servers[1]);
        host.publish_at(0, RouteState::Gone, Attempt(1), 0, None);
        for _ in 0..50 {
            assert!(add.poll().is_none());
            if servers[1].turn() {
                break;
            }
        }
        let elsewhere = executed(&mut servers[1]) - before;
        match scope {
            OnceScope::Service => assert_eq!(elsewhere, 1),
            OnceScope::Instance => {
                assert_eq!(elsewhere, 0, "the other one does not know what was done");
                servers[0] = server(&host, Attempt(7), 7);
                host.publish_at(0, RouteState::Serve, Attempt(7), 7, None);
                reap(&mut servers[..1], add);
            }
        }
    }
}

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// It refuses what it has not executed.
    Drained,
    /// It stops after a batch and leaves requests lying.
    Dropped,
}

/// Serves as `attempt` until told how to end.
fn serve(
    host: &Host,
    attempt: Attempt,
    slot: u8,
    journal: &Path,
    ready: &mpsc::Sender<()>,
    end: &mpsc::Receiver<End>,
) {
    let mut server = server_with(host, attempt, slot, FileJournal::open(journal));
    ready.send(()).unwrap();
    loop {
        match end.try_recv() {
            Ok(End::Drained) => {
                server.drain();
                return;
            }
            // Without anybody to tell it, the test has failed.
            Ok(End::Dropped) | Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => {}
        }
        if !server.turn() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_is_lost_or_doubled_while_three_instances_come_and_go() {
    const PLACES: usize = 3;
    let host = Host::new("three");
    let journals: Vec<_> = (0..PLACES)
        .map(|place| {
            host.pair(Attempt(0), Attempt(0))
                .with_file_name(format!("journal-{place}"))
        })
        .collect();
    let mut used = host.used::<Ledger>(CONSUMER);
    used.policy.once = OnceScope::Instance;
    let spin = Duration::from_micros(20);
    let edge = Edge::new(used, host.routes(), host.page(), spin).unwrap();
    let stop = AtomicBool::new(false);
    let busy = AtomicUsize::new(CONNECTIONS);
    let answered = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..CONNECTIONS {
            threads.spawn(|| {
                let connection = edge.connect::<Ledger>().unwrap();
                let options = CallOptions {
                    deadline: Some(WATCHDOG),
                    ..CallOptions::default()
                };
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    let first = connection.submit::<Add>(&text("one"), options).unwrap();
                    let echo = connection.submit::<Echo>(&text("echo"), options).unwrap();
                    let keyed = CallOptions {
                        key: Some(mine),
                        ..options
                    };
                    let second = connection.submit::<Add>(&text("two"), keyed).unwrap();
                    drop(second.wait().unwrap());
                    assert_eq!(echo.wait().unwrap().get().unwrap().text, "echo");
                    drop(first.wait().unwrap());
                    mine += 2;
                    answered.fetch_add(2, Ordering::SeqCst);
                }
                drop(connection);
                busy.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for (place, journal) in journals.iter().enumerate() {
            let (host, stop, busy, answered) = (&host, &stop, &busy, &answered);
            let journals = &journals;
            threads.spawn(move || {
                let begun = Instant::now();
                let mut previous: Option<(Attempt, End)> = None;
                for round in 1_u64.. {
                    let attempt = Attempt(round * PLACES as u64 + place as u64);
                    let slot = (place * 5 + round as usize % 5) as u8;
                    let how = if (round + place as u64).is_multiple_of(3) {
                        End::Dropped
                    } else {
                        End::Drained
                    };
                    let last = std::thread::scope(|one| {
                        let (ready, readied) = mpsc::channel();
                        let (tell, told) = mpsc::channel();
                        let serving =
                            one.spawn(move || serve(host, attempt, slot, journal, &ready, &told));
                        readied.recv_timeout(WATCHDOG).unwrap();
                        let drained = previous
                            .filter(|(_, how)| *how == End::Drained)
                            .map(|(before, _)| before);
                        host.publish_at(place, RouteState::Serve, attempt, slot, drained);
                        if let Some((before, _)) = previous {
                            host.close_pair(before, CONSUMER);
                        }
                        assert!(begun.elapsed() < 2 * WATCHDOG, "watchdog: answers");
                        // A host that is slow takes longer until everybody was asked.
                        let asked = |path: &PathBuf| {
                            std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
                        };
                        let enough =
                            begun.elapsed() > Duration::from_secs(3) && journals.iter().all(asked);
                        let last = enough || stop.load(Ordering::SeqCst);
                        if last {
                            stop.store(true, Ordering::Relaxed);
                            wait_until("the clients end", || busy.load(Ordering::SeqCst) == 0);
                        } else {
                            let enough = answered.load(Ordering::SeqCst) + round * 7 % 20;
                            wait_until("traffic", || {
                                answered.load(Ordering::SeqCst) >= enough
                                    || stop.load(Ordering::SeqCst)
                            });
                            // A death is found out late; what leaves is held before.
                            let state = match how {
                                End::Drained => RouteState::Hold,
                                End::Dropped => RouteState::Serve,
                            };
                            host.publish_at(place, state, attempt, slot, None);
                        }
                        tell.send(how).unwrap();
                        serving.join().unwrap();
                        if how == End::Dropped && !last {
                            host.publish_at(place, RouteState::Gone, attempt, slot, None);
                        }
                        last
                    });
                    if last {
                        break;
                    }
                    previous = Some((attempt, how));
                }
            });
        }
    });
    let answered = answered.into_inner();
    let totals: Vec<_> = journals
        .iter()
        .map(|journal| FileJournal::open(journal).total())
        .collect();
    assert!(totals.iter().all(|total| *total > 0), "{totals:?}");
    assert_eq!(totals.iter().sum::<u64>(), answered, "{totals:?}");
}
