//! Taking a release in: from a directory or a tarball into a directory of the depot's.
//!
//! Both sources are hostile: their owner may change them meanwhile, and an archive may say
//! anything. So every entry is checked as it is copied, nothing is opened through a link, links
//! are made only after everything else was written, and sizes are bounded. All problems are
//! collected; after the first one nothing more is written.

mod archive;
mod tree;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::content::{Contents, Entry, stays_within};
use crate::config::MANIFEST;

/// The most bytes of all files of a release.
const BYTES_MAX: u64 = 4 << 30;
/// The most entries of a release.
const ENTRIES_MAX: usize = 65_536;
/// The longest path in a release, in bytes.
const PATH_MAX: usize = 1_024;
/// The largest manifest, in bytes.
const MANIFEST_MAX: u64 = 1 << 20;
/// The most problems that are told.
const PROBLEMS_MAX: usize = 50;

/// What was taken in.
#[derive(Debug)]
pub(super) struct Taken {
    /// What a person calls it: the source's name.
    pub(super) label: String,
    /// Where the release's top is in the directory: an archive may hold one directory.
    pub(super) root: PathBuf,
    /// Everything in it, by path from its top.
    pub(super) contents: Contents,
    /// The text of its manifest, if it has one.
    pub(super) manifest: Option<String>,
    /// What is wrong with its entries.
    pub(super) problems: Vec<String>,
}

/// Copies `source` into the new directory `into`.
///
/// # Errors
/// What is wrong where it cannot even be read; other problems are in [`Taken`].
pub(super) fn take_in(
    source: &Path,
    into: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Taken, Vec<String>> {
    let name = source
        .file_name()
        .unwrap_or(source.as_os_str())
        .to_string_lossy()
        .into_owned();
    let fail = |error: io::Error| vec![format!("{}: {error}", source.display())];
    DirBuilder::new().mode(0o755).create(into).map_err(fail)?;
    fs::set_permissions(into, Permissions::from_mode(0o755)).map_err(fail)?;
    let mut intake = Intake {
        label: name,
        into,
        entries: BTreeMap::new(),
        bytes: 0,
        problems: Vec::new(),
        manifests: BTreeMap::new(),
    };
    let kind = fs::metadata(source).map_err(fail)?.file_type();
    if kind.is_dir() {
        tree::read(source, &mut intake, progress).map_err(fail)?;
    } else if kind.is_file() {
        archive::read(source, &mut intake, progress).map_err(|error| {
            let what = "neither a directory nor a .tar or .tar.gz";
            vec![format!("{}: {what}: {error}", source.display())]
        })?;
    } else {
        return Err(vec![format!(
            "{}: neither a directory nor a file",
            source.display()
        )]);
    }
    intake.finish().map_err(fail)
}

/// Something that a source offers.
enum Offered<'a> {
    Directory,
    File {
        mode: u32,
        content: &'a mut dyn Read,
    },
    Link {
        target: PathBuf,
    },
    /// Anything else, in words.
    Other(&'static str),
}

/// A release while it is taken in.
struct Intake<'a> {
    label: String,
    into: &'a Path,
    entries: BTreeMap<PathBuf, Entry>,
    bytes: u64,
    problems: Vec<String>,
    /// What may turn out to be the manifest, by path: read even after something was wrong.
    manifests: BTreeMap<PathBuf, Vec<u8>>,
}

impl Intake<'_> {
    fn problem(&mut self, path: &Path, text: impl AsRef<str>) {
        if self.problems.len() < PROBLEMS_MAX {
            let text = text.as_ref();
            self.problems
                .push(format!("{}/{}: {text}", self.label, path.display()));
        }
    }

    /// Takes one entry; an error is of the host or of the source, and ends the whole.
    fn take(&mut self, path: &Path, offered: Offered<'_>) -> io::Result<()> {
        let Some(path) = plain(path) else {
            self.problem(path, "a path that leads out of the release");
            return Ok(());
        };
        if path.as_os_str().is_empty() {
            // The top itself.
            return Ok(());
        }
        if path.as_os_str().len() > PATH_MAX {
            self.problem(&path, format!("a path longer than {PATH_MAX} bytes"));
            return Ok(());
        }
        if path.to_str().is_none() {
            self.problem(&path, "a name that is not UTF-8");
            return Ok(());
        }
        if self.entries.len() >= ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
        }
        if !self.take_parents(&path)? {
            return Ok(());
        }
        match (self.entries.get(&path), &offered) {
            (Some(Entry::Directory), Offered::Directory) => return Ok(()),
            (Some(_), _) => {
                self.problem(&path, "there twice");
                return Ok(());
            }
            (None, _) => {}
        }
        let entry = match offered {
            Offered::Directory => {
                self.make_directory(&path)?;
                Entry::Directory
            }
            Offered::Link { target } => {
                if target.to_str().is_none() {
                    self.problem(&path, "a link to a name that is not UTF-8");
                }
                Entry::Link { target }
            }
            Offered::Other(what) => {
                self.problem(
                    &path,
                    format!("{what}; a release holds files, directories, links"),
                );
                return Ok(());
            }
            Offered::File { mode, content } => {
                if mode & 0o6000 != 0 {
                    self.problem(&path, "a set-user-id or set-group-id file");
                }
                self.copy(&path, mode & 0o111 != 0, content)?
            }
        };
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Makes the directories above an entry; `false` if one of them is something else.
    fn take_parents(&mut self, path: &Path) -> io::Result<bool> {
        let mut parents: Vec<_> = path.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            match self.entries.get(parent) {
                Some(Entry::Directory) => {}
                Some(_) => {
                    self.problem(path, "lies below something that is no directory");
                    return Ok(false);
                }
                None => {
                    self.make_directory(parent)?;
                    self.entries.insert(parent.to_owned(), Entry::Directory);
                }
            }
        }
        Ok(true)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        if !self.problems.is_empty() {
            return Ok(());
        }
        let path = self.into.join(path);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))
    }

    fn copy(&mut self, path: &Path, executable: bool, content: &mut dyn Read) -> io::Result<Entry> {
        let write = self.problems.is_empty();
        let mut manifest = (path.file_name() == Some(MANIFEST.as_ref())
            && path.components().count() <= 2)
            .then(Vec::new);
        let mut digest = Sha256::new();
        let mut size = 0;
        let mut file = None;
        if write {
            let path = self.into.join(path);
            file = Some(
                File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)?,
            );
        }
        let mut buffer = vec![0; 1 << 16];
        while write || manifest.is_some() {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            size += read as u64;
            self.bytes += read as u64;
            if self.bytes > BYTES_MAX {
                return Err(io::Error::other(format!("more than {BYTES_MAX} bytes")));
            }
            digest.update(&buffer[..read]);
            if let Some(file) = &mut file {
                file.write_all(&buffer[..read])?;
            }
            if size > MANIFEST_MAX {
                manifest = None;
            }
            if let Some(manifest) = &mut manifest {
                manifest.extend_from_slice(&buffer[..read]);
            }
        }
        if let Some(file) = file {
            let mode = if executable { 0o755 } else { 0o644 };
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some(manifest) = manifest {
            self.manifests.insert(path.to_owned(), manifest);
        }
        Ok(Entry::File {
            executable,
            size,
            digest: digest.finalize().into(),
        })
    }

    /// Finds the release's top, makes its links and reads its manifest.
    fn finish(mut self) -> io::Result<Taken> {
        let root = self.root();
        let mut contents = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.entries) {
            let Ok(inner) = path.strip_prefix(&root) else {
                continue;
            };
            if inner.as_os_str().is_empty() {
                continue;
            }
            if let Entry::Link { target } = &entry {
                if stays_within(inner.parent().unwrap_or(Path::new("")), target) {
                    if self.problems.is_empty() {
                        symlink(target, self.into.join(&path))?;
                    }
                } else {
                    let text =
                        format!("a link that leads out of the release: {}", target.display());
                    self.problem(&path, text);
                }
            }
            contents.insert(inner.to_owned(), entry);
        }
        let contents = Contents(contents);
        let manifest = match self
            .manifests
            .remove(&root.join(MANIFEST))
            .map(String::from_utf8)
        {
            Some(Ok(text)) => Some(text),
            Some(Err(_)) => {
                self.problem(&root.join(MANIFEST), "not UTF-8");
                None
            }
            None => {
                if contents.0.contains_key(Path::new(MANIFEST)) {
                    let text = format!("no file of at most {MANIFEST_MAX} bytes");
                    self.problem(&root.join(MANIFEST), text);
                } else {
                    self.problem(Path::new(MANIFEST), "missing; a release has it at its top");
                }
                None
            }
        };
        Ok(Taken {
            label: self.label,
            root,
            contents,
            manifest,
            problems: self.problems,
        })
    }

    /// The top: where the manifest is, be it in the only directory.
    fn root(&self) -> PathBuf {
        if self.entries.contains_key(Path::new(MANIFEST)) {
            return PathBuf::new();
        }
        let mut tops = self
            .entries
            .keys()
            .filter(|path| path.components().count() == 1);
        match (tops.next(), tops.next()) {
            (Some(only), None) if self.entries.contains_key(&only.join(MANIFEST)) => only.clone(),
            _ => PathBuf::new(),
        }
    }
}

/// The path without `.`; `None` where it is not a plain way down.
fn plain(path: &Path) -> Option<PathBuf> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}
