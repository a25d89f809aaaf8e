//! The Landlock wall: what of the file system and of TCP a process may use.
//!
//! Everything that Landlock knows up to ABI 6 is denied, and what [`Access`] and [`Network`] name
//! is let through. A kernel with an older ABI denies what it can; [`super::Walls`] says what that
//! leaves open. Rules bind to the files that the paths name now: what is mounted over one later is
//! not let through, what is made below a directory later is.
//!
//! Not in Landlock's power: telling addresses apart, UDP, connecting to a path socket, `stat`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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

/// What every program needs of the system, as far as this host has it.
pub fn system_access() -> Access {
    let there = |paths: &[&str]| {
        paths
            .iter()
            .map(PathBuf::from)
            .filter(|path| path.exists())
            .collect::<Vec<_>>()
    };
    Access {
        read_only: there(SYSTEM),
        execute: there(LOADERS),
        read_write: there(SINKS),
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
    for (paths, rights) in [
        (&access.read_only, read_only()),
        (&access.execute, read_only() | AccessFs::Execute),
        (&access.read_write, read_write()),
    ] {
        for path in paths {
            ruleset = ruleset.add_rule(below(path, rights)?)?;
        }
    }
    for port in &network.listen {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    Option::<OwnedFd>::from(ruleset).ok_or(RulesError::Unsupported)
}

/// The rule for a file, or for a directory and all below it.
fn below(path: &Path, rights: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, RulesError> {
    // On a file, the rights that only a directory can have are left out by the crate.
    match PathFd::new(path) {
        Ok(file) => Ok(PathBeneath::new(file, rights)),
        Err(error) => Err(RulesError::Open {
            path: path.display().to_string(),
            source: match error {
                landlock::PathFdError::OpenCall { source, .. } => source,
                other => io::Error::other(other),
            },
        }),
    }
}
