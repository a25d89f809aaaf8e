//! The report: for people on the standard output, as JSON in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bulk::Passed;
use crate::failure::Failures;
use crate::measure::{Gap, Measured, Operation, Violations, Window, histogram};
use crate::run::{Order, Outcome};
use crate::stop::Mark;

/// How much before a mark its window begins: the mark's line takes a moment to arrive.
const BEFORE: Duration = Duration::from_millis(100);

/// Everything that one use of this program did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether nothing failed, nothing was lost and all was looked at.
    pub passed: bool,
    /// Whether a signal ended it early.
    pub interrupted: bool,
    /// The phases in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Phase>,
    /// Reading all records before the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survey: Option<Phase>,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Reading all records at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Phase>,
}

/// A pass over all records.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    /// Records that there are.
    pub records: u64,
    /// Records that were dealt with and are as they must be.
    pub good: u64,
    /// Requests that failed.
    pub errors: Failures,
    /// What the store did that it must not do.
    pub violations: Found,
    /// How long it took.
    pub seconds: f64,
}

/// Violations, as text.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub first: Vec<String>,
}

impl From<Violations> for Found {
    fn from(violations: Violations) -> Self {
        Self {
            count: violations.count,
            first: violations.first.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Phase {
    /// Of a pass over `records`.
    pub(crate) fn new(records: u64, passed: Passed, took: Duration) -> Self {
        Self {
            records,
            good: passed.done,
            errors: passed.errors,
            violations: passed.violations.into(),
            seconds: took.as_secs_f64(),
        }
    }

    fn passed(&self) -> bool {
        self.good == self.records && self.errors.is_empty() && self.violations.count == 0
    }
}

/// A measured run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// The workload's letter.
    pub workload: &'static str,
    /// How many clients.
    pub clients: u64,
    /// Intended operations per second; none in a closed loop.
    pub rate: Option<f64>,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Operations that succeeded.
    pub succeeded: u64,
    /// Of them, per second.
    pub throughput: f64,
    /// Latencies by operation; from the intended sending in an open loop.
    pub latency: BTreeMap<&'static str, Latency>,
    /// Failed operations by kind.
    pub errors: Failures,
    /// Compare-and-swaps that came too late and were tried anew.
    pub conflicts: u64,
    /// What the store did that it must not do.
    pub violations: Found,
    /// The longest time in which a client had no success.
    pub longest_gap: Option<ClientGap>,
    /// The same, of the gaps near no mark.
    pub longest_gap_apart: Option<ClientGap>,
    /// The marks.
    pub marks: Vec<Marked>,
}

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// How many operations.
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

/// A time in which one client had no success.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct ClientGap {
    /// Whose.
    pub client: u64,
    /// From the run's beginning to the gap's, in seconds.
    pub begin_s: f64,
    /// How long, in milliseconds.
    pub length_ms: f64,
}

/// A mark, and the longest gap near it.
#[derive(Debug, Serialize)]
pub(crate) struct Marked {
    /// Its name.
    pub name: String,
    /// From the run's beginning, in seconds.
    pub at_s: f64,
    /// The longest gap of any client that touches the mark's window.
    pub longest_gap: Option<ClientGap>,
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: micros(histogram.max()),
        }
    }
}

fn longest(clients: &[Measured], wanted: impl Fn(&Gap) -> bool) -> Option<ClientGap> {
    let gaps = clients.iter().zip(0..).filter_map(|(measured, client)| {
        let gap = measured.gaps.longest(&wanted)?;
        Some((client, gap))
    });
    let (client, gap) = gaps.max_by_key(|(_, gap)| gap.length)?;
    Some(ClientGap {
        client,
        begin_s: gap.start().as_secs_f64(),
        length_ms: gap.length.as_secs_f64() * 1000.0,
    })
}

/// The marks that lie in the run, each with its window, which the next mark ends.
fn windows(outcome: &Outcome, marks: &[Mark], length: Duration) -> Vec<(Mark, Window)> {
    let since = |mark: &Mark| mark.at.checked_duration_since(outcome.begin);
    let within: Vec<_> = marks
        .iter()
        .filter(|mark| since(mark).is_some_and(|at| at <= outcome.took))
        .collect();
    let nexts = within.iter().skip(1).map(|mark| since(mark));
    let nexts: Vec<_> = nexts.chain([None]).collect();
    let pairs = within.iter().zip(nexts);
    pairs
        .filter_map(|(mark, next)| {
            let at = since(mark)?;
            let to = at + length;
            let to = next.map_or(to, |next| to.min(next.saturating_sub(BEFORE)).max(at));
            let from = at.saturating_sub(BEFORE);
            Some(((*mark).clone(), Window { from, to }))
        })
        .collect()
}

impl Run {
    /// Of what came of a run; a mark's window is `window` long.
    pub(crate) fn new(order: &Order, outcome: Outcome, marks: &[Mark], window: Duration) -> Self {
        let windows = windows(&outcome, marks, window);
        let apart = |gap: &Gap| !windows.iter().any(|(_, window)| gap.touches(window));
        let marks = windows.iter().map(|(mark, window)| Marked {
            name: mark.name.clone(),
            at_s: mark.at.duration_since(outcome.begin).as_secs_f64(),
            longest_gap: longest(&outcome.clients, |gap| gap.touches(window)),
        });
        let marks = marks.collect();
        let longest_gap = longest(&outcome.clients, |_| true);
        let longest_gap_apart = longest(&outcome.clients, apart);
        let mut latencies: BTreeMap<Operation, Histogram<u64>> = BTreeMap::new();
        let mut errors = Failures::default();
        let mut violations = Violations::default();
        let mut conflicts = 0;
        for client in outcome.clients {
            for (operation, of_client) in client.latencies {
                let all = latencies.entry(operation).or_insert_with(histogram);
                all.add(of_client).expect("histograms of the same bounds");
            }
            errors.merge(client.errors);
            violations.merge(client.violations);
            conflicts += client.conflicts;
        }
        let succeeded = latencies.values().map(Histogram::len).sum();
        let seconds = outcome.took.as_secs_f64();
        let began = SystemTime::now()
            .checked_sub(outcome.begin.elapsed())
            .and_then(|began| began.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        Self {
            workload: order.workload.name(),
            clients: order.clients,
            rate: order.rate,
            began_unix_ms: u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
            seconds,
            succeeded,
            throughput: succeeded as f64 / seconds,
            latency: latencies
                .iter()
                .map(|(operation, histogram)| (operation.name(), Latency::new(histogram)))
                .collect(),
            errors,
            conflicts,
            violations: violations.into(),
            longest_gap,
            longest_gap_apart,
            marks,
        }
    }

    fn passed(&self) -> bool {
        self.succeeded > 0 && self.errors.is_empty() && self.violations.count == 0
    }
}

impl Report {
    /// Judges what is there.
    pub(crate) fn judge(&mut self) {
        let phases = [&self.load, &self.survey, &self.verification];
        let phases_passed = phases.into_iter().flatten().all(Phase::passed);
        self.passed = phases_passed && self.run.as_ref().is_none_or(Run::passed);
    }
}

/// A time in the unit that suits it.
struct Micros(f64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            micros if micros < 1_000.0 => format!("{micros:.1}us"),
            micros if micros < 1_000_000.0 => format!("{:.2}ms", micros / 1_000.0),
            micros => format!("{:.2}s", micros / 1_000_000.0),
        };
        f.pad(&text)
    }
}

impl fmt::Display for ClientGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = Micros(self.length_ms * 1000.0);
        write!(
            f,
            "{length} (client {}, {:.3}s into the run)",
            self.client, self.begin_s
        )
    }
}

fn write_found(f: &mut fmt::Formatter<'_>, errors: &Failures, violations: &Found) -> fmt::Result {
    write!(f, "{errors}")?;
    if violations.count > 0 {
        writeln!(f, "  violations: {}", violations.count)?;
        for violation in &violations.first {
            writeln!(f, "    {violation}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "run: workload {}, {} clients, ",
            self.workload, self.clients
        )?;
        match self.rate {
            Some(rate) => write!(f, "open loop at {rate:.0}/s")?,
            None => write!(f, "closed loop")?,
        }
        writeln!(
            f,
            ": {} operations in {:.2}s, {:.0}/s",
            self.succeeded, self.seconds, self.throughput
        )?;
        writeln!(
            f,
            "  {:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (operation, latency) in &self.latency {
            let Latency { count, p50_us, .. } = *latency;
            write!(f, "  {operation:<18}{count:>10}{:>10}", Micros(p50_us))?;
            for micros in [
                latency.p90_us,
                latency.p99_us,
                latency.p99_9_us,
                latency.max_us,
            ] {
                write!(f, "{:>10}", Micros(micros))?;
            }
            writeln!(f)?;
        }
        if self.conflicts > 0 {
            writeln!(f, "  conflicts, tried anew: {}", self.conflicts)?;
        }
        if let Some(gap) = self.longest_gap {
            writeln!(f, "  longest gap: {gap}")?;
        }
        if let (false, Some(gap)) = (self.marks.is_empty(), self.longest_gap_apart) {
            writeln!(f, "  longest gap near no mark: {gap}")?;
        }
        for mark in &self.marks {
            write!(f, "  mark `{}` at {:.3}s: ", mark.name, mark.at_s)?;
            match mark.longest_gap {
                Some(gap) => writeln!(f, "longest gap {gap}")?,
                None => writeln!(f, "no success near it")?,
            }
        }
        write_found(f, &self.errors, &self.violations)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = |f: &mut fmt::Formatter<'_>, title, phase: &Option<Phase>| {
            let Some(phase) = phase else { return Ok(()) };
            let Phase {
                records,
                good,
                seconds,
                ..
            } = phase;
            writeln!(f, "{title}: {good} of {records} records in {seconds:.2}s")?;
            write_found(f, &phase.errors, &phase.violations)
        };
        phase(f, "load", &self.load)?;
        phase(f, "survey", &self.survey)?;
        if let Some(run) = &self.run {
            write!(f, "{run}")?;
        }
        phase(f, "verification", &self.verification)?;
        if self.interrupted {
            writeln!(f, "interrupted: this is what was measured so far")?;
        }
        let verdict = if self.passed { "passed" } else { "failed" };
        writeln!(f, "{verdict}")
    }
}
