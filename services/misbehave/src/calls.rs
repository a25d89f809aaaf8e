//! Calls without end, and what came of them.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(5);
/// Calls whose times are kept.
const KEPT: usize = 1 << 20;

/// The times of calls since they were last asked for.
///
/// A file `mark` in the working directory asks for them, once there are as many as it says: they go
/// into the file `figures`, `mark` is removed, and the next ones are counted from there.
#[derive(Debug, Default)]
struct Figures {
    times: Vec<Duration>,
    errors: u64,
}

impl Figures {
    fn note(&mut self, took: Duration, good: bool) {
        if !good {
            self.errors += 1;
        } else if self.times.len() < KEPT {
            self.times.push(took);
        }
    }

    fn tell(&mut self) -> io::Result<()> {
        let asked = match fs::read_to_string("mark") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            asked => asked?,
        };
        let least: usize = asked.trim().parse().unwrap_or(usize::MAX);
        if self.times.len() < least {
            return Ok(());
        }
        self.times.sort_unstable();
        let at = |hundredths: usize| {
            let at = (self.times.len() * hundredths / 100).min(self.times.len().saturating_sub(1));
            self.times.get(at).copied().unwrap_or_default()
        };
        let text = format!(
            "{} calls, {} errors, p50 {:?}, p99 {:?}, longest {:?}\n",
            self.times.len(),
            self.errors,
            at(50),
            at(99),
            at(100)
        );
        fs::write("figures.new", text)?;
        fs::rename("figures.new", "figures")?;
        fs::remove_file("mark")?;
        *self = Self::default();
        Ok(())
    }
}

/// Calls for ever, and prints how it went whenever that changes.
pub(crate) fn repeat(call: impl Fn() -> Result<(), String>) {
    let mut last = String::new();
    let mut figures = Figures::default();
    loop {
        let begun = Instant::now();
        let called = call();
        figures.note(begun.elapsed(), called.is_ok());
        let now = match called {
            Ok(()) => "called".to_owned(),
            Err(error) => format!("error: {error}"),
        };
        if now != last {
            println!("{now}");
            last = now;
        }
        if let Err(error) = figures.tell() {
            println!("error: cannot tell the figures: {error}");
        }
        std::thread::sleep(PAUSE);
    }
}
