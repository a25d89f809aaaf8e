//! Ending early: by a signal, or by a line on the standard input; and the marks that come there.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};

/// Exit status after a second interrupt, which does not wait for anything.
const INTERRUPTED: i32 = 130;

/// Whether to stop; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    signalled: Arc<AtomicBool>,
}

impl Stop {
    /// Stops at SIGINT and SIGTERM, and exits at a second one. To be called before any thread is
    /// made: the signals are blocked in all of them but one.
    pub(crate) fn at_signals() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let stop = Self::default();
        let mut told = stop.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while signals.wait().is_ok() {
                    told.signal();
                }
            })?;
        Ok(stop)
    }

    fn signal(&mut self) {
        if self.signalled.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        self.now();
    }

    /// Stops.
    pub(crate) fn now(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// The flag that says so.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Whether a signal has ended it.
    pub(crate) fn was_signalled(&self) -> bool {
        self.signalled.load(Ordering::Relaxed)
    }
}

/// Marks kept; later ones are dropped with a warning.
const MARKS_MAX: usize = 10_000;

/// A moment that somebody outside named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its name.
    pub name: String,
    /// When its line was read.
    pub at: Instant,
}

/// The marks so far; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    marks: Arc<Mutex<Vec<Mark>>>,
}

/// A line of the standard input.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Mark(&'a str),
    Stop,
    Empty,
    Unknown,
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    match line.split_once(char::is_whitespace) {
        Some(("mark", name)) => Line::Mark(name.trim()),
        None if line == "stop" => Line::Stop,
        None if line.is_empty() => Line::Empty,
        Some(_) | None => Line::Unknown,
    }
}

impl Marks {
    /// Reads `mark NAME` and `stop` lines from the standard input until it ends.
    pub(crate) fn from_stdin(stop: Stop) -> io::Result<Self> {
        let marks = Self::default();
        let into = marks.clone();
        thread::Builder::new()
            .name("marks".to_owned())
            .spawn(move || {
                for line in io::stdin().lock().lines().map_while(Result::ok) {
                    into.take(&line, &stop, Instant::now());
                }
            })?;
        Ok(marks)
    }

    fn take(&self, line: &str, stop: &Stop, now: Instant) {
        match parse(line) {
            Line::Mark(name) => {
                let mut marks = self.lock();
                if marks.len() < MARKS_MAX {
                    marks.push(Mark {
                        name: name.to_owned(),
                        at: now,
                    });
                } else {
                    eprintln!("warning: mark `{name}` is dropped: {MARKS_MAX} are known already");
                }
            }
            Line::Stop => stop.now(),
            Line::Empty => {}
            Line::Unknown => {
                eprintln!("warning: `{line}` is neither `mark NAME` nor `stop`");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The marks so far, in their order.
    pub(crate) fn list(&self) -> Vec<Mark> {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_marks_and_stop() {
        let (marks, stop) = (Marks::default(), Stop::default());
        let now = Instant::now();
        for line in ["mark upgrade 1.1.0", "", "nonsense", "mark", "marks x"] {
            marks.take(line, &stop, now);
        }
        assert!(!stop.flag().load(Ordering::Relaxed));
        marks.take(" stop ", &stop, now);
        assert!(stop.flag().load(Ordering::Relaxed));
        assert!(!stop.was_signalled());
        let upgrade = Mark {
            name: "upgrade 1.1.0".to_owned(),
            at: now,
        };
        assert_eq!(marks.list(), [upgrade]);
    }
}
