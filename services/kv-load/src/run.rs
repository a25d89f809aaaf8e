//! A measured run: all clients at once, each on a thread and a connection of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use insula::ipc::local::LocalError;
use kv_contract::KvClient;

use crate::client::{Client, Plan, Tally, Until};
use crate::expect::Expectations;
use crate::measure::Measured;
use crate::stop::Stop;
use crate::workload::Workload;
use crate::zipfian::{THETA, Zipfian};

/// Makes the connection of a client.
pub(crate) type Connect<'a> = dyn Fn(u64) -> Result<KvClient, StartError> + Sync + 'a;

/// Why clients could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// There is no connection.
    #[error("cannot connect client {number}")]
    Connect {
        /// Whose.
        number: u64,
        /// Why.
        #[source]
        source: Box<LocalError>,
    },
    /// Some other client has none.
    #[error("another client could not begin")]
    Other,
}

/// What a run is to be.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The operations.
    pub workload: Workload,
    /// How many clients.
    pub clients: u64,
    /// Ends it after this time.
    pub duration: Option<Duration>,
    /// Ends it after so many operations.
    pub operations: Option<u64>,
    /// Operations per second of all clients together; as fast as they come unless given.
    pub rate: Option<f64>,
    /// How long a call may take.
    pub deadline: Option<Duration>,
    /// What the keys begin with.
    pub prefix: String,
    /// A number of its own.
    pub run: u64,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When it began.
    pub begin: Instant,
    /// How long it took.
    pub took: Duration,
    /// What each client measured.
    pub clients: Vec<Measured>,
}

/// Lets all clients run; calls `begun` when they do.
pub(crate) fn run(
    order: &Order,
    connect: &Connect<'_>,
    expectations: &Expectations,
    stop: &Stop,
    tally: &Tally,
    begun: impl FnOnce(),
) -> Result<Outcome, StartError> {
    let zipfian = Zipfian::new(expectations.len(), THETA);
    let interval = order
        .rate
        .map(|rate| Duration::from_secs_f64(order.clients as f64 / rate));
    // All clients meet here twice: when each is connected or is not, and when the plan is there or
    // the run is given up.
    let meeting = Barrier::new(order.clients as usize + 1);
    let failed = AtomicBool::new(false);
    let plan = OnceLock::<Plan<'_>>::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..order.clients)
            .map(|number| {
                let (meeting, failed, plan) = (&meeting, &failed, &plan);
                scope.spawn(move || {
                    let kv = connect(number);
                    failed.fetch_or(kv.is_err(), Ordering::Relaxed);
                    meeting.wait();
                    meeting.wait();
                    let (kv, plan) = (kv?, plan.get().ok_or(StartError::Other)?);
                    let share = number as f64 / order.clients as f64;
                    let phase = plan.interval.unwrap_or_default().mul_f64(share);
                    Ok(Client::new(plan, number, kv, connect).run(phase))
                })
            })
            .collect();
        meeting.wait();
        let begin = Instant::now();
        if !failed.load(Ordering::Relaxed) {
            plan.get_or_init(|| Plan {
                workload: order.workload,
                zipfian,
                prefix: &order.prefix,
                run: order.run,
                begin,
                until: Until {
                    end: order.duration.map(|duration| begin + duration),
                    operations: order.operations.map(AtomicU64::new),
                    stop: stop.flag(),
                },
                interval,
                deadline: order.deadline,
                expectations,
                tally,
            });
            begun();
        }
        meeting.wait();
        let mut measured = Vec::new();
        let mut error = None;
        for client in clients {
            match client.join() {
                Ok(Ok(client)) => measured.push(client),
                Ok(Err(StartError::Other)) => {}
                Ok(Err(reason)) => error = Some(reason),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        match error {
            Some(error) => Err(error),
            None => Ok(Outcome {
                begin,
                took: begin.elapsed(),
                clients: measured,
            }),
        }
    })
}
