//! Which record an operation is about.
//!
//! The generator of Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD
//! 1994), with the skew that the YCSB core workloads use. Ranks are scrambled by a hash, so that
//! the popular records do not lie side by side.

use rand::Rng;

/// The skew of the YCSB core workloads.
pub(crate) const THETA: f64 = 0.99;

/// A zipfian choice among a fixed number of records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Zipfian {
    items: u64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

fn zeta(items: u64, theta: f64) -> f64 {
    (1..=items).map(|rank| (rank as f64).powf(-theta)).sum()
}

impl Zipfian {
    /// Among `items`, of which there is at least one; takes time in proportion to them.
    pub(crate) fn new(items: u64, theta: f64) -> Self {
        assert!(items > 0, "a choice among nothing");
        let all = zeta(items, theta);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta))
            / (1.0 - zeta(items.min(2), theta) / all);
        Self {
            items,
            theta,
            zeta: all,
            alpha: 1.0 / (1.0 - theta),
            eta,
        }
    }

    /// A rank; 0 is the most popular one.
    pub(crate) fn rank(&self, chance: &mut impl Rng) -> u64 {
        let u: f64 = chance.random();
        let scaled = u * self.zeta;
        if scaled < 1.0 || self.items == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) || self.items == 2 {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }

    /// A record: the rank, scrambled. Two ranks may share a record, as in YCSB.
    pub(crate) fn record(&self, chance: &mut impl Rng) -> u64 {
        scramble(self.rank(chance)) % self.items
    }
}

/// FNV-1a (Fowler, Noll, Vo) of a number's bytes.
fn scramble(number: u64) -> u64 {
    number
        .to_le_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use std::collections::HashSet;

    const DRAWS: usize = 200_000;

    fn frequencies(zipfian: &Zipfian) -> Vec<f64> {
        let mut chance = SmallRng::seed_from_u64(7);
        let mut counts = vec![0_u64; zipfian.items as usize];
        for _ in 0..DRAWS {
            counts[zipfian.rank(&mut chance) as usize] += 1;
        }
        counts.iter().map(|n| *n as f64 / DRAWS as f64).collect()
    }

    #[test]
    fn popular_ranks_come_as_often_as_the_law_says() {
        let zipfian = Zipfian::new(1_000, THETA);
        let found = frequencies(&zipfian);
        let law = |rank: usize| ((rank + 1) as f64).powf(-THETA) / zipfian.zeta;
        for rank in [0, 1] {
            let off = (found[rank] / law(rank) - 1.0).abs();
            assert!(off < 0.05, "rank {rank} is off by {off}");
        }
        // Gray's generator approximates beyond the first two: compare the mass of decades.
        for decade in [2..10, 10..100, 100..1_000] {
            let have: f64 = found[decade.clone()].iter().sum();
            let want: f64 = decade.clone().map(law).sum();
            let off = (have / want - 1.0).abs();
            assert!(off < 0.1, "ranks {decade:?} are off by {off}");
        }
    }

    #[test]
    fn every_rank_is_one_of_the_items() {
        for items in [1, 2, 3, 10] {
            let zipfian = Zipfian::new(items, THETA);
            let mut chance = SmallRng::seed_from_u64(items);
            let seen: HashSet<u64> = (0..10_000).map(|_| zipfian.rank(&mut chance)).collect();
            assert_eq!(seen.len() as u64, items);
            assert!(seen.iter().all(|rank| *rank < items));
        }
    }

    #[test]
    fn popular_records_do_not_lie_side_by_side() {
        let zipfian = Zipfian::new(100_000, THETA);
        let records: Vec<u64> = (0..10).map(|rank| scramble(rank) % zipfian.items).collect();
        assert!(records.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1));
    }
}
