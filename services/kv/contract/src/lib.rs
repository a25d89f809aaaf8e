//! `kv@1`: an ordered store of byte strings under byte strings.
//!
//! Keys have 1 to [`KEY_MAX`] bytes and are ordered bytewise; values have at most [`VALUE_MAX`].
//!
//! Every write gives its entry a *revision*: a number of the whole store that only grows, and is
//! never given again, not even to a key that was deleted and put anew. So a revision that is
//! unchanged means that nobody wrote in between, which equal values would not.

use insula::{Message, Text, contract};

/// The longest key in bytes.
pub const KEY_MAX: usize = 500;

/// The longest key that a request can carry, in bytes: a little more than a key may have, so that
/// [`KvError::KeyTooLong`] can be answered.
pub const KEY_CARRIED: usize = 511;

/// The longest value in bytes.
pub const VALUE_MAX: usize = 1 << 20;

/// Entries that a page has at most.
pub const PAGE_ENTRIES: usize = 1000;

/// What the entries of a page weigh at most together, by [`Entry::weight`]; the heaviest entry
/// that there is fits.
pub const PAGE_WEIGHT: usize = VALUE_MAX + 1024;

/// The longest cursor in bytes.
pub const CURSOR_MAX: usize = 520;

/// The longest text of [`KvError::Storage`] in bytes.
pub const REASON_MAX: usize = 200;

/// Keeps values under keys, in the order of the keys.
#[contract(name = "kv", major = 1, error = KvError, in_flight = 16)]
pub trait Kv {
    /// The value under a key, with its revision.
    #[method(id = 1, idempotent, deadline = "1s")]
    fn get(request: Get<'_>) -> Lookup<'_>;

    /// Sets the value under a key, whatever was there.
    #[method(id = 2, once, deadline = "5s")]
    fn put(request: Put<'_>) -> Written;

    /// Removes a key and its value.
    #[method(id = 3, once, deadline = "5s")]
    fn delete(request: Delete<'_>) -> Deleted;

    /// Sets the value under a key if nobody has written it since the caller looked.
    ///
    /// It compares revisions, not values: an expectation of eight bytes instead of up to a
    /// megabyte, and no mistaking a value that came back for one that never left.
    #[method(id = 4, once, deadline = "5s")]
    fn compare_and_swap(request: CompareAndSwap<'_>) -> Swap;

    /// The next page of entries in the order of their keys.
    ///
    /// A page is a consistent view of the store, a succession of pages is not: entries written in
    /// between are seen or not seen. A key never comes twice.
    #[method(id = 5, idempotent, deadline = "5s")]
    fn scan(request: Scan<'_>) -> Page<'_>;

    /// Figures of the store.
    #[method(id = 6, idempotent, deadline = "1s")]
    fn stats() -> Stats<'_>;
}

/// Which key's value is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Get<'a> {
    /// The key.
    #[message(max = KEY_CARRIED)]
    pub key: &'a [u8],
}

/// What lies under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Lookup<'a> {
    /// `None` where nothing does.
    pub found: Option<Found<'a>>,
}

/// A value with its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Found<'a> {
    /// The write that set it.
    pub revision: u64,
    /// The value.
    #[message(max = VALUE_MAX)]
    pub value: &'a [u8],
}

/// What to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Put<'a> {
    /// The key.
    #[message(max = KEY_CARRIED)]
    pub key: &'a [u8],
    /// Its new value.
    #[message(max = VALUE_MAX)]
    pub value: &'a [u8],
}

/// That a value was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Written {
    /// The revision that it has now.
    pub revision: u64,
}

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Delete<'a> {
    /// The key.
    #[message(max = KEY_CARRIED)]
    pub key: &'a [u8],
}

/// That a key is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Deleted {
    /// Whether it was there before.
    pub existed: bool,
}

/// What to set, and on which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct CompareAndSwap<'a> {
    /// The key.
    #[message(max = KEY_CARRIED)]
    pub key: &'a [u8],
    /// What has to be there.
    pub expected: Expected,
    /// The new value.
    #[message(max = VALUE_MAX)]
    pub value: &'a [u8],
}

/// What a compare-and-swap expects under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The value of this revision.
    Revision(u64),
}

/// What a compare-and-swap did.
///
/// A conflict names the present revision, not the value: the answer is recorded beside the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub enum Swap {
    /// The value was set.
    Swapped {
        /// The revision that it has now.
        revision: u64,
    },
    /// Something else was there, and nothing was done.
    Conflict {
        /// The revision of what is there; `None` where nothing is.
        current: Option<u64>,
    },
}

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Scan<'a> {
    /// Their keys.
    pub keys: Keys<'a>,
    /// How many at most, from 1 to [`PAGE_ENTRIES`]; a page may have fewer though more follow.
    pub limit: u32,
    /// [`Page::next`] of the page before, with the same `keys`; `None` for the first.
    #[message(max = CURSOR_MAX)]
    pub cursor: Option<&'a [u8]>,
}

/// A set of neighbouring keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub enum Keys<'a> {
    /// All that begin so; all there are where it is empty.
    Prefix(#[message(max = KEY_CARRIED)] &'a [u8]),
    /// All in `from..to`.
    Range {
        /// The first one.
        #[message(max = KEY_CARRIED)]
        from: &'a [u8],
        /// The first one beyond; `None` to the end.
        #[message(max = KEY_CARRIED)]
        to: Option<&'a [u8]>,
    },
}

/// Some entries, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(max = PAGE_WEIGHT + CURSOR_MAX + 8)]
pub struct Page<'a> {
    /// The entries; together not above [`PAGE_WEIGHT`].
    #[message(max = PAGE_ENTRIES)]
    pub entries: Vec<Entry<'a>>,
    /// Where the next page begins, for [`Scan::cursor`]; `None` where this is the last. What is in
    /// it is the server's affair and may change between releases.
    #[message(max = CURSOR_MAX)]
    pub next: Option<&'a [u8]>,
}

/// A key with what lies under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Entry<'a> {
    /// The key.
    #[message(max = KEY_MAX)]
    pub key: &'a [u8],
    /// The write that set the value.
    pub revision: u64,
    /// The value.
    #[message(max = VALUE_MAX)]
    pub value: &'a [u8],
}

impl Entry<'_> {
    /// What it takes of a page in bytes, at most.
    pub fn weight(&self) -> usize {
        // Two lengths and the revision take up to 15.
        self.key.len() + self.value.len() + 16
    }
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
pub struct Stats<'a> {
    /// Entries.
    pub entries: u64,
    /// Bytes of all keys and values together.
    pub bytes: u64,
    /// Bytes that the store may take before it has to grow.
    pub map_bytes: u64,
    /// The epoch of the last write.
    pub epoch: u64,
    /// The durability class by name: `strict`, `grouped`, `periodic`.
    #[message(max = 32)]
    pub durability: Text<'a>,
    /// The version of the release that answers.
    #[message(max = 64)]
    pub release: Text<'a>,
}

/// Why a request was not executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Message)]
pub enum KvError {
    /// The key has no bytes.
    #[error("the key is empty")]
    KeyEmpty,
    /// The key has more bytes than the store takes.
    #[error("the key is longer than {max} bytes")]
    KeyTooLong {
        /// The most it takes.
        max: u32,
    },
    /// The value has more bytes than the store takes.
    #[error("the value is longer than {max} bytes")]
    ValueTooLong {
        /// The most it takes.
        max: u32,
    },
    /// A page of no entries, or of too many, was asked for.
    #[error("the limit is not from 1 to {max}")]
    LimitOutOfRange {
        /// The most a page has.
        max: u32,
    },
    /// The cursor is not one of this scan.
    #[error("the cursor is not one of this scan")]
    BadCursor,
    /// The store failed; nothing was changed. Made by [`KvError::storage`].
    #[error("the store failed: {0}")]
    Storage(#[message(max = REASON_MAX)] String),
}

impl KvError {
    /// The store failed for this reason; the text is cut to [`REASON_MAX`] bytes.
    pub fn storage(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(REASON_MAX));
        Self::Storage(reason)
    }
}
