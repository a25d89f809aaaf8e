//! The traps of iceoryx2 0.10.0 that its users fall into, and that our layer does not suffer.
//!
//! Where it is cheap and certain, the naive use is shown to suffer it: should that change with
//! another version, the test says so. What cannot reach us by construction is asserted of the
//! construction.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::writer::EntryHandleMutError;
use iceoryx2::prelude::{FileName, SemanticString, ipc};
use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallOptions, Connection, Edge};
use insula_ipc::raw::{FileService, config};
use insula_ipc::server::{ServeError, Server};
use insula_ipc::testing::Host;

use crate::common::{FileJournal, Service, WATCHDOG};
use crate::contract::{Echo, Ledger, Text};
use crate::process::{Process, say, stay, variable};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);

/// A server and a client that have talked, so that everything that a channel is made of exists.
struct Pair {
    // Declared before the host: ends go before the directory.
    _connection: Connection,
    server: Server<Service, FileJournal>,
    host: Host,
}

fn server(attempt: Attempt) -> Server<Service, FileJournal> {
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    Server::new(attempt, 0, Duration::ZERO, service, journal)
}

impl Pair {
    fn new(name: &str) -> Self {
        let host = Host::new(name);
        host.open_pair(A, CONSUMER);
        let mut server = server(A);
        server
            .serve(host.served::<Ledger>(CONSUMER), host.page())
            .unwrap();
        host.publish(RouteState::Serve, A, 0, None);
        let used = host.used::<Ledger>(CONSUMER);
        let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
        let connection = edge.connect::<Ledger>().unwrap();
        let ticket = connection
            .submit::<Echo>(&Text { text: "made" }, CallOptions::default())
            .unwrap();
        assert!(server.turn());
        drop(ticket.wait().unwrap());
        Self {
            _connection: connection,
            server,
            host,
        }
    }

    fn directory(&self) -> PathBuf {
        self.host.pair(A, CONSUMER)
    }
}

/// Every file below a directory.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

fn named(files: &BTreeSet<PathBuf>, part: &str) -> Vec<PathBuf> {
    let name = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().contains(part))
    };
    files.iter().filter(|path| name(path)).cloned().collect()
}

/// The paths of what this process maps.
fn mapped() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .collect()
}

fn node<S: iceoryx2::service::Service>(config: &Config) -> Node<S> {
    NodeBuilder::new().config(config).create::<S>().unwrap()
}

/// 1: wake-ups are lost where several notifiers share a listener behind a file descriptor.
#[test]
fn no_event_of_iceoryx2_wakes_anybody() {
    let pair = Pair::new("trap-events");
    let all = files(&pair.directory());
    assert!(!all.is_empty());
    assert_eq!(
        named(&all, "event"),
        [] as [PathBuf; 0],
        "no listener exists"
    );
}

/// 2: root waits for ever for a segment whose maker died between creating and sizing it.
#[test]
fn a_segment_without_a_size_is_refused_and_not_waited_for() {
    let host = Host::new("trap-size");
    host.open_pair(A, CONSUMER);
    let whole = host.pair(A, CONSUMER);
    let copy = host.pair(Attempt(2), CONSUMER);
    let node = node::<FileService>(&config(whole.to_str().unwrap()).unwrap());
    let service = node
        .service_builder(&"sizeless".try_into().unwrap())
        .request_response::<u64, u64>()
        .create()
        .unwrap();
    let made = files(&whole);
    for file in &made {
        let to = copy.join(file.strip_prefix(&whole).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    drop((service, node));
    let open = || {
        let directory = copy.to_str().unwrap().to_owned();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let node = self::node::<FileService>(&config(&directory).unwrap());
            let opened = node
                .service_builder(&"sizeless".try_into().unwrap())
                .request_response::<u64, u64>()
                .open();
            let _ = tell.send(opened.map(|_| ()).map_err(|error| format!("{error:?}")));
        });
        told.recv_timeout(WATCHDOG)
            .expect("watchdog: an answer, whatever it is")
    };
    let dynamic = named(&files(&copy), ".dynamic");
    assert!(!dynamic.is_empty(), "{:?}", files(&copy));
    for file in &dynamic {
        fs::File::create(file).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o200)).unwrap();
    }
    let refused = open();
    assert!(refused.is_err(), "a service without a segment was opened");
}

/// 3: who writes a blackboard and is killed leaves its keys unwritable; so routes, which must be
/// written by successors, lie in no blackboard.
#[test]
fn a_route_is_written_by_any_number_of_successors_where_a_blackboard_is_not() {
    let pair = Pair::new("trap-blackboard");
    assert_eq!(
        named(&files(&pair.directory()), "blackboard"),
        [] as [PathBuf; 0]
    );
    pair.host.publish(RouteState::Hold, A, 0, None);
    pair.host.publish(RouteState::Serve, A, 0, None);

    let naive = Host::new("trap-blackboard-naive");
    naive.open_pair(A, CONSUMER);
    let directory = naive.pair(A, CONSUMER).to_str().unwrap().to_owned();
    let successor = node::<FileService>(&config(&directory).unwrap());
    let board = successor
        .service_builder(&"naive".try_into().unwrap())
        .blackboard_creator::<u64>()
        .add::<u64>(0, 0)
        .create()
        .unwrap();
    let variables = [("DIRECTORY", directory)];
    let mut killed = Process::start("traps::role", "writer", &naive, &variables);
    killed.says("writing");
    killed.kill();
    let cleaned = successor.try_cleanup_dead_nodes();
    assert_eq!((cleaned.cleanups, cleaned.failed_cleanups), (1, 0));
    let writer = board.writer_builder().create().unwrap();
    assert_eq!(
        writer.entry::<u64>(&0).err(),
        Some(EntryHandleMutError::HandleAlreadyExists),
        "iceoryx2 has changed: a dead writer's keys are free again"
    );
}

/// Not a test: writes a blackboard's key until it is killed.
#[test]
fn role() {
    if std::env::var("ROLE").is_err() {
        return;
    }
    let node = node::<FileService>(&config(&variable("DIRECTORY")).unwrap());
    let board = node
        .service_builder(&"naive".try_into().unwrap())
        .blackboard_opener::<u64>()
        .open()
        .unwrap();
    let writer = board.writer_builder().create().unwrap();
    let key = writer.entry::<u64>(&0).unwrap();
    key.update_with_copy(1);
    say("writing");
    stay();
}

/// 4: a member of a domain can kill all others; so two edges share nothing.
#[test]
fn the_channels_of_two_edges_have_no_file_in_common() {
    let one = Pair::new("trap-domain-1");
    let other = Pair::new("trap-domain-2");
    let ours = |pair: &Pair| -> BTreeSet<PathBuf> {
        mapped()
            .into_iter()
            .filter(|path| path.starts_with(pair.directory()))
            .collect()
    };
    // All that is mapped of a channel lies in that channel, and nothing of iceoryx2's elsewhere.
    assert!(!ours(&one).is_empty());
    assert!(!ours(&other).is_empty());
    assert!(ours(&one).is_disjoint(&ours(&other)));
    let stray = mapped().into_iter().find(|path| {
        path.parent() == Some(Path::new("/dev/shm")) && path.to_string_lossy().contains("iox2")
    });
    assert_eq!(stray, None);
}

/// 5: a request goes to every server of a service.
#[test]
fn a_channel_has_one_server_where_a_naive_service_has_two() {
    let mut pair = Pair::new("trap-servers");
    let mut second = server(A);
    let refused = second.serve(pair.host.served::<Ledger>(CONSUMER), pair.host.page());
    assert!(
        matches!(refused, Err(ServeError::Channel(_))),
        "{refused:?}"
    );
    assert!(!pair.server.turn(), "the first is not disturbed");

    let naive = Host::new("trap-servers-naive");
    naive.open_pair(A, CONSUMER);
    let directory = naive.pair(A, CONSUMER);
    let node = node::<FileService>(&config(directory.to_str().unwrap()).unwrap());
    let service = node
        .service_builder(&"naive".try_into().unwrap())
        .request_response::<u64, u64>()
        .create()
        .unwrap();
    let servers = [0, 1].map(|_| service.server_builder().create().unwrap());
    let client = service.client_builder().create().unwrap();
    let pending = client.send_copy(7).unwrap();
    assert_eq!(pending.number_of_server_connections(), 2);
    let took = servers
        .each_ref()
        .map(|server| server.receive().unwrap().is_some());
    assert_eq!(
        took,
        [true, true],
        "iceoryx2 has changed: one request, one server"
    );
}

/// 6: ports must stay in their thread, or cost up to 1.7 times as much.
#[test]
fn connections_stay_in_their_thread_and_edges_are_shared() {
    trait Sendable<Marker> {
        const SENDABLE: bool = true;
    }
    struct Sent;
    impl<T> Sendable<()> for T {}
    impl<T: Send> Sendable<Sent> for T {}
    // Which of the two is meant is ambiguous, and refused by the compiler, for what can be sent.
    const _: () = assert!(<Connection as Sendable<_>>::SENDABLE);
    const _: () = assert!(<Server<Service, FileJournal> as Sendable<_>>::SENDABLE);
    fn shared<T: Send + Sync>() {}
    shared::<Edge>();
}

/// 7: cleaning up after the dead may panic in the process that cleans.
#[test]
fn nobody_cleans_up_after_dead_nodes() {
    let flags = |config: &Config| {
        [
            config.global.node.cleanup_dead_nodes_on_creation,
            config.global.node.cleanup_dead_nodes_on_destruction,
            config.global.service.cleanup_dead_nodes_on_open,
        ]
    };
    assert_eq!(flags(&config("/dev/shm/anywhere").unwrap()), [false; 3]);
    assert_eq!(flags(&Config::default()), [true; 3], "iceoryx2 has changed");
}

/// 8: the stock service type's segments lie in `/dev/shm` whatever the root path says.
#[test]
fn everything_lies_below_the_channel_where_a_naive_service_spills() {
    let pair = Pair::new("trap-root");
    let directory = pair.directory();
    let all = files(&directory);
    for part in ["dynamic", "data", "connection"] {
        assert!(!named(&all, part).is_empty(), "no {part} in {all:?}");
    }

    let mut naive = config(directory.to_str().unwrap()).unwrap();
    let prefix = format!("insula_naive_{}_", std::process::id());
    naive.global.prefix = FileName::new(prefix.as_bytes()).unwrap();
    let node = node::<ipc::Service>(&naive);
    let service = node
        .service_builder(&"naive".try_into().unwrap())
        .publish_subscribe::<u64>()
        .create()
        .unwrap();
    let publisher = service.publisher_builder().create().unwrap();
    let spilt = || {
        fs::read_dir("/dev/shm")
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .count()
    };
    let found = spilt();
    drop((publisher, service, node));
    for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert!(
        found > 0,
        "iceoryx2 has changed: its segments follow the root path"
    );
}
