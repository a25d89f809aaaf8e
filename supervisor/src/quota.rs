//! How much of the disk a service's data may take: the quota of its user on the file system where
//! all data lies.
//!
//! It holds for all that the service's user has there, so for all instances and releases of it
//! together, as the last start said. The kernel looks at it only where quotas of users are switched on
//! for that file system, which is the host's affair: nothing here switches them on. A directory in
//! it that is another file system is not bounded.

#![expect(unsafe_code, reason = "quotactl_fd, which nothing wraps")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::launch::Wall;

/// What a user may have; `None` sets no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on the disk, in whole KiB.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub files: Option<u64>,
}

/// What a user has, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
    /// What it may have of both.
    pub bounds: Bounds,
}

/// The quotas of users on one file system.
#[derive(Debug)]
pub struct Quotas {
    place: PathBuf,
    directory: File,
}

impl Quotas {
    /// Those of the file system that a directory lies on, or would lie on once it is made.
    pub fn of(place: &Path) -> io::Result<Self> {
        let there = place.ancestors().find(|ancestor| ancestor.exists());
        Ok(Self {
            place: place.to_owned(),
            directory: File::open(there.unwrap_or(place))?,
        })
    }

    /// Whether the kernel holds users to them, now.
    pub fn are_enforced(&self) -> bool {
        let mut state = State::default();
        // SAFETY: this command writes a `struct fs_quota_stat`, which `State` is.
        let asked = unsafe { self.control(Q_XGETQSTAT, 0, (&raw mut state).cast()) };
        asked.is_ok() && state.flags & FS_QUOTA_UDQ_ENFD != 0
    }

    /// Sets what a user may have, unless it is that already.
    pub fn bound(&self, uid: u32, bounds: Bounds) -> io::Result<()> {
        match self.usage(uid) {
            Ok(usage) if usage.bounds == bounds => return Ok(()),
            Ok(_) => {}
            // Where there are no quotas there is nothing to take back.
            Err(_) if bounds == Bounds::default() => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut quota = Quota {
            space: bounds.bytes.map_or(0, |bytes| bytes.div_ceil(KIB)),
            files: bounds.files.unwrap_or(0),
            valid: QIF_LIMITS,
            ..Quota::default()
        };
        // SAFETY: this command reads a `struct if_dqblk`, which `Quota` is.
        unsafe { self.control(Q_SETQUOTA, uid, (&raw mut quota).cast()) }
    }

    /// What a user has.
    pub fn usage(&self, uid: u32) -> io::Result<Usage> {
        let mut quota = Quota::default();
        // SAFETY: this command writes a `struct if_dqblk`, which `Quota` is.
        unsafe { self.control(Q_GETQUOTA, uid, (&raw mut quota).cast()) }?;
        let bound = |number: u64| (number > 0).then_some(number);
        Ok(Usage {
            bytes: quota.used_space,
            files: quota.used_files,
            bounds: Bounds {
                bytes: bound(quota.space.saturating_mul(KIB)),
                files: bound(quota.files),
            },
        })
    }

    /// Whether they are enforced, for people.
    pub fn report(&self, has_own_uids: bool) -> Wall {
        let holds = has_own_uids && self.are_enforced();
        let text = if holds {
            "what a service keeps on the disk is bounded where a profile or a service says \
             `data-max` or `data-files-max`"
                .to_owned()
        } else if !has_own_uids {
            "services have no users of their own whose quotas could be set: what says `data-max` \
             or `data-files-max` is not started, or with `--isolation best-effort` started without"
                .to_owned()
        } else {
            format!(
                "the file system of {} holds no user to a quota: what says `data-max` or \
                 `data-files-max` is not started, or with `--isolation best-effort` started without",
                self.place.display()
            )
        };
        Wall {
            name: "data-quotas".to_owned(),
            holds,
            text,
        }
    }

    /// # Safety
    /// `address` must point to what the command reads or writes.
    unsafe fn control(&self, command: u32, uid: u32, address: *mut libc::c_void) -> io::Result<()> {
        const USERS: u32 = 0;
        // SAFETY: the caller's promise; the descriptor is open.
        let done = unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                self.directory.as_raw_fd(),
                command << 8 | USERS,
                uid,
                address,
            )
        };
        Ok(nix::Error::result(done).map(drop)?)
    }
}

impl Usage {
    /// Whether there is no room for more, but for a rest that no file fits into.
    pub fn is_full(&self) -> bool {
        let full = |has: u64, may: Option<u64>| may.is_some_and(|may| has >= may - may / 100);
        full(self.bytes, self.bounds.bytes) || full(self.files, self.bounds.files)
    }
}

/// Bytes of what space is counted in (`QIF_DQBLKSIZE`).
const KIB: u64 = 1 << 10;
/// Commands and flags of `linux/quota.h` and `linux/dqblk_xfs.h`; the last also speak of ext4.
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTAT: u32 = 0x5805;
const FS_QUOTA_UDQ_ENFD: u16 = 1 << 1;
const QIF_LIMITS: u32 = 5;

/// `struct if_dqblk`.
#[derive(Debug, Default)]
#[repr(C)]
struct Quota {
    /// The most space, in KiB.
    space: u64,
    space_for_now: u64,
    /// In bytes.
    used_space: u64,
    /// The most files.
    files: u64,
    files_for_now: u64,
    used_files: u64,
    times: [u64; 2],
    /// Which of these are meant.
    valid: u32,
}

/// `struct fs_quota_stat`.
#[derive(Debug, Default)]
#[repr(C)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 9],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_forms_have_their_sizes() {
        assert_eq!(size_of::<Quota>(), 72);
        assert_eq!(std::mem::offset_of!(Quota, valid), 64);
        assert_eq!(size_of::<State>(), 80);
        assert_eq!(std::mem::offset_of!(State, flags), 2);
        assert_eq!(std::mem::offset_of!(State, rest), 8);
    }

    #[test]
    fn a_file_system_without_quotas_enforces_none_and_says_so() {
        // No procfs has quotas.
        let quotas = Quotas::of(Path::new("/proc")).unwrap();
        assert!(!quotas.are_enforced());
        quotas.bound(60_001, Bounds::default()).unwrap();
        let bounds = Bounds {
            bytes: Some(1 << 20),
            files: None,
        };
        quotas.bound(60_001, bounds).unwrap_err();
        let wall = quotas.report(true);
        assert!(!wall.holds && wall.text.contains("/proc"));
        assert!(!quotas.report(false).holds);
    }

    #[test]
    fn what_has_room_for_one_more_file_is_not_full() {
        let usage = |bytes, files| Usage {
            bytes,
            files,
            bounds: Bounds {
                bytes: Some(16 << 20),
                files: Some(1000),
            },
        };
        assert!(!usage(15 << 20, 1).is_full());
        assert!(usage((16 << 20) - 4096, 1).is_full());
        assert!(usage(0, 1000).is_full());
        let free = Usage {
            bounds: Bounds::default(),
            ..usage(1 << 40, 1 << 30)
        };
        assert!(!free.is_full());
    }
}
