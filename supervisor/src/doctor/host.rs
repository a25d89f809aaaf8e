//! A host as it is looked at: files below a root, and what no file tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::statvfs::statvfs;
use nix::unistd::{Uid, User};
use thiserror::Error;

use super::By;
use crate::cgroup;
use crate::launch::{Wall, Walls};
use crate::ledger::FIRST_UID;
use crate::paths::Paths;
use crate::quota::Quotas;
use crate::systemd::payload;

/// So many user ids from the first one on are looked at: each service takes one, for ever.
pub(super) const UIDS: u32 = 65_536;

/// Why a host cannot be looked at.
#[derive(Debug, Error)]
#[error("cannot read {path}")]
pub struct LookError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the daemon knows, or who looks in its place found out: what holds for services.
#[derive(Debug, Clone)]
pub struct Known {
    /// The walls that were tried, with that of limits.
    pub walls: Vec<Wall>,
    /// Landlock's ABI version; 0 without Landlock.
    pub landlock: i32,
    /// The cgroup v2 directory below which those of services are, or would be.
    pub group: Option<PathBuf>,
    /// Where the daemon keeps things.
    pub paths: Paths,
}

impl Known {
    /// What this process finds out for itself, since no daemon answers.
    pub fn alone(paths: Paths) -> Self {
        let walls = Walls::probe();
        let group = payload::find(&paths).or_else(|| walls.cgroup().map(Path::to_owned));
        let mut report = walls.report();
        report.push(cgroup::report_at(group.as_deref()));
        let quotas = Quotas::of(&paths.data_root());
        report.extend(quotas.map(|quotas| quotas.report(walls.has_own_uids())));
        Self {
            walls: report,
            landlock: walls.landlock_version(),
            group,
            paths,
        }
    }
}

/// A file system's size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// What a user without privileges may still fill.
    pub(super) free: u64,
}

/// What is looked at.
#[derive(Debug)]
pub struct Host {
    /// Where `/proc`, `/sys` and `/etc` lie.
    pub(super) root: PathBuf,
    pub(super) by: By,
    pub(super) uid: u32,
    pub(super) services: u64,
    pub(super) known: Known,
    /// Of the file system that the depot and the services' data lie on.
    pub(super) data: Option<Space>,
    /// A user of the name service at an end of the range of services.
    pub(super) stranger: Option<String>,
    /// What `systemctl --version` says.
    pub(super) systemd: Option<u32>,
    /// Whether systemd listens to who looks.
    pub(super) notified: bool,
}

impl Host {
    /// This host. It blocks for some milliseconds.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn here(known: Known, by: By, services: u64) -> Result<Self, LookError> {
        // Without it nothing can be told.
        let path = PathBuf::from("/proc/sys/kernel/osrelease");
        fs::read_to_string(&path).map_err(|source| LookError { path, source })?;
        Ok(Self {
            root: "/".into(),
            by,
            uid: nix::unistd::geteuid().as_raw(),
            services,
            data: space(known.paths.lib()),
            stranger: stranger(),
            systemd: systemd_version(),
            notified: std::env::var_os("NOTIFY_SOCKET").is_some(),
            known,
        })
    }

    /// A text below the root; nothing where it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        // A link that leads nowhere from here is there.
        self.root.join(path).symlink_metadata().is_ok()
    }

    /// The first two numbers of the kernel's version.
    pub(super) fn linux(&self) -> Option<(u32, u32)> {
        let text = self.text("proc/sys/kernel/osrelease")?;
        let mut numbers = text.split(|of: char| !of.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// The file system that a path lies on: where it is mounted, its type, its options.
    pub(super) fn mount_of(&self, path: &Path) -> Option<Mount> {
        let mounts = self.text("proc/self/mounts")?;
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let place = PathBuf::from(unescape(fields.next()?));
                let (kind, options) = (fields.next()?.to_owned(), fields.next()?.to_owned());
                path.starts_with(&place).then_some(Mount {
                    place,
                    kind,
                    options,
                })
            })
            // Of two at one place, the later one is seen.
            .max_by_key(|mount| mount.place.components().count())
    }
}

/// A line of `/proc/self/mounts`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) place: PathBuf,
    pub(super) kind: String,
    options: String,
}

impl Mount {
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|of| of == option)
    }
}

/// The kernel writes blanks of paths as numbers.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t")
}

fn space(path: &Path) -> Option<Space> {
    // It may not be there yet: the file system it would be on counts.
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let told = statvfs(there).ok()?;
    Some(Space {
        total: told.blocks() * told.fragment_size(),
        free: told.blocks_available() * told.fragment_size(),
    })
}

/// Users may come from elsewhere than `/etc/passwd`, and cannot be listed then: the ends are asked
/// about.
fn stranger() -> Option<String> {
    [FIRST_UID, FIRST_UID + UIDS - 1]
        .into_iter()
        .find_map(|uid| User::from_uid(Uid::from_raw(uid)).ok()?)
        .map(|user| user.name)
}

fn systemd_version() -> Option<u32> {
    let told = Command::new("systemctl")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&told.stdout);
    let version = text.strip_prefix("systemd ")?;
    let digits = version.find(|of: char| !of.is_ascii_digit())?;
    version[..digits].parse().ok()
}
