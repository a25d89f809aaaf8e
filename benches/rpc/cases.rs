//! The cases: bare iceoryx2 and Insula's typed client, spinning and parked; and the list of all.

#![expect(
    unsafe_code,
    reason = "iceoryx2's loans are filled before they are assumed to be initialised"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use iceoryx2::node::{Node, NodeBuilder};
use insula_benches::{Body, Echo, EchoClient, EchoDispatch, Echoing};
use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::ServedEdge;
use insula_contract::route::RouteState;
use insula_ipc::client::Edge;
use insula_ipc::contract::Contract;
use insula_ipc::raw::{FileService, Line, config};
use insula_ipc::server::{NoJournal, Server as CallServer};
use insula_ipc::testing::{Host, inheritable, inherited};

use crate::{Placement, Server, peers, ready};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Raw,
    Spinning,
    Parked,
    Futex,
    Unix,
}

impl Case {
    /// The cases where they make sense: two that spin need a core each.
    pub(crate) const ALL: [(Self, Placement); 8] = [
        (Self::Raw, Placement::TwoCores),
        (Self::Spinning, Placement::TwoCores),
        (Self::Futex, Placement::OneCore),
        (Self::Parked, Placement::OneCore),
        (Self::Unix, Placement::OneCore),
        (Self::Futex, Placement::TwoCores),
        (Self::Parked, Placement::TwoCores),
        (Self::Unix, Placement::TwoCores),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Spinning => "spinning",
            Self::Parked => "parked",
            Self::Futex => "futex",
            Self::Unix => "unix",
        }
    }

    pub(crate) fn by_name(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .map(|(case, _)| case)
            .find(|case| case.name() == name)
            .expect("the name of a case")
    }

    /// What a person calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw iceoryx2 request-response, spinning",
            Self::Spinning => "Insula's typed client, spinning",
            Self::Parked => "Insula's typed client, parked",
            Self::Futex => "bare futex",
            Self::Unix => "Unix stream socket",
        }
    }

    /// Round trips of one round, the first tenth of which only warms up.
    pub(crate) fn round_trips(self, placement: Placement) -> usize {
        match (self, placement) {
            (Self::Raw | Self::Spinning, _) => 200_000,
            (Self::Parked | Self::Futex | Self::Unix, Placement::OneCore) => 40_000,
            (Self::Parked | Self::Futex | Self::Unix, Placement::TwoCores) => 20_000,
        }
    }

    /// Measures `count` round trips with a server on `core`, each in nanoseconds.
    pub(crate) fn measure(self, core: usize, count: usize) -> Vec<u64> {
        let samples = match self {
            Self::Raw => raw(core, count),
            Self::Spinning => call(self, Duration::MAX, core, count),
            Self::Parked => call(self, Duration::ZERO, core, count),
            Self::Futex => peers::futex(core, count),
            Self::Unix => peers::unix(core, count),
        };
        samples[count / 10..].to_vec()
    }

    /// Serves until the client's process ends.
    pub(crate) fn serve(self, words: &[&str]) {
        match self {
            Self::Raw => serve_raw(words),
            Self::Spinning => serve_calls(words, Duration::MAX),
            Self::Parked => serve_calls(words, Duration::ZERO),
            Self::Futex => peers::serve_futex(words),
            Self::Unix => peers::serve_unix(words),
        }
    }
}

const PROVIDER: Attempt = Attempt(1);
const CONSUMER: Attempt = Attempt(2);

/// Calls through the public client: encode, route, send, wait, decode.
fn call(case: Case, spin: Duration, core: usize, count: usize) -> Vec<u64> {
    let host = Host::new("bench");
    host.open_pair(PROVIDER, CONSUMER);
    let page = host.page();
    let served = host.served::<Echo>(CONSUMER);
    let words = [inheritable(&page).to_string(), served.parent];
    let _server = Server::start(case, core, &words);
    host.publish(RouteState::Serve, PROVIDER, 0, None);
    let edge = Edge::new(
        host.used::<Echo>(CONSUMER),
        host.routes(),
        host.page(),
        spin,
    )
    .expect("the edge");
    let client = EchoClient::connect(&edge).expect("a connection");
    let bytes = [7_u8; 64];
    let request = Body { bytes: &bytes };
    let samples = (0..count)
        .map(|_| {
            let begin = Instant::now();
            let response = client.echo(&request).expect("an answer");
            black_box(response.get().expect("a body").bytes[63]);
            begin.elapsed().as_nanos() as u64
        })
        .collect();
    assert_eq!(client.connection().rescues(), 0, "a wake-up was lost");
    samples
}

fn serve_calls(words: &[&str], spin: Duration) {
    let page = inherited(words[0].parse().expect("a descriptor's number"));
    let edge = ServedEdge {
        edge: EdgeId(1),
        contract: Echo::id(),
        parent: words[1].to_owned(),
        consumer_name: "bench".to_owned(),
        consumer: CONSUMER,
        limits: Default::default(),
    };
    let mut server = CallServer::new(PROVIDER, 0, spin, EchoDispatch(Echoing), NoJournal);
    server.serve(edge, page).expect("serving the edge");
    ready();
    loop {
        if !server.turn() {
            server.park();
        }
    }
}

fn node(directory: &str) -> Node<FileService> {
    NodeBuilder::new()
        .config(&config(directory).expect("a path that iceoryx2 takes"))
        .create()
        .expect("a node")
}

/// Calls through iceoryx2 alone, over the same service type in the same place.
fn raw(core: usize, count: usize) -> Vec<u64> {
    let host = Host::new("bench");
    host.open_pair(PROVIDER, CONSUMER);
    let directory = host.pair(PROVIDER, CONSUMER);
    let directory = directory.to_str().expect("a path of ours is UTF-8");
    let _server = Server::start(Case::Raw, core, &[directory.to_owned()]);
    let node = node(directory);
    let service = node
        .service_builder(&"raw".try_into().expect("a service's name"))
        .request_response::<[Line], [Line]>()
        .open()
        .expect("the service");
    let client = service
        .client_builder()
        .initial_max_slice_len(1)
        .create()
        .expect("a client");
    (0..count)
        .map(|_| {
            let begin = Instant::now();
            let mut request = client.loan_slice_uninit(1).expect("a chunk");
            request.payload_mut()[0].write(Line([7; 64]));
            // SAFETY: the slice has one element, which was written.
            let request = unsafe { request.assume_init() };
            let pending = request.send().expect("sending");
            loop {
                if let Some(response) = pending.receive().expect("receiving") {
                    black_box(response.payload()[0].0[63]);
                    break;
                }
                std::hint::spin_loop();
            }
            begin.elapsed().as_nanos() as u64
        })
        .collect()
}

fn serve_raw(words: &[&str]) {
    let node = node(words[0]);
    let service = node
        .service_builder(&"raw".try_into().expect("a service's name"))
        .request_response::<[Line], [Line]>()
        .max_servers(1)
        .create()
        .expect("the service");
    let server = service
        .server_builder()
        .initial_max_slice_len(1)
        .create()
        .expect("a server");
    ready();
    loop {
        if let Some(request) = server.receive().expect("receiving") {
            let mut response = request.loan_slice_uninit(1).expect("a chunk");
            response.payload_mut()[0].write(request.payload()[0]);
            // SAFETY: the slice has one element, which was written.
            let response = unsafe { response.assume_init() };
            // The client may be on its way out.
            let _ = response.send();
        }
        std::hint::spin_loop();
    }
}
