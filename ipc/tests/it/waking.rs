//! The parking and ringing of both ends under load: no wake-up is lost.
//!
//! A lost one shows when a parked client has slept as long as it ever does: then the server sleeps
//! beside a request, or an answer lies there that nobody rang for. A connection counts that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::server::{Server, Waker};
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service};
use crate::contract::{Echo, Ledger, Text};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
const ROUNDS: u64 = 150_000;

/// Ends the server, also when the test fails.
struct Stop<'a> {
    stop: &'a AtomicBool,
    waker: Waker,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

#[test]
fn no_wake_up_is_lost_between_two_threads_that_always_park() {
    let host = Host::new("waking");
    host.open_pair(A, CONSUMER);
    let stop = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|threads| {
        let serving = threads.spawn(|| {
            let journal = FileJournal::default();
            let service = Service {
                journal: journal.clone(),
                ..Service::default()
            };
            let mut server = Server::new(A, 0, Duration::ZERO, service, journal);
            server
                .serve(host.served::<Ledger>(CONSUMER), host.page())
                .unwrap();
            tell.send(server.waker()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                if !server.turn() {
                    server.park();
                }
            }
        });
        let waker = told.recv().unwrap();
        let ended = Stop { stop: &stop, waker };
        host.publish(RouteState::Serve, A, 0, None);
        let used = host.used::<Ledger>(CONSUMER);
        let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
        let connection = edge.connect::<Ledger>().unwrap();
        let text = Text { text: "wake up" };
        connection
            .call::<Echo>(&text, CallOptions::default())
            .unwrap();
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            connection
                .call::<Echo>(&text, CallOptions::default())
                .unwrap();
            if begun.elapsed() > Duration::from_secs(15) {
                break;
            }
        }
        drop(ended);
        serving.join().unwrap();
        assert_eq!(
            connection.rescues(),
            0,
            "somebody slept although there was work"
        );
    });
}
