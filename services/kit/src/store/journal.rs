//! The answers of `once` requests, in the transaction of their effects.
//!
//! Keyed by the consumer's attempt, its connection and the request's number, each in big endian,
//! so that those of a connection lie together in the order of their numbers.

use std::ops::Bound;

use insula_ipc::protocol::id::Attempt;
use insula_ipc::server::{AnswerKind, Journal, JournalError, OnceKey, Recorded};

use super::{Durability, Store, StoreError};

const KEY: usize = 17;

fn key(key: OnceKey) -> [u8; KEY] {
    at(key.consumer, key.slot, key.sequence)
}

fn at(consumer: Attempt, slot: u8, sequence: u64) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[..8].copy_from_slice(&consumer.0.to_be_bytes());
    bytes[8] = slot;
    bytes[9..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

fn failed(error: impl Into<StoreError>) -> JournalError {
    JournalError(Box::new(error.into()))
}

impl Store {
    fn in_batch<T>(
        &self,
        act: impl FnOnce(&super::Raw, &mut heed::RwTxn<'static>) -> heed::Result<T>,
    ) -> Result<T, JournalError> {
        let mut batch = self.inner.batch.borrow_mut();
        let txn = batch
            .as_mut()
            .ok_or_else(|| failed(StoreError::NotLeading))?;
        act(&self.inner.once, txn).map_err(failed)
    }

    fn in_own_batch(
        &mut self,
        act: impl FnOnce(&super::Raw, &mut heed::RwTxn<'static>) -> heed::Result<()>,
    ) -> Result<(), JournalError> {
        Store::begin(self).map_err(failed)?;
        match self.in_batch(act) {
            Ok(()) => Store::commit(self).map_err(failed),
            Err(error) => {
                Store::abort(self);
                Err(error)
            }
        }
    }

    /// Answers that are recorded, for tests and figures.
    pub fn recorded(&self) -> Result<u64, StoreError> {
        self.read(|reader| Ok(self.inner.once.len(reader.txn())?))
    }
}

impl Journal for Store {
    fn begin(&mut self) -> Result<(), JournalError> {
        Store::begin(self).map_err(failed)
    }

    fn recall(&mut self, once: OnceKey) -> Result<Option<Recorded>, JournalError> {
        self.in_batch(|table, txn| {
            Ok(table.get(txn, &key(once))?.and_then(|bytes| {
                let (kind, body) = bytes.split_first()?;
                let kind = match *kind {
                    0 => AnswerKind::Response,
                    1 => AnswerKind::Error,
                    _ => AnswerKind::TooLong,
                };
                Some(Recorded {
                    kind,
                    body: body.to_vec(),
                })
            }))
        })
    }

    fn record(
        &mut self,
        once: OnceKey,
        forget_below: u64,
        kind: AnswerKind,
        body: &[u8],
    ) -> Result<(), JournalError> {
        self.in_batch(|table, txn| {
            let first = at(once.consumer, once.slot, 0);
            let end = at(once.consumer, once.slot, forget_below.min(once.sequence));
            let old: (Bound<&[u8]>, Bound<&[u8]>) =
                (Bound::Included(&first), Bound::Excluded(&end));
            if first < end {
                table.delete_range(txn, &old)?;
            }
            let mut value = Vec::with_capacity(body.len() + 1);
            value.push(match kind {
                AnswerKind::Response => 0,
                AnswerKind::Error => 1,
                AnswerKind::TooLong => 2,
            });
            value.extend_from_slice(body);
            table.put(txn, &key(once), &value)
        })?;
        if self.inner.durability == Durability::Strict {
            // Each write is on the disk by itself; the next one has a transaction of its own.
            Store::commit(self).map_err(failed)?;
            Store::begin(self).map_err(failed)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        Store::commit(self).map_err(failed)
    }

    fn abort(&mut self) {
        Store::abort(self);
    }

    fn forget(&mut self, consumer: Attempt) -> Result<(), JournalError> {
        self.in_own_batch(|table, txn| forget(table, txn, consumer))
    }

    fn retain(&mut self, consumers: &[Attempt]) -> Result<(), JournalError> {
        self.in_own_batch(|table, txn| {
            let mut next = Some(Attempt(0));
            while let Some(from) = next {
                let found = table.get_greater_than_or_equal_to(txn, &at(from, 0, 0))?;
                let Some(consumer) = found.and_then(|(key, _)| consumer_of(key)) else {
                    break;
                };
                if !consumers.contains(&consumer) {
                    forget(table, txn, consumer)?;
                }
                next = consumer.0.checked_add(1).map(Attempt);
            }
            Ok(())
        })
    }
}

/// Whose answer lies under a key.
fn consumer_of(key: &[u8]) -> Option<Attempt> {
    let first = key.first_chunk()?;
    Some(Attempt(u64::from_be_bytes(*first)))
}

fn forget(
    table: &super::Raw,
    txn: &mut heed::RwTxn<'static>,
    consumer: Attempt,
) -> heed::Result<()> {
    let first = at(consumer, 0, 0);
    let last = at(consumer, u8::MAX, u64::MAX);
    let all: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&first), Bound::Included(&last));
    table.delete_range(txn, &all).map(|_| ())
}
