//! Parking and ringing: the protocol between the doorbells of an edge page and who sleeps on them.
//!
//! A lost wake-up is impossible because each side writes before it reads: the waiter sets `asleep`
//! and then looks for work once more, the sender publishes work and then looks at `asleep`, with a
//! sequentially consistent fence between the two steps on both sides. One of them sees the other.
//! A ring between the waiter's load of `bell` and its futex call changes the word, and the kernel
//! compares it again under its own lock.
//!
//! `ipc/model` checks this very file under every interleaving: what it uses comes from
//! [`crate::sync`] alone.

use crate::sync::{Ordering, WORDS_MAX, Waiter, Watched, fence, wait_any, wake_all};

/// Rings a bell whether or not its owner sleeps.
pub(crate) fn ring_always(waiter: &Waiter) {
    waiter.bell.fetch_add(2, Ordering::SeqCst);
    wake_all(&waiter.bell);
}

/// Tells the owner of `waiter` about what was published before, if it sleeps.
///
/// The caller has issued [`published`] since it published. Returns whether it was seen to sleep,
/// without anybody's having rung since.
pub(crate) fn ring(waiter: &Waiter) -> bool {
    let flag = waiter.asleep.load(Ordering::Relaxed);
    if flag == 0 {
        return false;
    }
    ring_always(waiter);
    // It has got up, or lain down anew, where this fails.
    let _ = waiter
        .asleep
        .compare_exchange(flag, 0, Ordering::SeqCst, Ordering::Relaxed);
    true
}

/// Orders what was published before the looks at asleep flags that follow.
pub(crate) fn published() {
    fence(Ordering::SeqCst);
}

/// Says that the owner of `waiter` is about to park; then it must look for work once more.
///
/// Returns what to wait for: the bell as it was before.
pub(crate) fn lie_down(waiter: &Waiter) -> Watched<'_> {
    let seen = waiter.bell.load(Ordering::SeqCst);
    // A swap, as in [`get_up`]: a flag that is taken back and one that is set are in one order.
    waiter.asleep.swap(seen | 1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    Watched {
        word: &waiter.bell,
        seen,
    }
}

/// Says that the owner of `waiter` is awake again.
pub(crate) fn get_up(waiter: &Waiter) {
    waiter.asleep.swap(0, Ordering::SeqCst);
}

/// What the last look before sleeping found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// There is something to do.
    Work,
    /// There is nothing to do, for so many nanoseconds; `None` for ever.
    Nothing(Option<u64>),
}

/// Sleeps on the bells of all `sleepers` and on `other` at once, unless the last look finds work.
///
/// `last_look` comes after the flags are set; it must also see what a change of `other` tells. May
/// return for no reason. At most [`WORDS_MAX`]` - 1` sleepers. Without `other`, whoever has more
/// to tell than a sender rings one of the bells.
pub(crate) fn park<'a>(
    sleepers: impl Iterator<Item = &'a Waiter> + Clone,
    other: Option<Watched<'a>>,
    last_look: impl FnOnce() -> Last,
) {
    park_then(&mut (), sleepers, other, |()| last_look(), |()| {});
}

/// As [`park`], with a look after the wait while the flags are still set: who has work to tell of
/// meanwhile still rings.
pub(crate) fn park_then<'a, S>(
    state: &mut S,
    sleepers: impl Iterator<Item = &'a Waiter> + Clone,
    other: Option<Watched<'a>>,
    last_look: impl FnOnce(&mut S) -> Last,
    before_getting_up: impl FnOnce(&mut S),
) {
    let mut seen = [0; WORDS_MAX];
    for (seen, sleeper) in seen.iter_mut().zip(sleepers.clone()) {
        *seen = lie_down(sleeper).seen;
    }
    if let Last::Nothing(timeout_ns) = last_look(state) {
        let bells = sleepers.clone().zip(seen).map(|(sleeper, seen)| Watched {
            word: &sleeper.bell,
            seen,
        });
        wait_any(bells.chain(other), timeout_ns);
        before_getting_up(state);
    }
    for sleeper in sleepers {
        get_up(sleeper);
    }
}
