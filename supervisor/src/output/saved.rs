//! Reading the files again: the last lines, and what comes after them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memchr::memrchr;

use super::file::{CURRENT, numbered};
use super::split::stamp;

/// The first bytes that are looked through for the last lines of a file.
const LOOK_BACK: u64 = 256 * 1024;
/// The most that is read at once of what is followed.
const PIECE_MAX: u64 = 64 * 1024;

/// Which lines are wanted. A bare line, of a service without `timestamps`, fits only where all do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    since: Option<String>,
    attempt: Option<String>,
    stderr: bool,
}

impl Filter {
    pub(crate) fn new(since: Option<SystemTime>, attempt: Option<u64>, stderr: bool) -> Self {
        Self {
            since: since.map(stamp),
            attempt: attempt.map(|attempt| attempt.to_string()),
            stderr,
        }
    }

    fn takes(&self, line: &[u8]) -> bool {
        if self.since.is_none() && self.attempt.is_none() && !self.stderr {
            return true;
        }
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let (Some(stamp), Some(attempt), Some(stream)) = (words.next(), words.next(), words.next())
        else {
            return false;
        };
        // Stamps are of one length, so they are in the order of their text.
        self.since
            .as_ref()
            .is_none_or(|since| stamp >= since.as_bytes())
            && self
                .attempt
                .as_ref()
                .is_none_or(|wanted| attempt == wanted.as_bytes())
            && (!self.stderr || stream.starts_with(b"err"))
    }
}

/// An instance's files as they were at one time.
#[derive(Debug)]
pub(crate) struct Saved {
    directory: PathBuf,
    /// Oldest first.
    files: Vec<(File, u64)>,
}

impl Saved {
    /// Opens them all.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        loop {
            let current = open_current(directory)?;
            let mut files = Vec::new();
            let older = numbered(directory)?;
            for (_, path) in &older {
                match File::open(path) {
                    Ok(file) => files.push(file),
                    // It became too old meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some(current) = current {
                // One that was numbered meanwhile would be there twice, and its successor missing.
                if !is_current(directory, &current)? {
                    continue;
                }
                files.push(current);
            }
            let files = files
                .into_iter()
                .map(|file| Ok((whole_lines(&file)?, file)))
                .map(|found: io::Result<_>| found.map(|(length, file)| (file, length)))
                .collect::<io::Result<_>>()?;
            return Ok(Self {
                directory: directory.to_owned(),
                files,
            });
        }
    }

    /// The last lines that fit, each with its end.
    pub(crate) fn last(&self, count: usize, filter: &Filter) -> io::Result<VecDeque<Vec<u8>>> {
        let mut lines = VecDeque::new();
        for (file, length) in self.files.iter().rev() {
            let missing = count - lines.len();
            if missing == 0 {
                break;
            }
            let mut older = last_of(file, *length, missing, filter)?;
            older.append(&mut lines);
            lines = older;
        }
        Ok(lines)
    }

    /// What is written after this.
    pub(crate) fn follow(mut self, filter: Filter) -> Follow {
        Follow {
            directory: self.directory,
            at: self.files.pop(),
            partial: Vec::new(),
            filter,
        }
    }
}

fn last_of(
    mut file: &File,
    length: u64,
    count: usize,
    filter: &Filter,
) -> io::Result<VecDeque<Vec<u8>>> {
    let mut back = LOOK_BACK;
    loop {
        let from = length.saturating_sub(back);
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::new(file.take(length - from));
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        let mut line = Vec::new();
        if from > 0 {
            // The middle of one.
            reader.read_until(b'\n', &mut line)?;
            line.clear();
        }
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') && filter.takes(&line) {
                if lines.len() == count {
                    lines.pop_front();
                }
                lines.push_back(std::mem::take(&mut line));
            }
            line.clear();
        }
        if lines.len() == count || from == 0 {
            return Ok(lines);
        }
        back = back.saturating_mul(16);
    }
}

/// The length of a file without a line that is being written.
fn whole_lines(mut file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(PIECE_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(length - from).read_to_end(&mut end)?;
    let whole = memrchr(b'\n', &end).map_or(0, |at| at + 1);
    Ok(from + whole as u64)
}

fn open_current(directory: &Path) -> io::Result<Option<File>> {
    match File::open(directory.join(CURRENT)) {
        Ok(file) => Ok(Some(file)),
        // Between two files, or before the first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_current(directory: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match std::fs::metadata(directory.join(CURRENT)) {
        Ok(current) => Ok((current.dev(), current.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A place in an instance's lines that moves on with them, from file to file.
#[derive(Debug)]
pub(crate) struct Follow {
    directory: PathBuf,
    /// The file, and how much of it was read.
    at: Option<(File, u64)>,
    /// A line that is being written.
    partial: Vec<u8>,
    filter: Filter,
}

impl Follow {
    /// A place before the first line.
    pub(crate) fn begin(directory: &Path, filter: Filter) -> Self {
        Self {
            directory: directory.to_owned(),
            at: None,
            partial: Vec::new(),
            filter,
        }
    }

    /// The lines that came, each with its end; none where there is nothing new.
    pub(crate) fn more(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        loop {
            if self.at.is_none() {
                self.at = open_current(&self.directory)?.map(|file| (file, 0));
            }
            let Some((file, _)) = &self.at else {
                return Ok(lines);
            };
            // Asked before it is read: one that is not current any more is complete.
            let current = is_current(&self.directory, file)?;
            let read = self.read(&mut lines)?;
            if read == 0 && !current {
                let next = self.next()?;
                if next.is_none() {
                    return Ok(lines);
                }
                self.at = next;
            } else if read < PIECE_MAX && current || lines.len() > 1_000 {
                return Ok(lines);
            }
        }
    }

    fn read(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<u64> {
        let Some((file, at)) = &mut self.at else {
            return Ok(0);
        };
        file.seek(SeekFrom::Start(*at))?;
        let start = self.partial.len();
        let read = file.take(PIECE_MAX).read_to_end(&mut self.partial)?;
        *at += read as u64;
        let Some(end) = self.partial[start..].iter().rposition(|b| *b == b'\n') else {
            return Ok(read as u64);
        };
        let rest = self.partial.split_off(start + end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        lines.extend(
            whole
                .split_inclusive(|byte| *byte == b'\n')
                .filter(|line| self.filter.takes(line))
                .map(<[u8]>::to_vec),
        );
        Ok(read as u64)
    }

    /// The file that came after the one that was read; `None` where it is not there yet.
    fn next(&self) -> io::Result<Option<(File, u64)>> {
        let own = match &self.at {
            Some((file, _)) => Some(file.metadata()?.ino()),
            None => None,
        };
        let files = numbered(&self.directory)?;
        let mut later = Vec::new();
        for (_, path) in files.iter().rev() {
            match File::open(path) {
                Ok(file) if Some(file.metadata()?.ino()) == own => break,
                Ok(file) => later.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Where its own is gone, the oldest that is left is the next.
        Ok(match later.pop() {
            Some(file) => Some((file, 0)),
            None => open_current(&self.directory)?.map(|file| (file, 0)),
        })
    }
}

/// The last of several instances' lines in the order of their times, each with its instance.
pub(crate) fn newest(of: Vec<(String, VecDeque<Vec<u8>>)>, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = of
        .into_iter()
        .flat_map(|(name, lines)| lines.into_iter().map(move |line| (name.clone(), line)))
        .collect();
    // A stable order: lines of one instance stay as they are.
    all.sort_by(|(_, a), (_, b)| a[..a.len().min(27)].cmp(&b[..b.len().min(27)]));
    all.drain(..all.len().saturating_sub(count));
    all
}
