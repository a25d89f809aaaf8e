//! Which process an attempt is: never by its number, which is used again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use serde::{Deserialize, Serialize};

/// A process of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number, to find it by.
    pub pid: i32,
    /// The inode of its pidfd, unique within a boot (Linux 6.9 and later).
    pub inode: u64,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`; 0 where the inode
    /// tells it alone.
    pub start: u64,
}

impl Identity {
    /// Reads it off a process and its pidfd.
    pub fn of(pid: i32, pidfd: &impl AsFd) -> io::Result<Self> {
        Ok(Self {
            pid,
            inode: fstat(pidfd)?.st_ino,
            start: match has_own_inode(pidfd)? {
                true => 0,
                false => start_of(pid)?,
            },
        })
    }

    /// The process, if it still is the same; `None` if it is gone.
    pub fn find(&self) -> io::Result<Option<OwnedFd>> {
        let pidfd = match crate::watch::pidfd_open(self.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            // A zombie of ours, or a thread's number.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            pidfd => pidfd?,
        };
        match Self::of(self.pid, &pidfd) {
            Ok(found) if found == *self => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The inode of a pidfd where it tells which process it is of.
pub fn inode_of(pidfd: &impl AsFd) -> io::Result<Option<u64>> {
    Ok(match has_own_inode(pidfd)? {
        true => Some(fstat(pidfd)?.st_ino),
        false => None,
    })
}

/// Whether a pidfd has an inode that no other process of this boot has.
fn has_own_inode(pidfd: &impl AsFd) -> io::Result<bool> {
    /// Of the file system that pidfds lie on since Linux 6.9.
    const PIDFS: FsType = FsType(0x5049_4446);
    // One like all, for as long as the kernel runs.
    static ALL: OnceLock<bool> = OnceLock::new();
    if let Some(known) = ALL.get() {
        return Ok(*known);
    }
    let found = fstatfs(pidfd)?.filesystem_type() == PIDFS;
    Ok(*ALL.get_or_init(|| found))
}

fn start_of(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields follow the last one.
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

/// The boot's random number, as text.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_again_and_another_one_of_its_number_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = crate::watch::pidfd_open(pid).unwrap();
        let identity = Identity::of(pid, &pidfd).unwrap();
        assert!(identity.find().unwrap().is_some());
        let other = Identity {
            start: identity.start + 1,
            ..identity.clone()
        };
        assert!(other.find().unwrap().is_none());
        let other = Identity {
            inode: identity.inode + 1,
            ..identity.clone()
        };
        assert!(other.find().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(identity.find().unwrap().is_none());
    }
}
