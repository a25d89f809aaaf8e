//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::workload::Workload;

/// Loads kv@1, measures it and verifies every acknowledged write
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Where the supervisor keeps everything; the usual places unless given
    #[arg(long, env = "INSULA_ROOT", global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Writes the report as JSON to this file, too
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What the keys begin with; two runs at once need different ones
    #[arg(long, global = true, default_value = "user", value_parser = prefix)]
    pub prefix: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes all records anew
    Load(Extent),
    /// Reads all records, runs a workload and verifies what is in the store then
    Run(Running),
    /// Reads all records and checks that each is there and undamaged
    Verify(Extent),
    /// Loads, runs and verifies
    Exercise(Running),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Extent {
    /// How many records of 1000 bytes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub records: u64,
    /// Clients, each a thread with a connection of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub clients: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Running {
    #[command(flatten)]
    pub extent: Extent,
    /// The YCSB core workload
    #[arg(long, default_value = "B", ignore_case = true)]
    pub workload: Workload,
    /// Ends the run after this time, as `500ms`, `10s` or `2m`
    #[arg(long, value_parser = duration, conflicts_with = "operations")]
    pub duration: Option<Duration>,
    /// Ends the run after so many operations of all clients together; without this and a duration
    /// it ends after 10s, or with `--marks` by a line `stop`
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub operations: Option<u64>,
    /// Open loop: operations per second of all clients together, latencies from the intended
    /// sending; without it each client sends when it has its answer
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// How long a call may take; the contract's own deadlines unless given
    #[arg(long, value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Reads `mark NAME` and `stop` lines from the standard input, and reports the longest gap
    /// near each mark
    #[arg(long)]
    pub marks: bool,
    /// How long after a mark a gap is still its own, unless the next mark comes before
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub mark_window: Duration,
}

impl Running {
    /// How long the run lasts unless something else ends it.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match (self.duration, self.operations) {
            (None, None) if !self.marks => Some(Duration::from_secs(10)),
            (given, _) => given,
        }
    }
}

impl Arguments {
    /// The supervisor's run directory.
    pub(crate) fn run_directory(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join("run"),
            None => Path::new("/run/insula").to_owned(),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "expected a number and a unit, more than nothing: `500ms`, `10s`, `2m`".to_owned();
    let digits = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(number * scale) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("expected operations per second, from 0.001 to 100000000".to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    const MAX: usize = 100;
    if text.len() <= MAX {
        Ok(text.to_owned())
    } else {
        Err(format!("longer than {MAX} bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_run_without_an_end_ends_after_ten_seconds_or_when_told() {
        let running = |line: &str| match Arguments::parse_from(line.split(' ')).command {
            Command::Run(running) => running.duration(),
            other => panic!("{other:?}"),
        };
        assert_eq!(running("kv-load run"), Some(Duration::from_secs(10)));
        assert_eq!(running("kv-load run --marks"), None);
        assert_eq!(running("kv-load run --operations 5"), None);
        let given = running("kv-load run --marks --duration 1.5s --workload f");
        assert_eq!(given, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "5",
            "s",
            "0s",
            "5 s",
            "1e9s",
            "-1s",
            "99999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
