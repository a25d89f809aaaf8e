//! The thread that reads all pipes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use insula_contract::id::Attempt;
use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::pipe::Place;
use super::queue::{Queue, Target};
use super::split::{Lost, Mark, Splitter, stamp};

/// Bytes that are read of one pipe before the others have their turn.
const READ_MAX: usize = 64 * 1024;
/// Turns that hold more than the largest pipe of an unprivileged process (1 MiB).
const PIPE_TURNS: usize = 17;
/// The key of the eventfd among the pipes.
const WAKE: u64 = 0;

/// A pipe and what is known of it.
#[derive(Debug)]
struct Source {
    place: Place,
    pipe: File,
    target: Arc<Target>,
    splitter: Splitter,
    lost: Lost,
}

/// Somebody who waits for a line.
#[derive(Debug)]
struct Watch {
    pattern: Vec<u8>,
    found: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct News {
    next: u64,
    sources: Vec<(u64, Source)>,
    watches: Vec<(Attempt, Watch)>,
    settle: Vec<oneshot::Sender<()>>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    wake: EventFd,
    news: Mutex<News>,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut News) -> T) -> T {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        // It is full only where nobody took the last wake-up yet.
        let _ = self.wake.write(1);
    }
}

/// What the thread is told; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Inbox {
    pub(super) fn start(queue: Queue) -> io::Result<Self> {
        let queue = Arc::new(queue);
        let shared = Arc::new(Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            news: Mutex::default(),
        });
        shared
            .epoll
            .add(&shared.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let reader = Reader {
            shared: shared.clone(),
            queue: queue.clone(),
            sources: BTreeMap::new(),
            watches: BTreeMap::new(),
            buffer: vec![0; READ_MAX],
        };
        std::thread::Builder::new()
            .name("output-reader".to_owned())
            .spawn(move || reader.run())?;
        Ok(Self { shared, queue })
    }

    /// Has a pipe read from now on. Wakes nobody: what is written to it does.
    pub(super) fn add(&self, place: Place, pipe: File, target: Arc<Target>) -> io::Result<()> {
        self.shared.change(|news| {
            news.next += 1;
            // Who is woken by it waits for this lock, and then finds it among the news.
            let event = EpollEvent::new(EpollFlags::EPOLLIN, news.next);
            self.shared.epoll.add(&pipe, event)?;
            let source = Source {
                place,
                pipe,
                target,
                splitter: Splitter::default(),
                lost: Lost::default(),
            };
            news.sources.push((news.next, source));
            Ok(())
        })
    }

    /// Makes the file of an attempt that begins.
    pub(super) fn begin(&self, target: Arc<Target>) {
        // An empty text always has room.
        let _ = self.queue.push(&target, Vec::new(), 0, true);
    }

    pub(super) fn watch(&self, attempt: Attempt, pattern: &str, found: oneshot::Sender<()>) {
        let watch = Watch {
            pattern: pattern.as_bytes().to_owned(),
            found,
        };
        self.shared
            .change(|news| news.watches.push((attempt, watch)));
        self.shared.wake();
    }

    pub(super) fn settle(&self, done: oneshot::Sender<()>) {
        self.shared.change(|news| news.settle.push(done));
        self.shared.wake();
    }

    /// Reads what there is, with lines that have no end yet, and reads nothing any more.
    pub(super) fn close(&self, done: oneshot::Sender<()>) {
        self.shared.change(|news| {
            news.settle.push(done);
            news.closed = true;
        });
        self.shared.wake();
    }

    /// Has pipes looked at that may have ended before they were added.
    pub(super) fn look(&self) {
        self.shared.wake();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.change(|news| news.closed = true);
        self.shared.wake();
    }
}

struct Reader {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sources: BTreeMap<u64, Source>,
    watches: BTreeMap<Attempt, Vec<Watch>>,
    buffer: Vec<u8>,
}

impl Reader {
    fn run(mut self) {
        loop {
            let ready = match self.ready(EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "the output of services is not read any more");
                    return;
                }
            };
            for key in &ready {
                if *key != WAKE {
                    if !self.sources.contains_key(key) {
                        self.take_news();
                    }
                    self.turn(*key);
                }
            }
            if ready.contains(&WAKE) {
                // Nothing else reads it.
                let _ = self.shared.wake.read();
                let (settle, closed) = self.take_news();
                if closed || !settle.is_empty() {
                    self.catch_up();
                }
                if closed {
                    for source in self.sources.values_mut() {
                        source.take(None, None, &self.queue);
                    }
                }
                for done in settle {
                    self.queue.settle(done);
                }
                if closed {
                    return;
                }
            }
        }
    }

    /// The keys of what can be read.
    fn ready(&self, timeout: EpollTimeout) -> io::Result<Vec<u64>> {
        // Room for all, so that a look without waiting sees all.
        let mut events = vec![EpollEvent::empty(); self.sources.len() + 8];
        loop {
            match self.shared.epoll.wait(&mut events, timeout) {
                Ok(count) => return Ok(events[..count].iter().map(EpollEvent::data).collect()),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in what was told; who waits for a catching up, and whether this is the end.
    fn take_news(&mut self) -> (Vec<oneshot::Sender<()>>, bool) {
        let (sources, watches, settle, closed) = self.shared.change(|news| {
            (
                std::mem::take(&mut news.sources),
                std::mem::take(&mut news.watches),
                std::mem::take(&mut news.settle),
                news.closed,
            )
        });
        let keys: Vec<u64> = sources.iter().map(|(key, _)| *key).collect();
        self.sources.extend(sources);
        for (attempt, watch) in watches {
            // Of an attempt that has ended, whoever waits is told so.
            if self.sources.values().any(|s| s.place.attempt == attempt) {
                self.watches.entry(attempt).or_default().push(watch);
            }
        }
        // The writers of a pipe may have gone before it was looked at, which is no event.
        for key in keys {
            self.turn(key);
        }
        (settle, closed)
    }

    /// Reads what all pipes hold by now.
    fn catch_up(&mut self) {
        for _ in 0..PIPE_TURNS {
            let Ok(ready) = self.ready(EpollTimeout::ZERO) else {
                return;
            };
            let mut more = false;
            for key in ready {
                more |= key != WAKE && self.turn(key);
            }
            if !more {
                return;
            }
        }
    }

    /// Reads a pipe once; whether it may have more.
    fn turn(&mut self, key: u64) -> bool {
        let Some(source) = self.sources.get_mut(&key) else {
            return false;
        };
        let attempt = source.place.attempt;
        let ended = match source.pipe.read(&mut self.buffer) {
            Ok(0) => true,
            Ok(length) => {
                let watches = self.watches.get_mut(&attempt);
                source.take(Some(&self.buffer[..length]), watches, &self.queue);
                false
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Err(error) => {
                tracing::warn!(%error, %attempt, "a pipe is not read any more");
                true
            }
        };
        if ended && let Some(mut source) = self.sources.remove(&key) {
            source.take(None, self.watches.get_mut(&attempt), &self.queue);
            source.place.remove();
            let others = || self.sources.values();
            if self.watches.contains_key(&attempt)
                && !others().any(|source| source.place.attempt == attempt)
            {
                self.watches.remove(&attempt);
            }
        }
        !ended
    }
}

impl Source {
    /// Takes in bytes, or that there are no more.
    fn take(&mut self, bytes: Option<&[u8]>, watches: Option<&mut Vec<Watch>>, queue: &Queue) {
        let now = self
            .target
            .spec
            .timestamps
            .then(|| stamp(SystemTime::now()));
        let mark = |stream| Mark {
            stamp: now.as_deref(),
            attempt: &self.target.name,
            stream,
        };
        let stream = mark(self.place.stream.name());
        let mut text = Vec::with_capacity(bytes.map_or(0, |bytes| bytes.len() * 2));
        let mut lines = 0;
        let mut waiting = watches.filter(|watches| !watches.is_empty());
        let mut write = |line: &[u8], more| {
            stream.write(&mut text, line, more);
            lines += 1;
            if let Some(watches) = &mut waiting {
                let found = |watch: &mut Watch| memmem::find(line, &watch.pattern).is_some();
                for watch in watches.extract_if(.., found) {
                    // Whoever asked may have gone.
                    let _ = watch.found.send(());
                }
            }
        };
        match bytes {
            Some(bytes) => self.splitter.feed(bytes, &mut write),
            None => self.splitter.finish(&mut write),
        }
        self.splitter.shrink();
        if !self.lost.is_none() && (lines > 0 || bytes.is_none()) {
            let mut notice = Vec::new();
            mark("log").write_lost(&mut notice, self.lost, "the disk is too slow");
            let forced = bytes.is_none();
            if queue.push(&self.target, notice, 1, forced).is_ok() {
                self.lost = Lost::default();
            }
        }
        if lines == 0 {
            return;
        }
        let length = text.len() as u64;
        let pushed = match self.lost.is_none() {
            true => queue.push(&self.target, text, lines, false).is_ok(),
            false => false,
        };
        if !pushed {
            if self.lost.is_none() {
                tracing::warn!(
                    attempt = %self.place.attempt,
                    "the disk is too slow: output is dropped and counted"
                );
            }
            self.lost.add(lines, length);
            if bytes.is_none() {
                let mut notice = Vec::new();
                mark("log").write_lost(&mut notice, self.lost, "the disk is too slow");
                // A forced text always has room.
                let _ = queue.push(&self.target, notice, 1, true);
            }
        }
    }
}
