//! Peers that break all that they can reach of their own edge: the files of its channel, its page,
//! and the protocol.
//!
//! Such a peer may take the other end of its edge down with it. That end is back after a restart,
//! and what it has to do with others goes on: every answer is the right one, and nothing is done
//! twice. These tests play the supervisor, which starts again what has died, and what does nothing
//! any more.
//!
//! `INSULA_VANDALS` sets how often each deed is done (default 1), each time with other chance.

#![expect(
    unsafe_code,
    reason = "a vandal writes to memory that others use, and to chunks by hand"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iceoryx2::node::NodeBuilder;
use iceoryx2::prelude::BackpressureStrategy;
use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::{ServedEdge, UsedEdge};
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::contract::{CONNECTIONS, Contract};
use insula_ipc::raw::{FileService, Line, config};
use insula_ipc::server::Server;
use insula_ipc::testing::{self, Host};
use memmap2::MmapRaw;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::{FileJournal, Service, WATCHDOG};
use crate::contract::{Add, Echo, Ledger, Text};
use crate::hostile::{Raw, Word, Words, words};
use crate::process::{Process, say, stay, variable};

const HONEST: Attempt = Attempt(500);
const VANDAL: Attempt = Attempt(600);
/// Without any progress for this long an end is taken for stuck and started again, as the
/// supervisor does with one that does not answer. One that is only slow loses nothing by it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is done to the files of a channel and the page of its edge.
const DEEDS: [&str; 8] = [
    "truncate",
    "cut",
    "unlink",
    "replace",
    "scribble",
    "scribble on the page",
    "forge",
    "fill",
];

fn rounds() -> u64 {
    std::env::var("INSULA_VANDALS").map_or(1, |text| text.parse().expect("a number of rounds"))
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// All plain files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    all
}

fn open(path: &Path) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(path).ok()
}

/// Writes anything to some of the words of a mapping.
fn scribble(map: &MmapRaw, chance: &mut Chance) {
    let words = map.len() / 8;
    for _ in 0..words.div_ceil(4) {
        let at = chance.below(words);
        // Mostly small numbers, which pass for lengths, indices and flags.
        let value = match chance.below(4) {
            0 => chance.next(),
            1 => u64::MAX,
            _ => chance.next() % 64,
        };
        // SAFETY: inside of a writable mapping, aligned, and any bytes are a value of an atomic.
        let word = unsafe { &*map.as_mut_ptr().cast::<AtomicU64>().add(at) };
        word.store(value, Ordering::SeqCst);
    }
}

/// Does what its name says to the channel in `pair` and the page.
fn commit(deed: &str, pair: &Path, page: &OwnedFd, chance: &mut Chance) {
    match deed {
        "truncate" | "cut" => {
            for path in files(pair) {
                let Some(file) = open(&path) else { continue };
                let length = file.metadata().map_or(0, |metadata| metadata.len());
                let _ = file.set_len(if deed == "cut" { length / 2 } else { 0 });
            }
        }
        "unlink" => {
            let _ = fs::remove_dir_all(pair);
        }
        "replace" => {
            for path in files(pair) {
                let _ = fs::remove_file(&path);
                let _ = fs::write(&path, chance.next().to_ne_bytes().repeat(512));
            }
        }
        "scribble" => {
            let maps: Vec<_> = files(pair)
                .iter()
                .filter_map(|path| MmapRaw::map_raw(&open(path)?).ok())
                .collect();
            for _ in 0..50 {
                maps.iter().for_each(|map| scribble(map, chance));
            }
        }
        "scribble on the page" => {
            let map = MmapRaw::map_raw(page).unwrap();
            (0..500).for_each(|_| scribble(&map, chance));
        }
        "fill" => {
            let mut file = File::create(pair.join("filling")).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        }
        _ => panic!("no such deed: {deed}"),
    }
}

/// Sends requests whose headers and bodies are anything, but never `Add`: those are counted.
fn forge_requests(pair: &Path, chance: &mut Chance) {
    let raw = Raw::open(pair.to_str().unwrap());
    for _ in 0..5000 {
        let method = [1, 3, 4, 77][chance.below(4)];
        let (slot, length) = (chance.below(40) as u16, chance.next() as u32 % 200);
        let mut header = words(1, method, slot, length, chance.next());
        if chance.below(2) == 0 {
            header.0[2 + chance.below(6)] = chance.next();
        }
        raw.throw(header, Line([chance.next() as u8; 64]));
    }
}

/// Answers whatever comes with anything, for ever.
fn forge_answers(pair: &str, chance: &mut Chance) -> ! {
    let node = NodeBuilder::new()
        .config(&config(pair).unwrap())
        .create::<FileService>()
        .unwrap();
    let service = node
        .service_builder(&"rr".try_into().unwrap())
        .request_response::<[Line], [Line]>()
        .request_user_header::<Words>()
        .response_user_header::<Word>()
        .enable_safe_overflow_for_requests(false)
        .enable_safe_overflow_for_responses(false)
        .max_servers(1)
        .max_clients(CONNECTIONS)
        .max_active_requests_per_client(Ledger::IN_FLIGHT)
        .max_response_buffer_size(2)
        .create()
        .unwrap();
    let server = service
        .server_builder()
        .initial_max_slice_len(3)
        .backpressure_strategy(BackpressureStrategy::DiscardData)
        .create()
        .unwrap();
    say("serving");
    let mut forged = 0_u64;
    loop {
        let Ok(Some(request)) = server.receive() else {
            std::thread::yield_now();
            continue;
        };
        for _ in 0..chance.below(4) {
            let lines = 1 + chance.below(3);
            let Ok(mut answer) = request.loan_slice_uninit(lines) else {
                break;
            };
            // Version 1 in its lower half, and mostly a status that there is.
            let status = chance.below(14) as u32;
            let version = u32::from(chance.below(8) != 0);
            let length = [chance.next() as u32, chance.below(300) as u32][chance.below(2)];
            *answer.user_header_mut() = Word([version | status << 16, length]);
            for line in answer.payload_mut() {
                line.write(Line([chance.next() as u8; 64]));
            }
            // SAFETY: every line was written.
            let _ = unsafe { answer.assume_init() }.send();
        }
        forged += 1;
        if forged == 20 {
            say("done");
        }
    }
}

/// Keeps a child that is to die from telling of it, and from leaving a core file.
fn be_quiet() {
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    nix::unistd::dup2_stderr(&null).unwrap();
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    nix::sys::resource::setrlimit(core, 0, 0).unwrap();
}

fn number(name: &str) -> u64 {
    variable(name).parse().unwrap()
}

fn descriptor(name: &str) -> OwnedFd {
    testing::inherited(variable(name).parse().unwrap())
}

fn served(edge: u64, parent: String, consumer: Attempt) -> ServedEdge {
    ServedEdge {
        edge: EdgeId(edge),
        contract: "ledger@1".parse().unwrap(),
        parent,
        consumer_name: "consumer".to_owned(),
        consumer,
        limits: Default::default(),
    }
}

fn used(parent: String, consumer: Attempt) -> UsedEdge {
    UsedEdge {
        edge: EdgeId(1),
        contract: "ledger@1".parse().unwrap(),
        provider: "provider".parse().unwrap(),
        parent,
        route: 0,
        consumer,
        policy: Default::default(),
    }
}

/// Not a test: what the children of the tests below run.
#[test]
fn role() {
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    be_quiet();
    match role.as_str() {
        "provider" => provide(),
        "vandal" => vandalise(),
        "rogue" => provide_and_vandalise(),
        "caller" => call_both(),
        _ => panic!("no such role"),
    }
}

fn server(attempt: Attempt) -> Server<Service, FileJournal> {
    let journal = FileJournal::open(Path::new(&variable("JOURNAL")));
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    Server::new(attempt, slot(attempt), Duration::ZERO, service, journal)
}

fn slot(attempt: Attempt) -> u8 {
    (attempt.0 % 16) as u8
}

/// Serves the honest edge, and the vandal's where there is one.
fn provide() {
    let mut server = server(Attempt(number("ATTEMPT")));
    let honest = served(1, variable("PARENT"), HONEST);
    server.serve(honest, descriptor("PAGE")).unwrap();
    if std::env::var_os("PAGE_2").is_some() {
        let vandals = served(2, variable("PARENT_2"), VANDAL);
        // A page that is scribbled on cannot be served; that is its consumer's affair.
        let _ = server.serve(vandals, descriptor("PAGE_2"));
    }
    say("serving");
    loop {
        if !server.turn() {
            server.park();
        }
        server.dispatch_mut().executed.borrow_mut().clear();
    }
}

/// A consumer that begins as others do.
fn vandalise() {
    let (page, routes) = (descriptor("PAGE"), descriptor("ROUTES"));
    let writable = page.try_clone().unwrap();
    let used = used(variable("PARENT"), VANDAL);
    let edge = Edge::new(used, &routes, page, Duration::ZERO).unwrap();
    let connection = edge.connect::<Ledger>().unwrap();
    let text = Text { text: "hello" };
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    drop(connection.call::<Echo>(&text, options).unwrap());
    let (pair, mut chance) = (PathBuf::from(variable("PAIR")), Chance(number("SEED")));
    match variable("DEED").as_str() {
        "forge" => forge_requests(&pair, &mut chance),
        deed => commit(deed, &pair, &writable, &mut chance),
    }
    say("done");
    stay();
}

/// A provider that begins as others do.
fn provide_and_vandalise() {
    let (pair, mut chance) = (variable("PAIR"), Chance(number("SEED")));
    let deed = variable("DEED");
    if deed == "silence" {
        say("serving");
        stay();
    }
    let page = descriptor("PAGE");
    if deed == "forge" {
        let map = MmapRaw::map_raw(&page).unwrap();
        // SAFETY: a writable mapping of a page, of atomics, that outlives this use.
        let page = unsafe { &*map.as_ptr().cast::<insula_contract::edge::EdgePage>() };
        let attempt = number("ATTEMPT");
        page.servers[usize::from(slot(Attempt(attempt)))]
            .open
            .store(attempt, Ordering::SeqCst);
        forge_answers(&pair, &mut chance);
    }
    let writable = page.try_clone().unwrap();
    let mut server = server(Attempt(number("ATTEMPT")));
    server
        .serve(served(1, variable("PARENT"), HONEST), page)
        .unwrap();
    say("serving");
    let end = Instant::now() + WATCHDOG;
    while server.dispatch_mut().executed.borrow().is_empty() && Instant::now() < end {
        server.turn();
    }
    commit(&deed, Path::new(&pair), &writable, &mut chance);
    say("done");
    stay();
}

/// Calls an honest provider and a rogue, and says how far it has come with the honest one.
fn call_both() {
    let deadline = |deadline| CallOptions {
        deadline: Some(deadline),
        ..CallOptions::default()
    };
    let consumer = HONEST;
    let (page, routes) = (descriptor("PAGE"), descriptor("ROUTES"));
    let used_1 = used(variable("PARENT"), consumer);
    let honest = Edge::new(used_1, &routes, page, Duration::ZERO).unwrap();
    let honest = honest.connect::<Ledger>().unwrap();
    let (page, routes) = (descriptor("PAGE_2"), descriptor("ROUTES_2"));
    let rogue = Edge::new(
        used(variable("PARENT_2"), consumer),
        &routes,
        page,
        Duration::ZERO,
    )
    .ok()
    .and_then(|edge| edge.connect::<Ledger>().ok());
    let mut total = 0;
    for step in 0_u64.. {
        if let Some(rogue) = &rogue {
            let text = Text { text: "anybody?" };
            if let Ok(answer) = rogue.call::<Echo>(&text, deadline(Duration::from_millis(5))) {
                let _ = answer.get();
            }
        }
        let sent = format!("honest {step}");
        let text = Text { text: &sent };
        let echoed = honest.call::<Echo>(&text, deadline(WATCHDOG)).unwrap();
        let added = honest.call::<Add>(&text, deadline(WATCHDOG)).unwrap();
        let before = std::mem::replace(&mut total, added.get().unwrap());
        match echoed.get().unwrap() == text && total > before {
            true => say("right"),
            false => say("wrong"),
        }
    }
}

/// Tells the honest consumer's thread to end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A directory of a few pages, where root may make one.
fn small_disk(directory: &Path) -> bool {
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=512k"),
    )
    .is_ok()
}

/// Calls for ever, and checks each answer; every total that it was told.
fn consume(edge: &Edge, answered: &AtomicU64, stop: &AtomicBool) -> Vec<u64> {
    let connection = edge.connect::<Ledger>().unwrap();
    let options = CallOptions {
        deadline: Some(2 * WATCHDOG),
        ..CallOptions::default()
    };
    let mut totals = Vec::new();
    for step in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let sent = format!("honest {step}");
        let text = Text { text: &sent };
        let echoed = connection.call::<Echo>(&text, options).unwrap();
        assert_eq!(echoed.get().unwrap(), text, "another's answer");
        let added = connection.call::<Add>(&text, options).unwrap();
        totals.push(added.get().unwrap());
        answered.fetch_add(1, Ordering::SeqCst);
    }
    totals
}

#[test]
fn a_vandal_ends_its_provider_at_most_and_others_get_right_answers() {
    let honest = Host::new("vandal-honest");
    let journal = honest
        .pair(Attempt(0), Attempt(0))
        .with_file_name("journal");
    let edge = Edge::new(
        honest.used::<Ledger>(HONEST),
        honest.routes(),
        honest.page(),
        Duration::ZERO,
    )
    .unwrap();
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut attempt = Attempt(0);
    let (mut died, mut stuck) = (Vec::new(), Vec::new());
    let totals = std::thread::scope(|threads| {
        let stopping = Stop(&stop);
        let consuming = threads.spawn(|| consume(&edge, &answered, &stop));
        let start = |vandals: &Host, before: Attempt| {
            let attempt = Attempt(before.0 + 1);
            honest.publish(RouteState::Hold, before, slot(before), None);
            honest.close_pair(before, HONEST);
            honest.open_pair(attempt, HONEST);
            if !vandals.pair(attempt, VANDAL).exists() {
                vandals.open_pair(attempt, VANDAL);
            }
            let page = vandals.page();
            let variables = [
                ("ATTEMPT", attempt.0.to_string()),
                ("JOURNAL", journal.to_str().unwrap().to_owned()),
                ("PARENT_2", vandals.used::<Ledger>(VANDAL).parent),
                ("PAGE_2", testing::inheritable(&page).to_string()),
            ];
            let provider = Process::start("vandals::role", "provider", &honest, &variables);
            provider.says("serving");
            for host in [vandals, &honest] {
                host.publish(RouteState::Serve, attempt, slot(attempt), None);
            }
            (provider, attempt)
        };
        for (round, deed) in (0..rounds()).flat_map(|round| DEEDS.map(|deed| (round, deed))) {
            let vandals = Host::new("vandal-edge");
            let pair = vandals.pair(Attempt(attempt.0 + 1), VANDAL);
            vandals.open_pair(Attempt(attempt.0 + 1), VANDAL);
            let disk = deed == "fill" && small_disk(&pair);
            if deed == "fill" && !disk {
                println!("SKIPPED (needs root): a disk for a vandal to fill");
                continue;
            }
            let (mut provider, mut now) = start(&vandals, attempt);
            let variables = [
                ("DEED", deed.to_owned()),
                ("PAIR", pair.to_str().unwrap().to_owned()),
                ("SEED", (round * 1000 + attempt.0).to_string()),
            ];
            let vandal = Process::start("vandals::role", "vandal", &vandals, &variables);
            let (begun, mut last) = (Instant::now(), (0, Instant::now()));
            let (mut done, mut enough) = (false, u64::MAX);
            while last.0 < enough {
                assert!(begun.elapsed() < 2 * WATCHDOG, "watchdog: after {deed}");
                std::thread::yield_now();
                if !done && vandal.word().is_some() {
                    done = true;
                    enough = answered.load(Ordering::SeqCst) + 30;
                }
                let count = answered.load(Ordering::SeqCst);
                if count > last.0 {
                    last = (count, Instant::now());
                }
                let (ended, hangs) = (provider.has_ended(), last.1.elapsed() > PATIENCE);
                if ended || hangs {
                    if ended { &mut died } else { &mut stuck }.push(deed);
                    provider.kill();
                    (provider, now) = start(&vandals, now);
                    last.1 = Instant::now();
                }
            }
            drop((vandal, provider));
            attempt = now;
            if disk {
                umount2(&pair, MntFlags::MNT_DETACH).unwrap();
            }
        }
        // Whoever waits for an answer gets it, so that it sees that it is to end.
        let last = Host::new("vandal-edge");
        let provider = start(&last, attempt);
        drop(stopping);
        let totals = consuming.join().unwrap();
        drop(provider);
        totals
    });
    println!("ended their provider: {died:?}; stuck: {stuck:?}");
    let expected: Vec<u64> = (1..=totals.len() as u64).collect();
    assert_eq!(totals, expected, "each was done once, in its order");
    assert_eq!(FileJournal::open(&journal).total(), totals.len() as u64);
}

#[test]
fn a_rogue_provider_ends_its_consumer_at_most_and_others_serve_that_rightly() {
    let mut attempt = 0;
    let (mut died, mut stuck) = (Vec::new(), Vec::new());
    let journals = tempfile::tempdir().unwrap();
    let journal = |name: &str| journals.path().join(name).to_str().unwrap().to_owned();
    // On a full disk nothing new can be made; what such a consumer has lies there and is written to.
    let deeds = || DEEDS.into_iter().filter(|deed| *deed != "fill");
    for (round, deed) in (0..rounds()).flat_map(|round| deeds().map(move |deed| (round, deed))) {
        let (mut done, begun) = (false, Instant::now());
        // A consumer that died has a successor, with edges of its own, and the rogue is mute then.
        'attempts: loop {
            attempt += 1;
            let provider = Attempt(attempt);
            let (honest, rogues) = (Host::new("rogue-honest"), Host::new("rogue-edge"));
            for host in [&honest, &rogues] {
                host.open_pair(provider, HONEST);
            }
            let variables = |name| {
                [
                    ("ATTEMPT", attempt.to_string()),
                    ("JOURNAL", journal(name)),
                    ("DEED", if done { "silence" } else { deed }.to_owned()),
                    ("SEED", (round * 1000 + attempt).to_string()),
                    (
                        "PAIR",
                        rogues.pair(provider, HONEST).to_str().unwrap().to_owned(),
                    ),
                ]
            };
            let (right, wrong) = (variables("honest"), variables("rogue"));
            let serving = Process::start("vandals::role", "provider", &honest, &right);
            let rogue = Process::start("vandals::role", "rogue", &rogues, &wrong);
            serving.says("serving");
            rogue.says("serving");
            for host in [&honest, &rogues] {
                host.publish(RouteState::Serve, provider, slot(provider), None);
            }
            let (page, routes) = (rogues.page(), rogues.routes());
            let variables = [
                ("PARENT_2", rogues.used::<Ledger>(HONEST).parent),
                ("PAGE_2", testing::inheritable(&page).to_string()),
                ("ROUTES_2", testing::inheritable(&routes).to_string()),
            ];
            let mut caller = Process::start("vandals::role", "caller", &honest, &variables);
            let (mut rights, mut last) = (0, Instant::now());
            loop {
                assert!(begun.elapsed() < 2 * WATCHDOG, "watchdog: after {deed}");
                std::thread::yield_now();
                if !done && rogue.word().is_some() {
                    (done, rights) = (true, 0);
                }
                match caller.word().as_deref() {
                    Some("right") => {
                        rights += 1;
                        last = Instant::now();
                    }
                    Some(other) => panic!("{other} after {deed}"),
                    None => {}
                }
                if done && rights >= 30 {
                    break 'attempts;
                }
                let ended = caller.has_ended();
                if ended || last.elapsed() > PATIENCE {
                    if ended { &mut died } else { &mut stuck }.push(deed);
                    break;
                }
            }
        }
    }
    println!("ended their consumer: {died:?}; stuck: {stuck:?}");
}
