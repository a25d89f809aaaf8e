//! A cgroup v2 directory per process, where the host lets us make one.
//!
//! A process is born in its directory, and all that it starts stays there: they are killed at once
//! and without a race. Under systemd they lie in the cgroup of the payload's unit, not in the daemon's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use insula_contract::id::Attempt;

use crate::launch::Walls;
use crate::paths::Paths;
use crate::systemd::payload;

/// The cgroups of this daemon's processes.
#[derive(Debug)]
pub struct Groups {
    root: PathBuf,
    /// Whether it lies in the payload's unit, whose controllers are the daemon's to give.
    delegated: bool,
}

/// A process's cgroup.
#[derive(Debug)]
pub struct Group {
    directory: File,
}

impl Group {
    /// What `clone3` takes.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Groups {
    /// The place for them, where the host gives one.
    pub fn open(walls: &Walls, paths: &Paths) -> Option<Self> {
        let own = walls.cgroup()?;
        let name = format!("insula-{}", paths.tag());
        let (root, delegated) = match payload::find(paths) {
            Some(payload) => (payload.join(name), true),
            None => (own.join(name), false),
        };
        let groups = Self { root, delegated };
        match groups.make_root() {
            Err(error) => {
                tracing::warn!(%error, "no cgroups for services");
                None
            }
            Ok(()) => Some(groups),
        }
    }

    fn make_root(&self) -> io::Result<()> {
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if self.delegated {
            payload::enable_controllers(&self.root)?;
        }
        Ok(())
    }

    fn of(&self, attempt: Attempt) -> PathBuf {
        self.root.join(format!("{:x}", attempt.0))
    }

    /// Makes the cgroup of an attempt.
    pub fn make(&self, attempt: Attempt) -> io::Result<Group> {
        let directory = self.of(attempt);
        match fs::create_dir(&directory) {
            // The payload's unit was started anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_root()?;
                fs::create_dir(&directory)?;
            }
            made => made?,
        }
        Ok(Group {
            directory: File::open(directory)?,
        })
    }

    /// The cgroup of an attempt that was made before.
    pub fn find(&self, attempt: Attempt) -> io::Result<Group> {
        Ok(Group {
            directory: File::open(self.of(attempt))?,
        })
    }

    /// Where the cgroup of an attempt lies.
    pub fn path(&self, attempt: Attempt) -> PathBuf {
        self.of(attempt)
    }

    /// Kills all that is in the cgroup of an attempt.
    pub fn kill(&self, attempt: Attempt) -> io::Result<()> {
        match fs::write(self.of(attempt).join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            killed => killed,
        }
    }

    /// Kills what is left in the cgroup of an attempt, and removes it.
    pub fn remove(&self, attempt: Attempt) -> io::Result<()> {
        self.kill(attempt)?;
        match fs::remove_dir(self.of(attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // What was killed is not gone yet; the next start or the end removes it.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            removed => removed,
        }
    }

    /// Removes them all, once nothing runs.
    pub fn close(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path())?;
            }
        }
        fs::remove_dir(&self.root)
    }
}
