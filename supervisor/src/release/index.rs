//! The index: one small file per installed release.
//!
//! `index/NAME/VERSION` is JSON with the release's hash and checked spec. Writing it (a new file,
//! synced and renamed) is what makes a release installed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use insula_contract::id::ServiceName;
use insula_core::spec::ServiceSpec;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{DepotError, Releases, failed, sync_directory};

/// Version of an entry's form.
const FORMAT: u32 = 1;
/// How an entry is called while it is written.
const UNFINISHED: &str = ".new";

/// An installed release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Whose.
    pub name: ServiceName,
    /// Its version.
    pub version: Version,
    /// SHA-256 of its content, in hexadecimal.
    pub hash: String,
    /// Bytes of its files.
    pub size: u64,
    /// When it was installed, in seconds since 1970.
    pub installed_at: u64,
    /// Greater than that of every release that was there when it was installed.
    pub number: u64,
    /// What it says of itself.
    pub spec: ServiceSpec,
}

/// What an entry holds.
#[derive(Serialize, Deserialize)]
struct Entry<R> {
    format: u32,
    release: R,
}

fn place(index: &Path, release: &Release) -> PathBuf {
    index
        .join(release.name.as_str())
        .join(release.version.to_string())
}

/// Reads all entries; unfinished ones are removed.
pub(super) fn read(index: &Path) -> Result<Releases, DepotError> {
    let mut releases = BTreeMap::new();
    for service in list(index)? {
        for path in list(&service)? {
            if path
                .extension()
                .is_some_and(|extension| extension == &UNFINISHED[1..])
            {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                continue;
            }
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let unknown = || DepotError::Entry { path: path.clone() };
            // Only the form is looked at first: another one need not hold a release of ours.
            let entry: Entry<serde_json::Value> =
                serde_json::from_slice(&bytes).map_err(|_| unknown())?;
            if entry.format != FORMAT {
                return Err(unknown());
            }
            let release: Release = serde_json::from_value(entry.release).map_err(|_| unknown())?;
            releases.insert((release.name.clone(), release.version.clone()), release);
        }
    }
    Ok(releases)
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, DepotError> {
    let entries = fs::read_dir(directory).map_err(failed("list", directory))?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(failed("list", directory))
}

/// Writes an entry: the release is installed when this returns.
pub(super) fn write(index: &Path, release: &Release) -> Result<(), DepotError> {
    let path = place(index, release);
    let directory = index.join(release.name.as_str());
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make", &directory)(error));
        }
        _ => {}
    }
    // A version may hold dots, so the mark is put at its end.
    let unfinished = directory.join(format!("{}{UNFINISHED}", release.version));
    let write = || -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&Entry {
            format: FORMAT,
            release,
        })?;
        let mut file = File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync_directory(&directory)?;
        sync_directory(index)
    };
    write().map_err(failed("write", &path))
}

/// Removes an entry: the release is not installed any more when this returns.
pub(super) fn remove(index: &Path, release: &Release) -> Result<(), DepotError> {
    let path = place(index, release);
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    sync_directory(&index.join(release.name.as_str())).map_err(failed("sync", &path))
}
