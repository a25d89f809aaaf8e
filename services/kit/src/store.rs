//! A service's private LMDB environment, written by one process at a time.
//!
//! Several processes of a service may have it open: the old and the new release during an upgrade.
//! Only one of them writes. The supervisor numbers the turns: [`Store::lead`] stores the turn's
//! epoch, and every transaction looks whether it is still its own. A writer that was overtaken is
//! fenced: its next transaction fails, and nothing of it is seen.
//!
//! What a batch of requests writes, and the answers that are recorded for them, are one
//! transaction ([`crate::ipc::server::Journal`]). Reads see what is committed, never a batch that
//! is under way: what was answered can always be read, what was not may still be undone.
//!
//! | durability | a commit is on the disk | what a power loss takes |
//! |---|---|---|
//! | `strict` | for each write, before its answer | nothing that was answered |
//! | `grouped` | for each batch, before its answers | nothing that was answered |
//! | `periodic=T` | every T | up to T of what was answered, in the worst case the store |
//!
//! The death of the process takes nothing that was answered in any of them. The environment is
//! opened once in a process and stays open until its end.

mod build;
mod journal;
mod meta;
mod sync;
mod table;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use insula_ipc::protocol::id::Epoch;
use insula_ipc::protocol::line::ENV_DATA_SIZE;
use thiserror::Error;

use sync::Syncer;
pub use table::{Entries, Reader, Table, Writer};

type Raw = Database<'static, Bytes, Bytes>;

/// Readers of an environment at once, over all processes.
const READERS_MAX: u32 = 1024;
/// The least address space beyond what entries may take, in bytes: a full store must still be able
/// to remove entries, for which LMDB copies pages.
pub const SLACK: u64 = 64 << 20;
/// The least size of a page in bytes.
const PAGE: u64 = 4096;
/// Opening can fail while another process opens or closes: this many tries.
const OPEN_TRIES: u32 = 50;
const OPEN_EVERY: Duration = Duration::from_millis(10);

/// When a commit is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// For each write, before its answer.
    Strict,
    /// For each batch of writes, before their answers.
    Grouped,
    /// Every so often; answers do not wait.
    Periodic(Duration),
}

impl Durability {
    /// Its name, without the time.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Grouped => "grouped",
            Self::Periodic(_) => "periodic",
        }
    }
}

impl FromStr for Durability {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strict" => Ok(Self::Strict),
            "grouped" => Ok(Self::Grouped),
            _ => text
                .strip_prefix("periodic=")
                .and_then(|time| time.strip_suffix("ms"))
                .and_then(|ms| ms.parse().ok())
                .filter(|ms| (1..=60_000).contains(ms))
                .map(|ms| Self::Periodic(Duration::from_millis(ms)))
                .ok_or_else(|| {
                    format!("`{text}` is none of `strict`, `grouped` and `periodic=50ms`")
                }),
        }
    }
}

/// How a store is opened; both releases of an upgrade say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// When a commit is on the disk.
    pub durability: Durability,
    /// The most bytes that its entries may take, if the manifest's `size-max` gives as much. The
    /// file may grow beyond, by an eighth and [`SLACK`], where entries are removed and written anew.
    pub size_max: u64,
    /// The version of the data's schema.
    pub schema: u32,
    /// Tables at most.
    pub tables_max: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Grouped,
            size_max: given().unwrap_or(4 << 30),
            schema: 1,
            tables_max: 16,
        }
    }
}

/// What the manifest gives, in a supervised service.
fn given() -> Option<u64> {
    std::env::var(ENV_DATA_SIZE).ok()?.parse().ok()
}

/// Why a store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// LMDB, or the file system below it.
    #[error("the store failed")]
    Database(#[from] heed::Error),
    /// Its directory cannot be made or used.
    #[error("cannot use the store's directory")]
    Directory(#[source] std::io::Error),
    /// Another process writes it now.
    #[error("epoch {ours} was overtaken: the store is written under epoch {current}")]
    Fenced {
        /// What this process leads, or was to lead, under.
        ours: Epoch,
        /// What is stored.
        current: Epoch,
    },
    /// Its entries would take more than they may.
    #[error("the store is full")]
    Full,
    /// A change of the batch failed half-way.
    #[error("a change failed, and its batch was undone")]
    Undone,
    /// The thread that syncs cannot be started.
    #[error("cannot start the thread that syncs")]
    Thread(#[source] std::io::Error),
    /// This process does not lead.
    #[error("this process does not write the store now")]
    NotLeading,
    /// Its format is of another version of the kit.
    #[error("the store has format {found}, this kit knows {known}")]
    Format {
        /// What is stored.
        found: u32,
        /// What this kit writes.
        known: u32,
    },
    /// Its data has another schema.
    #[error("the data has schema {found}, this release has {wanted}")]
    Schema {
        /// What is stored.
        found: u32,
        /// What the release says.
        wanted: u32,
    },
    /// A process of another build of LMDB or of the C library has it open: both at once can hang.
    #[error("the store is open in a process of another build ({found}), this is {ours}")]
    OtherBuild {
        /// What has it open.
        found: String,
        /// This process.
        ours: String,
    },
}

/// A service's store; cheap to clone within its thread.
#[derive(Clone)]
pub struct Store {
    inner: Rc<Inner>,
}

struct Inner {
    /// Never closed: transactions borrow from it for as long as the process lives.
    env: &'static Env<WithoutTls>,
    path: PathBuf,
    meta: Raw,
    once: Raw,
    tables: RefCell<Vec<Raw>>,
    size_max: u64,
    durability: Durability,
    epoch: Cell<Option<Epoch>>,
    /// The batch under way.
    batch: RefCell<Option<RwTxn<'static>>>,
    /// What reads see; opened when first needed after a commit. Nobody else writes meanwhile, so
    /// it is never stale, and it keeps no page from being used again that a commit has freed.
    snapshot: RefCell<Option<RoTxn<'static, WithoutTls>>>,
    /// A change failed half-way: what the batch holds must not be committed.
    broken: Cell<bool>,
    /// Bytes that the batch may still add.
    room: Cell<u64>,
    syncer: Option<Syncer>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.path)
            .field("epoch", &self.inner.epoch.get())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the environment in a directory, or makes it; as a follower, which only reads.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let mut options = options.clone();
        options.size_max = options.size_max.min(given().unwrap_or(u64::MAX));
        let options = &options;
        std::fs::create_dir_all(directory).map_err(StoreError::Directory)?;
        let claim = build::claim(directory, &build::ours())?;
        let env: &'static Env<WithoutTls> = Box::leak(Box::new(open_env(directory, options)?));
        // Held for as long as the environment is open.
        std::mem::forget(claim);
        // What a dead process left in the readers' table keeps pages from being used again.
        env.clear_stale_readers()?;
        let (meta, once) = env
            .create_databases_and_commit(env.write_txn()?, |opener, txn| {
                let meta = opener.create_database(txn, Some("insula.meta"))?;
                let once = opener.create_database(txn, Some("insula.once"))?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((meta, once)))
            })?
            .unwrap_commit();
        let syncer = match options.durability {
            Durability::Strict | Durability::Grouped => None,
            Durability::Periodic(every) => Some(Syncer::start(env, every)?),
        };
        let store = Self {
            inner: Rc::new(Inner {
                env,
                path: directory.to_owned(),
                meta,
                once,
                tables: RefCell::new(Vec::new()),
                size_max: options.size_max,
                durability: options.durability,
                epoch: Cell::new(None),
                batch: RefCell::new(None),
                snapshot: RefCell::new(None),
                broken: Cell::new(false),
                room: Cell::new(0),
                syncer,
            }),
        };
        meta::check(&store, options.schema)?;
        Ok(store)
    }

    /// A table by name, made if it is not there.
    pub fn table(&self, name: &str) -> Result<Table, StoreError> {
        let env = self.inner.env;
        let raw = env
            .create_databases_and_commit(env.write_txn()?, |opener, txn| {
                let raw = opener.create_database(txn, Some(name))?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(raw))
            })?
            .unwrap_commit();
        self.inner.tables.borrow_mut().push(raw);
        Ok(Table::new(raw))
    }

    /// Takes the turn of this number.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if a turn of this or a later number was taken by another process.
    pub fn lead(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.abort();
        self.inner.snapshot.replace(None);
        // The process that led before may have died within a look.
        self.clear_dead_readers()?;
        let mut txn = self.inner.env.write_txn()?;
        let current = meta::epoch(&self.inner.meta, &txn)?;
        let had = self.inner.epoch.get() == Some(epoch);
        if current > epoch || (current == epoch && !had) {
            return Err(StoreError::Fenced {
                ours: epoch,
                current,
            });
        }
        meta::set_epoch(&self.inner.meta, &mut txn, epoch)?;
        txn.commit()?;
        // Whatever the durability is, a turn that was taken must stay taken.
        self.inner.env.force_sync()?;
        self.inner.epoch.set(Some(epoch));
        Ok(())
    }

    /// Gives back what dead processes hold: while they seem to read, no page that they could see
    /// is used again. Done at opening and at every turn.
    pub fn clear_dead_readers(&self) -> Result<usize, StoreError> {
        Ok(self.inner.env.clear_stale_readers()?)
    }

    /// Writes no more until the next turn.
    pub fn give_up(&self) -> Result<(), StoreError> {
        self.abort();
        self.inner.snapshot.replace(None);
        if self.inner.epoch.replace(None).is_some() {
            self.inner.env.force_sync()?;
        }
        Ok(())
    }

    /// The turn that this process has.
    pub fn epoch(&self) -> Option<Epoch> {
        self.inner.epoch.get()
    }

    /// When a commit is on the disk.
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// The most bytes that its entries may take.
    pub fn size_max(&self) -> u64 {
        self.inner.size_max
    }

    /// Bytes that entries may still take.
    fn room(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        let max = self.inner.size_max;
        // The pages that were ever used are no fewer than those in use, and known at once.
        let touched = (self.inner.env.info().last_page_number as u64 + 1) * PAGE;
        if touched <= max / 2 {
            return Ok(max - touched);
        }
        let mut used = 0;
        for table in self.inner.tables.borrow().iter() {
            used += table.stat(txn)?.non_free_page_size() as u64;
        }
        used += self.inner.once.stat(txn)?.non_free_page_size() as u64;
        Ok(max.saturating_sub(used))
    }

    /// The epoch of the last turn that any process took.
    pub fn stored_epoch(&self) -> Result<Epoch, StoreError> {
        self.read(|reader| meta::epoch(&self.inner.meta, reader.txn()))
    }

    /// Reads what is committed.
    pub fn read<T>(
        &self,
        look: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.inner.epoch.get().is_none() {
            // Somebody else may write: what is committed now, and no page is kept afterwards.
            let txn = self.inner.env.read_txn()?;
            return look(&Reader::new(&txn));
        }
        let mut snapshot = self.inner.snapshot.borrow_mut();
        let txn = match snapshot.take() {
            Some(txn) => snapshot.insert(txn),
            None => snapshot.insert(self.inner.env.read_txn()?),
        };
        look(&Reader::new(txn))
    }

    /// Writes into the batch that is under way, or into a transaction of its own.
    ///
    /// An error after the first change undoes all of the transaction, and so the batch: what may be
    /// refused, like the entry that may be too much, comes first.
    pub fn write<T>(
        &self,
        change: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(txn) = self.inner.batch.borrow_mut().as_mut() {
            let mut writer = Writer::new(txn, &self.inner.room);
            let done = change(&mut writer);
            if done.is_err() && writer.has_changed() {
                self.inner.broken.set(true);
            }
            return done;
        }
        self.begin()?;
        let done = {
            let mut batch = self.inner.batch.borrow_mut();
            let txn = batch.as_mut().ok_or(StoreError::NotLeading)?;
            change(&mut Writer::new(txn, &self.inner.room))
        };
        match done {
            Ok(done) => {
                self.commit()?;
                Ok(done)
            }
            Err(error) => {
                self.abort();
                Err(error)
            }
        }
    }

    fn begin(&self) -> Result<(), StoreError> {
        let ours = self.inner.epoch.get().ok_or(StoreError::NotLeading)?;
        let txn = self.inner.env.write_txn()?;
        let current = meta::epoch(&self.inner.meta, &txn)?;
        if current != ours {
            drop(txn);
            self.inner.epoch.set(None);
            self.inner.snapshot.replace(None);
            return Err(StoreError::Fenced { ours, current });
        }
        self.inner.room.set(self.room(&txn)?);
        self.inner.batch.replace(Some(txn));
        Ok(())
    }

    fn commit(&self) -> Result<(), StoreError> {
        if let Some(txn) = self.inner.batch.replace(None) {
            self.inner.snapshot.replace(None);
            if self.inner.broken.replace(false) {
                return Err(StoreError::Undone);
            }
            txn.commit()?;
            if let Some(syncer) = &self.inner.syncer {
                syncer.committed();
            }
        }
        Ok(())
    }

    fn abort(&self) {
        self.inner.batch.replace(None);
        self.inner.broken.set(false);
    }

    /// Copies it, as it is now, into a file, while it is written on.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        self.inner
            .env
            .copy_to_path(file, heed::CompactionOption::Enabled)?;
        Ok(())
    }
}

fn open_env(directory: &Path, options: &StoreOptions) -> Result<Env<WithoutTls>, StoreError> {
    let mut flags = EnvFlags::empty();
    if let Durability::Periodic(_) = options.durability {
        flags |= EnvFlags::NO_SYNC;
    }
    let mut tries = 0;
    loop {
        let mut open = EnvOpenOptions::new().read_txn_without_tls();
        let mapped = options.size_max + options.size_max / 8 + SLACK;
        open.map_size(usize::try_from(mapped.next_multiple_of(1 << 16)).unwrap_or(usize::MAX))
            .max_dbs(options.tables_max + 2)
            .max_readers(READERS_MAX);
        #[expect(unsafe_code, reason = "heed cannot know who else has the files")]
        // SAFETY: the directory is the service's own, opened once in a process; the processes
        // that have it open are of this kit, which checks that their builds agree, and none of
        // them maps it writable.
        let opened = unsafe {
            open.flags(flags);
            open.open(directory)
        };
        match opened {
            Ok(env) => return Ok(env),
            Err(heed::Error::Io(error)) if tries < OPEN_TRIES && may_pass(&error) => {
                tries += 1;
                std::thread::sleep(OPEN_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What opening can meet while another process opens or closes the same environment.
fn may_pass(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::EINVAL | libc::ENOENT)
    )
}

#[cfg(test)]
mod tests;
