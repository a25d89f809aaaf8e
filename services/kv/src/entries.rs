//! The entries in the store: key -> revision and value.
//!
//! An entry's bytes are its revision (eight, big endian) and then its value, so that a value is
//! handed from the environment's memory to the reply without a copy in between. Beside them lie
//! the store's own figures under names that no key can have, in a table of their own.

use std::ops::Bound;

use insula::store::{Reader, Store, StoreError, Table, Writer};
use kv_contract::{CURSOR_MAX, Entry, Expected, Found, Keys, PAGE_WEIGHT, Swap};

const REVISION: &[u8] = b"revision";
const BYTES: &[u8] = b"bytes";

/// The tables of kv.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries {
    entries: Table,
    figures: Table,
}

/// A cursor that no page of this scan gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadCursor;

/// Some entries and the cursor of the next page.
pub(crate) type Page<'a> = (Vec<Entry<'a>>, Option<Vec<u8>>);

fn number(bytes: Option<&[u8]>) -> u64 {
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

fn found(bytes: &[u8]) -> Option<Found<'_>> {
    let (revision, value) = bytes.split_first_chunk()?;
    Some(Found {
        revision: u64::from_be_bytes(*revision),
        value,
    })
}

impl Entries {
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            entries: store.table("entries")?,
            figures: store.table("figures")?,
        })
    }

    pub(crate) fn get<'a>(
        &self,
        reader: &Reader<'a>,
        key: &[u8],
    ) -> Result<Option<Found<'a>>, StoreError> {
        Ok(self.entries.get(reader, key)?.and_then(found))
    }

    /// Sets a value and gives its revision.
    pub(crate) fn put(
        &self,
        writer: &mut Writer<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<u64, StoreError> {
        let before = self.weight(writer, key)?;
        let revision = number(self.figures.look(writer, REVISION)?) + 1;
        let mut bytes = Vec::with_capacity(8 + value.len());
        bytes.extend_from_slice(&revision.to_be_bytes());
        bytes.extend_from_slice(value);
        self.entries.put(writer, key, &bytes)?;
        self.figures
            .put(writer, REVISION, &revision.to_be_bytes())?;
        self.count(writer, before, (key.len() + value.len()) as u64)?;
        Ok(revision)
    }

    /// Removes a key; says whether it was there.
    pub(crate) fn delete(&self, writer: &mut Writer<'_>, key: &[u8]) -> Result<bool, StoreError> {
        let before = self.weight(writer, key)?;
        let existed = self.entries.delete(writer, key)?;
        if existed {
            // A key that is put anew must not get a revision that it had.
            let revision = number(self.figures.look(writer, REVISION)?) + 1;
            self.figures
                .put(writer, REVISION, &revision.to_be_bytes())?;
            self.count(writer, before, 0)?;
        }
        Ok(existed)
    }

    pub(crate) fn compare_and_swap(
        &self,
        writer: &mut Writer<'_>,
        key: &[u8],
        expected: Expected,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        let current = self
            .entries
            .look(writer, key)?
            .and_then(found)
            .map(|found| found.revision);
        let as_expected = match expected {
            Expected::Absent => current.is_none(),
            Expected::Revision(revision) => current == Some(revision),
        };
        if !as_expected {
            return Ok(Swap::Conflict { current });
        }
        Ok(Swap::Swapped {
            revision: self.put(writer, key, value)?,
        })
    }

    /// Bytes of a key and its value.
    fn weight(&self, writer: &Writer<'_>, key: &[u8]) -> Result<u64, StoreError> {
        let value = self.entries.look(writer, key)?.and_then(found);
        Ok(value.map_or(0, |found| (key.len() + found.value.len()) as u64))
    }

    fn count(&self, writer: &mut Writer<'_>, before: u64, after: u64) -> Result<(), StoreError> {
        let bytes = number(self.figures.look(writer, BYTES)?) + after - before;
        self.figures.put(writer, BYTES, &bytes.to_be_bytes())
    }

    /// Entries, and bytes of all keys and values.
    pub(crate) fn figures(&self, reader: &Reader<'_>) -> Result<(u64, u64), StoreError> {
        Ok((
            self.entries.len(reader)?,
            number(self.figures.get(reader, BYTES)?),
        ))
    }

    /// A page of entries; a cursor is the key of the last entry that was given.
    pub(crate) fn page<'a>(
        &self,
        reader: &Reader<'a>,
        keys: Keys<'_>,
        limit: usize,
        cursor: Option<&[u8]>,
    ) -> Result<Result<Page<'a>, BadCursor>, StoreError> {
        let (from, to) = bounds(keys);
        let begin = match cursor {
            None => Bound::Included(from.as_slice()),
            Some(cursor) if within(cursor, &from, to.as_deref()) => Bound::Excluded(cursor),
            Some(_) => return Ok(Err(BadCursor)),
        };
        let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        // LMDB has no empty keys, and an empty or turned range has no entries.
        if to.as_deref().is_some_and(|to| to <= from.as_slice()) {
            return Ok(Ok((Vec::new(), None)));
        }
        let begin = if begin == Bound::Included(&[]) {
            Bound::Unbounded
        } else {
            begin
        };
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut weight = 0;
        for entry in self.entries.range(reader, begin, end)? {
            let (key, bytes) = entry?;
            let Some(Found { revision, value }) = found(bytes) else {
                continue;
            };
            let entry = Entry {
                key,
                revision,
                value,
            };
            weight += entry.weight();
            if entries.len() == limit || weight > PAGE_WEIGHT {
                let next = entries.last().map(|last| last.key.to_vec());
                return Ok(Ok((entries, next)));
            }
            entries.push(entry);
        }
        Ok(Ok((entries, None)))
    }
}

/// The first key, and the first one beyond.
fn bounds(keys: Keys<'_>) -> (Vec<u8>, Option<Vec<u8>>) {
    match keys {
        Keys::Prefix(prefix) => {
            // The first string beyond all that begin with it: the last byte that can be is
            // counted up.
            let mut beyond = prefix.to_vec();
            while beyond.last() == Some(&u8::MAX) {
                beyond.pop();
            }
            if let Some(last) = beyond.last_mut() {
                *last += 1;
            }
            (prefix.to_vec(), (!beyond.is_empty()).then_some(beyond))
        }
        Keys::Range { from, to } => (from.to_vec(), to.map(<[u8]>::to_vec)),
    }
}

fn within(cursor: &[u8], from: &[u8], to: Option<&[u8]>) -> bool {
    !cursor.is_empty()
        && cursor.len() <= CURSOR_MAX.min(511)
        && cursor >= from
        && to.is_none_or(|to| cursor < to)
}

#[cfg(test)]
mod tests;
