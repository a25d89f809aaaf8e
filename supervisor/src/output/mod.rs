//! What services write: from their pipes to rotated files.
//!
//! ```text
//! service, fd 1 and 2 --- FIFO, FIFO ---> reader thread ---> queue ---> writer thread ---> files
//!                                         splits, stamps     bounded    rotates
//! ```
//!
//! Each stream of an attempt is a FIFO below the run directory, in a directory that only the daemon
//! enters. The service's end is open for reading too, so the pipe always has a reader: nobody gets
//! `SIGPIPE` when the daemon dies, and the next daemon opens the same FIFO and finds what was
//! written meanwhile. Two threads serve the whole host; both block while nothing is written.
//!
//! A disk that is slow, full or stuck holds up only the writer: what the queue does not hold is
//! dropped and counted, and a line in the file says how much. What cannot be had:
//! - While no daemon runs, a pipe takes as much as its `pipe-size` (64 KiB unless the manifest says
//!   otherwise); then the writing service waits for the next daemon. A pipe that does not block
//!   would fail the write instead, which ends most programs, Rust's `println!` among them.
//! - What a process that ended while no daemon ran left in its pipe is lost: the kernel keeps the
//!   content of a FIFO only while somebody has it open.
//! - A daemon that is killed loses what it had read and not yet written: lines of the last
//!   milliseconds, and the beginning of a line that was not ended.
//! - Standard output and error are two pipes: their lines are in order each, not among each other.

mod file;
mod pipe;
mod queue;
mod reader;
mod saved;
mod split;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_contract::id::{Attempt, Instance};
use insula_core::spec::OutputSpec;
use tokio::sync::oneshot;

use crate::paths::Paths;
use pipe::Place;
use queue::{Queue, Target};
use reader::Inbox;

pub(crate) use saved::{Filter, Follow, Saved, newest};

/// How long an answer waits for output that was written before it.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    const ALL: [Self; 2] = [Self::Out, Self::Err];

    fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
        }
    }
}

/// The ends that a process writes to.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Its standard output.
    pub(crate) out: OwnedFd,
    /// Its standard error.
    pub(crate) err: OwnedFd,
    /// What its wall lets through for it to open them again, by `/dev/stdout`: of a process with a
    /// user of its own the directory of all pipes, which it cannot enter, so that the same wall does
    /// for the next one.
    pub(crate) access: Vec<PathBuf>,
}

/// The lines that services write, as they come.
///
/// All clones are of the same threads, which end with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    inbox: Arc<Inbox>,
    pipes: PathBuf,
    logs: PathBuf,
}

impl Lines {
    /// Starts the two threads.
    pub(crate) fn start(paths: &Paths) -> io::Result<Self> {
        let pipes = paths.run().join("output");
        pipe::make_directory(&pipes)?;
        let queue = Queue::start()?;
        Ok(Self {
            inbox: Arc::new(Inbox::start(queue)?),
            pipes,
            logs: paths.log().to_owned(),
        })
    }

    /// Makes the pipes of an attempt that is about to be launched, and reads them from now on.
    ///
    /// The process, of user `uid`, is to get the ends as its standard output and error; they are
    /// given up by the caller once it runs, or did not.
    pub(crate) fn open(
        &self,
        attempt: Attempt,
        instance: &Instance,
        spec: &OutputSpec,
        uid: Option<u32>,
    ) -> io::Result<Ends> {
        let target = self.target(attempt, instance, spec);
        let make = |stream| {
            let place = Place::new(&self.pipes, attempt, stream);
            let (ours, theirs) = place.make(uid, spec.pipe_size)?;
            self.inbox.add(place, ours, target.clone())?;
            Ok::<_, io::Error>(theirs)
        };
        let ends = Ends {
            out: make(Stream::Out)?,
            err: make(Stream::Err)?,
            access: match uid {
                Some(_) => vec![self.pipes.clone()],
                None => Stream::ALL
                    .map(|stream| Place::new(&self.pipes, attempt, stream).path())
                    .into(),
            },
        };
        self.inbox.begin(target);
        Ok(ends)
    }

    /// Goes on reading what an attempt writes that an earlier daemon launched.
    ///
    /// An error of kind `NotFound` says that its output was never a pipe, or that it is gone.
    pub(crate) fn recover(
        &self,
        attempt: Attempt,
        instance: &Instance,
        spec: &OutputSpec,
    ) -> io::Result<()> {
        let target = self.target(attempt, instance, spec);
        for stream in Stream::ALL {
            let place = Place::new(&self.pipes, attempt, stream);
            let ours = place.reopen()?;
            self.inbox.add(place, ours, target.clone())?;
        }
        self.inbox.look();
        Ok(())
    }

    /// Removes the pipes of all attempts but these, which an earlier daemon left.
    pub(crate) fn clear_but(&self, keep: impl Fn(Attempt) -> bool) -> io::Result<()> {
        pipe::clear_but(&self.pipes, keep)
    }

    /// Tells when an attempt writes a line that contains `pattern`, on either stream.
    ///
    /// To miss none, ask before the process runs, after [`open`](Self::open). The answer is an
    /// error once both of its streams ended without such a line.
    pub(crate) fn watch(&self, attempt: Attempt, pattern: &str) -> oneshot::Receiver<()> {
        let (found, told) = oneshot::channel();
        self.inbox.watch(attempt, pattern, found);
        told
    }

    /// Waits until all that was written before is in its file, or the disk is too slow for that.
    pub(crate) async fn settle(&self) {
        let (done, told) = oneshot::channel();
        self.inbox.settle(done);
        // A stuck disk is said in the daemon's log.
        let _ = tokio::time::timeout(SETTLE_MAX, told).await;
    }

    /// Writes what was read, and leaves in the pipes what comes from now on.
    pub(crate) async fn close(&self) {
        let (done, told) = oneshot::channel();
        self.inbox.close(done);
        // A stuck disk is said in the daemon's log.
        let _ = tokio::time::timeout(SETTLE_MAX, told).await;
    }

    /// Where the files of a service's instance lie.
    pub(crate) fn directory(logs: &Path, instance: &Instance) -> PathBuf {
        logs.join(format!("{}-{}", instance.service, instance.index))
    }

    fn target(&self, attempt: Attempt, instance: &Instance, spec: &OutputSpec) -> Arc<Target> {
        let directory = Self::directory(&self.logs, instance);
        Arc::new(Target::new(attempt, directory, spec.clone()))
    }
}
