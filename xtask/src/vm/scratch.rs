//! Directories that go when their owner does, even if it was killed.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::Failed;

/// What the names of all scratch directories end with.
const ENDING: &str = ".tmp";

/// A directory of one process, removed when this is dropped, or by the next [`sweep`].
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    // The lock says that the owner lives.
    _lock: File,
}

impl Scratch {
    /// Makes a directory of this process below `parent`.
    pub(super) fn new(parent: &Path, name: &str) -> Result<Self, Failed> {
        fs::create_dir_all(parent).map_err(Failed::file("create", parent))?;
        let path = parent.join(format!("{name}-{}{ENDING}", std::process::id()));
        fs::create_dir(&path).map_err(Failed::file("create", &path))?;
        let lock = File::open(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(Failed::file("lock", &path))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what processes left that were killed.
pub(super) fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return; // nothing was ever made
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if !path.to_string_lossy().ends_with(ENDING) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue; // its owner was faster
        };
        match file.try_lock() {
            Ok(()) => remove(&path),
            Err(TryLockError::WouldBlock) => {} // its owner lives
            Err(TryLockError::Error(error)) => {
                eprintln!("warning: cannot lock {}: {error}", path.display());
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("warning: cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let parent = std::env::temp_dir().join(format!("insula-scratch-{}", std::process::id()));
        let living = Scratch::new(&parent, "living").expect("a directory");
        let left = parent.join(format!("left{ENDING}"));
        let other = parent.join("image");
        fs::create_dir(&left).expect("a directory");
        fs::create_dir(&other).expect("a directory");
        sweep(&parent);
        assert!(living.path().exists());
        assert!(!left.exists());
        assert!(other.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
        fs::remove_dir_all(&parent).expect("the test's directory goes");
    }
}
