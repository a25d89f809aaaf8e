//! Processes that end by themselves: commands before a start, and tasks; and places that are left
//! empty for good.

use insula_contract::id::Attempt;
use semver::Version;

use super::seats::Obstacle;
use super::{Goal, Place, Service};
use crate::event::{Record, RefusalKind, Rest};
use crate::process::{Outcome, Phase, Process};
use crate::spec::Kind;
use crate::turn::Turn;

impl Service {
    /// Launches the first of the commands before a start, or the program itself.
    pub(super) fn launch_first(
        &mut self,
        turn: &mut Turn,
        at: usize,
        version: Version,
    ) -> Result<Process, Obstacle> {
        let step = self.step_from(&version, 0);
        self.launch_process(turn, at, version, step)
    }

    fn step_from(&self, version: &Version, step: u16) -> Option<u16> {
        (usize::from(step) < self.releases[version].before_start.len()).then_some(step)
    }

    /// Whether a process ended as a command before a start should, so that what comes after it
    /// can begin.
    pub(super) fn goes_on(&self, at: usize, process: &Process, outcome: Outcome) -> bool {
        process.step.is_some()
            && outcome == Outcome::Code(0)
            && !process.dismissed
            && process.phase != Phase::Killing
            && self.goal_of(at) == Goal::Up
    }

    /// The place after a command before a start: the next command, or the program.
    pub(super) fn next_step(&mut self, turn: &mut Turn, at: usize, ended: &Process) -> Place {
        let version = ended.version.clone();
        let step = self.step_from(&version, ended.step.map_or(0, |step| step + 1));
        match self.launch_process(turn, at, version, step) {
            Ok(process) => Place::Up(process),
            // Its own slot and its seat are free again, so this does not happen unless its profile
            // asks for more by now; all of it begins anew.
            Err(Obstacle::Slot | Obstacle::Room(_)) => Place::Backoff { until: turn.now },
        }
    }

    /// Of a replacement: the next command before its start, or its program.
    pub(super) fn next_incoming(&mut self, turn: &mut Turn, at: usize, ended: &Process) {
        match self.next_step(turn, at, ended) {
            Place::Up(process) => {
                if let Some(upgrade) = &mut self.replicas[at].upgrade {
                    upgrade.incoming = process;
                }
            }
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Dormant { .. } => {
                let text = "there was no room for its next process";
                self.end_upgrade(turn, at, RefusalKind::Busy, text);
            }
        }
    }

    /// Whether a process has a line to the supervisor.
    pub(super) fn has_line(&self, attempt: Attempt) -> bool {
        self.processes()
            .find(|process| process.attempt == attempt)
            .is_some_and(|process| {
                process.step.is_none() && self.spec_of(process).kind == Kind::Native
            })
    }

    /// Whether a replica has done its task.
    pub(super) fn has_completed(&self, at: usize) -> bool {
        let spec = self.spec_at(at);
        spec.kind == Kind::Task
            && matches!(&self.replicas[at].place, Place::Exited { outcome: Outcome::Code(code) }
                if spec.expected_exit_codes.contains(code))
    }

    // ---- down for good ----

    /// Leaves a place empty until a person starts it.
    pub(super) fn rest(&mut self, turn: &mut Turn, at: usize, rest: Rest) {
        turn.records.push(Record::Rested {
            instance: self.instance(at),
            rest: Some(rest.clone()),
        });
        self.replicas[at].rested = true;
        self.replicas[at].place = at_rest(rest);
    }

    /// Takes up that a place was left empty for good.
    pub(crate) fn restore_rest(&mut self, at: usize, rest: Rest) {
        let goal = self.goal;
        if let Some(replica) = self.replicas.get_mut(at)
            && replica.place == Place::Stopped
            && (goal == Goal::Up || !matches!(rest, Rest::Dormant(_)))
        {
            replica.place = at_rest(rest);
            replica.rested = true;
        }
    }

    /// A place is filled again.
    pub(super) fn stir(&mut self, turn: &mut Turn, at: usize) {
        if std::mem::take(&mut self.replicas[at].rested) {
            turn.records.push(Record::Rested {
                instance: self.instance(at),
                rest: None,
            });
        }
    }
}

fn at_rest(rest: Rest) -> Place {
    match rest {
        Rest::Exited(outcome) => Place::Exited { outcome },
        Rest::Fatal(reason) => Place::Fatal { reason },
        Rest::Dormant(since) => Place::Dormant { since },
    }
}
