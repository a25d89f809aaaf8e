//! Providers and consumers killed with -9 at random moments, with live traffic.
//!
//! This process plays the supervisor and holds the survivors: a consumer whose providers are
//! killed, a provider whose consumers are killed, and another consumer of that provider, which is
//! to notice nothing. Afterwards files, descriptors, mappings and heap are where they were after
//! the first few kills.
//!
//! `INSULA_KILLS` sets how many processes are killed (default 40); `cargo xtask kills` takes 1,000.

#![expect(unsafe_code, reason = "the allocator is asked for its figures")]

#[expect(dead_code, reason = "the journal in a file is for other tests")]
#[path = "../it/common.rs"]
mod common;
#[path = "../it/contract.rs"]
mod contract;
#[expect(dead_code, reason = "some of it is for other tests")]
#[path = "../it/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::{ServedEdge, UsedEdge};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Edge, Refusal};
use insula_ipc::server::{Server, Waker};
use insula_ipc::testing::{self, Host};

use common::{FileJournal, Service, WATCHDOG, wait_until};
use contract::{Echo, Ledger, Risk, Text, Unheard};
use process::{Process, say, variable};

/// The consumer whose providers are killed.
const SURVIVOR: Attempt = Attempt(1 << 20);
/// The consumer that shares its provider with those that are killed.
const BYSTANDER: Attempt = Attempt(1 << 21);
/// The provider whose consumers are killed.
const PROVIDER: Attempt = Attempt(1 << 22);
/// Kills after which everything that is made once has been made.
const WARM_UP: u64 = 10;

/// Not a test: a process that is going to be killed.
#[test]
fn role() {
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    let attempt = Attempt(variable("ATTEMPT").parse().unwrap());
    let page = testing::inherited(variable("PAGE").parse().unwrap());
    let routes = testing::inherited(variable("ROUTES").parse().unwrap());
    match role.as_str() {
        "provider" => {
            let mut server = server(attempt);
            server.serve(served(SURVIVOR), page).unwrap();
            say("serving");
            loop {
                if !server.turn() {
                    server.park();
                }
            }
        }
        "consumer" => {
            let used = UsedEdge {
                edge: EdgeId(1),
                contract: "ledger@1".parse().unwrap(),
                provider: "provider".parse().unwrap(),
                parent: variable("PARENT"),
                route: 0,
                consumer: attempt,
                policy: Default::default(),
            };
            let edge = Edge::new(used, &routes, page, Duration::ZERO).unwrap();
            let connection = edge.connect::<Ledger>().unwrap();
            let text = Text {
                text: "until killed",
            };
            for number in 0_u64.. {
                // Several at once, so that it dies with requests and answers under way.
                let tickets: Vec<_> = (0..4)
                    .map(|_| {
                        connection
                            .submit::<Echo>(&text, CallOptions::default())
                            .unwrap()
                    })
                    .collect();
                for ticket in tickets {
                    drop(ticket.wait().unwrap());
                }
                if number == 0 {
                    say("calling");
                }
            }
        }
        _ => panic!("no such role"),
    }
}

fn served(consumer: Attempt) -> ServedEdge {
    ServedEdge {
        edge: EdgeId(1),
        contract: "ledger@1".parse().unwrap(),
        parent: variable("PARENT"),
        consumer_name: "consumer".to_owned(),
        consumer,
        limits: Default::default(),
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

/// What the surviving provider is told.
enum Order {
    Serve(Box<ServedEdge>, OwnedFd),
    Unserve(Attempt),
    Leave,
}

/// The surviving provider.
fn provide(orders: &mpsc::Receiver<Order>, waker: &mpsc::Sender<Waker>, done: &mpsc::Sender<()>) {
    let mut server = server(PROVIDER);
    waker.send(server.waker()).unwrap();
    loop {
        match orders.try_recv() {
            Ok(Order::Serve(edge, page)) => server.serve(*edge, page).unwrap(),
            Ok(Order::Unserve(consumer)) => server.unserve(EdgeId(1), consumer),
            Ok(Order::Leave) | Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => {
                if !server.turn() {
                    server.park();
                }
                server.dispatch_mut().executed.borrow_mut().clear();
                continue;
            }
        }
        done.send(()).unwrap();
    }
}

/// What became of a survivor's calls.
#[derive(Default)]
struct Calls {
    answered: AtomicU64,
    unknown: AtomicU64,
    rescues: AtomicU64,
}

/// A surviving consumer: every call is answered, or fails with what its method declares.
fn consume(edge: &Edge, calls: &Calls, stop: &AtomicBool, others_may_die: bool) {
    let connection = edge.connect::<Ledger>().unwrap();
    let text = Text { text: "still here" };
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    // A refusal is an answer, too.
    let refused = connection.call::<Unheard>(&text, options).unwrap_err();
    assert_eq!(refused, CallError::Refused(Refusal::UnknownMethod));
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let outcome = if number % 2 == 1 {
            connection.call::<Risk>(&text, options).map(|_| ())
        } else {
            connection.call::<Echo>(&text, options).map(|_| ())
        };
        match outcome {
            Ok(()) => calls.answered.fetch_add(1, Ordering::SeqCst),
            Err(CallError::OutcomeUnknown) if number % 2 == 1 && others_may_die => {
                calls.unknown.fetch_add(1, Ordering::SeqCst)
            }
            Err(error) => panic!("call {number}: {error}"),
        };
        calls.rescues.store(connection.rescues(), Ordering::SeqCst);
    }
}

/// What this process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    mappings: usize,
    mapped_bytes: u64,
    files: usize,
    heap_bytes: usize,
}

impl Holdings {
    fn now(hosts: &[&Host]) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let (mut mappings, mut mapped_bytes) = (0, 0);
        for line in maps.lines() {
            if line.contains("/dev/shm/") || line.contains("/memfd:") {
                let range = line.split(' ').next().unwrap().split_once('-').unwrap();
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                mappings += 1;
                mapped_bytes += address(range.1) - address(range.0);
            }
        }
        let files = |host: &&Host| {
            let parent = host.used::<Ledger>(SURVIVOR).parent;
            std::fs::read_dir(parent).unwrap().count()
        };
        // SAFETY: it takes nothing and returns plain numbers.
        let heap = unsafe { libc::mallinfo2() };
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings,
            mapped_bytes,
            files: hosts.iter().map(files).sum(),
            heap_bytes: heap.uordblks + heap.hblkhd,
        }
    }
}

impl Holdings {
    /// Whether nothing was kept since `first`, beside what an allocator rounds.
    fn is_within(&self, first: &Self) -> bool {
        self.descriptors <= first.descriptors
            && self.mappings <= first.mappings
            && self.mapped_bytes <= first.mapped_bytes
            && self.heap_bytes.saturating_sub(first.heap_bytes) < 128 << 10
    }
}

/// A different moment each time.
fn some_time(number: u64) {
    let until = Instant::now() + Duration::from_micros(number.wrapping_mul(7_919) % 9_973);
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

fn edge(host: &Host, consumer: Attempt) -> Edge {
    let used = host.used::<Ledger>(consumer);
    Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap()
}

/// Ends the survivors, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn survivors_of_kills_see_declared_errors_and_keep_nothing() {
    let kills = std::env::var("INSULA_KILLS")
        .map_or(40, |text| text.parse().expect("a number of kills"))
        .max(2 * WARM_UP);
    let providers = Host::new("kills-providers");
    let bystander = Host::new("kills-bystander");
    let (survivor_edge, bystander_edge) = (edge(&providers, SURVIVOR), edge(&bystander, BYSTANDER));
    let (survived, undisturbed) = (Calls::default(), Calls::default());
    let stop = AtomicBool::new(false);
    let mut at_first = None;
    let mut died: BTreeMap<&str, u64> = BTreeMap::new();
    std::thread::scope(|threads| {
        let stopping = Stop(&stop);
        let (order, orders) = mpsc::channel();
        let (tell_waker, waker) = mpsc::channel();
        let (tell_done, done) = mpsc::channel();
        threads.spawn(move || provide(&orders, &tell_waker, &tell_done));
        let waker = waker.recv_timeout(WATCHDOG).unwrap();
        let ask = |what| {
            order.send(what).unwrap();
            waker.wake();
            done.recv_timeout(WATCHDOG).expect("watchdog: the provider");
        };
        let serve = |host: &Host, consumer| {
            host.open_pair(PROVIDER, consumer);
            let edge = Box::new(host.served::<Ledger>(consumer));
            ask(Order::Serve(edge, host.page()));
            host.publish(RouteState::Serve, PROVIDER, slot(PROVIDER), None);
        };
        serve(&bystander, BYSTANDER);
        let consumers = [
            threads.spawn(|| consume(&survivor_edge, &survived, &stop, true)),
            threads.spawn(|| consume(&bystander_edge, &undisturbed, &stop, false)),
        ];
        for number in 1..=kills {
            let attempt = Attempt(number);
            let variables = [("ATTEMPT", number.to_string())];
            if number % 2 == 0 {
                let host = Host::new("kills-consumer");
                serve(&host, attempt);
                let mut consumer = Process::start("role", "consumer", &host, &variables);
                consumer.says("calling");
                some_time(number);
                consumer.kill();
                ask(Order::Unserve(attempt));
                host.close_pair(PROVIDER, attempt);
                *died.entry("consumers").or_default() += 1;
            } else {
                providers.open_pair(attempt, SURVIVOR);
                let mut provider = Process::start("role", "provider", &providers, &variables);
                provider.says("serving");
                let before = survived.answered.load(Ordering::SeqCst);
                providers.publish(RouteState::Serve, attempt, slot(attempt), None);
                wait_until("an answer of the new provider", || {
                    survived.answered.load(Ordering::SeqCst) > before
                });
                some_time(number);
                provider.kill();
                providers.publish(RouteState::Hold, attempt, slot(attempt), None);
                providers.close_pair(attempt, SURVIVOR);
                *died.entry("providers").or_default() += 1;
            }
            if number == WARM_UP {
                at_first = Some(Holdings::now(&[&providers, &bystander]));
            }
        }
        // Those that are gone may take a moment to be let go of: the survivor, whose route holds,
        // ends its last link when it next looks.
        let first = at_first.clone().expect("more kills than that");
        let mut last = Holdings::now(&[&providers, &bystander]);
        let end = Instant::now() + WATCHDOG;
        while !last.is_within(&first) {
            assert!(Instant::now() < end, "kept: {first:?} became {last:?}");
            std::thread::yield_now();
            last = Holdings::now(&[&providers, &bystander]);
        }
        let answers = undisturbed.answered.load(Ordering::SeqCst);
        wait_until("the bystander goes on", || {
            undisturbed.answered.load(Ordering::SeqCst) > answers
        });
        println!("killed {died:?}");
        for (name, calls) in [("survivor", &survived), ("bystander", &undisturbed)] {
            println!(
                "{name}: {} answers, {} outcomes unknown, {} rescues",
                calls.answered.load(Ordering::SeqCst),
                calls.unknown.load(Ordering::SeqCst),
                calls.rescues.load(Ordering::SeqCst),
            );
        }
        println!("after {WARM_UP} kills: {first:?}\nafter {kills} kills: {last:?}");
        assert_eq!(last.files, first.files, "entries in the channels' tree");
        // A last provider lets the survivor end; it dies when dropped.
        let attempt = Attempt(kills + 1);
        providers.open_pair(attempt, SURVIVOR);
        let variables = [("ATTEMPT", attempt.0.to_string())];
        let provider = Process::start("role", "provider", &providers, &variables);
        provider.says("serving");
        providers.publish(RouteState::Serve, attempt, slot(attempt), None);
        drop(stopping);
        for consumer in consumers {
            consumer.join().unwrap();
        }
        order.send(Order::Leave).unwrap();
        waker.wake();
    });
}
