//! 200 consumers of one provider, and one consumer of 200 providers: every consumer and provider a
//! process of its own, with one edge between each pair that meets.
//!
//! Memory is the proportional set size; the channels' files are counted apart. An edge is open for
//! its provider when the call to serve it returns, and for its consumer when its first call has
//! its answer: mapping, connecting and calling.

use std::time::{Duration, Instant};

use insula_benches::contracts::work::{Task, WorkClient};
use insula_benches::edge::{PROVIDER, from_word, to_word};
use insula_benches::process::{Role, Server, ready_saying};
use insula_contract::policy::EdgeLimits;
use insula_ipc::client::Edge;
use insula_ipc::testing::{inheritable, inherited};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::figures::{Holding, Samples, files_kib, time};
use crate::provider::{Provider, consumer};

pub(crate) const CONSUMER_ROLE: &str = "consumer";

const TASK: Task<'_> = Task {
    busy_ns: 0,
    bytes: &[7; 64],
};

/// What a consumer found out.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    before: Holding,
    after: Holding,
    open_ns: u64,
}

/// The process of one consumer: opens its edge, calls once and stays.
pub(crate) fn consume(role: &Role) {
    let (routes, page) = (inherited(role.number(0)), inherited(role.number(1)));
    let used = from_word(&role.words[2]);
    let before = Holding::of(Pid::this());
    let began = Instant::now();
    let edge = Edge::new(used, routes, page, Duration::ZERO).expect("the edge");
    let client = WorkClient::connect(&edge).expect("a connection");
    drop(client.work(&TASK).expect("an answer"));
    let open_ns = began.elapsed().as_nanos() as u64;
    let after = Holding::of(Pid::this());
    ready_saying(&to_word(&Found {
        before,
        after,
        open_ns,
    }));
    loop {
        std::thread::park();
    }
}

/// Runs both and prints their tables.
pub(crate) fn run(edges: usize, core: usize) {
    println!(
        "\n**{edges} edges**: a process for every consumer and provider; memory is the \
         proportional set size, files of the channels apart (their pages are in it, too); open is \
         from the order to serve to its return, and from mapping the edge to the first answer.\n"
    );
    println!(
        "| end | memory per edge | files per edge | descriptors per edge | time to open, p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|");
    consumers(edges, core);
    providers(edges, core);
    println!(
        "\n| round trip of 64 B, cores: 2 | edges of the provider | p50 | p99 |\n|---|---|---|---|"
    );
    for (how, spin) in [("spinning", Duration::MAX), ("parked", Duration::ZERO)] {
        for edges in [1, edges] {
            let samples = round_trips(edges, core, spin);
            println!(
                "| {how} | {edges} | {} | {} |",
                time(samples.per_mille(500)),
                time(samples.per_mille(990)),
            );
        }
    }
}

fn each(after: u64, before: u64, edges: usize) -> f64 {
    (after as f64 - before as f64) / edges as f64
}

fn consumers(edges: usize, core: usize) {
    let bare = Provider::start("bare", core, Duration::ZERO, &[]);
    let before = Holding::of(bare.server.pid());
    drop(bare);
    let provider = Provider::start(
        "fan",
        core,
        Duration::ZERO,
        &vec![EdgeLimits::default(); edges],
    );
    let (served, opened_ns) = provider.opened();
    if served < edges {
        println!("SKIPPED (a server took {served} of {edges} edges): the consumers of the others");
    }
    let edges = served;
    let consumers: Vec<Server> = (0..edges)
        .map(|index| {
            let host = &provider.hosts[index];
            let (routes, page) = (host.routes(), host.page());
            let words = [
                inheritable(&routes).to_string(),
                inheritable(&page).to_string(),
                to_word(&provider.used(index)),
            ];
            Server::start(CONSUMER_ROLE, core, &words)
        })
        .collect();
    let after = Holding::of(provider.server.pid());
    let files: u64 = provider
        .hosts
        .iter()
        .take(edges)
        .enumerate()
        .map(|(index, host)| files_kib(&host.pair(PROVIDER, consumer(index))))
        .sum();
    let files_each = files as f64 / edges as f64;
    println!(
        "| provider with {edges} consumers | {:.0} KiB | {files_each:.0} KiB | {:.1} | {} | |",
        each(after.pss_kib, before.pss_kib, edges),
        each(after.descriptors, before.descriptors, edges),
        time(opened_ns),
    );
    let found: Vec<Found> = consumers.iter().map(|one| from_word(one.said())).collect();
    let sum = |of: fn(&Found) -> u64| found.iter().map(of).sum::<u64>();
    let opened = Samples::new(found.iter().map(|one| one.open_ns).collect());
    println!(
        "| each of these consumers | {:.0} KiB | the same | {:.1} | {} | {} |",
        each(
            sum(|one| one.after.pss_kib),
            sum(|one| one.before.pss_kib),
            edges
        ),
        each(
            sum(|one| one.after.descriptors),
            sum(|one| one.before.descriptors),
            edges
        ),
        time(opened.per_mille(500)),
        time(opened.per_mille(990)),
    );
}

fn providers(edges: usize, core: usize) {
    let providers: Vec<Provider> = (0..edges)
        .map(|index| {
            let name = format!("fan-{index}");
            Provider::start(&name, core, Duration::ZERO, &[EdgeLimits::default()])
        })
        .collect();
    let before = Holding::of(Pid::this());
    let mut opened = Vec::new();
    let clients: Vec<(WorkClient, Edge)> = providers
        .iter()
        .map(|provider| {
            let began = Instant::now();
            let edge = provider.edge(0, Duration::ZERO);
            let client = WorkClient::connect(&edge).expect("a connection");
            drop(client.work(&TASK).expect("an answer"));
            opened.push(began.elapsed().as_nanos() as u64);
            (client, edge)
        })
        .collect();
    let after = Holding::of(Pid::this());
    let opened = Samples::new(opened);
    println!(
        "| consumer of {edges} providers | {:.0} KiB | the same | {:.1} | {} | {} |",
        each(after.pss_kib, before.pss_kib, edges),
        each(after.descriptors, before.descriptors, edges),
        time(opened.per_mille(500)),
        time(opened.per_mille(990)),
    );
    drop(clients);
}

/// Round trips on one of a provider's edges, while nothing happens on the others.
fn round_trips(edges: usize, core: usize, spin: Duration) -> Samples {
    const CALLS: usize = 5_000;
    let provider = Provider::start("trips", core, spin, &vec![EdgeLimits::default(); edges]);
    let (served, _) = provider.opened();
    let edge = provider.edge(served - 1, spin);
    let client = WorkClient::connect(&edge).expect("a connection");
    let samples = (0..CALLS)
        .map(|_| {
            let began = Instant::now();
            drop(client.work(&TASK).expect("an answer"));
            began.elapsed().as_nanos() as u64
        })
        .collect::<Vec<_>>();
    Samples::new(samples[CALLS / 10..].to_vec())
}
