//! The syncs of a store whose commits do not wait for the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use heed::{Env, WithoutTls};

use super::StoreError;

/// Syncs from a thread of its own, some time after a commit; without commits it sleeps.
pub(super) struct Syncer {
    unsynced: Arc<AtomicBool>,
    thread: Thread,
}

impl Syncer {
    pub(super) fn start(
        env: &'static Env<WithoutTls>,
        every: Duration,
    ) -> Result<Self, StoreError> {
        let unsynced = Arc::new(AtomicBool::new(false));
        let seen = unsynced.clone();
        let sync = move || {
            loop {
                while !seen.load(Ordering::Acquire) {
                    std::thread::park();
                }
                std::thread::sleep(every);
                // Before the sync: what is committed meanwhile may not be in it.
                seen.store(false, Ordering::SeqCst);
                if let Err(error) = env.force_sync() {
                    tracing::error!(%error, "cannot sync the store");
                    seen.store(true, Ordering::Release);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(sync)
            .map_err(StoreError::Thread)?
            .thread()
            .clone();
        Ok(Self { unsynced, thread })
    }

    /// Says that there is something to sync.
    pub(super) fn committed(&self) {
        if !self.unsynced.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}
