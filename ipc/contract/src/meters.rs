//! The meters of a process: what its ends of edges counted.
//!
//! One memfd per process, sealed at [`METERS_SIZE`], made by the supervisor and written by the
//! process alone: one descriptor however many edges it has, and no memory before the first of them
//! is used, since a page of a memfd is there only once it is written to. Each end has a [`Block`]:
//! a connection of a consumer, or a provider's end of one consumer's edge. A block has one writer,
//! a thread, which loads and stores without locking the bus; readers load.
//!
//! A reader can rely on nothing: the numbers are the process's own word. What a block is about is
//! said by its [`Block::contract`] and [`Block::consumer`], which the supervisor holds against the
//! edges that the process has.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::id::{Attempt, ContractId};

/// First word of the meters, written by the process when it first uses them.
pub const MAGIC: u64 = u64::from_le_bytes(*b"insulaME");
/// Version of this layout.
pub const LAYOUT: u32 = 1;
/// Ends that one process can have metered at once.
pub const BLOCKS: usize = 1024;
/// Bytes of the memfd.
pub const METERS_SIZE: usize = size_of::<MetersPage>();

/// Buckets of a histogram: one for less than 128 ns, four for each power of two from there to 64 s
/// (2^36 ns), and one for what is longer.
pub const BUCKETS: usize = 1 + (LAST_POWER - FIRST_POWER) * SUB_BUCKETS + 1;
const FIRST_POWER: usize = 7;
const LAST_POWER: usize = 36;
const SUB_BUCKETS: usize = 4;

/// The bucket of a duration.
#[inline]
pub fn bucket_of(ns: u64) -> usize {
    let power = (63 - (ns | 1).leading_zeros()) as usize;
    if power < FIRST_POWER {
        0
    } else if power >= LAST_POWER {
        BUCKETS - 1
    } else {
        let sub = (ns >> (power - 2)) as usize & (SUB_BUCKETS - 1);
        1 + (power - FIRST_POWER) * SUB_BUCKETS + sub
    }
}

/// The least duration of a bucket, in nanoseconds; of [`BUCKETS`] and beyond, the greatest number.
pub fn bucket_start(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        _ if bucket >= BUCKETS => u64::MAX,
        _ => {
            let power = FIRST_POWER + (bucket - 1) / SUB_BUCKETS;
            let sub = (bucket - 1) % SUB_BUCKETS;
            ((SUB_BUCKETS + sub) as u64) << (power - 2)
        }
    }
}

/// How a call or a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With the method's response.
    Ok,
    /// With the contract's error.
    Failed,
    /// Not before its deadline.
    DeadlineExceeded,
    /// Not executed: nobody provides the contract.
    Unavailable,
    /// Its provider died with it.
    OutcomeUnknown,
    /// Not executed: it had waited too long.
    Overloaded,
    /// Not executed: more than the edge may send.
    QuotaExceeded,
    /// Not sent: too long.
    TooLarge,
    /// Not sent: too many were outstanding.
    TooManyInFlight,
    /// Not executed: not understood.
    Refused,
    /// In a broken channel, or with an answer that did not fit.
    Broken,
    /// Given up by its caller.
    Dropped,
    /// Not executed, and sent elsewhere or again by its client: the server leaves, does not lead,
    /// or could not. Only providers count it.
    NotNow,
}

impl Outcome {
    /// All of them, in the order of their cells.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failed,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::Overloaded,
        Self::QuotaExceeded,
        Self::TooLarge,
        Self::TooManyInFlight,
        Self::Refused,
        Self::Broken,
        Self::Dropped,
        Self::NotNow,
    ];

    /// Its name, as people and programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Overloaded => "overloaded",
            Self::QuotaExceeded => "quota-exceeded",
            Self::TooLarge => "too-large",
            Self::TooManyInFlight => "too-many-in-flight",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Dropped => "dropped",
            Self::NotNow => "not-now",
        }
    }
}

/// Which end of an edge a block belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A consumer's connection: durations are from the call to its outcome.
    Consumer,
    /// A provider's end: durations are from the sending of a request to the server's taking it.
    Provider,
}

/// What a block is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Whose block it is.
    pub role: Role,
    /// [`contract_number`] of the edge's contract.
    pub contract: u64,
    /// The attempt that consumes.
    pub consumer: Attempt,
}

/// A number for a contract: FNV-1a of its text, the same in every process and never 0.
pub fn contract_number(contract: &ContractId) -> u64 {
    let text = contract.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

/// The cells of one end, written by one thread.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Block {
    /// [`contract_number`]; 0 while the block belongs to nobody.
    pub contract: AtomicU64,
    /// The consumer's attempt.
    pub consumer: AtomicU64,
    /// 0 for [`Role::Consumer`], 1 for [`Role::Provider`].
    pub role: AtomicU64,
    /// Calls that were begun, or requests that were taken.
    pub begun: AtomicU64,
    /// How they ended, by [`Outcome`].
    pub ended: [AtomicU64; 16],
    /// Encoded bytes sent: of requests, or of answers.
    pub bytes_out: AtomicU64,
    /// Encoded bytes received.
    pub bytes_in: AtomicU64,
    /// Requests that were sent after they had been kept: again after a refusal or a death, or for
    /// the first time once somebody provided.
    pub resent: AtomicU64,
    /// How often the consumer slept while it waited, or the provider rang a sleeping consumer.
    pub wakes: AtomicU64,
    /// The longest duration in nanoseconds.
    pub longest: AtomicU64,
    /// Sum of all durations in nanoseconds.
    pub sum: AtomicU64,
    /// Durations, by bucket.
    pub buckets: [AtomicU64; BUCKETS],
}

/// The file's head.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct MetersHeader {
    /// [`MAGIC`], once the process uses it.
    pub magic: AtomicU64,
    /// [`LAYOUT`].
    pub layout: AtomicU32,
    /// Blocks from the first on that were ever used.
    pub used: AtomicU32,
    /// Ends that went without a block, as all were in use.
    pub unmetered: AtomicU64,
}

/// The whole, as it lies in the memfd.
#[repr(C)]
#[derive(Debug)]
pub struct MetersPage {
    /// The head.
    pub header: MetersHeader,
    /// The blocks.
    pub blocks: [Block; BLOCKS],
}

/// Adds to a cell, of which the caller is the only writer.
#[inline]
pub fn add(cell: &AtomicU64, more: u64) {
    // Two plain moves: no other thread writes it, so nothing can get lost between them.
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Release,
    );
}

impl Block {
    /// Counts one that began.
    #[inline]
    pub fn begin(&self, bytes_out: u64, bytes_in: u64) {
        add(&self.begun, 1);
        add(&self.bytes_out, bytes_out);
        add(&self.bytes_in, bytes_in);
    }

    /// Counts one that ended.
    #[inline]
    pub fn end(&self, outcome: Outcome) {
        add(&self.ended[outcome as usize], 1);
    }

    /// Counts a duration.
    #[inline]
    pub fn lasted(&self, ns: u64) {
        add(&self.buckets[bucket_of(ns)], 1);
        add(&self.sum, ns);
        if ns > self.longest.load(Ordering::Relaxed) {
            self.longest.store(ns, Ordering::Relaxed);
        }
    }

    /// What the block is about; `None` while it belongs to nobody.
    pub fn subject(&self) -> Option<Subject> {
        let contract = self.contract.load(Ordering::Acquire);
        let role = match self.role.load(Ordering::Acquire) {
            0 => Role::Consumer,
            1 => Role::Provider,
            _ => return None,
        };
        (contract != 0).then_some(Subject {
            role,
            contract,
            consumer: Attempt(self.consumer.load(Ordering::Acquire)),
        })
    }

    /// Makes the block one about `subject`, all cells 0. For its process, while nobody writes it.
    pub fn assign(&self, subject: Subject) {
        self.contract.store(0, Ordering::SeqCst);
        let cells = [
            &self.begun,
            &self.bytes_out,
            &self.bytes_in,
            &self.resent,
            &self.wakes,
            &self.longest,
            &self.sum,
        ];
        for cell in cells.into_iter().chain(&self.ended).chain(&self.buckets) {
            cell.store(0, Ordering::SeqCst);
        }
        let role = match subject.role {
            Role::Consumer => 0,
            Role::Provider => 1,
        };
        self.role.store(role, Ordering::SeqCst);
        self.consumer.store(subject.consumer.0, Ordering::SeqCst);
        self.contract.store(subject.contract, Ordering::SeqCst);
    }

    /// Reads all cells; `None` where the block belongs to nobody, or was assigned anew meanwhile.
    ///
    /// The cells are read one after the other while they are written: each is whole and never less
    /// than at an earlier reading, and what has ended is read before what began.
    pub fn read(&self) -> Option<(Subject, Counts)> {
        let subject = self.subject()?;
        let load = |cell: &AtomicU64| cell.load(Ordering::Acquire);
        let mut counts = Counts {
            sum_ns: load(&self.sum),
            longest_ns: load(&self.longest),
            ..Counts::default()
        };
        for (count, cell) in counts.buckets.0.iter_mut().zip(&self.buckets) {
            *count = load(cell);
        }
        for (count, cell) in counts.ended.iter_mut().zip(&self.ended) {
            *count = load(cell);
        }
        counts.begun = load(&self.begun);
        counts.bytes_out = load(&self.bytes_out);
        counts.bytes_in = load(&self.bytes_in);
        counts.resent = load(&self.resent);
        counts.wakes = load(&self.wakes);
        (self.subject() == Some(subject)).then_some((subject, counts))
    }
}

/// Durations by bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u8, u64)>", into = "Vec<(u8, u64)>")]
pub struct Histogram(pub [u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl From<Histogram> for Vec<(u8, u64)> {
    fn from(histogram: Histogram) -> Self {
        (0..)
            .zip(histogram.0)
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl From<Vec<(u8, u64)>> for Histogram {
    fn from(pairs: Vec<(u8, u64)>) -> Self {
        let mut histogram = Self::default();
        for (bucket, count) in pairs {
            if let Some(place) = histogram.0.get_mut(usize::from(bucket)) {
                *place = place.saturating_add(count);
            }
        }
        histogram
    }
}

impl Histogram {
    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// The duration in nanoseconds below which `share` (0 to 1) of all lie; `None` without any.
    ///
    /// It lies in the same bucket as the true one: off by less than a quarter from 128 ns to 64 s.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0_u64;
        for (bucket, in_it) in self.0.iter().enumerate() {
            if rank - below <= *in_it {
                let start = bucket_start(bucket);
                if bucket == BUCKETS - 1 {
                    return Some(start);
                }
                let width = bucket_start(bucket + 1) - start;
                // Less than the next bucket's start, since less than the whole width.
                let part = (rank - below) as f64 / (*in_it as f64 + 1.0);
                return Some(start + ((width as f64 * part) as u64).min(width - 1));
            }
            below = below.saturating_add(*in_it);
        }
        None
    }
}

/// What a block, or several, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// As [`Block::begun`].
    pub begun: u64,
    /// As [`Block::ended`].
    pub ended: [u64; 16],
    /// As [`Block::bytes_out`].
    pub bytes_out: u64,
    /// As [`Block::bytes_in`].
    pub bytes_in: u64,
    /// As [`Block::resent`].
    pub resent: u64,
    /// As [`Block::wakes`].
    pub wakes: u64,
    /// As [`Block::longest`].
    pub longest_ns: u64,
    /// As [`Block::sum`].
    pub sum_ns: u64,
    /// As [`Block::buckets`].
    pub buckets: Histogram,
}

impl Counts {
    /// How many ended so.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize]
    }

    /// How many ended at all.
    pub fn ended_in_all(&self) -> u64 {
        self.ended
            .iter()
            .fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// How many ended otherwise than [`Outcome::Ok`].
    pub fn errors(&self) -> u64 {
        self.ended_in_all() - self.ended(Outcome::Ok)
    }

    /// How many have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        self.begun.saturating_sub(self.ended_in_all())
    }

    /// Adds what another end of the same edge counted.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }

    /// What was counted since `earlier`; the longest duration stays that of all.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        since.combine(earlier, u64::saturating_sub);
        since
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.begun, other.begun),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.resent, other.resent),
            (&mut self.wakes, other.wakes),
            (&mut self.sum_ns, other.sum_ns),
        ];
        let ended = self.ended.iter_mut().zip(other.ended);
        let buckets = self.buckets.0.iter_mut().zip(other.buckets.0);
        for (own, other) in pairs.into_iter().chain(ended).chain(buckets) {
            *own = with(*own, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_what_the_other_side_maps() {
        assert_eq!(BUCKETS, 118);
        assert_eq!(size_of::<MetersHeader>(), 64);
        assert_eq!(std::mem::offset_of!(Block, ended), 32);
        assert_eq!(std::mem::offset_of!(Block, buckets), 208);
        assert_eq!(size_of::<Block>(), 1152);
        assert_eq!(METERS_SIZE, 64 + BLOCKS * 1152);
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS {
            let (start, next) = (bucket_start(bucket), bucket_start(bucket + 1));
            assert!(start < next, "{bucket}");
            assert_eq!(bucket_of(start), bucket);
            assert_eq!(bucket_of(next - 1), bucket);
        }
        assert_eq!(bucket_start(1), 128);
        assert_eq!(bucket_start(BUCKETS - 1), 1 << 36);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(
            values in proptest::collection::vec((0_u32..38, any::<u64>()), 1..300),
            share in 0.0_f64..=1.0,
        ) {
            let mut values: Vec<u64> = values
                .into_iter()
                .map(|(power, noise)| noise & ((2 << power) - 1))
                .collect();
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.0[bucket_of(*value)] += 1;
            }
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let told = histogram.quantile(share).unwrap();
            prop_assert_eq!(bucket_of(told), bucket_of(exact), "{} for {}", told, exact);
            if (128..1 << 36).contains(&exact) {
                prop_assert!(told.abs_diff(exact) * 4 < exact, "{} for {}", told, exact);
            }
        }

        #[test]
        fn any_counts_are_digested(words in proptest::collection::vec(any::<u64>(), BUCKETS)) {
            let mut counts = Counts::default();
            counts.buckets.0.copy_from_slice(&words);
            counts.ended.copy_from_slice(&words[..16]);
            counts.begun = words[17];
            let mut sum = counts.clone();
            sum.add(&counts);
            let _ = (sum.errors(), sum.in_flight(), sum.since(&counts));
            for share in [0.0, 0.5, 0.99, 1.0] {
                prop_assert!(sum.buckets.quantile(share).is_some() || sum.buckets.count() == 0);
            }
        }
    }
}
