//! A cgroup v2 directory per process, where the host lets us make one.
//!
//! ```text
//! <the payload's unit>/insula-<tag>/profile-<name>/<attempt>
//!                                   |              `- limits of an instance
//!                                   `- weights beside other profiles
//! ```
//!
//! A process is born in its directory, and all that it starts stays there: they are killed at once
//! and without a race. Under systemd they lie in the cgroup of the payload's unit, not in the daemon's.
//! What a profile weighs is written once for all of its services; a start writes only what limits
//! that one instance.

pub(crate) mod end;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use insula_contract::id::Attempt;
use insula_core::limits::Resources;

use crate::launch::{Wall, Walls};
use crate::paths::Paths;
use crate::systemd::payload;
use settings::{CONTROLLERS, Setting};

/// What the directory of a profile begins with.
const PROFILE: &str = "profile-";

/// The cgroups of this daemon's processes.
#[derive(Debug)]
pub struct Groups {
    root: PathBuf,
    /// What the kernel enforces below it.
    controllers: BTreeSet<String>,
    /// The profiles whose directories are there, and what was written into them.
    profiles: BTreeMap<Arc<str>, Vec<Setting>>,
    attempts: BTreeMap<Attempt, Arc<str>>,
    /// Directories whose processes were killed and are not gone yet.
    leaving: Vec<PathBuf>,
}

/// What a profile gives all of its services.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Its name.
    pub profile: &'a str,
    /// Its limits; of these, weights beside other profiles.
    pub limits: &'a Resources,
    /// Whether its services run only where no other profile's want the processor.
    pub best_effort: bool,
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
    /// The place for them, where the host gives one; those of an earlier daemon's processes are
    /// found there.
    pub fn open(walls: &Walls, paths: &Paths) -> Option<Self> {
        let own = walls.cgroup()?;
        let name = format!("insula-{}", paths.tag());
        let root = payload::find(paths).as_deref().unwrap_or(own).join(name);
        match Self::at(root) {
            Err(error) => {
                tracing::warn!(%error, "no cgroups for services");
                None
            }
            Ok(groups) => Some(groups),
        }
    }

    fn at(root: PathBuf) -> io::Result<Self> {
        let mut groups = Self {
            root,
            controllers: BTreeSet::new(),
            profiles: BTreeMap::new(),
            attempts: BTreeMap::new(),
            leaving: Vec::new(),
        };
        groups.make_root()?;
        for (name, directory) in directories(&groups.root)? {
            let Some(profile) = name.strip_prefix(PROFILE) else {
                continue;
            };
            let profile: Arc<str> = profile.into();
            for (name, _) in directories(&directory)? {
                if let Ok(number) = u64::from_str_radix(&name, 16) {
                    groups.attempts.insert(Attempt(number), profile.clone());
                }
            }
        }
        Ok(groups)
    }

    fn make_root(&mut self) -> io::Result<()> {
        make(&self.root)?;
        payload::enable_controllers(&self.root)?;
        self.controllers = controllers_of(&self.root)?;
        self.profiles.clear();
        Ok(())
    }

    /// The directory of a profile, as it is to be.
    fn make_profile(&mut self, name: &Arc<str>, given: &Given<'_>) -> io::Result<PathBuf> {
        let directory = self.of_profile(name);
        let settings = settings::of_profile(given.limits, given.best_effort);
        let written = self.profiles.get(name);
        if written == Some(&settings) {
            return Ok(directory);
        }
        let fresh = written.is_none();
        make(&directory)?;
        if fresh {
            for controller in CONTROLLERS {
                if self.controllers.contains(controller) {
                    fs::write(
                        directory.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    )?;
                }
            }
        }
        // What was set before and is no more has the kernel's default again.
        // A group in the idle class refuses a weight.
        let defaults = [
            ("cpu", "cpu.idle", "0"),
            ("cpu", "cpu.weight", "100"),
            ("io", "io.weight", "100"),
        ];
        for (controller, file, text) in defaults {
            let set = settings.iter().any(|setting| setting.file == file);
            let idle = given.best_effort && controller == "cpu";
            if !set && !idle && self.controllers.contains(controller) {
                fs::write(directory.join(file), text)?;
            }
        }
        self.write(&directory, &settings)?;
        self.profiles.insert(name.clone(), settings);
        Ok(directory)
    }

    /// Writes what can be enforced.
    fn write(&self, directory: &Path, settings: &[Setting]) -> io::Result<()> {
        for setting in settings {
            if self.enforces(setting) {
                fs::write(directory.join(setting.file), &setting.text)?;
            }
        }
        Ok(())
    }

    fn enforces(&self, setting: &Setting) -> bool {
        self.controllers.contains(setting.controller)
    }

    fn of_profile(&self, name: &str) -> PathBuf {
        self.root.join(format!("{PROFILE}{name}"))
    }

    /// The directory that all of them are in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the cgroup of an attempt is, if it has one.
    pub fn path(&self, attempt: Attempt) -> Option<PathBuf> {
        let profile = self.attempts.get(&attempt)?;
        Some(self.of_profile(profile).join(format!("{:x}", attempt.0)))
    }

    /// Makes the cgroup of an attempt with what limits it, below that of its profile.
    pub fn make(
        &mut self,
        attempt: Attempt,
        given: &Given<'_>,
        holds: &Resources,
    ) -> io::Result<Group> {
        // What another one left is no reason not to start this one.
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "cannot remove a cgroup");
        }
        let profile: Arc<str> = match self.profiles.get_key_value(given.profile) {
            Some((known, _)) => known.clone(),
            None => given.profile.into(),
        };
        let name = format!("{:x}", attempt.0);
        let mut directory = self.make_profile(&profile, given)?.join(&name);
        match make(&directory) {
            // The payload's unit was started anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_root()?;
                directory = self.make_profile(&profile, given)?.join(&name);
                make(&directory)?;
            }
            made => made?,
        }
        self.attempts.insert(attempt, profile);
        self.write(&directory, &settings::of_instance(holds))?;
        Ok(Group {
            directory: File::open(directory)?,
        })
    }

    /// The cgroup of an attempt that was made before.
    pub fn find(&self, attempt: Attempt) -> io::Result<Group> {
        let directory = self.path(attempt).ok_or(io::ErrorKind::NotFound)?;
        Ok(Group {
            directory: File::open(directory)?,
        })
    }

    /// The processes of an attempt.
    pub fn processes(&self, attempt: Attempt) -> Vec<i32> {
        let Some(directory) = self.path(attempt) else {
            return Vec::new();
        };
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Kills all that is in the cgroup of an attempt.
    pub fn kill(&self, attempt: Attempt) -> io::Result<()> {
        match self.path(attempt) {
            Some(directory) => kill(&directory),
            None => Ok(()),
        }
    }

    /// Kills what is left in the cgroup of an attempt, and removes it.
    pub fn remove(&mut self, attempt: Attempt) -> io::Result<()> {
        let Some(directory) = self.path(attempt) else {
            return Ok(());
        };
        self.attempts.remove(&attempt);
        let killed = kill(&directory);
        self.leaving.push(directory);
        killed.and(self.sweep())
    }

    /// Kills and removes all but those of some attempts, and the profiles that are empty then.
    pub fn clear_but(&mut self, keep: impl Fn(Attempt) -> bool) -> io::Result<()> {
        let gone: Vec<_> = self
            .attempts
            .keys()
            .copied()
            .filter(|attempt| !keep(*attempt))
            .collect();
        let mut cleared = Ok(());
        for attempt in gone {
            if let Some(cause) = self.path(attempt).and_then(|group| end::told(&group)) {
                tracing::warn!(%attempt, "it ended while no daemon ran: {cause}");
            }
            cleared = cleared.and(self.remove(attempt));
        }
        for (name, directory) in directories(&self.root)? {
            if name.starts_with(PROFILE) && directories(&directory)?.is_empty() {
                cleared = cleared.and(fs::remove_dir(directory));
            }
        }
        // What they are to have is written again when somebody starts in them.
        self.profiles.clear();
        cleared
    }

    /// Removes what has no process any more.
    fn sweep(&mut self) -> io::Result<()> {
        let mut failed = Ok(());
        self.leaving
            .retain(|directory| match fs::remove_dir(directory) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                // What was killed is not gone yet.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => true,
                Err(error) => {
                    failed = Err(error);
                    false
                }
            });
        failed
    }

    /// Removes them all, once nothing runs.
    pub fn close(&self) -> io::Result<()> {
        for (_, profile) in directories(&self.root)? {
            for (_, attempt) in directories(&profile)? {
                fs::remove_dir(attempt)?;
            }
            fs::remove_dir(profile)?;
        }
        fs::remove_dir(&self.root)
    }
}

/// What of these limits the host cannot enforce, by the keys that ask for it, each with the
/// controller that is missing.
pub fn lacking(groups: Option<&Groups>, given: &Resources, holds: &Resources) -> Vec<String> {
    // Best effort asks for nothing: it is a gift to the others.
    let asked = settings::of_profile(given, false)
        .into_iter()
        .chain(settings::of_instance(holds));
    let mut keys: Vec<_> = asked
        .filter(|setting| groups.is_none_or(|groups| !groups.enforces(setting)))
        .map(|setting| setting.key.to_owned())
        .collect();
    keys.dedup();
    keys
}

/// What the kernel can enforce below a directory.
fn controllers_of(directory: &Path) -> io::Result<BTreeSet<String>> {
    let given = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let mut controllers: BTreeSet<_> = given.split_whitespace().map(str::to_owned).collect();
    // It is there where the kernel has a scheduler for it.
    if !directory.join("io.weight").exists() {
        controllers.remove("io");
    }
    Ok(controllers)
}

/// Whether limits are enforced, for people.
pub fn report(groups: Option<&Groups>) -> Wall {
    told(groups.map(|groups| &groups.controllers))
}

/// Whether they would be, with the services' cgroups in this directory.
pub fn report_at(directory: Option<&Path>) -> Wall {
    told(directory.and_then(|at| controllers_of(at).ok()).as_ref())
}

fn told(controllers: Option<&BTreeSet<String>>) -> Wall {
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| controllers.is_none_or(|given| !given.contains(*name)))
        .collect();
    Wall {
        name: "limits".to_owned(),
        holds: missing.is_empty(),
        text: if missing.is_empty() {
            "limits of memory, processes, processors and disks are enforced where a profile or a \
             service sets them"
                .to_owned()
        } else {
            format!(
                "no cgroup v2 controllers {}: what sets a limit of theirs is not started, or with \
                 `--isolation best-effort` started without; run insulad under its systemd units",
                missing.join(", ")
            )
        },
    }
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn kill(directory: &Path) -> io::Result<()> {
    match fs::write(directory.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        killed => killed,
    }
}

/// The directories in one, by name.
fn directories(parent: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
