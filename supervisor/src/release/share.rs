//! Equal files of releases are one file: they lie in memory once, however many services run them.
//!
//! The depot's `files` holds a name for each distinct file, by its hash and whether it is
//! executable; a release's file is another name of the same inode. Nothing is counted: a file whose
//! only name is the one in `files` belongs to no release. Releases are never changed, and all files
//! have the same owner, so nobody can tell a shared file from one of his own but by its number of
//! names. Where a file system has no second names, copies stay copies.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::content::{Contents, Entry};

/// Smaller files are not worth a name.
const SIZE_MIN: u64 = 4096;

/// Makes the files of a release at `release` the same as equal ones, by the directory `files`.
///
/// `beside` is a name in the same file system that nothing has. What is new in `files` may be lost
/// with the power until the caller syncs the file system.
///
/// # Errors
/// The file system fails otherwise than by having no second names.
pub(super) fn share(
    release: &Path,
    contents: &Contents,
    files: &Path,
    beside: &Path,
) -> io::Result<()> {
    for (path, entry) in &contents.0 {
        if let Entry::File {
            executable,
            size,
            digest,
        } = entry
            && *size >= SIZE_MIN
        {
            let known = files.join(name(digest, *executable));
            if !share_one(&release.join(path), *size, &known, beside)? {
                break;
            }
        }
    }
    Ok(())
}

fn name(digest: &[u8; 32], executable: bool) -> String {
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}-{}", if executable { 'x' } else { 'f' })
}

/// Makes `own` another name of `known`, or `known` one of `own`; whether the file system can.
fn share_one(own: &Path, size: u64, known: &Path, beside: &Path) -> io::Result<bool> {
    match fs::metadata(known) {
        Ok(found) if found.len() == size => match fs::hard_link(known, beside) {
            Ok(()) => {
                fs::rename(beside, own)?;
                return Ok(true);
            }
            Err(error) if cannot(&error) => return Ok(false),
            // It went, or has as many names as it can: this one is the known one from now on.
            Err(error) if is(&error, &[libc::ENOENT, libc::EMLINK]) => {}
            Err(error) => return Err(error),
        },
        // Not what it is known for: nobody but a disk that lost something did that.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match fs::remove_file(known) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::hard_link(own, known) {
        Ok(()) => Ok(true),
        // Another release that is taken in was as fast.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(error) if cannot(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is(error: &io::Error, numbers: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|it| numbers.contains(&it))
}

/// Whether the file system has no second names.
fn cannot(error: &io::Error) -> bool {
    is(
        error,
        &[libc::EPERM, libc::EXDEV, libc::EOPNOTSUPP, libc::ENOSYS],
    )
}

/// Removes what belongs to no release.
///
/// # Errors
/// The directory cannot be read, or a file not be removed.
pub(super) fn sweep(files: &Path) -> io::Result<()> {
    for entry in fs::read_dir(files)? {
        let entry = entry?;
        if entry.metadata()?.nlink() == 1 {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The directory of shared files of a depot.
pub(super) fn directory(depot: &Path) -> PathBuf {
    depot.join("files")
}
