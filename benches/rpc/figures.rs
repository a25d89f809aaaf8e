//! Percentiles and ratios, as Markdown.

use crate::Placement;
use crate::cases::Case;

/// What was measured, round by round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    case: Case,
    placement: Placement,
    /// Sorted nanoseconds of each round.
    rounds: Vec<Vec<u64>>,
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

impl Row {
    fn medians(&self) -> Vec<f64> {
        let median = |round: &Vec<u64>| percentile(round, 50) as f64;
        self.rounds.iter().map(median).collect()
    }
}

impl Figures {
    /// Adds the samples of one round, in nanoseconds.
    pub(crate) fn add(&mut self, case: Case, placement: Placement, mut samples: Vec<u64>) {
        samples.sort_unstable();
        let known = |row: &&mut Row| row.case == case && row.placement == placement;
        match self.rows.iter_mut().find(known) {
            Some(row) => row.rounds.push(samples),
            None => self.rows.push(Row {
                case,
                placement,
                rounds: vec![samples],
            }),
        }
    }

    fn row(&self, case: Case, placement: Placement) -> Option<&Row> {
        let known = |row: &&Row| row.case == case && row.placement == placement;
        self.rows.iter().find(known)
    }

    /// The median of the rounds' ratios of medians to the sum of the peers' medians.
    fn ratio(&self, row: &Row, peers: &[(Case, Placement)]) -> Option<f64> {
        let peers: Vec<Vec<f64>> = peers
            .iter()
            .map(|(case, placement)| Some(self.row(*case, *placement)?.medians()))
            .collect::<Option<_>>()?;
        let mut ratios: Vec<f64> = row
            .medians()
            .iter()
            .enumerate()
            .map(|(round, own)| own / peers.iter().map(|peer| peer[round]).sum::<f64>())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Some(ratios[ratios.len() / 2])
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        println!("| round trip of 64 B | cores | p50 | p90 | p99 | p50 of the rounds |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            let mut all = row.rounds.concat();
            all.sort_unstable();
            let mut medians = row.medians();
            medians.sort_unstable_by(f64::total_cmp);
            println!(
                "| {} | {} | {} ns | {} ns | {} ns | {:.0}-{:.0} ns |",
                row.case.title(),
                match row.placement {
                    Placement::OneCore => 1,
                    Placement::TwoCores => 2,
                },
                percentile(&all, 50),
                percentile(&all, 90),
                percentile(&all, 99),
                medians[0],
                medians[medians.len() - 1],
            );
        }
        println!("\n| claim | measured | to reach |\n|---|---|---|");
        self.claim(
            "spinning, against raw iceoryx2",
            (Case::Spinning, Placement::TwoCores),
            &[(Case::Raw, Placement::TwoCores)],
            "at most 1.25",
        );
        for (cores, placement) in [
            ("one core", Placement::OneCore),
            ("two cores", Placement::TwoCores),
        ] {
            self.claim(
                &format!("parked on {cores}, against futex plus spinning"),
                (Case::Parked, placement),
                &[
                    (Case::Futex, placement),
                    (Case::Spinning, Placement::TwoCores),
                ],
                "at most 1.15",
            );
            self.claim(
                &format!("parked on {cores}, against a Unix stream socket"),
                (Case::Parked, placement),
                &[(Case::Unix, placement)],
                match placement {
                    Placement::OneCore => "well below 1",
                    Placement::TwoCores => "at most 1",
                },
            );
        }
    }

    fn claim(
        &self,
        claim: &str,
        (case, placement): (Case, Placement),
        peers: &[(Case, Placement)],
        reach: &str,
    ) {
        if let Some(ratio) = self
            .row(case, placement)
            .and_then(|row| self.ratio(row, peers))
        {
            println!("| {claim} | {ratio:.2} | {reach} |");
        }
    }
}
