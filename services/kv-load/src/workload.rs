//! The YCSB core workloads: which operations, in which proportion.
//!
//! As in Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010), with two
//! differences: an update writes the whole record, for the contract knows no fields, and a
//! read-modify-write is a compare-and-swap that increments the record's counter, so that a lost or
//! doubled one shows.

use clap::ValueEnum;
use rand::Rng;

use crate::measure::Operation;

/// A core workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Workload {
    /// 50 % reads, 50 % updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads only
    C,
    /// 50 % reads, 50 % increments by compare-and-swap
    F,
}

impl Workload {
    /// The next operation.
    pub(crate) fn choose(self, chance: &mut impl Rng) -> Operation {
        let (reads, otherwise) = match self {
            Self::A => (0.5, Operation::Update),
            Self::B => (0.95, Operation::Update),
            Self::C => (1.0, Operation::Read),
            Self::F => (0.5, Operation::ReadModifyWrite),
        };
        if chance.random_bool(reads) {
            Operation::Read
        } else {
            otherwise
        }
    }

    /// Whether all its writes are increments.
    pub(crate) fn counts(self) -> bool {
        match self {
            Self::A | Self::B | Self::C => false,
            Self::F => true,
        }
    }

    /// Its letter.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::F => "F",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn operations_come_in_their_proportion() {
        for (workload, reads) in [
            (Workload::A, 0.5),
            (Workload::B, 0.95),
            (Workload::C, 1.0),
            (Workload::F, 0.5),
        ] {
            let mut chance = SmallRng::seed_from_u64(1);
            let count = (0..100_000)
                .filter(|_| workload.choose(&mut chance) == Operation::Read)
                .count();
            assert!((count as f64 / 100_000.0 - reads).abs() < 0.01);
        }
    }
}
