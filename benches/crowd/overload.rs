//! A provider that is asked for more than it can do.
//!
//! Each request keeps the provider's thread busy for 50 us, so that it can do at most 20,000 a
//! second. The load comes at fixed times whatever became of what came before; each request has a
//! deadline of 20 ms. Goodput is what was answered with a response before its deadline; the peak
//! is the goodput of eight requests outstanding at any time. Every request is counted under what
//! its caller was told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use insula_benches::Never;
use insula_benches::contracts::work::work::Work as WorkMethod;
use insula_benches::contracts::work::{Task, Work, WorkClient};
use insula_contract::policy::{EdgeLimits, Shedding};
use insula_ipc::client::{CallError, CallOptions, Ticket};
use insula_ipc::contract::{CONNECTIONS, Contract};

use crate::figures::{Samples, median, time};
use crate::provider::Provider;

const WORK: Duration = Duration::from_micros(50);
const DEADLINE: Duration = Duration::from_millis(20);
const TASK: Task<'_> = Task {
    busy_ns: WORK.as_nanos() as u64,
    bytes: &[7; 64],
};
/// Edges over which the load comes.
const EDGES: usize = 8;
/// Requests that are looked at behind one that has no outcome yet.
const LOOK_AHEAD: usize = 4;

/// What callers were told.
#[derive(Debug, Default)]
struct Told {
    responses: u64,
    overloaded: u64,
    quota: u64,
    /// As many were outstanding as the channel holds.
    full: u64,
    late: u64,
    unavailable: u64,
    other: u64,
    /// Nanoseconds from submitting to the response.
    waits: Vec<u64>,
}

impl Told {
    fn failed(&mut self, error: &CallError<Never>) {
        match error {
            CallError::Overloaded => self.overloaded += 1,
            CallError::QuotaExceeded => self.quota += 1,
            CallError::TooManyInFlight { .. } => self.full += 1,
            CallError::DeadlineExceeded => self.late += 1,
            CallError::Unavailable => self.unavailable += 1,
            CallError::Failed(_)
            | CallError::OutcomeUnknown
            | CallError::TooLarge { .. }
            | CallError::Refused(_)
            | CallError::Broken(_) => self.other += 1,
        }
    }

    fn all(&self) -> u64 {
        let refused = self.overloaded + self.quota + self.full + self.unavailable;
        self.responses + refused + self.late + self.other
    }
}

/// One connection and what is outstanding on it.
struct Sender {
    client: WorkClient,
    outstanding: VecDeque<(Ticket<WorkMethod>, Instant)>,
}

impl Sender {
    fn submit(&mut self, now: Instant, told: &mut Told) {
        let options = CallOptions {
            deadline: Some(DEADLINE),
            ..CallOptions::default()
        };
        match self.client.submit_work(&TASK, options) {
            Ok(ticket) => self.outstanding.push_back((ticket, now)),
            Err(error) => told.failed(&error),
        }
    }

    fn reap(&mut self, told: &mut Told) {
        let (mut index, mut missed) = (0, 0);
        while missed < LOOK_AHEAD
            && let Some((ticket, began)) = self.outstanding.get_mut(index)
        {
            match ticket.poll() {
                None => {
                    (index, missed) = (index + 1, missed + 1);
                    continue;
                }
                Some(Ok(_)) => {
                    told.responses += 1;
                    told.waits.push(began.elapsed().as_nanos() as u64);
                }
                Some(Err(error)) => told.failed(&error),
            }
            self.outstanding.remove(index);
        }
    }
}

/// How requests come.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// So many outstanding at any time.
    Outstanding(usize),
    /// So many a second.
    Rate(f64),
}

fn measure(limits: EdgeLimits, load: Load, for_time: Duration, core: usize) -> (Told, f64) {
    let provider = Provider::start("overload", core, Duration::MAX, &[limits; EDGES]);
    let edges: Vec<_> = (0..EDGES)
        .map(|index| provider.edge(index, Duration::MAX))
        .collect();
    // The edges take turns, so that few outstanding are spread over all of them.
    let mut senders: Vec<Sender> = (0..CONNECTIONS)
        .flat_map(|_| &edges)
        .map(|edge| Sender {
            client: WorkClient::connect(edge).expect("a connection"),
            outstanding: VecDeque::new(),
        })
        .collect();
    let mut told = Told::default();
    let began = Instant::now();
    let mut sent = 0_usize;
    loop {
        let now = Instant::now();
        let since = now - began;
        if since >= for_time {
            break;
        }
        let due = match load {
            Load::Outstanding(number) => {
                let outstanding: usize = senders.iter().map(|one| one.outstanding.len()).sum();
                number.saturating_sub(outstanding)
            }
            Load::Rate(rate) => (since.as_secs_f64() * rate) as usize - sent,
        };
        for _ in 0..due {
            let sender = sent % senders.len();
            senders[sender].submit(now, &mut told);
            sent += 1;
        }
        for sender in &mut senders {
            sender.reap(&mut told);
        }
    }
    (told, began.elapsed().as_secs_f64())
}

/// Runs it and prints its table.
pub(crate) fn run(quick: bool, core: usize) {
    let (rounds, for_time) = match quick {
        true => (1, Duration::from_millis(300)),
        false => (3, Duration::from_secs(1)),
    };
    let shedding = EdgeLimits {
        shedding: Some(Shedding {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(50),
        }),
        ..EdgeLimits::default()
    };
    let waiting = EdgeLimits {
        waiting: Some(8),
        ..EdgeLimits::default()
    };
    let capacity = 1.0 / WORK.as_secs_f64();
    println!(
        "\n**Overload**: work of {} us a request, deadline {} ms, {EDGES} edges, at most {} \
         outstanding; shedding \
         above 5 ms of waiting after 50 ms without a pause; quota of 8 waiting on an edge. Each of the \
         other columns: how many of the offered were told so.\n",
        WORK.as_micros(),
        DEADLINE.as_millis(),
        EDGES * CONNECTIONS * Work::IN_FLIGHT,
    );
    println!(
        "| limits | offered | goodput | to the peak | p50 | p99 | overloaded | quota | channel full \
         | unavailable | late | other |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, limits) in [
        ("none", EdgeLimits::default()),
        ("shedding", shedding),
        ("quota", waiting),
    ] {
        let mut peaks = Vec::new();
        let mut levels: Vec<(f64, Vec<(Told, f64)>)> =
            [0.5, 1.0, 2.0, 3.0].map(|level| (level, Vec::new())).into();
        for _ in 0..rounds {
            let (told, seconds) = measure(limits, Load::Outstanding(8), for_time, core);
            peaks.push(told.responses as f64 / seconds);
            for (level, runs) in &mut levels {
                runs.push(measure(
                    limits,
                    Load::Rate(*level * capacity),
                    for_time,
                    core,
                ));
            }
        }
        println!(
            "| {name} | 8 outstanding | {:.1} k/s | 1.00 | | | | | | | | |",
            median(peaks.clone()) / 1e3
        );
        for (level, runs) in levels {
            let goodput: Vec<f64> = runs
                .iter()
                .map(|(told, s)| told.responses as f64 / s)
                .collect();
            let to_peak = goodput
                .iter()
                .zip(&peaks)
                .map(|(own, peak)| own / peak)
                .collect();
            let waits = Samples::new(
                runs.iter()
                    .flat_map(|(told, _)| told.waits.clone())
                    .collect(),
            );
            let all: u64 = runs.iter().map(|(told, _)| told.all()).sum();
            let part = |of: fn(&Told) -> u64| {
                let sum: u64 = runs.iter().map(|(told, _)| of(told)).sum();
                format!("{:.1} %", 100.0 * sum as f64 / all as f64)
            };
            println!(
                "| {name} | {level}x | {:.1} k/s | {:.2} | {} | {} | {} | {} | {} | {} | {} | {} |",
                median(goodput) / 1e3,
                median(to_peak),
                time(waits.per_mille(500)),
                time(waits.per_mille(990)),
                part(|told| told.overloaded),
                part(|told| told.quota),
                part(|told| told.full),
                part(|told| told.unavailable),
                part(|told| told.late),
                part(|told| told.other),
            );
        }
    }
    println!("\nTo reach: at 3x the goodput at least 0.90 of the peak, and refused calls told so.");
}
