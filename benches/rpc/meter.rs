//! Measures one case: times every call, and takes the processors' time and the system calls of
//! both processes over all of them.

use std::time::{Duration, Instant};

use insula_benches::contracts::Parts;
use insula_benches::system_calls::SystemCalls;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// What becomes of the calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Each is timed, for this long after a warm-up of a quarter of it.
    Time(Duration),
    /// Nothing is timed: so many are made, and their system calls counted.
    Count(u64),
}

/// What one round of a case gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Nanoseconds of a call by percentile.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    /// Calls in a second.
    pub(crate) rate: f64,
    /// Microseconds of processors' time for a thousand calls, of both processes.
    pub(crate) cpu_us: f64,
    /// Medians of what filling and reading the payloads took; in no figure above where measured.
    pub(crate) fill_ns: f64,
    pub(crate) read_ns: f64,
}

/// What counting gave.
pub(crate) type Counted = std::io::Result<f64>;

#[derive(Debug)]
enum Phase {
    WarmUp,
    Measure,
}

/// Tells a peer's client when to call, and takes what it measured.
#[derive(Debug)]
pub(crate) struct Meter {
    purpose: Purpose,
    servers: Vec<Pid>,
    phase: Phase,
    began: Instant,
    cpu_ns: u64,
    calls: u64,
    samples: Vec<u32>,
    parts: Vec<Parts>,
    counter: Option<std::io::Result<SystemCalls>>,
    outcome: Option<Outcome>,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) enum Outcome {
    Timed(Measured),
    Counted(Counted),
}

/// Calls that warm up a run that counts.
const COUNT_WARM_UP: u64 = 200;
/// Samples of one run at most.
const SAMPLES: usize = 4_000_000;

impl Meter {
    /// For the calls of this process to `server`.
    pub(crate) fn new(purpose: Purpose, server: Pid) -> Self {
        Self {
            purpose,
            servers: vec![server],
            phase: Phase::WarmUp,
            began: Instant::now(),
            cpu_ns: 0,
            calls: 0,
            samples: Vec::with_capacity(100_000),
            parts: Vec::new(),
            counter: None,
            outcome: None,
        }
    }

    /// The beginning of the next call; `None` when there have been enough.
    #[inline]
    pub(crate) fn begin(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match (self.purpose, &self.phase) {
            (Purpose::Time(time), Phase::Measure)
                if now - self.began >= time || self.samples.len() >= SAMPLES =>
            {
                self.finish(now);
                return None;
            }
            (Purpose::Time(time), Phase::WarmUp) if now - self.began >= time / 4 => {
                self.phase = Phase::Measure;
                self.samples.clear();
                self.parts.clear();
                self.calls = 0;
                self.cpu_ns = self.cpu_now();
                self.began = Instant::now();
                return Some(self.began);
            }
            (Purpose::Count(_), Phase::WarmUp) if self.calls >= COUNT_WARM_UP => {
                self.phase = Phase::Measure;
                self.calls = 0;
                let mut processes = self.servers.clone();
                processes.push(Pid::this());
                self.counter = Some(SystemCalls::count(&processes));
            }
            (Purpose::Count(count), Phase::Measure) if self.calls >= count => {
                let counted = match self.counter.take() {
                    Some(Ok(mut counter)) => counter.total().map(|all| all as f64 / count as f64),
                    Some(Err(error)) => Err(error),
                    None => Ok(0.0),
                };
                self.outcome = Some(Outcome::Counted(counted));
                return None;
            }
            (Purpose::Time(_) | Purpose::Count(_), Phase::WarmUp | Phase::Measure) => {}
        }
        Some(now)
    }

    /// The end of the call that began at `began`.
    #[inline]
    pub(crate) fn end(&mut self, began: Instant) {
        self.samples
            .push(began.elapsed().as_nanos().min(u32::MAX.into()) as u32);
        self.calls += 1;
    }

    /// The end of a call, of whose time `parts` is left out.
    #[inline]
    pub(crate) fn end_with(&mut self, began: Instant, parts: Parts) {
        let nanos = began.elapsed().as_nanos() as u64;
        let rest = nanos.saturating_sub(parts.fill_ns + parts.read_ns);
        self.samples.push(rest.min(u32::MAX.into()) as u32);
        self.parts.push(parts);
        self.calls += 1;
    }

    /// The end of `calls` calls that were not timed one by one.
    #[inline]
    pub(crate) fn end_of_many(&mut self, calls: u64) {
        self.calls += calls;
    }

    fn finish(&mut self, now: Instant) {
        let seconds = (now - self.began).as_secs_f64();
        let cpu_ns = self.cpu_now() - self.cpu_ns;
        let percentile = |sorted: &[u32], percent: usize| match sorted.len() {
            0 => 0.0,
            length => f64::from(sorted[(length - 1) * percent / 100]),
        };
        let median_of = |part: fn(&Parts) -> u64| {
            let mut all: Vec<u32> = self.parts.iter().map(|parts| part(parts) as u32).collect();
            all.sort_unstable();
            percentile(&all, 50)
        };
        let (fill_ns, read_ns) = (median_of(|parts| parts.fill_ns), median_of(|p| p.read_ns));
        self.samples.sort_unstable();
        let calls = self.calls as f64;
        self.outcome = Some(Outcome::Timed(Measured {
            p50: percentile(&self.samples, 50),
            p90: percentile(&self.samples, 90),
            p99: percentile(&self.samples, 99),
            rate: calls / seconds,
            cpu_us: cpu_ns as f64 / calls,
            fill_ns,
            read_ns,
        }));
    }

    /// Nanoseconds that both processes have had of the processors.
    fn cpu_now(&self) -> u64 {
        let read = |clock: ClockId| {
            let time = clock_gettime(clock).expect("the clock of a living process");
            time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
        };
        let servers = self.servers.iter().map(|server| {
            read(clock_getcpuclockid(*server).expect("the clock of a living process"))
        });
        servers.sum::<u64>() + read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// What the run gave.
    pub(crate) fn outcome(self) -> Outcome {
        self.outcome.expect("a client calls until there is no next")
    }
}
