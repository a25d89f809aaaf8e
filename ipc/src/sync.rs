//! What parking and ringing are made of: atomics, the doorbell's layout, and futex calls.
//!
//! [`crate::wake`] takes these from here and from nowhere else, so that `ipc/model` can put a model
//! checker's in their place and check the protocol as it stands.

#![expect(unsafe_code, reason = "the futex calls are raw system calls")]

use std::mem::MaybeUninit;
pub(crate) use std::sync::atomic::{AtomicU32, Ordering, fence};

pub(crate) use insula_contract::edge::Waiter;

use crate::clock;

/// Words that one thread can wait on at once (`FUTEX_WAITV_MAX`).
pub(crate) const WORDS_MAX: usize = 128;

const FUTEX2_SIZE_U32: u32 = 0x02;

/// A word to wait on: sleep only while it holds `seen`.
#[derive(Clone, Copy)]
pub(crate) struct Watched<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) seen: u32,
}

/// The kernel's `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy)]
struct WaitEntry {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// Sleeps until one of `words` is woken or differs from what was seen, or `timeout_ns` has passed.
///
/// May also return for no reason. Words beyond [`WORDS_MAX`] are a programming error. One word
/// costs the kernel less than two: it allocates nothing and looks one page up.
pub(crate) fn wait_any<'a>(words: impl IntoIterator<Item = Watched<'a>>, timeout_ns: Option<u64>) {
    let mut words = words.into_iter();
    let Some(first) = words.next() else {
        return;
    };
    let until = timeout_ns.map(|ns| {
        let end = clock::now_ns().saturating_add(ns).min(i64::MAX as u64);
        libc::timespec {
            tv_sec: (end / 1_000_000_000) as libc::time_t,
            tv_nsec: (end % 1_000_000_000) as libc::c_long,
        }
    });
    let until = until.as_ref();
    let result = match words.next() {
        None => wait_one(first, until),
        Some(second) => wait_many([first, second].into_iter().chain(words), until),
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        let expected = [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR];
        assert!(
            error
                .raw_os_error()
                .is_some_and(|code| expected.contains(&code)),
            "the kernel refused a wait: {error}"
        );
    }
}

/// The time is a point of `CLOCK_MONOTONIC`, as `FUTEX_WAIT` alone would not have it.
fn wait_one(watched: Watched<'_>, until: Option<&libc::timespec>) -> libc::c_long {
    // SAFETY: the word lives as long as the borrow; the time is null or outlives the call, and the
    // second address is not used.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            watched.word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            watched.seen,
            until.map_or(std::ptr::null(), std::ptr::from_ref),
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    }
}

fn wait_many<'a>(
    words: impl Iterator<Item = Watched<'a>>,
    until: Option<&libc::timespec>,
) -> libc::c_long {
    let mut entries = [const { MaybeUninit::<WaitEntry>::uninit() }; WORDS_MAX];
    let mut count = 0;
    for watched in words {
        assert!(count < WORDS_MAX, "more words than the kernel waits for");
        entries[count].write(WaitEntry {
            value: u64::from(watched.seen),
            address: watched.word.as_ptr() as u64,
            flags: FUTEX2_SIZE_U32,
            reserved: 0,
        });
        count += 1;
    }
    // SAFETY: the first `count` entries were written and describe words that live as long as the
    // borrows in `words`; the time is null or outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            entries.as_ptr(),
            count as libc::c_uint,
            0 as libc::c_uint,
            until.map_or(std::ptr::null(), std::ptr::from_ref),
            libc::CLOCK_MONOTONIC,
        )
    }
}

/// Wakes everybody who waits for `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE only uses the address of the word, which is valid.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            i32::MAX,
            0_usize,
            0,
            0,
        )
    };
    debug_assert!(woken >= 0, "{}", std::io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::{get_up, lie_down, published, ring, ring_always};
    use std::sync::atomic::AtomicU64;
    use std::time::{Duration, Instant};

    /// Meets the other thread in round `round`.
    fn meet(mine: &AtomicU64, theirs: &AtomicU64, round: u64) {
        mine.store(round, Ordering::SeqCst);
        let mut looks = 0_u32;
        while theirs.load(Ordering::SeqCst) < round {
            looks += 1;
            if looks.is_multiple_of(1000) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    /// The litmus test under the protocol: of one who publishes and rings and one who lies down and
    /// looks, at least one sees the other.
    #[test]
    fn either_the_sender_sees_the_sleeper_or_the_sleeper_sees_the_work() {
        const ROUNDS: u64 = 400_000;
        #[repr(align(128))]
        #[derive(Default)]
        struct Apart<T>(T);
        let waiter = Apart(Waiter::default());
        let work = Apart(AtomicU64::new(0));
        let (at_sender, at_sleeper) = (Apart(AtomicU64::new(0)), Apart(AtomicU64::new(0)));
        let slept = Apart(AtomicU64::new(0));
        let end = Instant::now() + Duration::from_secs(5);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for round in 1..=ROUNDS {
                    meet(&at_sleeper.0, &at_sender.0, 2 * round);
                    lie_down(&waiter.0);
                    let saw = work.0.load(Ordering::Relaxed) == round;
                    slept.0.store(u64::from(!saw), Ordering::SeqCst);
                    meet(&at_sleeper.0, &at_sender.0, 2 * round + 1);
                    get_up(&waiter.0);
                }
            });
            let mut lost = 0;
            for round in 1..=ROUNDS {
                meet(&at_sender.0, &at_sleeper.0, 2 * round);
                work.0.store(round, Ordering::Relaxed);
                published();
                let before = waiter.0.bell.load(Ordering::Relaxed);
                ring(&waiter.0);
                let rang = waiter.0.bell.load(Ordering::Relaxed) != before;
                meet(&at_sender.0, &at_sleeper.0, 2 * round + 1);
                lost += u64::from(!rang && slept.0.load(Ordering::SeqCst) == 1);
                if Instant::now() > end {
                    // Enough; let the other thread run through.
                    at_sender.0.store(u64::MAX, Ordering::SeqCst);
                    break;
                }
            }
            assert_eq!(lost, 0, "slept beside work that nobody rang for");
        });
    }

    #[test]
    fn a_wait_ends_by_a_change_a_ring_and_a_timeout() {
        let waiter = Waiter::default();
        let watched = lie_down(&waiter);
        // In time, though nobody rings.
        wait_any([watched], Some(1_000_000));
        // At once, as the bell has changed since.
        published();
        ring(&waiter);
        wait_any([watched], None);
        get_up(&waiter);
        // By another thread.
        let watched = lie_down(&waiter);
        std::thread::scope(|threads| {
            threads.spawn(|| ring_always(&waiter));
            while waiter.bell.load(Ordering::SeqCst) == watched.seen {
                wait_any([watched], None);
            }
        });
    }
}
