//! The page of an edge: doorbells and asleep flags of its two ends.
//!
//! A memfd of one page, made by the supervisor and sealed against shrinking and growing, mapped
//! writable by the consumer's and the provider's process. A hostile end can ring falsely or silence
//! the other end of this edge, and nobody else.
//!
//! How a waiter sleeps and is woken (decision 6): the waiter loads `bell`, sets `asleep` to that
//! with its lowest bit, looks once more whether there is work, and waits (futex) for `bell` to
//! differ from what it loaded; on waking it clears `asleep`. A sender publishes its message, issues
//! a sequentially consistent fence, and only where `asleep` is set counts `bell` up by two, wakes
//! all waiters, and clears `asleep` if it is what it was, so that the next sender need not ring.
//! After a change of the route the supervisor rings every client slot likewise, since a client
//! sleeps on its bell alone.
//!
//! How a subscription comes to be: the consumer writes its [`Wish`] into a client slot that no
//! connection has, adds the slot's bit to the server slot's `wish` and rings. The server makes the
//! channel and says so in `answer`; the consumer opens it and says so in its wish; from then on it
//! gets what is published. A changed wish ends the subscription; so does an answer of
//! [`Answer::TooSlow`].
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
    /// Counted up by two to wake, so always even; a futex word.
    pub bell: AtomicU32,
    /// Not 0 while the owner is, or is about to be, parked.
    pub asleep: AtomicU32,
    /// For a server slot: the attempt whose server can be connected to; 0 before.
    pub open: AtomicU64,
    /// For a client slot: the [`Wish`] of its subscription; 0 for none. For a server slot: a bit for
    /// each client slot whose wish has changed.
    pub wish: AtomicU64,
    /// For a client slot: what became of its wish, an [`Answer`]; written by the server.
    pub answer: AtomicU64,
    /// For a client slot: values that its subscription has taken.
    pub taken: AtomicU64,
    /// For a client slot: not 0 while the server waits for `taken` to grow, and is to be rung.
    pub awaited: AtomicU32,
}

/// A wish word, taken apart: 32 bits of number, 16 of stream, 8 of server slot, 1 of
/// `opened`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Tells the slot's subscriptions apart; never 0, and never the same twice in one page.
    pub number: u32,
    /// The stream's number in its contract.
    pub stream: u16,
    /// The server slot of the attempt that is to grant it.
    pub server: u8,
    /// The consumer has opened the channel.
    pub opened: bool,
}

impl Wish {
    /// The word that lies in the page.
    pub fn to_word(self) -> u64 {
        u64::from(self.number) << 32
            | u64::from(self.stream) << 16
            | u64::from(self.server) << 8
            | u64::from(self.opened)
    }

    /// Reads a word; `None` for no wish.
    pub fn from_word(word: u64) -> Option<Self> {
        let number = (word >> 32) as u32;
        (number != 0).then_some(Self {
            number,
            stream: (word >> 16) as u16,
            server: (word >> 8) as u8,
            opened: word & 1 == 1,
        })
    }
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The channel can be opened.
    Granted,
    /// The server has no such stream.
    UnknownStream,
    /// The channel could not be made, for now.
    Unable,
    /// The subscription was ended since it had no room.
    TooSlow,
}

impl Answer {
    const ALL: [Self; 4] = [
        Self::Granted,
        Self::UnknownStream,
        Self::Unable,
        Self::TooSlow,
    ];

    /// The word that lies in the page, in answer to the wish of this number.
    pub fn to_word(self, number: u32) -> u64 {
        let code = match self {
            Self::Granted => 1,
            Self::UnknownStream => 2,
            Self::Unable => 3,
            Self::TooSlow => 4,
        };
        u64::from(number) << 32 | code
    }

    /// Reads the answer to the wish of this number, if the word is one.
    pub fn from_word(word: u64, number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|answer| answer.to_word(number) == word)
    }
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
    fn wishes_and_answers_read_what_they_wrote() {
        for opened in [false, true] {
            let wish = Wish {
                number: u32::MAX,
                stream: 0x8001,
                server: 0xa5,
                opened,
            };
            assert_eq!(Wish::from_word(wish.to_word()), Some(wish));
        }
        assert_eq!(Wish::from_word(0xffff_ffff), None);
        for answer in Answer::ALL {
            assert_eq!(Answer::from_word(answer.to_word(7), 7), Some(answer));
            assert_eq!(Answer::from_word(answer.to_word(7), 8), None);
        }
    }

    #[test]
    fn the_page_fits_and_waiters_do_not_share_lines() {
        assert!(size_of::<EdgePage>() <= PAGE_SIZE);
        assert_eq!(size_of::<Waiter>(), 64);
        assert_eq!(std::mem::offset_of!(EdgePage, servers) % 64, 0);
    }
}
