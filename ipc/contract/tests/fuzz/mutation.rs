//! Inputs: random bytes and mutations of valid ones.

use std::hash::{BuildHasher, RandomState};

/// A seed that differs from run to run.
pub(crate) fn any_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        // Small numbers are tags and lengths more often than large ones.
        let mask = if self.below(2) == 0 { 0x1f } else { 0xff };
        (0..length).map(|_| self.next() as u8 & mask).collect()
    }

    /// The next input.
    pub(crate) fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.below(8) == 0 {
            let longest = 1 << self.below(13);
            return self.bytes(longest);
        }
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut input, seeds);
        }
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(input.len() - at + 1);
        let replacement = match self.below(9) {
            0 if at < input.len() => {
                input[at] ^= 1 << self.below(8);
                return;
            }
            1 if at < input.len() => {
                input[at] = self.next() as u8;
                return;
            }
            2 => return input.truncate(at),
            3 => Vec::new(),
            4 => self.bytes(16),
            // A number as large as one can be written, and one in too many bytes.
            5 => vec![0xff; 9 + self.below(3)],
            6 => vec![0x80, 0x80, 0],
            7 => input[at..end].repeat(2 + self.below(30)),
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from + 1);
                other[from..to].to_vec()
            }
        };
        let end = if self.below(2) == 0 { at } else { end };
        input.splice(at..end, replacement);
        input.truncate(1 << 18);
    }
}
