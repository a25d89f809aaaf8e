//! Percentiles, and what a process holds.

use std::path::Path;

use nix::unistd::Pid;
use std::os::unix::fs::MetadataExt;

/// Sorted samples.
#[derive(Debug)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    pub(crate) fn new(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The sample below which so many of a thousand lie; 0 where there is none.
    pub(crate) fn per_mille(&self, part: usize) -> u64 {
        match self.0.len() {
            0 => 0,
            length => self.0[(length - 1) * part / 1000],
        }
    }
}

/// Nanoseconds as a person reads them.
pub(crate) fn time(ns: u64) -> String {
    match ns {
        10_000_000.. => format!("{:.1} ms", ns as f64 / 1e6),
        10_000.. => format!("{:.1} us", ns as f64 / 1e3),
        _ => format!("{ns} ns"),
    }
}

/// The median of ratios or rates.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Holding {
    /// Its proportional set size in KiB, what is shared counted by the number of those who share.
    pub(crate) pss_kib: u64,
    /// Descriptors.
    pub(crate) descriptors: u64,
}

impl Holding {
    /// Of a living process.
    pub(crate) fn of(process: Pid) -> Self {
        let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
            .expect("the memory of a process of ours");
        let pss_kib = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .expect("the kernel says the proportional set size");
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"))
            .expect("the descriptors of a process of ours")
            .count() as u64;
        Self {
            pss_kib,
            descriptors,
        }
    }
}

/// KiB that the files below a directory take.
pub(crate) fn files_kib(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let kib = |entry: std::io::Result<std::fs::DirEntry>| {
        let Ok(entry) = entry else { return 0 };
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files_kib(&entry.path()),
            Ok(metadata) => metadata.blocks() / 2,
            Err(_) => 0,
        }
    };
    entries.map(kib).sum()
}
