//! The time of day by the processor's time stamp counter: `CLOCK_MONOTONIC` for the price of one
//! instruction.
//!
//! The counter is taken only where the kernel keeps its own time by it: then it runs evenly and in
//! step on all processors. A [`Ticks`] reads the clock beside the counter every few milliseconds
//! and counts on from there, so that it is off by what the clock was adjusted meanwhile at most.
//! How fast the counter runs is measured between two such readings.

#![expect(unsafe_code, reason = "the counter is read by an instruction")]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// How far, in nanoseconds, is counted from one reading of the clock.
const STRIDE_NS: u64 = 4_000_000;
/// Between two readings from which the speed is told, in nanoseconds.
const BASELINE_NS: u64 = 2_000_000;
/// A reading that took longer, in counts, was interrupted.
const READING_MAX: u64 = 2_000;

/// Nanoseconds per count, times 2^32; 0 until measured. The same for the whole process.
static SPEED: AtomicU64 = AtomicU64::new(0);

/// Whether the kernel keeps its time by the time stamp counter.
///
/// Reads `/sys`, which walled services cannot.
pub fn has_steady_tsc() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_arch = "x86_64")
        && std::fs::read_to_string(source).is_ok_and(|name| name.trim() == "tsc")
}

/// A reader of the time, for one thread.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// Whether the counter can be used.
    usable: bool,
    /// The first reading: counter and clock.
    first: Cell<(u64, u64)>,
    /// The last one.
    last: Cell<(u64, u64)>,
    /// So many counts after it the clock is read again; 0 while the speed is not known.
    stride: Cell<u64>,
    speed: Cell<u64>,
}

impl Ticks {
    pub(super) fn new(usable: bool) -> Self {
        Self {
            usable,
            ..Self::default()
        }
    }

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        if !self.usable {
            return clock::now_ns();
        }
        let count = counter();
        let (last_count, last_ns) = self.last.get();
        let counts = count.wrapping_sub(last_count);
        if counts < self.stride.get() {
            // Below 2^32 counts, so the product fits.
            last_ns + ((counts * self.speed.get()) >> 32)
        } else {
            self.read_clock()
        }
    }

    #[cold]
    fn read_clock(&self) -> u64 {
        let before = counter();
        let now_ns = clock::now_ns();
        let after = counter();
        if after.wrapping_sub(before) > READING_MAX {
            // Interrupted between the two: the next reading tells.
            self.stride.set(0);
            return now_ns;
        }
        let count = before + after.wrapping_sub(before) / 2;
        if self.first.get() == (0, 0) {
            self.first.set((count, now_ns));
        }
        let (first_count, first_ns) = self.first.get();
        let (counts, ns) = (
            count.wrapping_sub(first_count),
            now_ns.wrapping_sub(first_ns),
        );
        if counts > 0 && (BASELINE_NS..1 << 40).contains(&ns) {
            let speed = (u128::from(ns) << 32) / u128::from(counts);
            SPEED.store(u64::try_from(speed).unwrap_or(0), Ordering::Relaxed);
        }
        let speed = SPEED.load(Ordering::Relaxed);
        self.last.set((count, now_ns));
        self.speed.set(speed);
        let stride = (u128::from(STRIDE_NS) << 32)
            .checked_div(u128::from(speed))
            .unwrap_or(0);
        // So that `counts * speed` never overflows: with counts below this it is below 2^55.
        self.stride.set(u64::try_from(stride).unwrap_or(0));
        now_ns
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    // SAFETY: reads a register; the processor has it, as every x86_64 does, and a process that was
    // forbidden to by `prctl` would be one that forbade it to itself.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn counter() -> u64 {
    0
}
