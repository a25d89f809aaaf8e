//! One attempt: a process from its launch to its end.
//!
//! ```text
//! Launching -> Starting -> Running -> Prepared -> Leading -> Ready -> Yielding -> Prepared
//!     |            |          |           \___________________^ |         |          |
//!     |            |          |        (no store: no Leading)   v         v          v
//!     |            +----------+------------------------------> Draining -> Stopping -> Killing
//!     v                                                            (gone at `Exited` from each)
//!   gone
//! ```
//!
//! The machine knows one process only. What its steps mean for the service, its routes and its
//! place is decided in [`crate::service`]. A word that does not fit the phase changes nothing and
//! is answered [`Step::Ignored`]: a process may say what it likes.

use insula_contract::id::{Attempt, Epoch};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::time::Time;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it.
    Unknown,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Unknown => f.write_str("ended unseen"),
        }
    }
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its launch was ordered.
    Launching,
    /// It exists and has not yet said hello.
    Starting,
    /// It said hello and is not ready.
    Running,
    /// It could work, but does not write its store or is not on a route.
    Prepared,
    /// It was told to lead and has not confirmed.
    Leading(Epoch),
    /// It is on its routes.
    Ready,
    /// It was told to yield and has not confirmed.
    Yielding(Epoch),
    /// It was told to drain and has not confirmed.
    Draining,
    /// It was sent its stop signal.
    Stopping,
    /// It was sent KILL.
    Killing,
}

/// What a process, or the world about it, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It exists.
    Launched,
    /// Hello on its line.
    Hello,
    /// Ready on its line.
    Ready,
    /// It leads under this epoch.
    Leading(Epoch),
    /// It wrote its last under this epoch.
    Yielded(Epoch),
    /// It has answered everything.
    Drained,
    /// The phase's deadline passed.
    Late,
    /// It is no more.
    Exited(Outcome),
}

/// What that meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing: it does not fit the phase.
    Ignored,
    /// The next phase began; nobody else is concerned.
    Moved,
    /// It can work from now on.
    Prepared,
    /// It writes the store from now on.
    Leads,
    /// It writes the store no more.
    Yielded,
    /// It owes no answer any more.
    Drained,
    /// It did not do in time what this phase is about.
    Late(Phase),
    /// It is gone; `from` is where it was.
    Gone {
        /// The phase that it ended in.
        from: Phase,
        /// How it ended.
        outcome: Outcome,
    },
}

/// A process in an instance's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub attempt: Attempt,
    /// Which release it runs.
    pub version: Version,
    /// Its slot in edge pages.
    pub slot: u8,
    /// Where it is.
    pub phase: Phase,
    /// When the phase is late.
    pub deadline: Option<Time>,
    /// When its launch was ordered.
    pub launched: Time,
    /// Its process id, for people only.
    pub pid: Option<i32>,
    /// Which of the commands before the start it runs; `None` for the program itself.
    pub step: Option<u16>,
    /// The number of its instance's seat, where the host is known.
    pub seat: Option<u64>,
    /// Whether it does its work, once it is on its routes.
    pub health: Box<Health>,
    /// Whether hello was said on the present line.
    pub greeted: bool,
    /// Whether it owes no answer: it drained, or yielded, and was not put on a route since.
    pub drained: bool,
    /// Whether it was ever on its routes.
    pub was_ready: bool,
    /// Whether it was ever told to lead its store.
    pub led: bool,
    /// Whether the supervisor told it to go; its end then says nothing about it.
    pub dismissed: bool,
    /// Whether it was told to go since nobody uses it: its place is dormant then.
    pub sleeps: bool,
    /// Why it is killed, or ended, where the supervisor knows it.
    pub blame: Option<String>,
}

impl Process {
    /// A process whose launch is being ordered, to be ready by `deadline`.
    pub fn launching(
        attempt: Attempt,
        version: Version,
        slot: u8,
        now: Time,
        deadline: Time,
    ) -> Self {
        Self {
            attempt,
            version,
            slot,
            phase: Phase::Launching,
            deadline: Some(deadline),
            launched: now,
            pid: None,
            step: None,
            seat: None,
            health: Box::default(),
            greeted: false,
            drained: false,
            was_ready: false,
            led: false,
            dismissed: false,
            sleeps: false,
            blame: None,
        }
    }

    /// Takes in what was said and tells what it meant.
    pub fn hear(&mut self, said: Said) -> Step {
        let step = transition(self.phase, said);
        match step {
            (Some(phase), step) => {
                self.enter(phase, None);
                step
            }
            (None, step) => step,
        }
    }

    /// Orders the next phase, to be done by `deadline`.
    pub fn enter(&mut self, phase: Phase, deadline: Option<Time>) {
        let still_starting = matches!(
            (self.phase, phase),
            (Phase::Launching, Phase::Starting)
                | (Phase::Launching | Phase::Starting, Phase::Running)
        );
        if !still_starting {
            self.deadline = deadline;
        }
        match phase {
            Phase::Ready => {
                self.drained = false;
                self.was_ready = true;
            }
            Phase::Leading(_) => {
                self.drained = false;
                self.led = true;
            }
            Phase::Prepared if matches!(self.phase, Phase::Yielding(_)) => self.drained = true,
            Phase::Launching
            | Phase::Starting
            | Phase::Running
            | Phase::Prepared
            | Phase::Yielding(_)
            | Phase::Draining
            | Phase::Stopping
            | Phase::Killing => {}
        }
        self.phase = phase;
    }

    /// When something about it is late, or due.
    pub fn next_deadline(&self) -> Option<Time> {
        let health = match self.phase {
            Phase::Ready => self.health.next_deadline(),
            Phase::Launching
            | Phase::Starting
            | Phase::Running
            | Phase::Prepared
            | Phase::Leading(_)
            | Phase::Yielding(_)
            | Phase::Draining
            | Phase::Stopping
            | Phase::Killing => None,
        };
        self.deadline.into_iter().chain(health).min()
    }

    /// Whether it may still write its store.
    pub fn may_write(&self) -> bool {
        self.led && !self.drained
    }

    /// Whether it exists or is about to, and was not told to go.
    pub fn is_staying(&self) -> bool {
        match self.phase {
            Phase::Launching
            | Phase::Starting
            | Phase::Running
            | Phase::Prepared
            | Phase::Leading(_)
            | Phase::Ready
            | Phase::Yielding(_) => true,
            Phase::Draining | Phase::Stopping | Phase::Killing => false,
        }
    }
}

/// The table: the next phase, if it changes, and what it means.
fn transition(phase: Phase, said: Said) -> (Option<Phase>, Step) {
    use Phase as P;
    use Said as S;
    match (phase, said) {
        (P::Launching, S::Launched) => (Some(P::Starting), Step::Moved),
        // A hello can overtake the word that the process exists.
        (P::Launching | P::Starting, S::Hello) => (Some(P::Running), Step::Moved),
        (P::Running, S::Ready) => (Some(P::Prepared), Step::Prepared),
        (P::Leading(ordered), S::Leading(said)) if ordered == said => {
            (Some(P::Prepared), Step::Leads)
        }
        (P::Yielding(ordered), S::Yielded(said)) if ordered == said => {
            (Some(P::Prepared), Step::Yielded)
        }
        (P::Draining, S::Drained) => (None, Step::Drained),
        // A hello after the first is a new line: whoever keeps lines cares, the phase does not.
        (
            P::Running
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Draining
            | P::Stopping
            | P::Killing,
            S::Hello,
        ) => (None, Step::Ignored),
        (
            P::Starting
            | P::Running
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Draining
            | P::Stopping
            | P::Killing,
            S::Launched,
        ) => (None, Step::Ignored),
        (
            P::Launching
            | P::Starting
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Draining
            | P::Stopping
            | P::Killing,
            S::Ready,
        ) => (None, Step::Ignored),
        (
            P::Launching
            | P::Starting
            | P::Running
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Draining
            | P::Stopping
            | P::Killing,
            S::Leading(_) | S::Yielded(_),
        ) => (None, Step::Ignored),
        (
            P::Launching
            | P::Starting
            | P::Running
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Stopping
            | P::Killing,
            S::Drained,
        ) => (None, Step::Ignored),
        (
            P::Launching
            | P::Starting
            | P::Running
            | P::Leading(_)
            | P::Yielding(_)
            | P::Draining
            | P::Stopping,
            S::Late,
        ) => (None, Step::Late(phase)),
        // These phases may last.
        (P::Prepared | P::Ready | P::Killing, S::Late) => (None, Step::Ignored),
        (
            P::Launching
            | P::Starting
            | P::Running
            | P::Prepared
            | P::Leading(_)
            | P::Ready
            | P::Yielding(_)
            | P::Draining
            | P::Stopping
            | P::Killing,
            S::Exited(outcome),
        ) => (
            None,
            Step::Gone {
                from: phase,
                outcome,
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Epoch = Epoch(7);
    const PHASES: [Phase; 10] = [
        Phase::Launching,
        Phase::Starting,
        Phase::Running,
        Phase::Prepared,
        Phase::Leading(E),
        Phase::Ready,
        Phase::Yielding(E),
        Phase::Draining,
        Phase::Stopping,
        Phase::Killing,
    ];
    const WORDS: [Said; 8] = [
        Said::Launched,
        Said::Hello,
        Said::Ready,
        Said::Leading(E),
        Said::Yielded(E),
        Said::Drained,
        Said::Late,
        Said::Exited(Outcome::Code(1)),
    ];

    /// Every pair of phase and word, written out: `.` ignored, `>` moved, `P` prepared, `L` leads,
    /// `Y` yielded, `D` drained, `!` late, `x` gone; then the phase afterwards.
    const TABLE: &str = "
        Launching > Starting | > Running | . Launching | . Launching | . Launching | . Launching | ! Launching | x Launching
        Starting  . Starting | > Running | . Starting  | . Starting  | . Starting  | . Starting  | ! Starting  | x Starting
        Running   . Running  | . Running | P Prepared  | . Running   | . Running   | . Running   | ! Running   | x Running
        Prepared  . Prepared | . Prepared | . Prepared | . Prepared  | . Prepared  | . Prepared  | . Prepared  | x Prepared
        Leading   . Leading  | . Leading | . Leading   | L Prepared  | . Leading   | . Leading   | ! Leading   | x Leading
        Ready     . Ready    | . Ready   | . Ready     | . Ready     | . Ready     | . Ready     | . Ready     | x Ready
        Yielding  . Yielding | . Yielding | . Yielding | . Yielding  | Y Prepared  | . Yielding  | ! Yielding  | x Yielding
        Draining  . Draining | . Draining | . Draining | . Draining  | . Draining  | D Draining  | ! Draining  | x Draining
        Stopping  . Stopping | . Stopping | . Stopping | . Stopping  | . Stopping  | . Stopping  | ! Stopping  | x Stopping
        Killing   . Killing  | . Killing | . Killing   | . Killing   | . Killing   | . Killing   | . Killing   | x Killing
    ";

    fn name(phase: Phase) -> String {
        format!("{phase:?}").split('(').next().unwrap().to_owned()
    }

    fn mark(step: Step) -> char {
        match step {
            Step::Ignored => '.',
            Step::Moved => '>',
            Step::Prepared => 'P',
            Step::Leads => 'L',
            Step::Yielded => 'Y',
            Step::Drained => 'D',
            Step::Late(_) => '!',
            Step::Gone { .. } => 'x',
        }
    }

    #[test]
    fn every_phase_hears_every_word_as_the_table_says() {
        let rows: Vec<_> = TABLE
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        assert_eq!(rows.len(), PHASES.len());
        for (phase, row) in PHASES.into_iter().zip(rows) {
            let (label, cells) = row.split_once(char::is_whitespace).unwrap();
            assert_eq!(label, name(phase));
            let cells: Vec<_> = cells.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), WORDS.len());
            for (said, cell) in WORDS.into_iter().zip(cells) {
                let mut process =
                    Process::launching(Attempt(1), Version::new(1, 0, 0), 0, Time(0), Time(9));
                process.phase = phase;
                let step = process.hear(said);
                let seen = format!("{} {}", mark(step), name(process.phase));
                assert_eq!(seen, cell, "{phase:?} hears {said:?}");
            }
        }
    }

    #[test]
    fn a_word_about_another_epoch_is_ignored() {
        let mut process =
            Process::launching(Attempt(1), Version::new(1, 0, 0), 0, Time(0), Time(9));
        process.phase = Phase::Leading(Epoch(3));
        assert_eq!(process.hear(Said::Leading(Epoch(2))), Step::Ignored);
        assert_eq!(process.hear(Said::Leading(Epoch(3))), Step::Leads);
        process.phase = Phase::Yielding(Epoch(3));
        assert_eq!(process.hear(Said::Yielded(Epoch(4))), Step::Ignored);
        assert_eq!(process.hear(Said::Yielded(Epoch(3))), Step::Yielded);
    }

    #[test]
    fn the_time_to_be_ready_runs_from_the_launch() {
        let mut process =
            Process::launching(Attempt(1), Version::new(1, 0, 0), 0, Time(0), Time(9));
        let _ = process.hear(Said::Launched);
        let _ = process.hear(Said::Hello);
        assert_eq!(
            (process.phase, process.deadline),
            (Phase::Running, Some(Time(9)))
        );
        let _ = process.hear(Said::Ready);
        assert_eq!((process.phase, process.deadline), (Phase::Prepared, None));
    }

    #[test]
    fn only_one_who_yielded_and_got_no_route_since_owes_nothing() {
        let mut process =
            Process::launching(Attempt(1), Version::new(1, 0, 0), 0, Time(0), Time(9));
        process.enter(Phase::Yielding(E), None);
        let _ = process.hear(Said::Yielded(E));
        assert!(process.drained);
        process.enter(Phase::Ready, None);
        assert!(!process.drained);
    }
}
