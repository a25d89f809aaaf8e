//! Tables of byte strings, and the two ways to use them.

use std::cell::Cell;
use std::ops::Bound;

use heed::{RoTxn, RwTxn, WithoutTls};

use super::{Raw, StoreError};

/// What an entry may take beside its bytes: parts of pages.
const ENTRY: u64 = 8192;

/// A look at what is committed.
pub struct Reader<'a> {
    txn: &'a RoTxn<'a, WithoutTls>,
}

impl<'a> Reader<'a> {
    pub(super) fn new<'e: 'a>(txn: &'a RoTxn<'e, WithoutTls>) -> Self {
        Self { txn }
    }

    pub(super) fn txn(&self) -> &'a RoTxn<'a, WithoutTls> {
        self.txn
    }
}

/// A transaction that is under way.
pub struct Writer<'a> {
    txn: &'a mut RwTxn<'static>,
    /// Bytes that may still be added.
    room: &'a Cell<u64>,
    changed: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(txn: &'a mut RwTxn<'static>, room: &'a Cell<u64>) -> Self {
        Self {
            txn,
            room,
            changed: false,
        }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether an entry may be added; once the first of a change is, the rest of it is too, as far
    /// as the slack goes.
    fn has_room_for(&self, bytes: u64) -> bool {
        let room = self.room.get();
        if room < bytes && !self.changed {
            return false;
        }
        self.room.set(room.saturating_sub(bytes));
        true
    }
}

/// A table: byte strings under byte strings of 1 to 511 bytes, in the order of the keys.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    raw: Raw,
}

/// Entries in the order of their keys.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(&'a [u8], &'a [u8]), StoreError>> + 'a>;

impl Table {
    pub(super) fn new(raw: Raw) -> Self {
        Self { raw }
    }

    /// The committed value under a key; it lies in the environment's memory.
    pub fn get<'a>(&self, reader: &Reader<'a>, key: &[u8]) -> Result<Option<&'a [u8]>, StoreError> {
        Ok(self.raw.get(reader.txn, key)?)
    }

    /// The value under a key as the transaction sees it.
    pub fn look<'a>(
        &self,
        writer: &'a Writer<'_>,
        key: &[u8],
    ) -> Result<Option<&'a [u8]>, StoreError> {
        Ok(self.raw.get(&*writer.txn, key)?)
    }

    /// Sets the value under a key.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no room for it, though only for the first change of a
    /// [`Store::write`](super::Store::write): a change is refused as a whole.
    pub fn put(&self, writer: &mut Writer<'_>, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if !writer.has_room_for((key.len() + value.len()) as u64 + ENTRY) {
            return Err(StoreError::Full);
        }
        writer.changed = true;
        Ok(self.raw.put(writer.txn, key, value)?)
    }

    /// Removes a key; says whether it was there.
    pub fn delete(&self, writer: &mut Writer<'_>, key: &[u8]) -> Result<bool, StoreError> {
        writer.changed = true;
        Ok(self.raw.delete(writer.txn, key)?)
    }

    /// The committed entries from a bound to a bound.
    pub fn range<'a>(
        &self,
        reader: &Reader<'a>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<Entries<'a>, StoreError> {
        let entries = self.raw.range(reader.txn, &(from, to))?;
        Ok(Box::new(entries.map(|entry| Ok(entry?))))
    }

    /// How many committed entries there are.
    pub fn len(&self, reader: &Reader<'_>) -> Result<u64, StoreError> {
        Ok(self.raw.len(reader.txn)?)
    }

    /// Whether there is no committed entry.
    pub fn is_empty(&self, reader: &Reader<'_>) -> Result<bool, StoreError> {
        Ok(self.raw.is_empty(reader.txn)?)
    }
}
