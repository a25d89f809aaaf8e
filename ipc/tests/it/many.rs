//! More edges than a thread can wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Connection, Edge};
use insula_ipc::server::{Server, Waker};
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service, WATCHDOG, wait_until};
use crate::contract::{Echo, Ledger, Text};

const A: Attempt = Attempt(1);
/// Two lots for watchers beyond the server's own 127.
const EDGES: u64 = 127 + 127 + 3;

fn consumer(number: u64) -> Attempt {
    Attempt(1000 + number)
}

fn connect(host: &Host, number: u64) -> Connection {
    let used = host.used::<Ledger>(consumer(number));
    Edge::new(used, host.routes(), host.page(), Duration::ZERO)
        .unwrap()
        .connect::<Ledger>()
        .unwrap()
}

fn call(connection: &Connection) {
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    let text = Text { text: "hello" };
    let response = connection.call::<Echo>(&text, options).unwrap();
    assert_eq!(response.get().unwrap(), text);
}

/// Ends the server, also when the test fails.
struct Stop<'a> {
    stop: &'a AtomicBool,
    waker: Waker,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

#[test]
fn a_sleeping_server_is_woken_over_any_of_its_edges() {
    let hosts: Vec<_> = (0..EDGES)
        .map(|number| {
            let host = Host::new(&format!("many-{number}"));
            host.open_pair(A, consumer(number));
            host.publish(RouteState::Serve, A, 0, None);
            host
        })
        .collect();
    let stop = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let journal = FileJournal::default();
            let service = Service {
                journal: journal.clone(),
                ..Service::default()
            };
            let mut server = Server::new(A, 0, Duration::ZERO, service, journal);
            for (number, host) in (0..).zip(&hosts) {
                let mut edge = host.served::<Ledger>(consumer(number));
                edge.edge = EdgeId(number);
                server.serve(edge, host.page()).unwrap();
            }
            // Of every sort, one goes again; its place is taken by the next.
            for number in [3, 130, 255] {
                server.unserve(EdgeId(number), consumer(number));
                let mut edge = hosts[number as usize].served::<Ledger>(consumer(number));
                edge.edge = EdgeId(number);
                hosts[number as usize].close_pair(A, consumer(number));
                hosts[number as usize].open_pair(A, consumer(number));
                server.serve(edge, hosts[number as usize].page()).unwrap();
            }
            tell.send((server.waker(), nix::unistd::gettid())).unwrap();
            while !stop.load(Ordering::SeqCst) {
                if !server.turn() {
                    server.park();
                }
            }
        });
        let (waker, thread) = told.recv_timeout(WATCHDOG * 3).unwrap();
        let _ended = Stop { stop: &stop, waker };
        let task = format!("/proc/self/task/{thread}/syscall");
        let parked = format!("{} ", libc::SYS_futex_waitv);
        for number in [0, 3, 126, 127, 130, 200, 253, 254, 255, 256] {
            let connection = connect(&hosts[number as usize], number);
            for _ in 0..20 {
                wait_until("the server's sleep", || {
                    std::fs::read_to_string(&task).is_ok_and(|call| call.starts_with(&parked))
                });
                call(&connection);
            }
            assert_eq!(connection.rescues(), 0, "over edge {number}");
        }
    });
}
