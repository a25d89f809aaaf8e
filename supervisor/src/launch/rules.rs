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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    /// To read and write what is there.
    pub reuse: Vec<PathBuf>,
}

impl Access {
    /// What both name.
    pub fn and(mut self, other: Self) -> Self {
        self.read_only.extend(other.read_only);
        self.execute.extend(other.execute);
        self.read_write.extend(other.read_write);
        self.reuse.extend(other.reuse);
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
        reuse: Vec::new(),
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

fn reuse() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile})
}

/// As many rulesets are kept: each is a descriptor, of which a host may give few.
const BUILT_MAX: usize = 1024;

/// The rulesets of earlier launches, by owner: a wall is the same for each process of a service, and
/// building it costs more than to look whether it is still of the same files.
#[derive(Debug, Default)]
pub struct Rulesets {
    built: BTreeMap<String, Built>,
    /// Whether the system's files were looked at since [`look_again`](Self::look_again).
    looked: bool,
}

/// A ruleset and what it is of.
#[derive(Debug)]
struct Built {
    access: Access,
    network: Network,
    /// The device and inode of each path of its own.
    files: Vec<(u64, u64)>,
    /// Which state of the system's files.
    system: u64,
    ruleset: OwnedFd,
}

impl Rulesets {
    /// Has the next launch look whether the system's files are still the same. To be called before
    /// launches that were decided later than a change of such a file that they are to see.
    pub fn look_again(&mut self) {
        self.looked = false;
    }

    /// Lets go of what there is of an owner.
    pub fn forget(&mut self, owner: &str) {
        self.built.remove(owner);
    }

    /// The ruleset that a process then enforces upon itself.
    pub(super) fn get(
        &mut self,
        owner: &str,
        access: &Access,
        network: &Network,
    ) -> Result<BorrowedFd<'_>, RulesError> {
        // The files are right one by one, whoever panicked.
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut self.looked, true) {
            kept.look()?;
        }
        let files = access.own_files(&kept);
        let same = self.built.get(owner).is_some_and(|built| {
            built.system == kept.state
                && built.files == files
                && built.access == *access
                && built.network == *network
        });
        if !same {
            let built = Built {
                ruleset: build(access, network, &kept)?,
                access: access.clone(),
                network: network.clone(),
                files,
                system: kept.state,
            };
            if !self.built.contains_key(owner) && self.built.len() >= BUILT_MAX {
                self.built.pop_first();
            }
            self.built.insert(owner.to_owned(), built);
        }
        Ok(self.built[owner].ruleset.as_fd())
    }
}

impl Access {
    /// All paths, with what may be done to them.
    fn paths(&self) -> impl Iterator<Item = (&Path, BitFlags<AccessFs>)> {
        [
            (&self.read_only, read_only()),
            (&self.execute, read_only() | AccessFs::Execute),
            (&self.read_write, read_write()),
            (&self.reuse, reuse()),
        ]
        .into_iter()
        .flat_map(|(paths, rights)| paths.iter().map(move |path| (path.as_path(), rights)))
    }

    /// The device and inode of each path that is not the system's; zeros of what is not there.
    fn own_files(&self, kept: &KeptFiles) -> Vec<(u64, u64)> {
        self.paths()
            .filter(|(path, _)| !kept.files.contains_key(path))
            .map(|(path, _)| {
                std::fs::metadata(path).map_or((0, 0), |found| (found.dev(), found.ino()))
            })
            .collect()
    }
}

fn build(access: &Access, network: &Network, kept: &KeptFiles) -> Result<OwnedFd, RulesError> {
    let mut handled = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(KNOWN))?;
    if !network.connect {
        handled = handled.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = handled.create()?;
    for (path, rights) in access.paths() {
        ruleset = match kept.files.get(path) {
            Some(Kept { file: None }) => ruleset,
            Some(Kept {
                file: Some((file, _)),
            }) => ruleset.add_rule(PathBeneath::new(file, rights))?,
            None => ruleset.add_rule(PathBeneath::new(open(path)?, rights))?,
        };
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
    /// Takes the file that the path names now, if there is one; whether it is another.
    fn look(&mut self, path: &Path) -> Result<bool, RulesError> {
        let there = match std::fs::metadata(path) {
            Ok(found) => (found.dev(), found.ino()),
            // Not there, or not for us to see: no rule can be about it.
            Err(_) => return Ok(self.file.take().is_some()),
        };
        if self.file.as_ref().is_some_and(|(_, known)| *known == there) {
            return Ok(false);
        }
        self.file = Some((open(path)?, there));
        Ok(true)
    }
}

/// All files of the system that rules are about.
#[derive(Debug)]
struct KeptFiles {
    files: BTreeMap<&'static Path, Kept>,
    /// Another number whenever one of them was found to be another.
    state: u64,
}

impl KeptFiles {
    fn look(&mut self) -> Result<(), RulesError> {
        for (path, kept) in &mut self.files {
            if kept.look(path)? {
                self.state += 1;
            }
        }
        Ok(())
    }
}

static KEPT: LazyLock<Mutex<KeptFiles>> = LazyLock::new(|| {
    let paths = SYSTEM.iter().chain(LOADERS).chain(SINKS);
    Mutex::new(KeptFiles {
        files: paths.map(|p| (Path::new(p), Kept::default())).collect(),
        state: 0,
    })
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
        assert!(!kept.look(&path).unwrap());
        std::fs::write(&path, "one").unwrap();
        assert!(kept.look(&path).unwrap());
        let first = inode_of(&kept.file.as_ref().unwrap().0);
        assert!(!kept.look(&path).unwrap(), "nothing changed");
        let other = directory.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(kept.look(&path).unwrap());
        let second = inode_of(&kept.file.as_ref().unwrap().0);
        assert_ne!(first, second);
        assert_eq!(second, std::fs::metadata(&path).unwrap().ino());
        std::fs::remove_file(&path).unwrap();
        assert!(kept.look(&path).unwrap());
        assert!(kept.file.is_none());
    }

    #[test]
    fn a_ruleset_is_built_again_where_a_directory_or_what_is_asked_for_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let access = Access {
            read_write: vec![data.clone()],
            ..system_access()
        };
        let mut rulesets = Rulesets::default();
        // One that is built anew is made while the one before is still open.
        let mut number =
            |access: &Access, network: &Network| match rulesets.get("kv", access, network) {
                Ok(ruleset) => Some(ruleset.as_raw_fd()),
                Err(RulesError::Refused(_) | RulesError::Unsupported) => None,
                Err(error) => panic!("{error}"),
            };
        let closed = Network::default();
        let Some(first) = number(&access, &closed) else {
            eprintln!("SKIPPED (needs Landlock): rulesets that are kept");
            return;
        };
        assert_eq!(number(&access, &closed), Some(first), "nothing changed");
        std::fs::remove_dir(&data).unwrap();
        std::fs::create_dir(directory.path().join("other")).unwrap();
        std::fs::create_dir(&data).unwrap();
        let second = number(&access, &closed);
        assert_ne!(second, Some(first), "another directory of the same name");
        let open = Network {
            connect: true,
            ..closed
        };
        let third = number(&access, &open);
        assert_ne!(third, second);
        let less = Access {
            read_write: Vec::new(),
            ..access
        };
        assert_ne!(number(&less, &open), third);
    }
}
