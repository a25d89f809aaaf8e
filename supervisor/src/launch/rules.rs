//! The Landlock wall: what of the file system and of TCP a process may use.
//!
//! Everything that Landlock knows up to ABI 6 is denied, and what [`Access`] and [`Network`] name
//! is let through. A kernel with an older ABI denies what it can; [`super::Walls`] says what that
//! leaves open. Rules bind to the files that the paths name now: what is mounted over one later is
//! not let through, what is made below a directory later is.
//!
//! Not in Landlock's power: telling addresses apart, UDP, connecting to a path socket, `stat`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError as Refused, Scope, make_bitflags,
};
use thiserror::Error;

/// The newest ABI whose rights were looked at one by one.
const KNOWN: ABI = ABI::V6;

/// The dynamic loaders: the only files outside a release that are executed on its behalf.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// What a dynamically linked program reads to be linked, to resolve names of hosts and users, to
/// tell local time and to check certificates. Of `/usr` only libraries and data: whatever program
/// lies there can neither be read nor run. Nothing of `/proc` and `/sys`.
const SYSTEM: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/dev/random",
    "/dev/urandom",
];

/// Devices that swallow what is written.
const SINKS: &[&str] = &["/dev/full", "/dev/null", "/dev/zero"];

/// Files, and directories with all below them, that a process may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// To read and list.
    pub read_only: Vec<PathBuf>,
    /// To read, list and run.
    pub execute: Vec<PathBuf>,
    /// To read, list, write, make and remove; not to run, and no devices.
    pub read_write: Vec<PathBuf>,
}

impl Access {
    /// What both name.
    pub fn and(mut self, other: Self) -> Self {
        self.read_only.extend(other.read_only);
        self.execute.extend(other.execute);
        self.read_write.extend(other.read_write);
        self
    }
}

/// What every program needs of the system; what this host does not have of it is left out when the
/// rules are built.
pub fn system_access() -> Access {
    let all = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
    Access {
        read_only: all(SYSTEM),
        execute: all(LOADERS),
        read_write: all(SINKS),
    }
}

/// Where programs of the host lie, and what they load at run time.
pub fn programs_of_the_host() -> Vec<PathBuf> {
    ["/usr", "/bin", "/sbin"]
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// What of TCP a process may use.
///
/// Landlock knows ports and not addresses: with `connect`, every host can be connected to. Other
/// protocols are not restricted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Ports that it may listen on.
    pub listen: Vec<u16>,
    /// Whether it may connect, to any port.
    pub connect: bool,
}

/// Why a wall was not built.
#[derive(Debug, Error)]
pub enum RulesError {
    /// This kernel has no Landlock, or it is switched off.
    #[error("the kernel enforces no Landlock rules")]
    Unsupported,
    /// A rule is about something that cannot be opened.
    #[error("cannot open `{path}`")]
    Open {
        /// What.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot make the rules")]
    Refused(#[from] Refused),
}

fn read_only() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

fn read_write() -> BitFlags<AccessFs> {
    AccessFs::from_all(KNOWN)
        & !make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | IoctlDev})
}

/// Builds the ruleset that a process then enforces upon itself.
pub(super) fn build(access: &Access, network: &Network) -> Result<OwnedFd, RulesError> {
    let mut handled = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(KNOWN))?;
    if !network.connect {
        handled = handled.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = handled.create()?;
    // The files are right one by one, whoever panicked.
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    for (paths, rights) in [
        (&access.read_only, read_only()),
        (&access.execute, read_only() | AccessFs::Execute),
        (&access.read_write, read_write()),
    ] {
        for path in paths {
            ruleset = match kept.get_mut(path.as_path()) {
                Some(kept) => match kept.now(path)? {
                    Some(file) => ruleset.add_rule(PathBeneath::new(file, rights))?,
                    None => ruleset,
                },
                None => ruleset.add_rule(PathBeneath::new(open(path)?, rights))?,
            };
        }
    }
    for port in &network.listen {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    Option::<OwnedFd>::from(ruleset).ok_or(RulesError::Unsupported)
}

/// A file of the system, kept open: every launch has a rule for each of them, and to open them costs
/// more than to look whether they are still the same.
#[derive(Debug, Default)]
struct Kept {
    /// With the device and the inode that the path named.
    file: Option<(PathFd, (u64, u64))>,
}

impl Kept {
    /// The file that the path names now, if there is one.
    fn now(&mut self, path: &Path) -> Result<Option<&PathFd>, RulesError> {
        let there = match std::fs::metadata(path) {
            Ok(found) => (found.dev(), found.ino()),
            // Not there, or not for us to see: no rule can be about it.
            Err(_) => {
                self.file = None;
                return Ok(None);
            }
        };
        if self.file.as_ref().is_none_or(|(_, known)| *known != there) {
            self.file = Some((open(path)?, there));
        }
        Ok(self.file.as_ref().map(|(file, _)| file))
    }
}

/// All files of the system that rules are about.
static KEPT: LazyLock<Mutex<BTreeMap<&Path, Kept>>> = LazyLock::new(|| {
    let paths = SYSTEM.iter().chain(LOADERS).chain(SINKS);
    Mutex::new(paths.map(|p| (Path::new(p), Kept::default())).collect())
});

/// Opens a file, or a directory for all below it; on a file, the rights that only a directory can
/// have are left out by the crate.
fn open(path: &Path) -> Result<PathFd, RulesError> {
    PathFd::new(path).map_err(|error| RulesError::Open {
        path: path.display().to_string(),
        source: match error {
            landlock::PathFdError::OpenCall { source, .. } => source,
            other => io::Error::other(other),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_opened_anew_and_one_that_is_gone_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        let inode_of = |file: &PathFd| {
            let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            std::fs::metadata(link).unwrap().ino()
        };
        let mut kept = Kept::default();
        assert!(kept.now(&path).unwrap().is_none());
        std::fs::write(&path, "one").unwrap();
        let first = inode_of(kept.now(&path).unwrap().unwrap());
        let number = kept.now(&path).unwrap().unwrap().as_fd().as_raw_fd();
        assert_eq!(
            kept.now(&path).unwrap().unwrap().as_fd().as_raw_fd(),
            number
        );
        let other = directory.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let second = inode_of(kept.now(&path).unwrap().unwrap());
        assert_ne!(first, second);
        assert_eq!(second, std::fs::metadata(&path).unwrap().ino());
        std::fs::remove_file(&path).unwrap();
        assert!(kept.now(&path).unwrap().is_none());
        assert!(kept.file.is_none());
    }
}
