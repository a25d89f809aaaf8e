//! One instance's files: `current`, and numbered ones that it was before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use insula_core::spec::OutputSpec;
use memchr::{memchr, memrchr};

use super::queue::Target;
use super::split::{Lost, Mark, stamp};

/// The name of the file that is written to.
pub(super) const CURRENT: &str = "current";

/// The numbered files of a directory, oldest first.
pub(super) fn numbered(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A file that lines are appended to.
#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    begun: SystemTime,
}

/// The files of an instance.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: PathBuf,
    open: Option<Open>,
    lost: Lost,
    why: String,
}

impl LogFile {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            open: None,
            lost: Lost::default(),
            why: String::new(),
        }
    }

    /// Whether it is still to say that something was dropped.
    pub(super) fn owes(&self) -> bool {
        !self.lost.is_none()
    }

    /// Appends whole lines; what the disk does not take is dropped and counted.
    pub(super) fn write(&mut self, target: &Target, bytes: &[u8], lines: u64) {
        if self.owes() {
            let now = target.spec.timestamps.then(|| stamp(SystemTime::now()));
            let mark = Mark {
                stamp: now.as_deref(),
                attempt: &target.name,
                stream: "log",
            };
            let mut notice = Vec::new();
            mark.write_lost(&mut notice, self.lost, &self.why);
            if self.append(&target.spec, &notice).1.is_ok() {
                self.lost = Lost::default();
            }
        }
        let (written, result) = if self.owes() {
            (0, Ok(()))
        } else {
            self.append(&target.spec, bytes)
        };
        if let Err(error) = result {
            tracing::warn!(
                %error,
                attempt = target.name,
                directory = %self.directory.display(),
                "output cannot be written, and is dropped and counted"
            );
            self.why = error.to_string();
            // It is opened anew the next time.
            self.open = None;
        }
        let rest = &bytes[written..];
        if !rest.is_empty() {
            let kept = memchr::memchr_iter(b'\n', &bytes[..written]).count() as u64;
            self.lost.add(lines - kept, rest.len() as u64);
        }
    }

    /// How many bytes were written, always whole lines, and why not all.
    fn append(&mut self, spec: &OutputSpec, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        loop {
            match self.append_some(spec, &bytes[written..]) {
                Ok(some) => written += some,
                Err(error) => return (written, Err(error)),
            }
            if written == bytes.len() {
                return (written, Ok(()));
            }
        }
    }

    /// Writes as many lines as the file still takes, at least one.
    fn append_some(&mut self, spec: &OutputSpec, bytes: &[u8]) -> io::Result<usize> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open_current(&self.directory)?,
        };
        let first = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let old = || spec.age_max.is_some_and(|age| age < open.age());
        if open.length > 0 && (open.length + first as u64 > spec.size_max || old()) {
            rotate(&self.directory, spec)?;
            open = open_current(&self.directory)?;
        }
        let room = usize::try_from(spec.size_max.saturating_sub(open.length)).unwrap_or(usize::MAX);
        let some = if room >= bytes.len() {
            bytes.len()
        } else {
            memrchr(b'\n', &bytes[..room]).map_or(first, |at| at + 1)
        };
        if let Err(error) = open.file.write_all(&bytes[..some]) {
            // A part of a line would look like one. If even this fails, the next opening ends it.
            let _ = open.file.set_len(open.length);
            return Err(error);
        }
        open.length += some as u64;
        self.open = Some(open);
        Ok(some)
    }
}

impl Open {
    fn age(&self) -> std::time::Duration {
        self.begun.elapsed().unwrap_or_default()
    }
}

fn open_current(directory: &Path) -> io::Result<Open> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)?;
    let mut file = File::options()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o640)
        .open(directory.join(CURRENT))?;
    let about = file.metadata()?;
    let mut length = about.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        // A daemon died in the middle of a write.
        file.write_all(b"\n")?;
        length += 1;
    }
    // A file system that keeps no birth tells when it was changed last.
    let begun = about.created().or_else(|_| about.modified())?;
    Ok(Open {
        file,
        length,
        begun,
    })
}

/// Numbers the current file, and removes those that are too many or too old.
fn rotate(directory: &Path, spec: &OutputSpec) -> io::Result<()> {
    let mut files = numbered(directory)?;
    let next = files.last().map_or(1, |(number, _)| number + 1);
    let path = directory.join(format!("{next:010}"));
    fs::rename(directory.join(CURRENT), &path)?;
    files.push((next, path));
    let too_many = files
        .len()
        .saturating_sub(spec.files_max.max(1) as usize - 1);
    for (at, (_, path)) in files.iter().enumerate() {
        let age = fs::metadata(path)?
            .modified()?
            .elapsed()
            .unwrap_or_default();
        if at < too_many || spec.age_max.is_some_and(|max| age > max) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use insula_contract::id::Attempt;

    use super::*;

    fn target(directory: &Path, spec: OutputSpec) -> Target {
        Target::new(Attempt(7), directory.to_owned(), spec)
    }

    #[test]
    fn a_file_is_followed_by_another_at_its_size_and_lines_stay_whole() {
        let directory = tempfile::tempdir().unwrap();
        let spec = OutputSpec {
            size_max: 20,
            files_max: 3,
            ..OutputSpec::default()
        };
        let target = target(directory.path(), spec);
        let mut file = LogFile::new(directory.path());
        // More than a file takes, a line longer than one, and several in one piece.
        file.write(&target, b"one\ntwo\nthree\nfour\nfive\n", 5);
        file.write(&target, b"a line that is longer than any file\n", 1);
        file.write(&target, b"six\n", 1);
        let files: Vec<_> = numbered(directory.path()).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(files.len(), 2, "with the current one, three");
        assert_eq!(read(&files[0].1), "five\n");
        assert_eq!(read(&files[1].1), "a line that is longer than any file\n");
        assert_eq!(read(&directory.path().join(CURRENT)), "six\n");
        assert_eq!(files[1].0, 3, "numbers go on");
    }

    #[test]
    fn an_old_file_is_followed_by_another_and_an_older_one_removed() {
        let directory = tempfile::tempdir().unwrap();
        let spec = OutputSpec {
            age_max: Some(Duration::from_secs(3_600)),
            ..OutputSpec::default()
        };
        let target = target(directory.path(), spec);
        let ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3_600);
        for (name, hours) in [("0000000001", 5), ("0000000002", 0)] {
            let file = File::create(directory.path().join(name)).unwrap();
            file.set_modified(ago(hours)).unwrap();
        }
        let mut file = LogFile::new(directory.path());
        file.write(&target, b"young\n", 1);
        file.write(&target, b"still young\n", 1);
        assert_eq!(numbered(directory.path()).unwrap().len(), 2);
        file.open.as_mut().unwrap().begun = ago(2);
        file.write(&target, b"next\n", 1);
        let numbers: Vec<u64> = numbered(directory.path())
            .unwrap()
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(numbers, [2, 3]);
        let current = fs::read(directory.path().join(CURRENT)).unwrap();
        assert_eq!(current, b"next\n");
    }

    #[test]
    fn a_line_that_a_dead_daemon_left_unfinished_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(CURRENT), "torn").unwrap();
        let mut file = LogFile::new(directory.path());
        file.write(
            &target(directory.path(), OutputSpec::default()),
            b"whole\n",
            1,
        );
        let current = fs::read(directory.path().join(CURRENT)).unwrap();
        assert_eq!(current, b"torn\nwhole\n");
    }
}
