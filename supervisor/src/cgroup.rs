//! A cgroup v2 directory per process, where the host lets us make one.
//!
//! A process is born in its directory, and all that it starts stays there: they are killed at once
//! and without a race. Controllers and limits are not used yet.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use insula_contract::id::Attempt;

use crate::launch::Walls;
use crate::paths::Paths;

/// The cgroups of this daemon's processes.
#[derive(Debug)]
pub struct Groups {
    root: PathBuf,
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
        let root = walls.cgroup()?.join(format!("insula-{}", paths.tag()));
        match fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(%error, "no cgroups for services");
                None
            }
            _ => Some(Self { root }),
        }
    }

    fn of(&self, attempt: Attempt) -> PathBuf {
        self.root.join(format!("{:x}", attempt.0))
    }

    /// Makes the cgroup of an attempt.
    pub fn make(&self, attempt: Attempt) -> io::Result<Group> {
        let directory = self.of(attempt);
        fs::create_dir(&directory)?;
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
