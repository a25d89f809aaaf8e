//! Many clients call while their server is replaced again and again, cleanly and not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::contract::CONNECTIONS;
use insula_ipc::server::Server;
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service, WATCHDOG, wait_until};
use crate::contract::{Add, Echo, Ledger, Text};

const CONSUMER: Attempt = Attempt(500);

/// How a server ends.
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
    journal: &Path,
    ready: &mpsc::Sender<()>,
    end: &mpsc::Receiver<End>,
    spin: Duration,
) {
    let journal = FileJournal::open(journal);
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut server = Server::new(attempt, (attempt.0 % 16) as u8, spin, service, journal);
    server
        .serve(host.served::<Ledger>(CONSUMER), host.page())
        .unwrap();
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
fn no_request_is_lost_or_done_twice_while_servers_come_and_go() {
    let host = Host::new("turnover");
    let journal: PathBuf = host.pair(Attempt(0), Attempt(0)).with_file_name("journal");
    let edge = Edge::new(
        host.used::<Ledger>(CONSUMER),
        host.routes(),
        host.page(),
        Duration::from_micros(20),
    )
    .unwrap();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let totals = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..CONNECTIONS {
            threads.spawn(|| {
                let connection = edge.connect::<Ledger>().unwrap();
                let text = Text { text: "count" };
                let options = CallOptions {
                    deadline: Some(WATCHDOG),
                    ..CallOptions::default()
                };
                let mut mine = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let first = connection.submit::<Add>(&text, options).unwrap();
                    let echo = connection.submit::<Echo>(&text, options).unwrap();
                    let second = connection.submit::<Add>(&text, options).unwrap();
                    mine.push(second.wait().unwrap().get().unwrap());
                    assert_eq!(echo.wait().unwrap().get().unwrap(), text);
                    mine.push(first.wait().unwrap().get().unwrap());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                totals.lock().unwrap().extend(mine);
            });
        }
        let begun = Instant::now();
        let mut previous: Option<(Attempt, End)> = None;
        for number in 1_u64.. {
            let attempt = Attempt(number);
            let slot = (number % 16) as u8;
            host.open_pair(attempt, CONSUMER);
            let (ready, readied) = mpsc::channel();
            let (tell, told) = mpsc::channel();
            let how = if number % 3 == 0 {
                End::Dropped
            } else {
                End::Drained
            };
            let (host, journal) = (&host, &journal);
            let serving =
                threads.spawn(move || serve(host, attempt, journal, &ready, &told, Duration::ZERO));
            readied.recv_timeout(WATCHDOG).unwrap();
            let drained = previous
                .filter(|(_, how)| *how == End::Drained)
                .map(|(a, _)| a);
            host.publish(RouteState::Serve, attempt, slot, drained);
            if let Some((before, _)) = previous {
                host.close_pair(before, CONSUMER);
            }
            assert!(begun.elapsed() < 2 * WATCHDOG, "watchdog: answers");
            // A host that is slow takes longer for what is worth a look.
            let enough = answered.load(Ordering::Relaxed) > 100;
            let last = enough && begun.elapsed() > Duration::from_secs(4);
            if last {
                stop.store(true, Ordering::Relaxed);
                wait_until("a client ends", || !totals.lock().unwrap().is_empty());
            } else {
                let until = Instant::now() + Duration::from_micros(number * 997 % 20_000);
                while Instant::now() < until {
                    std::thread::yield_now();
                }
            }
            if last && edge_is_free(&edge) {
                tell.send(End::Drained).unwrap();
                serving.join().unwrap();
                break;
            }
            host.publish(RouteState::Hold, attempt, slot, None);
            tell.send(how).unwrap();
            serving.join().unwrap();
            previous = Some((attempt, how));
        }
    });
    let mut totals = totals.into_inner().unwrap();
    totals.sort_unstable();
    let expected: Vec<u64> = (1..=totals.len() as u64).collect();
    assert_eq!(totals, expected, "every request counted exactly once");
    assert_eq!(FileJournal::open(&journal).total(), totals.len() as u64);
}

/// Whether every client has given its connection back.
fn edge_is_free(edge: &Edge) -> bool {
    let all: Vec<_> = (0..CONNECTIONS)
        .map_while(|_| edge.connect::<Ledger>().ok())
        .collect();
    all.len() == CONNECTIONS
}
