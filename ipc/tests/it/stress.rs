//! Eight senders on two edges that always park, while servers are killed and cut over: nobody sleeps beside
//! work.
//!
//! `INSULA_STRESS_SECONDS` sets for how long (default 4); `cargo xtask stress` takes minutes.
//!
//! A client that has slept for its longest time rings its server regardless, and counts a rescue
//! where that server's flag was set or its answer lay there unrung. Between living peers there
//! must be none. A killed server leaves its flag set, so what is counted from a kill until every
//! client has had an answer of the successor is not held against the protocol.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge};
use insula_ipc::contract::CONNECTIONS;
use insula_ipc::server::{Server, Waker};
use insula_ipc::testing::{self, Host};

use crate::common::{FileJournal, Service, WATCHDOG, wait_until};
use crate::contract::{Echo, Ledger, Risk, Text};
use crate::process::{Process, say, variable};

/// The attempts of the two consumers, each of them with an edge of its own.
const CONSUMERS: [Attempt; 2] = [Attempt(500), Attempt(501)];
const SENDERS: usize = CONSUMERS.len() * CONNECTIONS;

/// Not a test: a server that is going to be killed.
#[test]
fn role() {
    if std::env::var("ROLE").is_err() {
        return;
    }
    let mut server = server(Attempt(variable("ATTEMPT").parse().unwrap()));
    for (consumer, number) in CONSUMERS.into_iter().zip(["", "_2"]) {
        let page = variable(&format!("PAGE{number}")).parse().unwrap();
        let edge = insula_contract::line::ServedEdge {
            edge: insula_contract::id::EdgeId(1),
            contract: "ledger@1".parse().unwrap(),
            parent: variable(&format!("PARENT{number}")),
            consumer_name: "consumer".to_owned(),
            consumer,
            limits: Default::default(),
        };
        server.serve(edge, testing::inherited(page)).unwrap();
    }
    say("serving");
    loop {
        if !server.turn() {
            server.park();
        }
    }
}

fn slot(attempt: Attempt) -> u8 {
    (attempt.0 % 16) as u8
}

fn server(attempt: Attempt) -> Server<Service, FileJournal> {
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    Server::new(attempt, slot(attempt), Duration::ZERO, service, journal)
}

/// Serves in this process until told, then drains.
fn serve(hosts: &[Host; 2], attempt: Attempt, ready: &mpsc::Sender<Waker>, leave: &AtomicBool) {
    let mut server = server(attempt);
    for (host, consumer) in hosts.iter().zip(CONSUMERS) {
        let edge = host.served::<Ledger>(consumer);
        server.serve(edge, host.page()).unwrap();
    }
    ready.send(server.waker()).unwrap();
    let mut turns = 0_u32;
    while !leave.load(Ordering::SeqCst) {
        if server.turn() {
            turns += 1;
            if turns.is_multiple_of(1024) {
                server.dispatch_mut().executed.borrow_mut().clear();
            }
        } else {
            server.park();
        }
    }
    server.drain();
}

/// What a sender tells while it sends.
#[derive(Default)]
struct Told {
    answers: AtomicU64,
    rescues: AtomicU64,
}

fn send(connection: &Connection, told: &Told, stop: &AtomicBool) {
    let text = Text { text: "wake up" };
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = if number % 4 == 3 {
            connection.call::<Risk>(&text, options).map(|_| ())
        } else {
            connection.call::<Echo>(&text, options).map(|_| ())
        };
        match outcome {
            Ok(()) => _ = told.answers.fetch_add(1, Ordering::SeqCst),
            // The server died with a request whose method may not be repeated.
            Err(CallError::OutcomeUnknown) if number % 4 == 3 => {}
            Err(error) => panic!("{error}"),
        }
        told.rescues.store(connection.rescues(), Ordering::SeqCst);
    }
}

fn rescues(told: &[Told]) -> u64 {
    told.iter()
        .map(|told| told.rescues.load(Ordering::SeqCst))
        .sum()
}

/// Waits until every sender has had two more answers: the second was asked for since.
fn all_are_answered(told: &[Told]) {
    let answers = || told.iter().map(|told| told.answers.load(Ordering::SeqCst));
    let before: Vec<u64> = answers().collect();
    wait_until("an answer for every sender", || {
        answers().zip(&before).all(|(now, before)| now > before + 1)
    });
}

/// A server in a thread; told to leave when dropped.
struct Threaded {
    leave: Arc<AtomicBool>,
    waker: Waker,
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// Who serves.
enum Serving<'scope> {
    Thread(Threaded, std::thread::ScopedJoinHandle<'scope, ()>),
    Process(Process),
}

/// The supervisor's part, on both edges.
struct Hosts([Host; 2]);

impl Hosts {
    fn each(&self, act: impl Fn(&Host, Attempt)) {
        for (host, consumer) in self.0.iter().zip(CONSUMERS) {
            act(host, consumer);
        }
    }

    fn publish(&self, state: RouteState, attempt: Attempt, drained: Option<Attempt>) {
        self.each(|host, _| host.publish(state, attempt, slot(attempt), drained));
    }

    fn process(&self, attempt: Attempt) -> Process {
        let page = self.0[1].page();
        let variables = [
            ("ATTEMPT", attempt.0.to_string()),
            ("PAGE_2", testing::inheritable(&page).to_string()),
            ("PARENT_2", self.0[1].used::<Ledger>(CONSUMERS[1]).parent),
        ];
        let process = Process::start("stress::role", "server", &self.0[0], &variables);
        process.says("serving");
        process
    }
}

/// Ends the senders, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nobody_sleeps_beside_work_while_servers_are_killed_and_cut_over() {
    let seconds = std::env::var("INSULA_STRESS_SECONDS")
        .map_or(4, |text| text.parse().expect("a number of seconds"));
    let hosts = Hosts([Host::new("stress-1"), Host::new("stress-2")]);
    let edges = [0, 1].map(|index: usize| {
        let host = &hosts.0[index];
        let used = host.used::<Ledger>(CONSUMERS[index]);
        Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap()
    });
    let told: [Told; SENDERS] = Default::default();
    let stop = AtomicBool::new(false);
    let (mut kills, mut cut_overs, mut lost) = (0_u64, 0_u64, 0);
    std::thread::scope(|threads| {
        let stopping = Stop(&stop);
        let mut senders = Vec::new();
        for (number, told) in told.iter().enumerate() {
            let (edge, stop) = (&edges[number % edges.len()], &stop);
            senders.push(threads.spawn(move || {
                let connection = edge.connect::<Ledger>().unwrap();
                send(&connection, told, stop);
            }));
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut now: Option<(Attempt, Serving<'_>)> = None;
        let mut counted = 0;
        for number in 1_u64.. {
            let attempt = Attempt(number);
            hosts.each(|host, consumer| host.open_pair(attempt, consumer));
            let next = if number % 8 == 0 {
                Serving::Process(hosts.process(attempt))
            } else {
                let leave = Arc::new(AtomicBool::new(false));
                let (ready, readied) = mpsc::channel();
                let thread = threads.spawn({
                    let (hosts, leave) = (&hosts.0, leave.clone());
                    move || serve(hosts, attempt, &ready, &leave)
                });
                let waker = readied.recv_timeout(WATCHDOG).unwrap();
                Serving::Thread(Threaded { leave, waker }, thread)
            };
            let close = |before| hosts.each(|host, consumer| host.close_pair(before, consumer));
            match now.take() {
                None => hosts.publish(RouteState::Serve, attempt, None),
                Some((before, Serving::Thread(told_to_leave, thread))) => {
                    hosts.publish(RouteState::Hold, before, None);
                    drop(told_to_leave);
                    thread.join().unwrap();
                    hosts.publish(RouteState::Serve, attempt, Some(before));
                    close(before);
                    cut_overs += 1;
                    all_are_answered(&told);
                    lost += rescues(&told) - counted;
                    counted = rescues(&told);
                }
                Some((before, Serving::Process(mut process))) => {
                    all_are_answered(&told);
                    lost += rescues(&told) - counted;
                    process.kill();
                    hosts.publish(RouteState::Serve, attempt, None);
                    close(before);
                    kills += 1;
                    all_are_answered(&told);
                    counted = rescues(&told);
                }
            }
            now = Some((attempt, next));
            if Instant::now() >= end && kills > 0 {
                break;
            }
        }
        drop(stopping);
        // The last server serves until the senders have ended.
        for sender in senders {
            sender.join().unwrap();
        }
        drop(now);
    });
    let answers: u64 = told
        .iter()
        .map(|told| told.answers.load(Ordering::SeqCst))
        .sum();
    println!("{answers} answers, {cut_overs} cut-overs, {kills} kills, {lost} rescues");
    assert_eq!(lost, 0, "somebody slept although there was work");
}
