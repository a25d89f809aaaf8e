//! The depot: where installed releases lie, and how they get there.
//!
//! A release is an immutable directory under the hash of its content (`content`): nothing runs
//! from anywhere else, and nothing changes it. Installing has two steps, so that the loop can
//! look at a release before it counts:
//!
//! ```text
//! stage   copy into staging, checking every entry; hash; check the manifest; share equal files;
//!         sync
//! commit  rename to its hash; write its index entry (the moment from which it is installed)
//! ```
//!
//! Everything is checked on the copy: whoever owns the source cannot exchange a file after it was
//! looked at. Nothing of a release is executed. What an interruption leaves (staging, a directory
//! without an index entry) is removed when the depot is opened.

mod content;
mod index;
mod intake;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use insula_contract::id::ServiceName;
use insula_core::spec::ServiceSpec;
use semver::Version;
use thiserror::Error;

pub use index::Release;

use crate::config::{Facts, MANIFEST, Profiles, Subject, check_manifest};
use crate::paths::Paths;

/// Where copies lie until they are committed, below the depot.
const STAGING: &str = "staging";
/// Where index entries lie, below the depot.
const INDEX: &str = "index";

/// Why the depot cannot be used.
#[derive(Debug, Error)]
pub enum DepotError {
    /// A file or directory of the depot.
    #[error("cannot {what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An index entry that this version does not understand.
    #[error("{path} is no index entry of this version")]
    Entry {
        /// The entry.
        path: PathBuf,
    },
    /// The version is there with other content.
    #[error(
        "{name} {version} is installed with other content: {installed} there, {offered} offered; a \
         version is installed once, so give the new content a new version"
    )]
    OtherContent {
        /// Whose release.
        name: ServiceName,
        /// Its version.
        version: Version,
        /// The hash that is there.
        installed: String,
        /// The hash that was offered.
        offered: String,
    },
}

/// An error and its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DepotError + 'a {
    move |source| DepotError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

type Releases = BTreeMap<(ServiceName, Version), Release>;

/// The installed releases; clones are the same depot.
#[derive(Debug, Clone)]
pub struct Depot {
    directory: PathBuf,
    releases: Arc<Mutex<Releases>>,
    /// Numbers the staging directories of this process.
    next: Arc<AtomicU64>,
}

/// A checked copy that does not count yet; its files go when it is dropped.
#[derive(Debug)]
pub struct Staged {
    directory: PathBuf,
    release: PathBuf,
    hash: String,
    size: u64,
    spec: ServiceSpec,
}

impl Staged {
    /// What the release says of itself.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What stays is removed when the depot is opened next.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A release that counts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// SHA-256 of its content, in hexadecimal.
    pub hash: String,
    /// Whether it was there before, with the same content.
    pub already: bool,
}

impl Depot {
    /// Opens the depot, making it if it is not there, and clears what was left half done.
    ///
    /// # Errors
    /// A directory cannot be made or read, or an index entry is not understood.
    pub fn open(paths: &Paths) -> Result<Self, DepotError> {
        Self::open_at(paths.lib().join("depot"))
    }

    fn open_at(directory: PathBuf) -> Result<Self, DepotError> {
        let staging = directory.join(STAGING);
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clear", &staging)(error));
            }
            _ => {}
        }
        // Services pass through to their releases; only the daemon lists them.
        for (path, mode) in [
            (directory.clone(), 0o711),
            (staging, 0o700),
            (directory.join(INDEX), 0o700),
            (share::directory(&directory), 0o700),
        ] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path);
            made.map_err(failed("make", &path))?;
            let set = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
            set.map_err(failed("set the mode of", &path))?;
        }
        let releases = index::read(&directory.join(INDEX))?;
        let depot = Self {
            directory,
            releases: Arc::new(Mutex::new(releases)),
            next: Arc::new(AtomicU64::new(0)),
        };
        depot.sweep()?;
        Ok(depot)
    }

    /// Removes content that no index entry names.
    fn sweep(&self) -> Result<(), DepotError> {
        let known: BTreeSet<String> = self
            .lock()
            .values()
            .map(|release| release.hash.clone())
            .collect();
        let entries = fs::read_dir(&self.directory).map_err(failed("list", &self.directory))?;
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if content::is_hash(&name) && !known.contains(&name) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        self.sweep_files()
    }

    /// Removes shared files that are in no release any more.
    fn sweep_files(&self) -> Result<(), DepotError> {
        let files = share::directory(&self.directory);
        share::sweep(&files).map_err(failed("clear", &files))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Releases> {
        // The map is whole between its operations, whoever panicked.
        self.releases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies and checks the release in a directory, a `.tar` or a `.tar.gz`.
    ///
    /// `progress` is told the bytes done and in all. May take long: not for the loop.
    ///
    /// # Errors
    /// Everything that is wrong with the release, a text of one or more lines each.
    pub fn stage(
        &self,
        source: &Path,
        profiles: &Profiles,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Staged, Vec<String>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(STAGING).join(number.to_string());
        let one = |error: DepotError| vec![with_causes(&error)];
        fs::create_dir(&directory)
            .map_err(failed("make", &directory))
            .map_err(one)?;
        // From here on everything that goes wrong removes the directory.
        let mut staged = StagedFiles {
            directory: Some(directory.clone()),
        };
        let taken = intake::take_in(source, &directory.join("release"), progress)?;
        let release = directory.join("release").join(&taken.root);
        let file = format!("{}/{MANIFEST}", taken.label);
        let Some(text) = taken.manifest else {
            return Err(taken.problems);
        };
        let contents = taken.contents;
        let program = |name: &str| contents.why_no_program(name);
        let spec = check_manifest(
            &file,
            &text,
            &Facts {
                subject: Subject::Release,
                profiles,
                program: &program,
            },
        );
        let mut problems = taken.problems;
        let spec = match spec {
            Ok(spec) if problems.is_empty() => spec,
            Ok(_) => return Err(problems),
            Err(found) => {
                problems.extend(found.iter().map(ToString::to_string));
                return Err(problems);
            }
        };
        let hash = contents.hash();
        self.check_content(&spec, &hash).map_err(one)?;
        // Before the sync: what another release may share from now on is as whole as this one.
        let files = share::directory(&self.directory);
        share::share(&release, &contents, &files, &directory.join("shared"))
            .map_err(failed("share the files of", &release))
            .map_err(one)?;
        sync_tree(&release)
            .map_err(failed("sync", &release))
            .map_err(one)?;
        staged.directory = None;
        Ok(Staged {
            directory,
            release,
            hash,
            size: contents.size(),
            spec,
        })
    }

    /// Whether this version is there, with this content.
    fn check_content(&self, spec: &ServiceSpec, hash: &str) -> Result<bool, DepotError> {
        match self.lock().get(&(spec.name.clone(), spec.version.clone())) {
            None => Ok(false),
            Some(there) if there.hash == hash => Ok(true),
            Some(there) => Err(DepotError::OtherContent {
                name: there.name.clone(),
                version: there.version.clone(),
                installed: there.hash.clone(),
                offered: hash.to_owned(),
            }),
        }
    }

    /// Makes a staged release count.
    ///
    /// # Errors
    /// The version is there with other content, or the depot cannot be written.
    pub fn commit(&self, staged: Staged) -> Result<Installed, DepotError> {
        let key = (staged.spec.name.clone(), staged.spec.version.clone());
        // Only the loop commits, so that nothing comes between this look and the entry below.
        if self.check_content(&staged.spec, &staged.hash)? {
            return Ok(Installed {
                hash: staged.hash.clone(),
                already: true,
            });
        }
        let mut releases = self.lock();
        let place = self.directory.join(&staged.hash);
        // A commit that failed may have left it; no entry names it.
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clear", &place)(error));
            }
            _ => {}
        }
        fs::rename(&staged.release, &place).map_err(failed("move a release to", &place))?;
        sync_directory(&self.directory).map_err(failed("sync", &self.directory))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let release = Release {
            name: key.0.clone(),
            version: key.1.clone(),
            hash: staged.hash.clone(),
            size: staged.size,
            installed_at: now.map_or(0, |since| since.as_secs()),
            number: releases
                .values()
                .map(|release| release.number + 1)
                .max()
                .unwrap_or(0),
            spec: staged.spec.clone(),
        };
        index::write(&self.directory.join(INDEX), &release)?;
        releases.insert(key, release);
        Ok(Installed {
            hash: staged.hash.clone(),
            already: false,
        })
    }

    /// Removes a release that nothing uses; whether it was there. The caller knows who uses what.
    ///
    /// # Errors
    /// The depot cannot be written.
    pub fn remove(&self, name: &ServiceName, version: &Version) -> Result<bool, DepotError> {
        let mut releases = self.lock();
        let Some(release) = releases.get(&(name.clone(), version.clone())) else {
            return Ok(false);
        };
        let place = self.directory.join(&release.hash);
        index::remove(&self.directory.join(INDEX), release)?;
        releases.remove(&(name.clone(), version.clone()));
        fs::remove_dir_all(&place).map_err(failed("remove", &place))?;
        self.sweep_files()?;
        Ok(true)
    }

    /// The installed releases by name, then version.
    pub fn releases(&self) -> Vec<Release> {
        self.lock().values().cloned().collect()
    }

    /// What the installed releases say of themselves, in the order of their installation.
    pub fn specs(&self) -> Vec<ServiceSpec> {
        let mut releases = self.releases();
        releases.sort_by_key(|release| release.number);
        releases.into_iter().map(|release| release.spec).collect()
    }

    /// Why a file of an installed release cannot be run; `None` if it can.
    pub fn why_no_program(
        &self,
        name: &ServiceName,
        version: &Version,
        program: &str,
    ) -> Option<String> {
        let Some(release) = self.directory(name, version) else {
            return Some(format!("{name} {version} is not installed"));
        };
        let plain = Path::new(program)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain || program.is_empty() {
            return Some(format!("`{program}` is no path from the release's top"));
        }
        match fs::symlink_metadata(release.join(program)) {
            Ok(found) if !found.is_file() => Some(format!("`{program}` is no file")),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                Some(format!("`{program}` is not executable"))
            }
            Ok(_) => None,
            Err(_) => Some(format!("the release has no file `{program}`")),
        }
    }

    /// Where an installed release lies.
    pub fn directory(&self, name: &ServiceName, version: &Version) -> Option<PathBuf> {
        let releases = self.lock();
        let release = releases.get(&(name.clone(), version.clone()))?;
        Some(self.directory.join(&release.hash))
    }
}

/// A staging directory that goes unless it is taken over.
struct StagedFiles {
    directory: Option<PathBuf>,
}

impl Drop for StagedFiles {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // What stays is removed when the depot is opened next.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Syncs the file system that holds a tree: one call, however many files it has.
fn sync_tree(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(path)?)?)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
