//! The host's clock, as deadlines use it.

#![expect(
    unsafe_code,
    reason = "clock_gettime has no safe wrapper without a conversion"
)]

use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`: the same for all processes of the host, and the clock of
/// futex timeouts.
pub(crate) fn now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// The same clock, up to some milliseconds behind, at a quarter of the price.
///
/// For what may come a little late: a request that expired a moment ago is executed in vain.
pub(crate) fn coarse_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// `duration` in nanoseconds, `u64::MAX` for what does not fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place to write to; both clocks exist on every Linux, so the call
    // cannot fail.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(result, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
