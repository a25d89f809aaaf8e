//! A provider with as many edges as it is given, and the orchestrator's part of them.

use std::time::{Duration, Instant};

use insula_benches::contracts::work::{Work, WorkDispatch, Working};
use insula_benches::edge::{PROVIDER, from_word, run, to_word};
use insula_benches::process::{Role, Server, ready_saying};
use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::UsedEdge;
use insula_contract::policy::EdgeLimits;
use insula_contract::route::RouteState;
use insula_ipc::client::Edge;
use insula_ipc::server::{NoJournal, ServeError, Server as CallServer};
use insula_ipc::testing::{Host, inheritable, inherited};

use crate::figures::Samples;

pub(crate) const ROLE: &str = "provider";

/// A provider's process with its edges, as the supervisor would make them: one consumer each.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) server: Server,
    pub(crate) hosts: Vec<Host>,
}

/// The attempt of the consumer at an index.
pub(crate) fn consumer(index: usize) -> Attempt {
    Attempt(index as u64 + 2)
}

impl Provider {
    /// Starts it on `core`, spinning for so long, with an edge for each of `limits`.
    pub(crate) fn start(name: &str, core: usize, spin: Duration, limits: &[EdgeLimits]) -> Self {
        let hosts: Vec<Host> = (0..limits.len())
            .map(|index| Host::new(&format!("{name}-{index}")))
            .collect();
        let mut words = vec![to_word(&spin)];
        let pages: Vec<_> = hosts.iter().map(Host::page).collect();
        for (index, (host, limits)) in hosts.iter().zip(limits).enumerate() {
            host.open_pair(PROVIDER, consumer(index));
            let mut served = host.served::<Work>(consumer(index));
            served.edge = EdgeId(index as u64 + 1);
            served.limits = *limits;
            words.push(inheritable(&pages[index]).to_string());
            words.push(to_word(&served));
        }
        let server = Server::start(ROLE, core, &words);
        for host in &hosts {
            host.publish(RouteState::Serve, PROVIDER, 0, None);
        }
        Self { server, hosts }
    }

    /// What the consumer at an index is told.
    pub(crate) fn used(&self, index: usize) -> UsedEdge {
        let mut used = self.hosts[index].used::<Work>(consumer(index));
        used.edge = EdgeId(index as u64 + 1);
        used
    }

    /// The edge of the consumer at an index, for use in this process.
    pub(crate) fn edge(&self, index: usize, spin: Duration) -> Edge {
        let host = &self.hosts[index];
        Edge::new(self.used(index), host.routes(), host.page(), spin).expect("the edge")
    }

    /// How many edges the provider took, and the median nanoseconds in which it opened one.
    pub(crate) fn opened(&self) -> (usize, u64) {
        from_word(self.server.said())
    }
}

/// The provider's process.
pub(crate) fn serve(role: &Role) {
    let spin: Duration = from_word(&role.words[0]);
    let mut server = CallServer::new(PROVIDER, 0, spin, WorkDispatch(Working), NoJournal);
    let mut opened = Vec::new();
    for index in (1..role.words.len()).step_by(2) {
        let page = inherited(role.number(index));
        let edge = from_word(&role.words[index + 1]);
        let began = Instant::now();
        match server.serve(edge, page) {
            Ok(()) => {}
            Err(ServeError::TooMany) => break,
            Err(error) => panic!("serving edge {index}: {error}"),
        }
        opened.push(began.elapsed().as_nanos() as u64);
    }
    let served = opened.len();
    let opened_ns = Samples::new(opened).per_mille(500);
    ready_saying(&to_word(&(served, opened_ns)));
    run(&mut server);
}
