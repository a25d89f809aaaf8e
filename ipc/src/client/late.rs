//! Saying that a request waits too long.
//!
//! Whoever gave the edge wants to know: a provider that is stuck is found by its first request, so
//! nobody has to be asked in vain whether he lives. It is looked at only where a waiting client
//! reads the clock anyway, and said once in [`PAUSE_NS`] for all connections of an edge. That a request
//! waits for somebody who sleeps is said in the same way, at once, and again after each change of the
//! route.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A request that has waited this long is late, or at its deadline if that is earlier.
const LATE_AFTER_NS: u64 = 1_000_000_000;
/// Between two words about one edge.
const PAUSE_NS: u64 = 1_000_000_000;

/// Who is told, with how long the request has waited.
type Tell = Box<dyn Fn(Duration) + Send + Sync>;

/// What is said about one edge.
#[derive(Default)]
pub(super) struct Late {
    tell: OnceLock<Tell>,
    /// Not before this time again.
    next_ns: AtomicU64,
    /// That somebody is wanted who sleeps: not before this time again, unless the route is another.
    wish_ns: AtomicU64,
    /// The route's `change` when that was said.
    wished_at: AtomicU32,
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late").finish_non_exhaustive()
    }
}

/// When a request that was begun then is late.
#[inline]
pub(super) fn late_ns(begun_ns: u64, deadline_ns: u64) -> u64 {
    begun_ns.saturating_add(LATE_AFTER_NS).min(deadline_ns)
}

impl Late {
    /// Names who is told; the first one counts.
    pub(super) fn set(&self, tell: Tell) {
        // A second one is dropped.
        let _ = self.tell.set(tell);
    }

    /// Tells that a request that was begun at `begun_ns` waits for somebody who sleeps, as the route
    /// says since this `change` of it; unless that was said a moment ago.
    ///
    /// Two threads may say it both.
    #[cold]
    pub(super) fn wish(&self, change: u32, begun_ns: u64, now_ns: u64) {
        let Some(tell) = self.tell.get() else {
            return;
        };
        let said = self.wished_at.swap(change, Ordering::Relaxed) == change;
        if said && now_ns < self.wish_ns.load(Ordering::Relaxed) {
            return;
        }
        let later = now_ns.saturating_add(PAUSE_NS);
        self.wish_ns.store(later, Ordering::Relaxed);
        tell(Duration::from_nanos(now_ns.saturating_sub(begun_ns)));
    }

    /// Tells that a request has waited since `begun_ns`, unless that was said a moment ago.
    #[cold]
    pub(super) fn say(&self, begun_ns: u64, now_ns: u64) {
        let Some(tell) = self.tell.get() else {
            return;
        };
        let next = self.next_ns.load(Ordering::Relaxed);
        let later = now_ns.saturating_add(PAUSE_NS);
        if now_ns >= next
            && self
                .next_ns
                .compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tell(Duration::from_nanos(now_ns.saturating_sub(begun_ns)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn it_is_said_once_in_a_while_and_to_the_first_who_wants_to_know() {
        let late = Late::default();
        late.say(0, PAUSE_NS);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        late.set(Box::new(move |waited| tell.lock().unwrap().push(waited)));
        late.set(Box::new(|_| panic!("the first counts")));
        for now_ns in [5, 6, PAUSE_NS, 4 + PAUSE_NS, 5 + PAUSE_NS, 6 + PAUSE_NS] {
            late.say(2, now_ns);
        }
        let waited = Duration::from_nanos;
        assert_eq!(*told.lock().unwrap(), [waited(3), waited(PAUSE_NS + 3)]);
    }

    #[test]
    fn who_sleeps_is_wanted_at_once_and_again_after_a_change_or_a_while() {
        let late = Late::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        late.set(Box::new(move |waited| tell.lock().unwrap().push(waited)));
        // That somebody was late a moment ago is another matter.
        late.say(0, 1);
        for (change, now_ns) in [(0, 5), (0, 6), (7, 7), (7, 8), (9, 9), (9, PAUSE_NS + 9)] {
            late.wish(change, 5, now_ns);
        }
        let waited = [1, 0, 2, 4, PAUSE_NS + 4].map(Duration::from_nanos);
        assert_eq!(*told.lock().unwrap(), waited);
    }

    #[test]
    fn a_request_is_late_after_a_second_or_at_its_deadline() {
        assert_eq!(late_ns(7, u64::MAX), LATE_AFTER_NS + 7);
        assert_eq!(late_ns(7, 1_000), 1_000);
        assert_eq!(late_ns(u64::MAX - 1, u64::MAX), u64::MAX);
    }
}
