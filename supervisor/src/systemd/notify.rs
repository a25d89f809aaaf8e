//! What the daemon tells systemd of itself, as sd_notify(3) has it.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The text of `STATUS` is sent this often at most.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The daemon's unit; one that nobody watches is told nothing and asks for no turns.
#[derive(Debug)]
pub struct Unit {
    watched: bool,
    /// How often the daemon shows that it turns: half of what its watchdog allows.
    beat: Option<Duration>,
    beaten: Instant,
    /// Whether something happened since the last status.
    changed: bool,
    said: Instant,
    status: String,
}

impl Unit {
    /// Reads what systemd left in the environment.
    pub fn from_environment() -> Self {
        let watched = std::env::var_os("NOTIFY_SOCKET").is_some();
        let mut allowed = 0;
        let guarded = watched && sd_notify::watchdog_enabled(false, &mut allowed);
        let now = Instant::now();
        Self {
            watched,
            beat: guarded.then(|| Duration::from_micros(allowed) / 2),
            beaten: now,
            changed: false,
            said: now,
            status: String::new(),
        }
    }

    /// Whether systemd listens.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// Says that the daemon is ready, at first or again.
    pub fn ready(&mut self) {
        self.changed = true;
        self.tell(&[NotifyState::Ready]);
    }

    /// Says that it reads its files again. systemd tells by the time which `READY` belongs to it.
    pub fn reloading(&self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else {
            return;
        };
        self.tell(&[NotifyState::Reloading, now]);
    }

    /// Says that it is about to end.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Notes that something happened, so that the status may be another one.
    pub fn note(&mut self) {
        self.changed |= self.watched;
    }

    /// When the next word is due.
    pub fn next(&self) -> Option<Instant> {
        let beat = self.beat.map(|beat| self.beaten + beat);
        let status = self.changed.then(|| self.said + STATUS_EVERY);
        beat.into_iter().chain(status).min()
    }

    /// Shows, in a turn of the loop, that the loop turns, and says how the daemon is.
    pub fn turn(&mut self, now: Instant, status: impl FnOnce() -> String) {
        if self.beat.is_some_and(|beat| now >= self.beaten + beat) {
            self.beaten = now;
            self.tell(&[NotifyState::Watchdog]);
        }
        if self.changed && now >= self.said + STATUS_EVERY {
            self.changed = false;
            self.said = now;
            let status = status();
            if status != self.status {
                self.tell(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }

    fn tell(&self, words: &[NotifyState<'_>]) {
        if !self.watched {
            return;
        }
        if let Err(error) = sd_notify::notify(false, words) {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(beat: Option<Duration>) -> Unit {
        let now = Instant::now();
        Unit {
            watched: true,
            beat,
            beaten: now,
            changed: false,
            said: now,
            status: String::new(),
        }
    }

    #[test]
    fn one_that_nobody_watches_asks_for_no_turns() {
        let mut unit = unit(None);
        unit.watched = false;
        unit.note();
        assert_eq!(unit.next(), None);
    }

    #[test]
    fn the_status_is_asked_for_once_after_something_happened() {
        let mut unit = unit(None);
        assert_eq!(unit.next(), None);
        unit.note();
        let due = unit.next().unwrap();
        unit.turn(due - Duration::from_millis(1), || panic!("too early"));
        unit.watched = false;
        unit.turn(due, || "all is well".to_owned());
        assert_eq!((unit.status.as_str(), unit.next()), ("all is well", None));
        unit.turn(due + STATUS_EVERY, || panic!("nothing happened"));
    }

    #[test]
    fn a_turn_beats_only_when_it_is_due() {
        let beat = Duration::from_secs(5);
        let mut unit = unit(Some(beat));
        unit.watched = false;
        let first = unit.next().unwrap();
        unit.turn(first - Duration::from_secs(1), String::new);
        assert_eq!(unit.next(), Some(first));
        unit.turn(first, String::new);
        assert_eq!(unit.next(), Some(first + beat));
    }
}
