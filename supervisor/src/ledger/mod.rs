//! What must survive, in two LMDB environments.
//!
//! The durable ledger (`lib/ledger`, every commit synced) keeps what must outlive a reboot: user
//! ids, goals, active releases, epochs, the steps of an upgrade, the count of the daemon's runs.
//! The run state (`run/state`, not synced, on a tmpfs) keeps what only this boot can mean:
//! attempts and their processes, routes; it lies under the boot id and is thrown away with it. A
//! synced commit costs as much as starting a process, and a start needs none.
//!
//! Every record has a key, under which a later record of the same thing takes its place. Values
//! are postcard behind a version byte.

mod identity;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RwTxn};
use insula_contract::id::{Attempt, ServiceName};
use insula_core::event::Record;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use identity::{Identity, boot_id, inode_of};

use crate::paths::Paths;

/// The first user id of services: clear of the ranges of systemd and of containers.
pub const FIRST_UID: u32 = 1_879_048_192;
/// Version of the stored values.
const FORMAT: u8 = 1;
/// Address space of an environment; its file grows with what is in it.
const MAP_SIZE: usize = 1 << 30;

/// Why something could not be stored or read.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The environment's directory.
    #[error("cannot make the directory of a ledger")]
    Directory(#[source] std::io::Error),
    /// LMDB.
    #[error("the ledger's database failed")]
    Database(#[from] heed::Error),
    /// A value that this version does not understand.
    #[error("the ledger holds a value under {key} that this version does not understand")]
    Value {
        /// Its key.
        key: String,
    },
    /// This boot's identity.
    #[error("cannot tell which boot this is")]
    BootId(#[source] std::io::Error),
}

/// One environment.
#[derive(Debug)]
struct Book {
    env: Env,
    entries: Database<'static, Bytes, Bytes>,
}

impl Book {
    fn open(directory: &Path, flags: EnvFlags) -> Result<Self, LedgerError> {
        fs::create_dir_all(directory).map_err(LedgerError::Directory)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_SIZE).max_dbs(1).max_readers(16);
        #[expect(
            unsafe_code,
            reason = "heed cannot know that nobody else changes the file"
        )]
        // SAFETY: the directory is the daemon's own (0700), no other environment of this process
        // is open on it, and the flags are among those that keep a single writer's file whole.
        let env = unsafe {
            options.flags(flags);
            options.open(directory)?
        };
        let entries = env
            .create_databases_and_commit(env.write_txn()?, |opener, txn| {
                opener
                    .create_database(txn, None)
                    .map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Self { env, entries })
    }

    /// Opens one that is there, to look at it beside the daemon that writes it.
    fn open_to_read(directory: &Path) -> Result<Self, LedgerError> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_SIZE).max_dbs(1).max_readers(16);
        #[expect(
            unsafe_code,
            reason = "heed cannot know that nobody else changes the file"
        )]
        // SAFETY: the directory is the daemon's own (0700), no other environment of this process
        // is open on it, and LMDB's lock file lets other processes read.
        let env = unsafe {
            options.flags(EnvFlags::READ_ONLY);
            options.open(directory)?
        };
        let entries = env
            .open_databases_and_commit(env.read_txn()?, |opener, txn| {
                // The unnamed one is always there.
                opener
                    .open_database(txn, None)
                    .map(|entries| CommitOrAbort::<_, ()>::Commit(entries.expect("it is there")))
            })?
            .unwrap_commit();
        Ok(Self { env, entries })
    }

    fn put<T: Serialize>(
        &self,
        txn: &mut RwTxn<'_>,
        key: &str,
        value: &T,
    ) -> Result<(), LedgerError> {
        let bytes = postcard::to_extend(value, vec![FORMAT]).map_err(|_| LedgerError::Value {
            key: key.to_owned(),
        })?;
        Ok(self.entries.put(txn, key.as_bytes(), &bytes)?)
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, prefix: &str) -> Result<Vec<T>, LedgerError> {
        let txn = self.env.read_txn()?;
        let mut found = Vec::new();
        for entry in self.entries.prefix_iter(&txn, prefix.as_bytes())? {
            let (key, value) = entry?;
            found.push(decode(key, value)?);
        }
        Ok(found)
    }
}

fn decode<T: for<'a> Deserialize<'a>>(key: &[u8], value: &[u8]) -> Result<T, LedgerError> {
    let wrong = || LedgerError::Value {
        key: String::from_utf8_lossy(key).into_owned(),
    };
    match value.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// The key of a record: a later one with the same key takes its place.
fn key(record: &Record) -> String {
    match record {
        Record::Uid { service, .. } => format!("uid/{service}"),
        Record::Goal { service, .. } => format!("goal/{service}"),
        Record::Active { service, .. } => format!("active/{service}"),
        Record::Epoch { service, .. } => format!("epoch/{service}"),
        Record::Scale { service, .. } => format!("scale/{service}"),
        Record::Upgrade { service, .. } => format!("upgrade/{service}"),
        Record::Began { attempt, .. } | Record::Ended { attempt } => {
            format!("attempt/{:012x}", attempt.0)
        }
        Record::Rested { instance, .. } => format!("rested/{instance}"),
        Record::Route {
            service, contract, ..
        } => format!("route/{service}/{contract}"),
    }
}

/// Looks whether this version understands what is stored, beside the daemon that stores it.
///
/// # Errors
/// It does not, or it cannot be read.
pub fn check(paths: &Paths) -> Result<(), LedgerError> {
    let boot = boot_id().map_err(LedgerError::BootId)?;
    let run = paths.run().join("state").join(boot);
    let durable = paths.lib().join("ledger");
    if !durable.exists() || !run.exists() {
        // Nothing is stored yet.
        return Ok(());
    }
    let ledger = Ledger {
        durable: Book::open_to_read(&durable)?,
        run: Book::open_to_read(&run)?,
        new_boot: false,
    };
    ledger.records()?;
    ledger.processes()?;
    let txn = ledger.durable.env.read_txn()?;
    if let Some(value) = ledger.durable.entries.get(&txn, b"runs")? {
        decode::<u32>(b"runs", value)?;
    }
    Ok(())
}

/// Both ledgers.
#[derive(Debug)]
pub struct Ledger {
    durable: Book,
    run: Book,
    new_boot: bool,
}

impl Ledger {
    /// Opens both, making what is not there; an earlier boot's run state is thrown away.
    pub fn open(paths: &Paths) -> Result<Self, LedgerError> {
        let boot = boot_id().map_err(LedgerError::BootId)?;
        Self::open_at(
            &paths.lib().join("ledger"),
            &paths.run().join("state"),
            &boot,
        )
    }

    fn open_at(durable: &Path, run: &Path, boot: &str) -> Result<Self, LedgerError> {
        // Other boots' run states mean nothing any more.
        if let Ok(found) = fs::read_dir(run) {
            for entry in found.flatten() {
                if entry.file_name().to_string_lossy() != *boot {
                    fs::remove_dir_all(entry.path()).map_err(LedgerError::Directory)?;
                }
            }
        }
        let new_boot = !run.join(boot).exists();
        Ok(Self {
            new_boot,
            durable: Book::open(durable, EnvFlags::empty())?,
            run: Book::open(&run.join(boot), EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC)?,
        })
    }

    /// Whether there was no run state of this boot.
    pub fn is_new_boot(&self) -> bool {
        self.new_boot
    }

    /// Counts this run of the daemon and gives its number, from 1.
    pub fn begin_run(&mut self) -> Result<u32, LedgerError> {
        let mut txn = self.durable.env.write_txn()?;
        let last: u32 = match self.durable.entries.get(&txn, b"runs")? {
            Some(value) => decode(b"runs", value)?,
            None => 0,
        };
        self.durable.put(&mut txn, "runs", &(last + 1))?;
        txn.commit()?;
        Ok(last + 1)
    }

    /// Stores the records of one decision: the durable ones are synced when this returns.
    pub fn store(&mut self, records: &[Record]) -> Result<(), LedgerError> {
        for (book, durable) in [(&self.run, false), (&self.durable, true)] {
            let mut of_book = records
                .iter()
                .filter(|r| r.is_durable() == durable)
                .peekable();
            if of_book.peek().is_none() {
                continue;
            }
            let mut txn = book.env.write_txn()?;
            for record in of_book {
                match record {
                    Record::Ended { attempt } => {
                        book.entries.delete(&mut txn, key(record).as_bytes())?;
                        book.entries
                            .delete(&mut txn, process_key(*attempt).as_bytes())?;
                    }
                    record => book.put(&mut txn, &key(record), record)?,
                }
            }
            txn.commit()?;
        }
        Ok(())
    }

    /// Remembers which process each of these attempts is.
    pub fn store_processes(&mut self, launched: &[(Attempt, Identity)]) -> Result<(), LedgerError> {
        let mut txn = self.run.env.write_txn()?;
        for process in launched {
            self.run.put(&mut txn, &process_key(process.0), process)?;
        }
        Ok(txn.commit()?)
    }

    /// The records that hold now.
    pub fn records(&self) -> Result<Vec<Record>, LedgerError> {
        let mut records = Vec::new();
        for prefix in ["uid/", "goal/", "active/", "epoch/", "scale/", "upgrade/"] {
            records.extend(self.durable.read::<Record>(prefix)?);
        }
        for prefix in ["route/", "attempt/", "rested/"] {
            records.extend(self.run.read::<Record>(prefix)?);
        }
        Ok(records)
    }

    /// The processes of the attempts that did not end, as far as it is known.
    pub fn processes(&self) -> Result<BTreeMap<Attempt, Identity>, LedgerError> {
        Ok(self
            .run
            .read::<(Attempt, Identity)>("process/")?
            .into_iter()
            .collect())
    }
}

fn process_key(attempt: Attempt) -> String {
    format!("process/{:012x}", attempt.0)
}

/// User ids as the owners of the data directories say: the truth, should the ledger be lost.
pub fn uids_of_data(data: &Path) -> std::io::Result<BTreeMap<ServiceName, u32>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let owner = entry.metadata()?.uid();
        let name = entry.file_name().to_string_lossy().parse::<ServiceName>();
        if let (Ok(name), true) = (name, owner >= FIRST_UID) {
            found.insert(name, owner);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
