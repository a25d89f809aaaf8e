//! What waits for the disk, and the thread that writes it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use insula_contract::id::Attempt;
use insula_core::spec::OutputSpec;
use tokio::sync::oneshot;

use super::file::LogFile;

/// Bytes of all services that may wait for the disk.
const WAITING_MAX: usize = 32 << 20;
/// Bytes of one attempt that may: a flood leaves room for the others.
const WAITING_OF_ONE_MAX: usize = 8 << 20;
/// Files that are kept open between two writes.
const OPEN_MAX: usize = 64;

/// Where lines of an attempt go.
#[derive(Debug)]
pub(super) struct Target {
    /// The attempt, as text.
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) spec: OutputSpec,
    waiting: AtomicUsize,
}

impl Target {
    pub(super) fn new(attempt: Attempt, directory: PathBuf, spec: OutputSpec) -> Self {
        Self {
            name: attempt.to_string(),
            directory,
            spec,
            waiting: AtomicUsize::new(0),
        }
    }
}

#[derive(Debug)]
enum Item {
    /// Whole lines, and how many.
    Lines(Arc<Target>, Vec<u8>, u64),
    /// All before is written.
    Settle(oneshot::Sender<()>),
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
}

/// The queue between the two threads; the writer ends when it is dropped.
#[derive(Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queue {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("output-writer".to_owned())
            .spawn(move || write(&writer))?;
        Ok(Self(shared))
    }

    /// Appends lines; they are given back where there is no room. `forced` ones always have it.
    pub(super) fn push(
        &self,
        target: &Arc<Target>,
        bytes: Vec<u8>,
        lines: u64,
        forced: bool,
    ) -> Result<(), Vec<u8>> {
        let length = bytes.len();
        let pushed = self.0.change(|waiting| {
            let of_one = target.waiting.load(Ordering::Relaxed);
            let full = waiting.bytes + length > WAITING_MAX || of_one + length > WAITING_OF_ONE_MAX;
            if full && !forced {
                return Err(bytes);
            }
            waiting.bytes += length;
            target.waiting.fetch_add(length, Ordering::Relaxed);
            let item = Item::Lines(target.clone(), bytes, lines);
            waiting.items.push_back(item);
            Ok(())
        });
        self.0.filled.notify_one();
        pushed
    }

    /// Tells when all before is written.
    pub(super) fn settle(&self, done: oneshot::Sender<()>) {
        self.0
            .change(|waiting| waiting.items.push_back(Item::Settle(done)));
        self.0.filled.notify_one();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting.closed = true);
        self.0.filled.notify_one();
    }
}

fn write(shared: &Shared) {
    let mut files: BTreeMap<PathBuf, LogFile> = BTreeMap::new();
    loop {
        let guard = shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut waiting = shared
            .filled
            .wait_while(guard, |waiting| waiting.items.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(item) = waiting.items.pop_front() else {
            return;
        };
        if waiting.items.is_empty() {
            // What a flood took is given back.
            waiting.items.shrink_to(16);
        }
        drop(waiting);
        match item {
            Item::Lines(target, bytes, lines) => {
                if files.len() >= OPEN_MAX && !files.contains_key(&target.directory) {
                    files.retain(|_, file| file.owes());
                }
                files
                    .entry(target.directory.clone())
                    .or_insert_with(|| LogFile::new(&target.directory))
                    .write(&target, &bytes, lines);
                shared.change(|waiting| waiting.bytes -= bytes.len());
                target.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            Item::Settle(done) => {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_that_the_disk_does_not_take_leaves_room_for_others() {
        // A queue that nobody empties.
        let queue = Queue(Arc::default());
        let target = |number| {
            let spec = OutputSpec::default();
            Arc::new(Target::new(Attempt(number), PathBuf::new(), spec))
        };
        let (flood, other) = (target(1), target(2));
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..100)
            .take_while(|_| queue.push(&flood, piece.clone(), 1, false).is_ok())
            .count();
        assert_eq!(taken, WAITING_OF_ONE_MAX >> 20);
        assert_eq!(
            queue.push(&flood, piece.clone(), 1, false),
            Err(piece.clone())
        );
        assert_eq!(queue.push(&other, piece.clone(), 1, false), Ok(()));
        assert_eq!(queue.push(&flood, b"lost\n".to_vec(), 1, true), Ok(()));
        // All of them together have a limit, too.
        let all = (3..100)
            .take_while(|number| {
                queue
                    .push(&target(*number), piece.clone(), 1, false)
                    .is_ok()
            })
            .count();
        assert_eq!(taken + 1 + all, (WAITING_MAX >> 20) - 1);
    }
}
