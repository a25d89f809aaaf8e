//! A polite consumer beside a flooding one.
//!
//! The provider has a core to itself and spins. The polite consumer calls every 200 us, each call
//! timed from before it writes its request until it has the answer. The flooder shares the polite
//! consumer's core at the scheduler's lowest standing, so that it does not compete for the core,
//! and keeps all requests that its four connections can have outstanding. "Beside a busy neighbour" is the
//! same process without a call: what a neighbour on the core costs by itself.

#![expect(unsafe_code, reason = "the idle scheduling class has no wrapper")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use insula_benches::contracts::work::{Task, WorkClient};
use insula_benches::edge::{from_word, to_word};
use insula_benches::process::{Role, Server, ready};
use insula_contract::policy::{EdgeLimits, RateLimit};
use insula_ipc::client::{CallOptions, Edge};
use insula_ipc::contract::CONNECTIONS;
use insula_ipc::testing::{inheritable, inherited};

use crate::figures::{Samples, median, time};
use crate::provider::Provider;

pub(crate) const FLOODER_ROLE: &str = "flooder";

/// Pause between the beginnings of the polite consumer's calls.
const PACE: Duration = Duration::from_micros(200);

fn run_only_when_nobody_else_does() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` outlives the call, which changes this thread's class only.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// The flooder's process; it only keeps the core busy where it is told to make no calls.
pub(crate) fn flood(role: &Role) {
    let (routes, page) = (inherited(role.number(0)), inherited(role.number(1)));
    let calls: bool = role.number(3);
    run_only_when_nobody_else_does();
    let edge = Edge::new(from_word(&role.words[2]), routes, page, Duration::MAX);
    let edge = edge.expect("the edge");
    let mut connections: Vec<(WorkClient, VecDeque<_>)> = (0..CONNECTIONS)
        .map(|_| WorkClient::connect(&edge).expect("a connection"))
        .map(|client| (client, VecDeque::new()))
        .collect();
    let task = Task {
        busy_ns: role.number(4),
        bytes: &[7; 64],
    };
    ready();
    loop {
        for (client, tickets) in &mut connections {
            while calls && let Ok(ticket) = client.submit_work(&task, CallOptions::default()) {
                tickets.push_back(ticket);
            }
            while let Some(ticket) = tickets.front_mut()
                && ticket.poll().is_some()
            {
                tickets.pop_front();
            }
        }
        std::hint::spin_loop();
    }
}

/// What stands beside the polite consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nobody,
    BusyNeighbour,
    Flooder,
    LimitedFlooder,
}

impl Beside {
    const ALL: [Self; 4] = [
        Self::Nobody,
        Self::BusyNeighbour,
        Self::Flooder,
        Self::LimitedFlooder,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::BusyNeighbour => "a busy neighbour that does not call",
            Self::Flooder => "a flooder without a quota",
            Self::LimitedFlooder => "a flooder with a quota of 1,000 calls a second",
        }
    }

    fn limits(self) -> EdgeLimits {
        match self {
            Self::LimitedFlooder => EdgeLimits {
                rate: Some(RateLimit {
                    per_second: 1000,
                    burst: 10,
                }),
                ..EdgeLimits::default()
            },
            Self::Nobody | Self::BusyNeighbour | Self::Flooder => EdgeLimits::default(),
        }
    }
}

fn measure(
    beside: Beside,
    work: Duration,
    calls: usize,
    core: usize,
    server_core: usize,
) -> Samples {
    let limits = [EdgeLimits::default(), beside.limits()];
    let provider = Provider::start("flood", server_core, Duration::MAX, &limits);
    let busy_ns = work.as_nanos() as u64;
    let _flooder = (beside != Beside::Nobody).then(|| {
        let host = &provider.hosts[1];
        let (routes, page) = (host.routes(), host.page());
        let words = [
            inheritable(&routes).to_string(),
            inheritable(&page).to_string(),
            to_word(&provider.used(1)),
            (beside != Beside::BusyNeighbour).to_string(),
            busy_ns.to_string(),
        ];
        Server::start(FLOODER_ROLE, core, &words)
    });
    let edge = provider.edge(0, Duration::MAX);
    let client = WorkClient::connect(&edge).expect("a connection");
    let task = Task {
        busy_ns,
        bytes: &[7; 64],
    };
    let mut samples = Vec::with_capacity(calls);
    let mut next = Instant::now();
    for _ in 0..calls {
        next += PACE;
        // Sleeping lets the flooder have the core in between.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        drop(client.work(&task).expect("an answer"));
        samples.push(began.elapsed().as_nanos() as u64);
    }
    Samples::new(samples.split_off(calls / 10))
}

/// Runs it and prints its table.
pub(crate) fn run(quick: bool, core: usize, server_core: usize) {
    let (rounds, calls) = if quick { (1, 1000) } else { (5, 5000) };
    println!(
        "\n**A polite consumer, a call each {} us, beside:**\n",
        PACE.as_micros()
    );
    println!(
        "| beside | work of a call | p50 | p99 | p99 of the rounds | p99 to a busy neighbour's |"
    );
    println!("|---|---|---|---|---|---|");
    for work in [Duration::ZERO, Duration::from_micros(20)] {
        let mut rows: Vec<(Beside, Vec<Samples>)> = Beside::ALL
            .into_iter()
            .map(|beside| (beside, Vec::new()))
            .collect();
        for _ in 0..rounds {
            for (beside, samples) in &mut rows {
                samples.push(measure(*beside, work, calls, core, server_core));
            }
        }
        let p99s = |samples: &[Samples]| -> Vec<f64> {
            samples
                .iter()
                .map(|round| round.per_mille(990) as f64)
                .collect()
        };
        let neighbour = p99s(&rows[1].1);
        for (beside, samples) in &rows {
            let p50 = median(
                samples
                    .iter()
                    .map(|round| round.per_mille(500) as f64)
                    .collect(),
            );
            let mut p99 = p99s(samples);
            let ratios = p99
                .iter()
                .zip(&neighbour)
                .map(|(own, other)| own / other)
                .collect();
            p99.sort_unstable_by(f64::total_cmp);
            println!(
                "| {} | {} us | {} | {} | {}-{} | {:.2}x |",
                beside.title(),
                work.as_micros(),
                time(p50 as u64),
                time(median(p99.clone()) as u64),
                time(p99[0] as u64),
                time(p99[p99.len() - 1] as u64),
                median(ratios),
            );
        }
    }
    println!("\nTo reach: a flooder's p99 at most 1.10x.");
}
