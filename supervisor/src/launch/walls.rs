//! Which walls this host lets the supervisor build.
//!
//! Everything is tried, nothing is read off a version number.

#![expect(
    unsafe_code,
    reason = "asks the kernel for Landlock's version, seccomp's actions and a pidfd's status"
)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Something of the host that services get, or do not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Wall {
    /// What it is called.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// What it means, or what is missing and how to get it.
    pub text: String,
}

/// How many of the walls that the host gives are built, and what becomes of a service whose limits
/// it cannot enforce: it is not started, unless this says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// All of them.
    #[default]
    Full,
    /// All of them, and a service that sets limits which this host cannot enforce is started
    /// without them.
    BestEffort,
    /// None: services run under the daemon's own user id, though without capabilities, and use
    /// whatever files and ports that may. For trials, and to measure what the walls cost.
    None,
}

/// So many of the first rows of the report are walls around a service.
const ENFORCED: usize = 6;

/// What this host gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walls {
    root: bool,
    landlock: i32,
    filters: bool,
    cgroup: Result<PathBuf, String>,
    pidfd_inodes: bool,
    exits_of_strangers: bool,
    isolation: Isolation,
    /// Whether limits that cannot be enforced are let go.
    lenient: bool,
}

impl Walls {
    /// Tries what there is.
    pub fn probe() -> Self {
        Self {
            isolation: Isolation::Full,
            lenient: false,
            root: nix::unistd::geteuid().is_root(),
            landlock: landlock_version(),
            filters: has_filters(),
            cgroup: own_cgroup(),
            pidfd_inodes: has_pidfd_inodes(),
            exits_of_strangers: keeps_exits(),
        }
    }

    /// The same, of which only so many are built.
    pub fn with(self, isolation: Isolation) -> Self {
        let (isolation, lenient) = match isolation {
            Isolation::Full => (Isolation::Full, false),
            Isolation::BestEffort => (Isolation::Full, true),
            Isolation::None => (Isolation::None, true),
        };
        Self {
            isolation,
            lenient,
            ..self
        }
    }

    /// Whether a service whose limits cannot be enforced is started without them.
    pub fn are_lenient(&self) -> bool {
        self.lenient
    }

    /// Whether every service has a user id of its own.
    pub fn has_own_uids(&self) -> bool {
        self.root && self.isolation == Isolation::Full
    }

    /// Landlock's ABI version on this host; 0 without Landlock.
    pub fn landlock_version(&self) -> i32 {
        self.landlock
    }

    /// Whether the kernel enforces Landlock rules at all.
    pub fn has_landlock(&self) -> bool {
        self.landlock > 0 && self.isolation == Isolation::Full
    }

    /// Whether the system calls of services are filtered.
    pub fn has_filters(&self) -> bool {
        self.filters && self.isolation == Isolation::Full
    }

    /// The cgroup v2 directory below which processes can be born in a directory of their own.
    pub fn cgroup(&self) -> Option<&Path> {
        match self.isolation {
            Isolation::Full | Isolation::BestEffort => self.cgroup.as_deref().ok(),
            Isolation::None => None,
        }
    }

    /// What holds and what does not, for people.
    pub fn report(&self) -> Vec<Wall> {
        let mut report = self.report_of_host();
        if self.isolation == Isolation::None {
            for wall in &mut report[..ENFORCED] {
                wall.holds = false;
                wall.text = "not built: insulad was started with `--isolation none`".to_owned();
            }
        }
        report
    }

    fn report_of_host(&self) -> Vec<Wall> {
        let wall = |name: &str, holds: bool, holding: String, missing: String| Wall {
            name: name.to_owned(),
            holds,
            text: if holds { holding } else { missing },
        };
        let abi = self.landlock;
        let below = |needed: &str| {
            if abi > 0 {
                format!("this kernel has Landlock ABI {abi}; {needed}")
            } else {
                format!("this kernel enforces no Landlock rules; {needed}")
            }
        };
        vec![
            wall(
                "own-uids",
                self.root,
                "each service runs under a user id of its own".into(),
                "all services share the daemon's user id, so they can open each other's data and \
                 channels, signal each other and write the route table; run insulad as root"
                    .into(),
            ),
            wall(
                "files",
                abi >= 3,
                format!(
                    "a service opens its release, its data, its channels and the system's \
                     libraries, and nothing else (Landlock ABI {abi})"
                ),
                below("services open whatever their user id may; needs ABI 3, Linux 6.2"),
            ),
            wall(
                "tcp-ports",
                abi >= 4,
                "a service listens on the TCP ports of its manifest only, and connects only where \
                 its manifest gives it a network; other hosts are not told from this one, and UDP \
                 is not restricted"
                    .into(),
                below("services listen and connect as they like; needs ABI 4, Linux 6.7"),
            ),
            wall(
                "signals",
                abi >= 6,
                "a service signals nobody outside itself and connects to no abstract socket".into(),
                below("services of one user id can signal each other; needs ABI 6, Linux 6.12"),
            ),
            wall(
                "cgroups",
                self.cgroup.is_ok(),
                "a process is born in a cgroup of its own and killed with all that it started"
                    .into(),
                format!(
                    "{}; what a service starts in a session of its own outlives it",
                    self.cgroup.as_ref().err().map_or("", String::as_str)
                ),
            ),
            wall(
                "system-calls",
                self.filters,
                "a service makes no system call that reaches other processes, namespaces, other \
                 CPUs or parts of the kernel that it has no use for, and only the sockets of its \
                 manifest"
                    .into(),
                "this kernel filters no system calls (seccomp), or is of an architecture whose \
                 calls were not looked at: every call that the user id may make is open to a \
                 service"
                    .into(),
            ),
            wall(
                "identity",
                self.pidfd_inodes,
                "a process is recognised by the inode of its pidfd".into(),
                "pidfds have no inodes of their own (needs Linux 6.9): a process is recognised by \
                 its number and start time"
                    .into(),
            ),
            wall(
                "exits-while-away",
                self.exits_of_strangers,
                "the status of a service that ends while insulad is away is known".into(),
                "the status of a service that ends while insulad is away is unknown; needs Linux \
                 6.15"
                    .into(),
            ),
        ]
    }
}

/// Landlock's ABI version; 0 where there is none.
fn landlock_version() -> i32 {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes no attributes: a null pointer and a length of 0.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// Whether the kernel takes filters of system calls that can do all that ours do.
fn has_filters() -> bool {
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the last argument points to the action that is asked about.
    let told = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const kill,
        )
    };
    told == 0 && super::Calls::Native.filter().is_some()
}

/// Our own cgroup v2 directory, if directories can be made in it.
fn own_cgroup() -> Result<PathBuf, String> {
    let unreadable = |error: io::Error| format!("/proc does not tell the cgroup: {error}");
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(unreadable)?;
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .ok_or("no cgroup v2 is mounted")?;
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(unreadable)?;
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or("insulad is in no cgroup v2")?;
    let directory = Path::new(mount[1]).join(own);
    let trial = directory.join(format!("insula-probe-{}", std::process::id()));
    fs::create_dir(&trial)
        .and_then(|()| {
            // From 5.14; without it a tree cannot be killed at once.
            let killable = trial.join("cgroup.kill").exists();
            fs::remove_dir(&trial).map(|()| killable)
        })
        .map_err(|error| {
            format!(
                "the cgroup {} is not delegated: {error}",
                directory.display()
            )
        })
        .and_then(|killable| {
            killable
                .then_some(())
                .ok_or_else(|| "cgroups cannot be killed (Linux 5.14)".to_owned())
        })?;
    Ok(directory)
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether pidfds lie on a file system of their own, not on that of anonymous inodes.
fn has_pidfd_inodes() -> bool {
    const PIDFS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_4446);
    let own = i32::try_from(std::process::id())
        .ok()
        .and_then(|pid| pidfd_open(pid).ok());
    own.and_then(|fd| nix::sys::statfs::fstatfs(&fd).ok())
        .is_some_and(|found| found.filesystem_type() == PIDFS)
}

/// Whether the kernel tells the status of a process that was reaped.
fn keeps_exits() -> bool {
    /// `PIDFD_INFO_EXIT`, and `_IOWR(0xff, 11, 64 bytes)`, of `linux/pidfd.h`.
    const EXIT: u64 = 1 << 3;
    const GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    let Ok(launched) = super::clone::trial() else {
        return false;
    };
    super::child::reap(&launched.pidfd);
    let mut info = [0_u64; 8];
    info[0] = EXIT;
    // SAFETY: the request number says 64 bytes, which is the size of `info`.
    let told = unsafe { libc::ioctl(launched.pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) };
    told == 0 && info[0] & EXIT != 0
}
