//! Ends of channels killed with -9: servers and clients as processes of their own.
//!
//! The test binary starts itself with a role in its environment; see [`role`].

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::{CallError, CallOptions, Connection, Edge};
use insula_ipc::server::Server;
use insula_ipc::testing::{self, Host};

use crate::common::{FileJournal, Service};
use crate::contract::{Add, Echo, Ledger, Risk, Text};
use crate::process::{Process, say, stay, variable};

const CONSUMER: Attempt = Attempt(500);
const A: Attempt = Attempt(1);
const B: Attempt = Attempt(2);

/// Not a test: what the children of the other tests run.
#[test]
fn role() {
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    let page = testing::inherited(variable("PAGE").parse().unwrap());
    let routes = testing::inherited(variable("ROUTES").parse().unwrap());
    match role.as_str() {
        "server" => serve(page),
        "client" => submit_and_stay(&routes, page),
        _ => panic!("no such role"),
    }
}

/// Serves for ever; stays for ever at the point that STAY names.
fn serve(page: std::os::fd::OwnedFd) {
    let attempt = Attempt(variable("ATTEMPT").parse().unwrap());
    let slot = variable("SLOT").parse().unwrap();
    let journal = FileJournal::open(Path::new(&variable("JOURNAL")));
    let mut service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    match variable("STAY").as_str() {
        "in the handler" => {
            service.before = Some(Box::new(|_| {
                say("staying");
                stay();
            }));
        }
        "after the commit" => journal.after_commit(|| {
            say("staying");
            stay();
        }),
        _ => {}
    }
    let mut server = Server::new(attempt, slot, Duration::ZERO, service, journal);
    let mut edge = insula_contract::line::ServedEdge {
        edge: insula_contract::id::EdgeId(1),
        contract: "ledger@1".parse().unwrap(),
        parent: variable("PARENT"),
        consumer_name: "consumer".to_owned(),
        consumer: CONSUMER,
        limits: Default::default(),
    };
    edge.parent.shrink_to_fit();
    server.serve(edge, page).unwrap();
    say("serving");
    loop {
        if !server.turn() {
            server.park();
        }
    }
}

/// Sends a request, or stays with an answer in hand, as HOLD says.
fn submit_and_stay(routes: &std::os::fd::OwnedFd, page: std::os::fd::OwnedFd) {
    let used = insula_contract::line::UsedEdge {
        edge: insula_contract::id::EdgeId(1),
        contract: "ledger@1".parse().unwrap(),
        provider: "provider".parse().unwrap(),
        parent: variable("PARENT"),
        route: 0,
        consumer: CONSUMER,
        policy: Default::default(),
    };
    let edge = Edge::new(used, routes, page, Duration::ZERO).unwrap();
    let connection = edge.connect::<Ledger>().unwrap();
    let ticket = connection
        .submit::<Add>(&Text { text: "mine" }, CallOptions::default())
        .unwrap();
    if variable("HOLD") == "the answer" {
        let _held = ticket.wait().unwrap();
        say("submitted");
        stay();
    }
    say("submitted");
    stay();
}

/// A host with a journal for its servers.
struct Scene {
    host: Host,
    journal: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let host = Host::new(name);
        let journal = host.pair(Attempt(0), Attempt(0)).with_file_name("journal");
        Self { host, journal }
    }

    fn server(&self, attempt: Attempt, slot: u8, stay: &str) -> Process {
        self.host.open_pair(attempt, CONSUMER);
        let server = Process::start(
            "deaths::role",
            "server",
            &self.host,
            &[
                ("ATTEMPT", attempt.0.to_string()),
                ("SLOT", slot.to_string()),
                ("JOURNAL", self.journal.to_str().unwrap().to_owned()),
                ("STAY", stay.to_owned()),
            ],
        );
        server.says("serving");
        server
    }

    fn connect(&self) -> Connection {
        let used = self.host.used::<Ledger>(CONSUMER);
        let edge = Edge::new(used, self.host.routes(), self.host.page(), Duration::ZERO).unwrap();
        edge.connect::<Ledger>().unwrap()
    }

    /// What the supervisor does after the death of A.
    fn bury(&self) {
        self.host.publish(RouteState::Hold, A, 0, None);
        self.host.close_pair(A, CONSUMER);
    }

    fn total(&self) -> u64 {
        FileJournal::open(&self.journal).total()
    }
}

/// A request that A took and died with is answered by B, and has one effect.
fn one_effect_although_the_server_died(name: &str, stay: &str) {
    let scene = Scene::new(name);
    let mut first = scene.server(A, 0, stay);
    scene.host.publish(RouteState::Serve, A, 0, None);
    std::thread::scope(|threads| {
        let calling = threads.spawn(|| {
            let connection = scene.connect();
            let response = connection
                .call::<Add>(&Text { text: "one" }, CallOptions::default())
                .unwrap();
            response.get().unwrap()
        });
        first.says("staying");
        first.kill();
        scene.bury();
        let _second = scene.server(B, 1, "nowhere");
        scene.host.publish(RouteState::Serve, B, 1, None);
        assert_eq!(calling.join().unwrap(), 1);
    });
    assert_eq!(scene.total(), 1);
}

#[test]
fn a_server_killed_before_its_commit_leaves_one_effect() {
    one_effect_although_the_server_died("killed-before", "in the handler");
}

#[test]
fn a_server_killed_between_commit_and_answer_leaves_one_effect() {
    one_effect_although_the_server_died("killed-after", "after the commit");
}

#[test]
fn nobody_sleeps_on_a_dead_server_and_risky_requests_say_so() {
    let scene = Scene::new("risky");
    let mut first = scene.server(A, 0, "in the handler");
    scene.host.publish(RouteState::Serve, A, 0, None);
    std::thread::scope(|threads| {
        let calling = threads.spawn(|| {
            scene
                .connect()
                .call::<Risk>(&Text { text: "" }, CallOptions::default())
                .unwrap_err()
        });
        first.says("staying");
        first.kill();
        scene.host.publish(RouteState::Gone, A, 0, None);
        assert_eq!(calling.join().unwrap(), CallError::OutcomeUnknown);
    });
}

#[test]
fn a_connection_outlives_many_servers() {
    let scene = Scene::new("many");
    let connection = scene.connect();
    for attempt in 1..=6 {
        let mut server = scene.server(Attempt(attempt), attempt as u8, "nowhere");
        scene
            .host
            .publish(RouteState::Serve, Attempt(attempt), attempt as u8, None);
        let text = Text { text: "again" };
        let total = connection
            .call::<Add>(&text, CallOptions::default())
            .unwrap();
        assert_eq!(total.get().unwrap(), attempt);
        drop(total);
        let echo = connection
            .call::<Echo>(&text, CallOptions::default())
            .unwrap();
        server.kill();
        scene
            .host
            .publish(RouteState::Gone, Attempt(attempt), attempt as u8, None);
        scene.host.close_pair(Attempt(attempt), CONSUMER);
        assert_eq!(
            echo.get().unwrap().text,
            "again",
            "the answer outlives its server"
        );
    }
}

/// The server's side of a client that was killed.
fn a_server_survives_its_client(name: &str, hold: &str) {
    let host = Host::new(name);
    let journal = FileJournal::default();
    let service = Service {
        journal: journal.clone(),
        ..Service::default()
    };
    let mut server = Server::new(A, 0, Duration::ZERO, service, journal.clone());
    let consumers = [Attempt(500), Attempt(501)];
    for consumer in consumers {
        host.open_pair(A, consumer);
        let mut served = host.served::<Ledger>(consumer);
        served.edge.0 = consumer.0;
        server.serve(served, host.page()).unwrap();
    }
    host.publish(RouteState::Serve, A, 0, None);
    let mut client = Process::start(
        "deaths::role",
        "client",
        &host,
        &[("HOLD", hold.to_owned())],
    );
    if hold == "the answer" {
        while journal.total() == 0 {
            if !server.turn() {
                server.park();
            }
        }
    }
    client.says("submitted");
    client.kill();
    host.close_pair(A, CONSUMER);
    // What it left behind is executed or not, but harms nobody.
    while server.turn() {}
    server.unserve(insula_contract::id::EdgeId(CONSUMER.0), CONSUMER);
    assert_eq!(journal.kept(), 0);
    assert_eq!(server.edges().count(), 1);

    let used = host.used::<Ledger>(consumers[1]);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    let connection = edge.connect::<Ledger>().unwrap();
    let ticket = connection
        .submit::<Echo>(&Text { text: "next" }, CallOptions::default())
        .unwrap();
    assert!(server.turn());
    assert_eq!(ticket.wait().unwrap().get().unwrap().text, "next");
    drop(Rc::new(server));
}

#[test]
fn a_client_killed_with_its_request_waiting_harms_nobody() {
    a_server_survives_its_client("client-waiting", "nothing");
}

#[test]
fn a_client_killed_with_an_answer_in_hand_harms_nobody() {
    a_server_survives_its_client("client-holding", "the answer");
}
