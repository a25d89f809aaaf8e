//! Which builds of LMDB and the C library have an environment open.
//!
//! Two builds that disagree on the layout of a lock can hang in each other's, without an error. So
//! the build is written in a file of its own and compared before any lock of LMDB is touched. Each
//! process holds a shared lock on that file for as long as it lives; where the build differs, the
//! file is rewritten by a process that gets it exclusively: nobody else has the environment open.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use super::StoreError;

/// The file's name beside the environment's own.
const FILE: &str = "build";
/// Processes that open it at once hold the file for a moment each.
const TRIES: u32 = 50;
const AGAIN: Duration = Duration::from_millis(2);

/// The C library and LMDB of this process.
pub(super) fn ours() -> String {
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "glibc"
    };
    let lmdb = heed::lmdb_version();
    format!(
        "{libc} {} lmdb {}.{}.{}",
        std::env::consts::ARCH,
        lmdb.major,
        lmdb.minor,
        lmdb.patch
    )
}

/// Holds an environment for a build; dropping it lets go.
#[derive(Debug)]
pub(super) struct Claim {
    _file: File,
}

/// Claims the environment in a directory.
///
/// # Errors
/// [`StoreError::OtherBuild`] while a process of another build has it.
pub(super) fn claim(directory: &Path, ours: &str) -> Result<Claim, StoreError> {
    let failed = StoreError::Directory;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(FILE))
        .map_err(failed)?;
    let mut found = String::new();
    for _ in 0..TRIES {
        file.lock_shared().map_err(failed)?;
        found = read(&mut file).map_err(failed)?;
        if found == ours {
            return Ok(Claim { _file: file });
        }
        file.unlock().map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                write(&mut file, ours).map_err(failed)?;
                file.unlock().map_err(failed)?;
            }
            // Another build has it, or a process that looks at the file just as this one does.
            Err(TryLockError::WouldBlock) => std::thread::sleep(AGAIN),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(StoreError::OtherBuild {
        found,
        ours: ours.to_owned(),
    })
}

fn read(file: &mut File) -> std::io::Result<String> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(4096).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write(file: &mut File, text: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_do_not_have_an_environment_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = claim(directory.path(), "glibc").unwrap();
        let second = claim(directory.path(), "glibc").unwrap();
        for held in [first, second] {
            let refused = claim(directory.path(), "musl").unwrap_err();
            assert!(
                matches!(&refused, StoreError::OtherBuild { found, .. } if found == "glibc"),
                "{refused}"
            );
            drop(held);
        }
        let _other = claim(directory.path(), "musl").unwrap();
        assert!(claim(directory.path(), "glibc").is_err());
    }
}
