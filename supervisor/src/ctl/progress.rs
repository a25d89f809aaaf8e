//! A progress line on anything that takes over a second.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// One line on standard error: rewritten in place on a terminal, every five seconds elsewhere.
pub(super) struct Progress {
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            shown: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Whether it is time to show something.
    pub(super) fn is_due(&self) -> bool {
        let every = Duration::from_millis(if self.terminal { 200 } else { 5_000 });
        let wait = self.shown.map_or(Duration::from_secs(1), |_| every);
        self.shown.unwrap_or(self.started).elapsed() >= wait
    }

    /// Shows `text` if it is time to.
    pub(super) fn show(&mut self, text: &str) {
        if !self.is_due() {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs();
        let mut stderr = std::io::stderr().lock();
        // A progress line that cannot be written is not worth failing for.
        let _ = if self.terminal {
            write!(stderr, "\r\x1b[K{text} ({seconds} s)")
        } else {
            writeln!(stderr, "{text} ({seconds} s)")
        };
        let _ = stderr.flush();
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K");
            let _ = stderr.flush();
        }
    }
}
