//! A release in a directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::{BYTES_MAX, ENTRIES_MAX, Intake, Offered};

/// Offers everything below `source`; its paths are sorted, so that reports are the same each time.
pub(super) fn read(
    source: &Path,
    intake: &mut Intake<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    let entries = list(source)?;
    let total = entries
        .iter()
        .map(|(_, meta)| if meta.is_file() { meta.len() } else { 0 })
        .sum();
    if total > BYTES_MAX {
        return Err(io::Error::other(format!(
            "{total} bytes, at most {BYTES_MAX} are taken"
        )));
    }
    // A link in the way of the source itself is the caller's business, below it nobody's.
    let top = openat2(
        AT_FDCWD,
        source,
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC),
    )?;
    let mut done = 0;
    progress(done, total);
    for (path, meta) in entries {
        let kind = meta.file_type();
        if kind.is_file() {
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
            let mut file = match openat2(&top, &path, how) {
                Ok(file) => File::from(file),
                Err(error) => {
                    intake.problem(&path, format!("cannot be opened: {}", error.desc()));
                    continue;
                }
            };
            let now = file.metadata()?;
            if !now.is_file() {
                intake.problem(&path, "changed while it was read");
                continue;
            }
            let mut content = Counted {
                inner: &mut file,
                done: &mut done,
                total,
                progress,
            };
            intake.take(
                &path,
                Offered::File {
                    mode: now.mode(),
                    content: &mut content,
                },
            )?;
        } else if kind.is_dir() {
            intake.take(&path, Offered::Directory)?;
        } else if kind.is_symlink() {
            let target = nix::fcntl::readlinkat(&top, &path)?;
            intake.take(
                &path,
                Offered::Link {
                    target: target.into(),
                },
            )?;
        } else {
            intake.take(&path, Offered::Other("a device, socket or pipe"))?;
        }
    }
    Ok(())
}

fn list(source: &Path) -> io::Result<Vec<(PathBuf, std::fs::Metadata)>> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(source.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let meta = entry.metadata()?;
            if meta.is_dir() {
                left.push(path.clone());
            }
            found.push((path, meta));
            if found.len() > ENTRIES_MAX {
                return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// A reader that tells how far it is.
pub(super) struct Counted<'a, R> {
    pub(super) inner: R,
    pub(super) done: &'a mut u64,
    pub(super) total: u64,
    pub(super) progress: &'a mut dyn FnMut(u64, u64),
}

impl<R: io::Read> io::Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read > 0 {
            *self.done += read as u64;
            (self.progress)((*self.done).min(self.total), self.total);
        }
        Ok(read)
    }
}
