//! A connection among several that one thread waits for.

use std::sync::atomic::Ordering;

use super::Calls;
use crate::clock;
use crate::sync::Watched;
use crate::wake;

/// The longest sleep beside outstanding calls, as for one connection.
const PARK_MAX_NS: u64 = super::wait::PARK_MAX_NS;

impl Calls {
    /// Says that the thread is about to park; then it must look at its calls once more.
    ///
    /// Returns the bell as it was before.
    pub(in crate::client) fn lie_down(&self) -> Watched<'_> {
        wake::lie_down(self.place.waiter())
    }

    /// What to wait for: the bell as it is, and the route as it was acted upon last.
    pub(in crate::client) fn words(&self) -> [Watched<'_>; 2] {
        let bell = &self.place.waiter().bell;
        [
            Watched {
                word: bell,
                seen: bell.load(Ordering::SeqCst),
            },
            Watched {
                word: &self.place.entry().change,
                seen: self.state.borrow().seen,
            },
        ]
    }

    /// Says that the thread is awake again.
    pub(in crate::client) fn get_up(&self) {
        wake::get_up(self.place.waiter());
    }

    /// When to look again at the latest, in nanoseconds of the monotonic clock.
    pub(in crate::client) fn look_again_ns(&self, now: u64) -> u64 {
        let latest = now.saturating_add(PARK_MAX_NS);
        self.state.borrow().next_time(now, latest)
    }

    /// After a sleep that began at `since`: rings the servers where it was the longest.
    pub(in crate::client) fn slept_since(&self, since: u64, bell_seen: u32) {
        if clock::now_ns() >= since.saturating_add(PARK_MAX_NS) {
            let state = &mut *self.state.borrow_mut();
            self.rescue(state, bell_seen, &mut |_, _| false);
        }
    }

    /// How long a waiter spins before it parks.
    pub(in crate::client) fn spin_ns(&self) -> u64 {
        self.place.edge.spin_ns()
    }
}
