//! What the host's administrator wrote: `profiles.toml`, and `services/NAME.toml` for each service
//! that is to be otherwise than its release says, or that has no release at all.
//!
//! What holds is kept beside the ledger ([`Applied`]), so that a daemon that starts while a file is
//! broken, or was changed meanwhile, knows what its processes were started with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use insula_contract::id::ServiceName;
use insula_core::spec::ServiceSpec;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{Facts, Profiles, Subject, check_manifest};

/// The texts of the host's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFiles {
    /// `profiles.toml`.
    pub profiles: String,
    /// `services/NAME.toml`.
    pub services: BTreeMap<ServiceName, String>,
}

/// What holds: the files as they were taken in, and what they made of services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The files.
    pub files: HostFiles,
    /// Releases that are otherwise than they say, and services without a release.
    pub specs: Vec<ServiceSpec>,
    /// Of the latter, those whose file is gone and who may still run.
    pub retired: BTreeSet<ServiceName>,
}

impl Applied {
    /// Reads what held last; nothing if nothing did.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Keeps this as what holds: wholly, or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Puts what holds over what releases say of themselves.
    pub fn over(&self, releases: Vec<ServiceSpec>) -> Vec<ServiceSpec> {
        let mut all = releases;
        for spec in &self.specs {
            let same =
                |other: &&mut ServiceSpec| other.name == spec.name && other.version == spec.version;
            match all.iter_mut().find(same) {
                Some(place) => *place = spec.clone(),
                None => all.push(spec.clone()),
            }
        }
        all
    }
}

/// What the host's files and the installed releases come to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The profiles.
    pub profiles: Profiles,
    /// The installed releases, as the host wants them, and what it defines itself.
    pub specs: BTreeMap<(ServiceName, Version), ServiceSpec>,
    /// Services without a release.
    pub defined: BTreeSet<ServiceName>,
}

impl HostFiles {
    /// Reads what lies in the configuration directory.
    ///
    /// # Errors
    /// A file that cannot be read, or whose name is not that of a service; all of them.
    pub fn read(etc: &Path) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut files = Self::default();
        let mut read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                problems.push(format!("{}: cannot be read: {error}", path.display()));
                String::new()
            }
        };
        files.profiles = read(&etc.join("profiles.toml"));
        let directory = etc.join("services");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let mut names = Vec::new();
        match entries {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.path();
                    let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                    if hidden || path.extension().is_none_or(|end| end != "toml") {
                        continue;
                    }
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                    let text = read(&path);
                    names.push((path.clone(), stem.parse::<ServiceName>(), text));
                }
            }
            Err(error) => {
                problems.push(format!(
                    "{}: cannot be listed: {error}",
                    directory.display()
                ));
            }
        }
        for (path, name, text) in names {
            match name {
                Ok(name) => {
                    files.services.insert(name, text);
                }
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        if problems.is_empty() {
            Ok(files)
        } else {
            problems.sort();
            Err(problems)
        }
    }

    /// What this comes to with these releases.
    ///
    /// # Errors
    /// Everything that is wrong in the files, a text of one or more lines each.
    pub fn resolve(&self, etc: &Path, releases: &[Installed<'_>]) -> Result<Wanted, Vec<String>> {
        let file = etc.join("profiles.toml");
        let profiles = match Profiles::of_text(&file, &self.profiles) {
            Ok(profiles) => profiles,
            Err(error) => return Err(vec![error.to_string()]),
        };
        let mut problems = Vec::new();
        let mut wanted = Wanted {
            profiles,
            specs: BTreeMap::new(),
            defined: BTreeSet::new(),
        };
        let mut released = BTreeSet::new();
        for Installed { spec, program } in releases {
            released.insert(&spec.name);
            let key = (spec.name.clone(), spec.version.clone());
            let Some(text) = self.services.get(&spec.name) else {
                wanted.specs.insert(key, (*spec).clone());
                continue;
            };
            let subject = Subject::Override(spec);
            match check(etc, &spec.name, text, subject, &wanted.profiles, program) {
                Ok(spec) => {
                    wanted.specs.insert(key, spec);
                }
                Err(found) => problems.extend(found),
            }
        }
        let nothing = |_: &str| None;
        for (name, text) in &self.services {
            if released.contains(name) {
                continue;
            }
            let subject = Subject::Defined(name);
            match check(etc, name, text, subject, &wanted.profiles, &nothing) {
                Ok(spec) => {
                    let key = (spec.name.clone(), spec.version.clone());
                    wanted.specs.insert(key, spec);
                    wanted.defined.insert(name.clone());
                }
                Err(found) => problems.extend(found),
            }
        }
        // Several releases of a service have the same mistake in one file.
        problems.dedup();
        if problems.is_empty() {
            Ok(wanted)
        } else {
            Err(problems)
        }
    }
}

/// Why a file cannot be run; `None` if it can.
pub type WhyNot<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// An installed release, and why a file of it cannot be run.
pub struct Installed<'a> {
    /// What it says of itself.
    pub spec: &'a ServiceSpec,
    /// As [`Facts::program`].
    pub program: Box<WhyNot<'a>>,
}

fn check(
    etc: &Path,
    name: &ServiceName,
    text: &str,
    subject: Subject<'_>,
    profiles: &Profiles,
    program: &dyn Fn(&str) -> Option<String>,
) -> Result<ServiceSpec, Vec<String>> {
    let file = etc.join("services").join(format!("{name}.toml"));
    let facts = Facts {
        subject,
        profiles,
        program,
    };
    check_manifest(&file.to_string_lossy(), text, &facts)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}
