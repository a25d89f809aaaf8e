//! One edge between two processes, as the supervisor would make it.

use std::time::Duration;

use insula_contract::id::Attempt;
use insula_contract::route::RouteState;
use insula_ipc::client::Edge;
use insula_ipc::contract::Contract;
use insula_ipc::meters::{Meters, has_steady_tsc};
use insula_ipc::server::{Dispatch, NoJournal, Server as CallServer};
use insula_ipc::testing::{self, Host, inheritable, inherited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::{Role, Server, ready};

/// The attempt that serves.
pub const PROVIDER: Attempt = Attempt(1);
/// The attempt that calls.
pub const CONSUMER: Attempt = Attempt(2);

/// A part of the supervisor's word, as a word of a role.
pub fn to_word(told: &impl Serialize) -> String {
    serde_json::to_string(told).expect("what is told can be written")
}

/// Reads [`to_word`].
pub fn from_word<T: DeserializeOwned>(word: &str) -> T {
    serde_json::from_str(word).expect("a word of this program")
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
    /// Starts the provider of `C` on `core` under `role`, which is to call [`serve`].
    pub fn start<C: Contract>(role: &str, core: usize, spin: Duration) -> Self {
        let host = Host::new("bench");
        host.open_pair(PROVIDER, CONSUMER);
        let page = host.page();
        let words = [
            inheritable(&page).to_string(),
            to_word(&host.served::<C>(CONSUMER)),
        ];
        let server = Server::start(role, core, &words);
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

/// Meters of this process, as the supervisor would give them.
pub fn meters() -> Meters {
    Meters::new(testing::meters(), has_steady_tsc()).expect("a page of meters")
}

/// The provider's side of [`Pair::start`]: serves until the consumer's process ends.
pub fn serve<D: Dispatch>(role: &Role, spin: Duration, dispatch: D) {
    serve_metered(role, spin, dispatch, None);
}

/// The same, with every request counted.
pub fn serve_metered<D: Dispatch>(
    role: &Role,
    spin: Duration,
    dispatch: D,
    meters: Option<Meters>,
) {
    let page = inherited(role.number(0));
    let mut server = CallServer::new(PROVIDER, 0, spin, dispatch, NoJournal);
    if let Some(meters) = meters {
        server.meter(meters);
    }
    server
        .serve(from_word(&role.words[1]), page)
        .expect("serving the edge");
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
