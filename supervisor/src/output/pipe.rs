//! FIFOs: made for a process, and found again.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_contract::id::Attempt;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;

use super::Stream;

/// What a pipe holds unless it is told otherwise, of a process that may exceed its user's quota of
/// pipes.
const USUAL: i32 = 64 << 10;

/// Where the FIFO of an attempt's stream lies.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    pub(super) attempt: Attempt,
    pub(super) stream: Stream,
}

impl Place {
    pub(super) fn new(directory: &Path, attempt: Attempt, stream: Stream) -> Self {
        Self {
            directory: directory.to_owned(),
            attempt,
            stream,
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        let name = format!("{}.{}", self.attempt, self.stream.name());
        self.directory.join(name)
    }

    /// Makes it: our end, which does not block, and the end of a process of user `uid`.
    pub(super) fn make(&self, uid: Option<u32>, size: u64) -> io::Result<(File, OwnedFd)> {
        let path = self.path();
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if let Some(uid) = uid {
            // Only for who opens /dev/stderr again: the directory lets nobody else in.
            std::os::unix::fs::lchown(&path, Some(uid), None)?;
        }
        let ours = self.open()?;
        // Open for reading too: see the module's text.
        let theirs = File::options().read(true).write(true).open(&path)?;
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        // A host that gives no such pipe gives one of the usual size.
        if size != USUAL
            && let Err(error) = fcntl(&theirs, FcntlArg::F_SETPIPE_SZ(size))
        {
            tracing::debug!(%error, size, "a pipe keeps the usual size");
        }
        Ok((ours, theirs.into()))
    }

    /// Opens our end.
    pub(super) fn reopen(&self) -> io::Result<File> {
        let file = self.open()?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no FIFO"));
        }
        Ok(file)
    }

    fn open(&self) -> io::Result<File> {
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(self.path())
    }

    /// Takes its name away.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(self.path()) {
            tracing::debug!(%error, attempt = %self.attempt, "a pipe was not there any more");
        }
    }
}

/// The directory of all of them, for the daemon only.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes all but those of some attempts.
pub(super) fn clear_but(directory: &Path, keep: impl Fn(Attempt) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.split_once('.')?.0.parse().ok());
        if !number.is_some_and(|number| keep(Attempt(number))) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
