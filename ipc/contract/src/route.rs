//! The route table: which attempts serve a contract now.
//!
//! One table for the host, in a memfd that only the supervisor can write; services map a read-only
//! descriptor of it. An entry belongs to one service's offer of one contract, and has a target for
//! each of its processes: two of one instance during a cut-over, the one held and the other
//! serving. A client loads [`RouteEntry::change`] before each call and compares it
//! with the one it acted upon last: that is all that a route costs while nothing changes, however
//! many targets there are.
//!
//! A change is published in this order, every step sequentially consistent: the predecessor is
//! added to [`RouteEntry::drained`] where it ended cleanly, then the target is stored (one atomic
//! store: the cut-over), then `change` is counted up and its waiters are woken (futex, shared). A
//! reader goes the other way: it loads `change`, then the targets, and for an attempt that it
//! finds replaced it looks through `drained`. So it sees at least all that was published before
//! the `change` that it loaded, and whoever left cleanly before it sees the successor. What it sees
//! beyond that comes with a `change` that it has not loaded yet, and is looked at again then.
//!
//! A client that parks has acted upon a `change`; whoever publishes one rings its bell in the edge's
//! page besides ([`crate::edge`]). A supervisor that died before the last step has a successor that
//! counts every used entry up once more, and rings.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::id::Attempt;

/// First word of a route table, so that another file is not taken for one.
pub const MAGIC: u64 = u64::from_le_bytes(*b"insulaRT");
/// Version of this layout.
pub const LAYOUT: u32 = 2;
/// Entries in a host's table.
pub const CAPACITY: usize = 4096;
/// Instances behind one entry at most.
pub const TARGETS: usize = 16;
/// Attempts that an entry remembers as having left cleanly.
pub const DRAINED: usize = 8;

/// The head of the table.
#[repr(C, align(256))]
#[derive(Debug)]
pub struct RouteHeader {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`LAYOUT`].
    pub layout: AtomicU32,
    /// Number of entries that follow.
    pub capacity: AtomicU32,
}

/// One service's offer of one contract.
#[repr(C, align(256))]
#[derive(Debug)]
pub struct RouteEntry {
    /// Counted up and woken after every change of this entry; a futex word.
    pub change: AtomicU32,
    /// How many attempts left cleanly; the next one is written over the oldest.
    pub drained_count: AtomicU32,
    /// The last attempts that left this entry after answering or refusing all that they had
    /// received: what is still unanswered at one of them was never executed, and may be sent
    /// elsewhere whatever its method is. One that was forgotten counts as not drained, which is
    /// the safe side.
    pub drained: [AtomicU64; DRAINED],
    /// A [`Target`] word per process.
    pub targets: [AtomicU64; TARGETS],
}

/// The whole table, as it lies in the memfd.
#[repr(C)]
#[derive(Debug)]
pub struct RouteTable {
    /// Says what the file is.
    pub header: RouteHeader,
    /// The entries, by the index that the supervisor hands out.
    pub entries: [RouteEntry; CAPACITY],
}

/// Bytes of the memfd.
pub const TABLE_SIZE: usize = size_of::<RouteTable>();

/// What a client does with requests for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// Nobody serves; a request fails as unavailable unless it may wait for its deadline.
    Gone,
    /// Requests go to the attempt.
    Serve,
    /// Clients keep their requests until the route changes or their deadline ends.
    Hold,
    /// As [`Self::Hold`]; nobody comes by himself, but who has a request for it says so to the
    /// supervisor.
    Dormant,
}

/// A target word, taken apart: 48 bits of attempt, 8 of server slot, 2 of state, 6 of replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// What to do with requests.
    pub state: RouteState,
    /// Who serves them, or served them last.
    pub attempt: Attempt,
    /// The server's [`crate::edge::Waiter`] in every edge page of this contract.
    pub slot: u8,
    /// Which of the service's instances this is, below 64; a successor keeps it, so that what
    /// belongs to a key stays with it.
    pub replica: u8,
}

impl Target {
    /// Nobody has served yet.
    pub const NONE: Self = Self {
        state: RouteState::Gone,
        attempt: Attempt(0),
        slot: 0,
        replica: 0,
    };

    /// The word that lies in the table.
    pub fn to_word(self) -> u64 {
        let state = match self.state {
            RouteState::Gone => 0,
            RouteState::Serve => 1,
            RouteState::Hold => 2,
            RouteState::Dormant => 3,
        };
        debug_assert!(self.attempt.0 < 1 << Attempt::BITS && self.replica < 64);
        self.attempt.0
            | u64::from(self.slot) << 48
            | state << 56
            | u64::from(self.replica & 63) << 58
    }

    /// Reads a word.
    pub fn from_word(word: u64) -> Self {
        Self {
            state: match word >> 56 & 3 {
                1 => RouteState::Serve,
                2 => RouteState::Hold,
                3 => RouteState::Dormant,
                _ => RouteState::Gone,
            },
            attempt: Attempt(word & ((1 << Attempt::BITS) - 1)),
            slot: (word >> 48) as u8,
            replica: (word >> 58) as u8,
        }
    }
}

impl RouteEntry {
    /// Publishes `target` for the instance `index`; the caller then wakes `change`'s waiters.
    ///
    /// For the supervisor, the only writer. `drained` names the predecessor when it left cleanly.
    pub fn publish(&self, index: usize, target: Target, drained: Option<Attempt>) {
        if let Some(attempt) = drained.filter(|attempt| !self.has_drained(*attempt)) {
            let count = self.drained_count.load(Ordering::SeqCst);
            self.drained[count as usize % DRAINED].store(attempt.0, Ordering::SeqCst);
            self.drained_count
                .store(count.wrapping_add(1), Ordering::SeqCst);
        }
        self.targets[index].store(target.to_word(), Ordering::SeqCst);
        self.change.fetch_add(1, Ordering::SeqCst);
    }

    /// The target of the instance `index`, which is below [`TARGETS`].
    pub fn target(&self, index: usize) -> Target {
        Target::from_word(self.targets[index].load(Ordering::SeqCst))
    }

    /// Whether the attempt is remembered as having left cleanly.
    pub fn has_drained(&self, attempt: Attempt) -> bool {
        attempt.0 != 0
            && self
                .drained
                .iter()
                .any(|drained| drained.load(Ordering::SeqCst) == attempt.0)
    }

    /// Whether anything was ever published in this entry.
    pub fn is_used(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.load(Ordering::SeqCst) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_what_it_wrote() {
        let states = [
            RouteState::Gone,
            RouteState::Serve,
            RouteState::Hold,
            RouteState::Dormant,
        ];
        for state in states {
            for attempt in [0, 1, (1 << Attempt::BITS) - 1] {
                for (slot, replica) in [(0, 63), (7, 0), (255, 9)] {
                    let target = Target {
                        state,
                        attempt: Attempt(attempt),
                        slot,
                        replica,
                    };
                    assert_eq!(Target::from_word(target.to_word()), target);
                }
            }
        }
        assert_eq!(Target::NONE.to_word(), 0, "a fresh memfd reads as gone");
    }

    #[test]
    fn the_layout_is_what_other_versions_map() {
        assert_eq!(size_of::<RouteHeader>(), 256);
        assert_eq!(size_of::<RouteEntry>(), 256);
        assert_eq!(std::mem::offset_of!(RouteEntry, drained_count), 4);
        assert_eq!(std::mem::offset_of!(RouteEntry, drained), 8);
        assert_eq!(std::mem::offset_of!(RouteEntry, targets), 72);
        assert_eq!(std::mem::offset_of!(RouteTable, entries), 256);
    }

    #[test]
    fn the_last_eight_that_drained_are_remembered_once_each() {
        let zero = || AtomicU64::new(0);
        let entry = RouteEntry {
            change: AtomicU32::new(0),
            drained_count: AtomicU32::new(u32::MAX - 2),
            drained: std::array::from_fn(|_| zero()),
            targets: std::array::from_fn(|_| zero()),
        };
        assert!(!entry.is_used());
        assert!(!entry.has_drained(Attempt(0)));
        for attempt in 1..=20 {
            let target = Target {
                state: RouteState::Serve,
                attempt: Attempt(attempt + 1),
                slot: 0,
                replica: 0,
            };
            // Told twice, it takes no second place.
            entry.publish(3, target, Some(Attempt(attempt)));
            entry.publish(3, target, Some(Attempt(attempt)));
            for other in 1..=attempt {
                let remembered = other + DRAINED as u64 > attempt;
                assert_eq!(
                    entry.has_drained(Attempt(other)),
                    remembered,
                    "{other} after {attempt}"
                );
            }
        }
        assert!(entry.is_used());
        assert_eq!(entry.target(3).attempt, Attempt(21));
        assert_eq!(entry.change.load(Ordering::SeqCst), 40);
    }
}
