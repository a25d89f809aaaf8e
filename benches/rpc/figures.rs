//! What was measured, round by round: medians, spreads and ratios.

use std::collections::BTreeSet;

use serde_json::json;

use crate::cases::Case;
use crate::meter::{Measured, Outcome};

/// One case's rounds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    rounds: Vec<Measured>,
    /// System calls of a call, of both processes.
    pub(crate) system_calls: Option<f64>,
}

/// One figure of a round.
pub(crate) type Figure = fn(&Measured) -> f64;

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
    /// What could not be measured, and why.
    pub(crate) skipped: BTreeSet<String>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// The median of the rounds.
    pub(crate) fn median(&self, figure: Figure) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// The least and the greatest of the rounds.
    pub(crate) fn spread(&self, figure: Figure) -> (f64, f64) {
        let values = self.rounds.iter().map(figure);
        values.fold((f64::INFINITY, 0.0), |(least, most), value| {
            (least.min(value), most.max(value))
        })
    }
}

impl Figures {
    fn row_mut(&mut self, case: Case) -> &mut Row {
        let index = match self.rows.iter().position(|row| row.case == case) {
            Some(index) => index,
            None => {
                self.rows.push(Row {
                    case,
                    rounds: Vec::new(),
                    system_calls: None,
                });
                self.rows.len() - 1
            }
        };
        &mut self.rows[index]
    }

    /// Adds what one run of a case gave.
    pub(crate) fn add(&mut self, case: Case, outcome: Outcome) {
        match outcome {
            Outcome::Timed(measured) => self.row_mut(case).rounds.push(measured),
            Outcome::Counted(Ok(system_calls)) => {
                self.row_mut(case).system_calls = Some(system_calls);
            }
            Outcome::Counted(Err(error)) => {
                let reason = format!("SKIPPED (perf events: {error}): counting system calls");
                self.skipped.insert(reason);
            }
        }
    }

    /// Notes that a case could not be run.
    pub(crate) fn skip(&mut self, case: Case, reason: String) {
        let name = case.peer.title().trim_matches('*');
        self.skipped.insert(format!("SKIPPED ({reason}): {name}"));
    }

    /// The rows that were timed.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.rounds.is_empty())
    }

    /// The row of a case.
    pub(crate) fn row(&self, case: Case) -> Option<&Row> {
        self.rows().find(|row| row.case == case)
    }

    /// The median of the rounds' ratios of a figure of `case` to the sum of those of `peers`.
    pub(crate) fn ratio(&self, figure: Figure, case: Case, peers: &[Case]) -> Option<f64> {
        let own = self.row(case)?;
        let peers: Vec<&Row> = peers
            .iter()
            .map(|peer| self.row(*peer))
            .collect::<Option<_>>()?;
        let ratio = |(round, measured): (usize, &Measured)| {
            let whole: f64 = peers
                .iter()
                .map(|peer| peer.rounds.get(round).map_or(f64::NAN, figure))
                .sum();
            figure(measured) / whole
        };
        Some(median(own.rounds.iter().enumerate().map(ratio).collect()))
    }

    /// Every figure of every case; times in nanoseconds, processors' time in microseconds for a
    /// thousand calls.
    /// The median over the rounds of how much more of a figure one case has than another.
    pub(crate) fn difference(&self, figure: Figure, case: Case, base: Case) -> Option<f64> {
        let (case, base) = (self.row(case)?, self.row(base)?);
        let both = case.rounds.iter().zip(&base.rounds);
        Some(median(both.map(|(a, b)| figure(a) - figure(b)).collect()))
    }

    pub(crate) fn to_json(&self) -> String {
        let rows: Vec<_> = self
            .rows()
            .map(|row| {
                let (least, most) = row.spread(|m| m.p50);
                json!({
                    "case": row.case.to_string(),
                    "rounds": row.rounds.len(),
                    "p50_ns": row.median(|m| m.p50),
                    "p50_ns_least": least,
                    "p50_ns_most": most,
                    "p90_ns": row.median(|m| m.p90),
                    "p99_ns": row.median(|m| m.p99),
                    "calls_per_s": row.median(|m| m.rate),
                    "cpu_us_per_1000": row.median(|m| m.cpu_us),
                    "system_calls_per_call": row.system_calls,
                    "fill_ns": row.median(|m| m.fill_ns),
                    "read_ns": row.median(|m| m.read_ns),
                })
            })
            .collect();
        let skipped: Vec<_> = self.skipped.iter().collect();
        format!("{:#}\n", json!({ "cases": rows, "skipped": skipped }))
    }
}
