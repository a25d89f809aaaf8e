//! The page of an edge: doorbells and asleep flags of its two ends.
//!
//! A memfd of one page, made by the supervisor and sealed against shrinking and growing, mapped
//! writable by the consumer's and the provider's process. A hostile end can ring falsely or silence
//! the other end of this edge, and nobody else.
//!
//! How a waiter sleeps and is woken (decision 6): the waiter loads `bell`, sets `asleep`, looks
//! once more whether there is work, and waits (futex) for `bell` to differ from what it loaded; on
//! waking it clears `asleep`. A sender publishes its message, issues a sequentially consistent
//! fence, and only where `asleep` is set counts `bell` up and wakes all waiters.
//!
//! Channels: an attempt of the provider and an attempt of the consumer meet in a directory of
//! their own, [`pair_directory`], below the edge's parent. It dies with either of them, so nothing
//! that a dead process left is ever opened again.

use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::id::Attempt;

/// First word of an edge page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"insulaEP");
/// Version of this layout.
pub const LAYOUT: u32 = 1;
/// Server slots: attempts of the provider that may be alive at once.
pub const SERVER_SLOTS: usize = 16;
/// Client slots: connections of the consumer's process at most.
pub const CLIENT_SLOTS: usize = 32;
/// Bytes of the memfd.
pub const PAGE_SIZE: usize = 4096;

/// One sleeper's doorbell, on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Waiter {
    /// Counted up to wake; a futex word.
    pub bell: AtomicU32,
    /// Not 0 while the owner is, or is about to be, parked.
    pub asleep: AtomicU32,
    /// For a server slot: the attempt whose server can be connected to; 0 before.
    pub open: AtomicU64,
}

/// The page, as it lies in the memfd.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct EdgePage {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`LAYOUT`].
    pub layout: AtomicU32,
    /// By the server slot in the route's target.
    pub servers: [Waiter; SERVER_SLOTS],
    /// By the client slot in a request's header.
    pub clients: [Waiter; CLIENT_SLOTS],
}

/// The name, below the edge's parent directory, of the channel of these two attempts.
pub fn pair_directory(provider: Attempt, consumer: Attempt) -> String {
    format!("{:x}.{:x}", provider.0, consumer.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fits_and_waiters_do_not_share_lines() {
        assert!(size_of::<EdgePage>() <= PAGE_SIZE);
        assert_eq!(size_of::<Waiter>(), 64);
        assert_eq!(std::mem::offset_of!(EdgePage, servers) % 64, 0);
    }
}
