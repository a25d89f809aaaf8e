//! One edge between two processes, as the supervisor would make it.

use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, EdgeId};
use insula_contract::line::ServedEdge;
use insula_contract::route::RouteState;
use insula_ipc::client::Edge;
use insula_ipc::contract::Contract;
use insula_ipc::server::{Dispatch, NoJournal, Server as CallServer};
use insula_ipc::testing::{Host, inheritable, inherited};

use crate::process::{Role, Server, ready};

/// The attempt that serves.
pub const PROVIDER: Attempt = Attempt(1);
/// The attempt that calls.
pub const CONSUMER: Attempt = Attempt(2);

/// How an end waits, in the words of a role: `spin`, `hybrid` or `park`.
pub fn spin_of(word: &str) -> Duration {
    match word {
        "spin" => Duration::MAX,
        "hybrid" => Duration::from_micros(20),
        "park" => Duration::ZERO,
        other => panic!("no way of waiting: {other}"),
    }
}

/// The consumer's side: the edge, whose provider is a process of its own.
#[derive(Debug)]
pub struct Pair {
    // Dropped in this order: the edge lets go before the server ends and the directory goes.
    /// To be connected to.
    pub edge: Edge,
    /// The provider's process.
    pub server: Server,
    _host: Host,
}

impl Pair {
    /// Starts the provider of `C` on `core` under `role`, its words after those of [`serve`].
    pub fn start<C: Contract>(role: &str, core: usize, spin: Duration, words: &[String]) -> Self {
        let host = Host::new("bench");
        host.open_pair(PROVIDER, CONSUMER);
        let page = host.page();
        let served = host.served::<C>(CONSUMER);
        let mut all = vec![inheritable(&page).to_string(), served.parent];
        all.extend_from_slice(words);
        let server = Server::start(role, core, &all);
        host.publish(RouteState::Serve, PROVIDER, 0, None);
        let edge = Edge::new(host.used::<C>(CONSUMER), host.routes(), host.page(), spin)
            .expect("the edge");
        Self {
            edge,
            server,
            _host: host,
        }
    }
}

/// What the provider is told of an edge.
pub fn served(contract: ContractId, parent: &str, edge: EdgeId, consumer: Attempt) -> ServedEdge {
    ServedEdge {
        edge,
        contract,
        parent: parent.to_owned(),
        consumer_name: "bench".to_owned(),
        consumer,
        limits: Default::default(),
    }
}

/// The provider's side of [`Pair::start`]: serves until the consumer's process ends.
pub fn serve<D: Dispatch>(role: &Role, spin: Duration, dispatch: D) {
    let page = inherited(role.number(0));
    let edge = served(D::Contract::id(), &role.words[1], EdgeId(1), CONSUMER);
    let mut server = CallServer::new(PROVIDER, 0, spin, dispatch, NoJournal);
    server.serve(edge, page).expect("serving the edge");
    ready();
    run(&mut server);
}

/// Turns and parks for ever.
pub fn run<D: Dispatch>(server: &mut CallServer<D, NoJournal>) {
    loop {
        if !server.turn() {
            server.park();
        }
    }
}
