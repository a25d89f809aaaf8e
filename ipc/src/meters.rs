//! The process's meters: what its ends of edges counted, where the supervisor can read it.
//!
//! A connection, or a server's end of an edge, claims a block of the process's memfd (see
//! [`insula_contract::meters`]) and is its only writer. Where there is none, an end counts nothing,
//! and that costs it a comparison. A block that is given back keeps its counts, and goes on with
//! them when the same edge is used again; so an edge's counts never decrease while its consumer
//! lives. Only where all others are used up, or where a provider's consumer is gone, is a block
//! given to another edge.

#![expect(
    unsafe_code,
    reason = "the shared layout is written through mapped memory"
)]

mod ticks;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_contract::id::{Attempt, ContractId};
use insula_contract::meters::{
    self, BLOCKS, Block, Counts, METERS_SIZE, MetersPage, Outcome, Role, Subject, contract_number,
};
use memmap2::{MmapOptions, MmapRaw};

use crate::header::Status;
use crate::memory::{self, MapError};
use ticks::Ticks;
pub use ticks::has_steady_tsc;

/// The meters of this process; share them between its edges and servers.
#[derive(Debug, Clone)]
pub struct Meters {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Kept open, so that a later supervisor finds it here.
    fd: OwnedFd,
    tsc: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    map: Option<Arc<Map>>,
    /// What each block that was ever used is about, and whether an end has it now.
    blocks: Vec<(Subject, bool)>,
}

#[derive(Debug)]
struct Map(MmapRaw);

impl Map {
    fn page(&self) -> &MetersPage {
        // SAFETY: the mapping is page-aligned (the layout needs 64), METERS_SIZE long, cannot
        // shrink, is writable, and lives as long as `self`. It consists of atomics, for which any
        // bytes are valid.
        unsafe { &*self.0.as_ptr().cast::<MetersPage>() }
    }
}

impl Meters {
    /// Takes what the supervisor gave; it is mapped when the first end needs it.
    ///
    /// `tsc` says whether the host's time stamp counter can be used, as [`has_steady_tsc`] tells;
    /// a walled service cannot see that for itself.
    pub fn new(fd: OwnedFd, tsc: bool) -> Result<Self, MapError> {
        memory::check(fd.as_fd(), METERS_SIZE)?;
        Ok(Self {
            shared: Arc::new(Shared {
                fd,
                tsc,
                state: Mutex::default(),
            }),
        })
    }

    /// What the process's ends have counted so far.
    pub fn read(&self) -> Vec<(Subject, Counts)> {
        let state = self.state();
        let Some(map) = &state.map else {
            return Vec::new();
        };
        let used = &map.page().blocks[..state.blocks.len()];
        used.iter().filter_map(Block::read).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A block for one end; an end without one where there is none to be had.
    pub(crate) fn claim(&self, role: Role, contract: &ContractId, consumer: Attempt) -> Meter {
        let subject = Subject {
            role,
            contract: contract_number(contract),
            consumer,
        };
        let state = &mut *self.state();
        let map = match &state.map {
            Some(map) => map.clone(),
            None => match self.map() {
                Ok(map) => state.map.insert(map).clone(),
                Err(error) => {
                    tracing::warn!(%error, "an edge goes without meters");
                    return Meter::default();
                }
            },
        };
        let page = map.page();
        let free = |wanted: &dyn Fn(&Subject) -> bool| {
            let mut blocks = state.blocks.iter();
            blocks.position(|(of, taken)| !taken && wanted(of))
        };
        let same = free(&|of| *of == subject);
        let index = same
            // The consumer of a provider's free block is gone for ever.
            .or_else(|| free(&|of| of.role == Role::Provider))
            .or_else(|| (state.blocks.len() < BLOCKS).then_some(state.blocks.len()))
            .or_else(|| free(&|_| true));
        let Some(index) = index else {
            page.header.unmetered.fetch_add(1, Ordering::Relaxed);
            return Meter::default();
        };
        if same.is_none() {
            page.blocks[index].assign(subject);
        }
        if index == state.blocks.len() {
            state.blocks.push((subject, true));
            page.header.used.store(index as u32 + 1, Ordering::SeqCst);
        } else {
            state.blocks[index] = (subject, true);
        }
        Meter {
            claimed: Some(Claimed {
                meters: self.clone(),
                map,
                index,
            }),
            ticks: Ticks::new(self.shared.tsc),
        }
    }

    fn map(&self) -> Result<Arc<Map>, MapError> {
        let map = MmapOptions::new()
            .len(METERS_SIZE)
            .map_raw(self.shared.fd.as_raw_fd())
            .map_err(MapError::Map)?;
        let map = Map(map);
        let header = &map.page().header;
        header.layout.store(meters::LAYOUT, Ordering::SeqCst);
        header.magic.store(meters::MAGIC, Ordering::SeqCst);
        Ok(Arc::new(map))
    }
}

/// One end's block; without one, everything here does nothing.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    claimed: Option<Claimed>,
    ticks: Ticks,
}

#[derive(Debug)]
struct Claimed {
    meters: Meters,
    map: Arc<Map>,
    index: usize,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some((_, taken)) = self.meters.state().blocks.get_mut(self.index) {
            *taken = false;
        }
    }
}

impl Meter {
    #[inline]
    pub(crate) fn block(&self) -> Option<&Block> {
        let claimed = self.claimed.as_ref()?;
        Some(&claimed.map.page().blocks[claimed.index])
    }

    /// Counts a call that was begun, with the length of its request.
    #[inline]
    pub(crate) fn called(&self, request: usize) {
        if let Some(block) = self.block() {
            block.begin(request as u64, 0);
        }
    }

    /// Counts a call that ended, which began at `begun_ns` and was answered with so many bytes.
    #[inline]
    pub(crate) fn ended(&self, outcome: Outcome, begun_ns: u64, answer: usize) {
        if let Some(block) = self.block() {
            meters::add(&block.bytes_in, answer as u64);
            block.lasted(self.ticks.now_ns().saturating_sub(begun_ns));
            block.end(outcome);
        }
    }

    /// Counts a call that failed before it was begun.
    #[cold]
    pub(crate) fn failed(&self, outcome: Outcome) {
        if let Some(block) = self.block() {
            block.begin(0, 0);
            block.end(outcome);
        }
    }

    /// Counts a call that was given up.
    pub(crate) fn dropped(&self) {
        if let Some(block) = self.block() {
            block.end(Outcome::Dropped);
        }
    }

    /// Counts a request that was taken; `waited_ns` tells, from the present time, since when.
    #[inline]
    pub(crate) fn taken(&self, request: u32, waited_ns: impl FnOnce(u64) -> u64) {
        if let Some(block) = self.block() {
            block.begin(0, u64::from(request));
            block.lasted(waited_ns(self.ticks.now_ns()));
        }
    }

    /// Counts the answer to a request that was taken.
    #[inline]
    pub(crate) fn answered(&self, status: Status, answer: usize) {
        if let Some(block) = self.block() {
            meters::add(&block.bytes_out, answer as u64);
            block.end(outcome_of(status));
        }
    }

    /// Counts a request that was sent from where it was kept.
    pub(crate) fn resent(&self) {
        if let Some(block) = self.block() {
            meters::add(&block.resent, 1);
        }
    }

    /// Counts a sleep, or the waking of a sleeper.
    pub(crate) fn woke(&self) {
        if let Some(block) = self.block() {
            meters::add(&block.wakes, 1);
        }
    }
}

/// What the answer of a server says about a request.
fn outcome_of(status: Status) -> Outcome {
    match status {
        Status::Response => Outcome::Ok,
        Status::Error => Outcome::Failed,
        Status::Draining | Status::NotLeading | Status::Unable => Outcome::NotNow,
        Status::Expired => Outcome::DeadlineExceeded,
        Status::MalformedRequest | Status::UnknownMethod => Outcome::Refused,
        Status::AnswerTooLong => Outcome::Broken,
        Status::Overloaded => Outcome::Overloaded,
        Status::QuotaExceeded => Outcome::QuotaExceeded,
        Status::Abandoned => Outcome::OutcomeUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now_ns as precise_ns;
    use crate::testing;

    fn kv() -> ContractId {
        "kv@1".parse().unwrap()
    }

    #[test]
    fn a_block_that_is_used_again_goes_on_with_its_counts() {
        let meters = Meters::new(testing::meters(), false).unwrap();
        let counted = |meters: &Meters| -> Vec<u64> {
            let mut counts = meters.read();
            counts.sort_by_key(|(subject, _)| *subject);
            counts.iter().map(|(_, counts)| counts.begun).collect()
        };
        let first = meters.claim(Role::Consumer, &kv(), Attempt(1));
        first.called(10);
        let second = meters.claim(Role::Consumer, &kv(), Attempt(1));
        second.called(10);
        second.called(10);
        assert_eq!(counted(&meters), [1, 2], "two writers, two blocks");
        drop(second);
        meters.claim(Role::Consumer, &kv(), Attempt(1)).called(1);
        assert_eq!(counted(&meters), [1, 3]);
    }

    #[test]
    fn the_block_of_a_consumer_that_is_gone_goes_to_the_next() {
        let meters = Meters::new(testing::meters(), false).unwrap();
        for attempt in 1..5_000 {
            let end = meters.claim(Role::Provider, &kv(), Attempt(attempt));
            assert!(end.block().is_some());
            end.taken(3, |_| 0);
            let read = meters.read();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].0.consumer, Attempt(attempt));
            assert_eq!(read[0].1.begun, 1, "begins at nothing");
        }
    }

    #[test]
    fn an_end_beyond_the_last_block_goes_without() {
        let meters = Meters::new(testing::meters(), false).unwrap();
        let mut ends: Vec<Meter> = (0..BLOCKS as u64)
            .map(|attempt| meters.claim(Role::Consumer, &kv(), Attempt(attempt)))
            .collect();
        let late = meters.claim(Role::Consumer, &kv(), Attempt(1 << 40));
        assert!(ends.iter().all(|end| end.block().is_some()));
        assert!(late.block().is_none());
        late.called(1);
        late.ended(Outcome::Ok, 0, 1);
        ends.pop();
        let last = meters.claim(Role::Consumer, &kv(), Attempt(1 << 40));
        assert!(last.block().is_some());
    }

    #[test]
    fn time_by_the_counter_stays_with_the_clock() {
        let ticks = Ticks::new(has_steady_tsc());
        let until = precise_ns() + 200_000_000;
        loop {
            let before = precise_ns();
            let told = ticks.now_ns();
            let after = precise_ns();
            assert!(told + 20_000 >= before && told <= after + 20_000);
            if after > until {
                break;
            }
        }
    }
}
