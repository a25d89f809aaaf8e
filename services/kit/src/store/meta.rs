//! What a store says of itself.

use heed::{RoTxn, RwTxn};
use insula_ipc::protocol::id::Epoch;

use super::{Raw, Store, StoreError};

/// The format of the kit's own tables.
const FORMAT: u32 = 1;

const EPOCH: &[u8] = b"epoch";
const FORMAT_KEY: &[u8] = b"format";
const SCHEMA: &[u8] = b"schema";

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The epoch of the last turn.
pub(super) fn epoch(meta: &Raw, txn: &RoTxn<'_>) -> Result<Epoch, StoreError> {
    Ok(Epoch(meta.get(txn, EPOCH)?.and_then(number).unwrap_or(0)))
}

pub(super) fn set_epoch(meta: &Raw, txn: &mut RwTxn<'_>, epoch: Epoch) -> Result<(), StoreError> {
    Ok(meta.put(txn, EPOCH, &epoch.0.to_be_bytes())?)
}

/// Compares what is stored with this process, and stores it in a new environment.
pub(super) fn check(store: &Store, schema: u32) -> Result<(), StoreError> {
    let (env, meta) = (store.inner.env, &store.inner.meta);
    let mut txn = env.write_txn()?;
    let stored = |key: &[u8]| -> Result<Option<u64>, StoreError> {
        Ok(meta.get(&txn, key)?.and_then(number))
    };
    let (format, found_schema) = (stored(FORMAT_KEY)?, stored(SCHEMA)?);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    if let Some(found) = format
        && found != u64::from(FORMAT)
    {
        return Err(StoreError::Format {
            found: narrow(found),
            known: FORMAT,
        });
    }
    if let Some(found) = found_schema
        && found != u64::from(schema)
    {
        return Err(StoreError::Schema {
            found: narrow(found),
            wanted: schema,
        });
    }
    if format.is_some() && found_schema.is_some() {
        return Ok(());
    }
    meta.put(&mut txn, FORMAT_KEY, &u64::from(FORMAT).to_be_bytes())?;
    meta.put(&mut txn, SCHEMA, &u64::from(schema).to_be_bytes())?;
    txn.commit()?;
    Ok(())
}
