//! One instance of a service: what its processes say, and what follows from it.

use std::time::Duration;

use insula_contract::id::{Attempt, Epoch};
use insula_contract::line::{Leadership, ToService};
use semver::Version;

use super::seats::Obstacle;
use super::{Goal, LastEnd, Place, Replica, Role, Service};
use crate::event::{Action, Record, Refusal, RefusalKind, Rest, UpgradeStep};
use crate::process::{Outcome, Phase, Process, Said, Step};
use crate::restart::Verdict;
use crate::spec::{Kind, Readiness, RestartPolicy};
use crate::turn::Turn;

/// How long a service may take to confirm that it leads.
pub(super) const LEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A wait before a restart up to which clients keep their requests.
const HOLD_AT_MOST: Duration = Duration::from_secs(2);
/// How long to wait for a slot when all are taken by processes that leave.
const SLOT_WAIT: Duration = Duration::from_millis(100);

impl Service {
    // ---- starting ----

    /// Starts a process in an empty place.
    pub(crate) fn launch(&mut self, turn: &mut Turn, at: usize) {
        let version = self.replicas[at].version.clone();
        self.replicas[at].place = match self.launch_first(turn, at, version) {
            Ok(process) => Place::Up(process),
            Err(Obstacle::Slot) => Place::Backoff {
                until: turn.now + SLOT_WAIT,
            },
            Err(Obstacle::Room(why)) => return self.refuse_room(turn, at, why),
        };
    }

    /// Orders a launch, unless something stands in its way.
    pub(super) fn launch_process(
        &mut self,
        turn: &mut Turn,
        at: usize,
        version: Version,
        step: Option<u16>,
    ) -> Result<Process, Obstacle> {
        let slot = self.free_slot(Some(at)).ok_or(Obstacle::Slot)?;
        let attempt = turn.ids.next_attempt();
        let seat = self
            .take_seat(turn, at, &version, attempt)
            .map_err(Obstacle::Room)?;
        let ready_timeout = self.releases[&version].ready_timeout;
        let beside = matches!(self.replicas[at].place, Place::Up(_));
        self.stir(turn, at);
        turn.launches.push((self.name.clone(), attempt));
        turn.dirty.insert(self.name.clone());
        let deadline = turn.now + ready_timeout;
        let mut process = Process::launching(attempt, version, slot, turn.now, deadline);
        process.step = step;
        process.seat = seat;
        self.record_began(turn, at, &process, beside);
        Ok(process)
    }

    /// Records which attempt has a place, or is to have it.
    pub(super) fn record_began(&self, turn: &mut Turn, at: usize, process: &Process, beside: bool) {
        turn.records.push(Record::Began {
            attempt: process.attempt,
            instance: self.instance(at),
            version: process.version.clone(),
            slot: process.slot,
            step: process.step,
            beside,
            seat: turn.seats.held(process.seat),
        });
    }

    // ---- what processes say ----

    pub(super) fn hear_at(
        &mut self,
        turn: &mut Turn,
        at: usize,
        role: Role,
        attempt: Attempt,
        said: Said,
    ) {
        let process = self.process_mut(attempt).expect("the role was found");
        let step = process.hear(said);
        match role {
            Role::Current => self.current_stepped(turn, at, attempt, step),
            Role::Incoming => self.incoming_stepped(turn, at, step),
            Role::Leaving(index) => self.leaving_stepped(turn, at, index, step),
        }
    }

    fn current_stepped(&mut self, turn: &mut Turn, at: usize, attempt: Attempt, step: Step) {
        match step {
            Step::Ignored | Step::Moved | Step::Prepared => {}
            Step::Leads => self.serve(turn, at),
            Step::Yielded => self.lead_incoming(turn, at),
            Step::Drained => {
                let process = self.process_mut(attempt).expect("it is current");
                process.drained = true;
                let slot = process.slot;
                let soon = self.is_wanted_up(at);
                self.publish_left(turn, at, slot, Some(attempt), soon);
                self.signal_stop(turn, at, attempt);
            }
            Step::Late(phase) => self.late(turn, at, attempt, phase),
            Step::Gone { outcome, .. } => self.current_ended(turn, at, outcome),
        }
    }

    fn incoming_stepped(&mut self, turn: &mut Turn, at: usize, step: Step) {
        match step {
            Step::Ignored | Step::Moved | Step::Drained | Step::Yielded => {}
            Step::Prepared => self.incoming_prepared(turn, at),
            Step::Leads => self.cut_over(turn, at),
            Step::Late(phase) => {
                let text = format!("the new process was not {} in time", due(phase));
                self.abort_upgrade(turn, at, RefusalKind::AbnormalTermination, text);
            }
            Step::Gone { outcome, .. } => self.incoming_ended(turn, at, outcome),
        }
    }

    fn leaving_stepped(&mut self, turn: &mut Turn, at: usize, index: usize, step: Step) {
        let attempt = self.replicas[at].leaving[index].attempt;
        match step {
            Step::Ignored | Step::Moved | Step::Prepared | Step::Leads | Step::Yielded => {}
            Step::Drained => {
                let process = &mut self.replicas[at].leaving[index];
                process.drained = true;
                let slot = process.slot;
                // Whatever still waits there was never executed.
                self.publish_left(turn, at, slot, Some(attempt), false);
                self.signal_stop(turn, at, attempt);
            }
            Step::Late(phase) => self.late(turn, at, attempt, phase),
            Step::Gone { outcome, .. } => {
                let process = self.replicas[at].leaving.remove(index);
                self.bury(turn, at, &process, outcome);
                let drained = process.drained.then_some(attempt);
                self.publish_left(turn, at, process.slot, drained, false);
            }
        }
    }

    fn late(&mut self, turn: &mut Turn, at: usize, attempt: Attempt, phase: Phase) {
        match phase {
            Phase::Launching | Phase::Starting | Phase::Running | Phase::Leading(_) => {
                self.kill(turn, attempt, format!("it was not {} in time", due(phase)));
            }
            Phase::Yielding(_) => {
                self.kill(
                    turn,
                    attempt,
                    "it did not give up its store in time".to_owned(),
                );
            }
            Phase::Draining => self.signal_stop(turn, at, attempt),
            Phase::Stopping => {
                self.kill(
                    turn,
                    attempt,
                    "it did not end at its stop signal".to_owned(),
                );
            }
            Phase::Prepared | Phase::Ready | Phase::Killing => {}
        }
    }

    pub(super) fn kill(&mut self, turn: &mut Turn, attempt: Attempt, reason: String) {
        turn.note(&self.name, format!("attempt {attempt} is killed: {reason}"));
        if let Some(process) = self.process_mut(attempt) {
            process.blame = Some(reason);
            process.enter(Phase::Killing, None);
        }
        turn.actions.push(Action::Kill { attempt });
    }

    fn signal_stop(&mut self, turn: &mut Turn, at: usize, attempt: Attempt) {
        let deadline = turn.now + self.spec_at(at).stop_timeout;
        if let Some(process) = self.process_mut(attempt) {
            process.dismissed = true;
            process.enter(Phase::Stopping, Some(deadline));
        }
        turn.actions.push(Action::Stop { attempt });
    }

    pub(super) fn drain(&mut self, turn: &mut Turn, at: usize, attempt: Attempt) {
        if !self.has_line(attempt) {
            // Nobody can tell it to, and its stop signal most often means the same.
            self.signal_stop(turn, at, attempt);
            return;
        }
        let deadline = turn.now + self.spec_at(at).drain_timeout;
        if let Some(process) = self.process_mut(attempt) {
            process.dismissed = true;
            process.enter(Phase::Draining, Some(deadline));
        }
        turn.say(attempt, ToService::Drain);
    }

    pub(super) fn bury(&mut self, turn: &mut Turn, at: usize, process: &Process, outcome: Outcome) {
        let attempt = process.attempt;
        turn.records.push(Record::Ended { attempt });
        turn.actions.push(Action::Forget { attempt });
        turn.dirty.insert(self.name.clone());
        let reason = process.blame.clone();
        let because = reason
            .as_ref()
            .map(|r| format!(" ({r})"))
            .unwrap_or_default();
        turn.note(&self.name, format!("attempt {attempt} {outcome}{because}"));
        self.replicas[at].last_end = Some(LastEnd {
            attempt,
            outcome,
            at: turn.now,
            reason,
        });
    }

    // ---- leading and serving ----

    /// Whether an earlier process may still write the store.
    pub(super) fn writer_remains(&self, at: usize) -> bool {
        self.replicas[at].leaving.iter().any(Process::may_write)
    }

    /// Brings forward what waits for nothing any more.
    pub(super) fn settle_at(&mut self, turn: &mut Turn, at: usize) {
        if self.goal_of(at) == Goal::Down {
            self.wind_down(turn, at);
            return;
        }
        if self.replicas[at].upgrade.is_some() || self.writer_remains(at) {
            return;
        }
        let Place::Up(process) = &self.replicas[at].place else {
            return;
        };
        if process.phase != Phase::Prepared {
            return;
        }
        if self.has_store() {
            let attempt = process.attempt;
            let epoch = self.next_epoch(turn);
            let deadline = turn.now + LEAD_TIMEOUT;
            let process = self.process_mut(attempt).expect("it is current");
            process.enter(Phase::Leading(epoch), Some(deadline));
            turn.say(attempt, ToService::Lead { epoch });
        } else {
            self.serve(turn, at);
        }
    }

    pub(super) fn next_epoch(&mut self, turn: &mut Turn) -> Epoch {
        self.epoch.0 += 1;
        turn.records.push(Record::Epoch {
            service: self.name.clone(),
            epoch: self.epoch,
        });
        self.epoch
    }

    fn serve(&mut self, turn: &mut Turn, at: usize) {
        let Place::Up(process) = &mut self.replicas[at].place else {
            return;
        };
        process.enter(Phase::Ready, None);
        process
            .health
            .begin(&self.releases[&process.version], turn.now);
        let (attempt, slot) = (process.attempt, process.slot);
        self.publish_serving(turn, at, attempt, slot);
        turn.note(&self.name, format!("attempt {attempt} is ready"));
    }

    // ---- ends ----

    fn current_ended(&mut self, turn: &mut Turn, at: usize, outcome: Outcome) {
        let Place::Up(process) = std::mem::replace(&mut self.replicas[at].place, Place::Vacant)
        else {
            return;
        };
        let reason = process.blame.clone();
        self.bury(turn, at, &process, outcome);
        let drained = process.drained.then_some(process.attempt);
        if self.goes_on(at, &process, outcome) && self.replicas[at].upgrade.is_none() {
            self.replicas[at].place = self.next_step(turn, at, &process);
            return;
        }

        match self.replicas[at]
            .upgrade
            .as_ref()
            .map(|upgrade| (upgrade.step, upgrade.failed.is_some()))
        {
            Some((UpgradeStep::Starting | UpgradeStep::Finishing, _)) => {
                let text = format!("the old process {outcome} meanwhile");
                self.abort_upgrade(turn, at, RefusalKind::AbnormalTermination, text);
            }
            Some((UpgradeStep::Yielding, _)) => {
                self.publish_left(turn, at, process.slot, drained, true);
                self.lead_incoming(turn, at);
                return;
            }
            // The place is filled when the new process leads, or is gone.
            Some((UpgradeStep::Leading, _)) => {
                self.publish_left(turn, at, process.slot, drained, true);
                return;
            }
            None => {}
        }

        if self.goal_of(at) == Goal::Down {
            self.replicas[at].place = Place::Stopped;
            self.publish_left(turn, at, process.slot, drained, false);
            return;
        }
        if process.sleeps {
            self.fall_asleep(turn, at, process.slot, drained);
            return;
        }
        if process.dismissed {
            // It was stopped to be started again.
            self.replicas[at].place = Place::Backoff { until: turn.now };
            self.publish_left(turn, at, process.slot, drained, true);
            return;
        }
        let expected = matches!(outcome, Outcome::Code(code)
            if self.spec_at(at).expected_exit_codes.contains(&code));
        let again =
            match self.spec_at(at).restart {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => !expected || reason.is_some(),
                RestartPolicy::Never => false,
            } && !(expected && self.spec_at(at).kind == Kind::Task && process.step.is_none());
        if !again {
            self.rest(turn, at, Rest::Exited(outcome));
            self.publish_left(turn, at, process.slot, drained, false);
            if self.has_completed(at) {
                turn.note(&self.name, "has done its task".to_owned());
                return;
            }
            self.fail_orders(
                turn,
                RefusalKind::AbnormalTermination,
                &ended(&reason, outcome),
            );
            return;
        }
        let chance = turn.ids.next_chance();
        let limits = self.spec_at(at).restarts;
        match self.replicas[at].history.ended(
            &limits,
            process.was_ready,
            process.launched,
            turn.now,
            chance,
        ) {
            Verdict::Again(wait) => {
                let mut until = turn.now + wait;
                if self.replicas[at].history.loops() {
                    let free = turn.pace.keep(&self.name, until);
                    self.replicas[at].history.held_back(free.since(until));
                    until = free;
                }
                let soon = until.since(turn.now) <= HOLD_AT_MOST;
                self.publish_left(turn, at, process.slot, drained, soon);
                self.replicas[at].place = Place::Backoff { until };
                turn.dirty.insert(self.name.clone());
                if !process.was_ready {
                    // Whoever waits for the start is told at once; it is tried again meanwhile.
                    let text = format!("{} before it was ready", ended(&reason, outcome));
                    self.fail_orders(turn, RefusalKind::AbnormalTermination, &text);
                }
            }
            verdict @ (Verdict::CrashLoop | Verdict::NeverReady) => {
                let last = ended(&reason, outcome);
                let text = if verdict == Verdict::NeverReady {
                    format!("never ready in {} starts, last: {last}", limits.start_tries)
                } else {
                    format!(
                        "ended {} times within {} s, last: {last}",
                        limits.intensity + 1,
                        limits.window.as_secs(),
                    )
                };
                self.publish_left(turn, at, process.slot, drained, false);
                self.fail_orders(turn, RefusalKind::AbnormalTermination, &text);
                turn.note(&self.name, format!("is left down: {text}"));
                self.rest(turn, at, Rest::Fatal(text));
            }
        }
    }

    /// A launch that did not work: there was no process.
    pub(crate) fn launch_failed(&mut self, turn: &mut Turn, attempt: Attempt, reason: &str) {
        let Some((at, role)) = self.role(attempt) else {
            return;
        };
        turn.note(
            &self.name,
            format!("attempt {attempt} could not be launched: {reason}"),
        );
        turn.records.push(Record::Ended { attempt });
        turn.actions.push(Action::Forget { attempt });
        turn.dirty.insert(self.name.clone());
        match role {
            Role::Current => {
                self.publish_down(turn, at);
                self.fail_orders(turn, RefusalKind::SpawnError, reason);
                if self.goal_of(at) == Goal::Down {
                    self.replicas[at].place = Place::Stopped;
                } else {
                    self.rest(turn, at, Rest::Fatal(reason.to_owned()));
                }
            }
            Role::Incoming => self.end_upgrade(turn, at, RefusalKind::SpawnError, reason),
            Role::Leaving(index) => {
                self.replicas[at].leaving.remove(index);
            }
        }
        self.settle(turn);
    }

    pub(crate) fn fail_orders(&mut self, turn: &mut Turn, kind: RefusalKind, text: &str) {
        for (request, _) in std::mem::take(&mut self.until_ready) {
            turn.answer(
                request,
                Err(Refusal {
                    kind,
                    text: text.to_owned(),
                    serving: None,
                    hint: Some(format!("`insulactl logs {}` shows its output", self.name)),
                }),
            );
        }
    }

    // ---- stopping ----

    /// Takes everything down that is up.
    fn wind_down(&mut self, turn: &mut Turn, at: usize) {
        if let Some(upgrade) = self.replicas[at].upgrade.take() {
            turn.records.push(Record::Upgrade {
                service: self.name.clone(),
                step: None,
            });
            self.dismiss(turn, at, upgrade.incoming);
        }
        match &self.replicas[at].place {
            Place::Up(_) => self.send_away(turn, at),
            Place::Waiting { .. } | Place::Vacant | Place::Backoff { .. } => {
                self.replicas[at].place = Place::Stopped;
                self.publish_down(turn, at);
            }
            Place::Dormant { .. } => {
                self.stir(turn, at);
                self.replicas[at].place = Place::Stopped;
                self.publish_down(turn, at);
                turn.dirty.insert(self.name.clone());
            }
            // What failed stays told.
            Place::Stopped | Place::Exited { .. } | Place::Fatal { .. } => {}
        }
    }

    /// Kills a process that never came to serve.
    pub(super) fn dismiss(&mut self, turn: &mut Turn, at: usize, mut process: Process) {
        if process.phase != Phase::Killing {
            process.enter(Phase::Killing, None);
            turn.actions.push(Action::Kill {
                attempt: process.attempt,
            });
        }
        self.replicas[at].leaving.push(process);
        turn.dirty.insert(self.name.clone());
    }

    /// A process exists. One that knows nothing of Insula says no hello.
    pub(crate) fn launched(&mut self, turn: &mut Turn, attempt: Attempt) {
        self.hear(turn, attempt, Said::Launched);
        let Some(process) = self.processes().find(|process| process.attempt == attempt) else {
            return;
        };
        let ready = match &self.spec_of(process).kind {
            _ if process.step.is_some() => false,
            Kind::Foreign(readiness) => *readiness == Readiness::Started,
            Kind::Task => false,
            Kind::Native => return,
        };
        self.greeted(turn, attempt, Leadership::NotNeeded, ready);
    }

    /// Foreign programs that an earlier daemon started were looked at by that one: those that stay
    /// count as ready.
    pub(crate) fn greet_foreign(&mut self, turn: &mut Turn) {
        let adopted: Vec<_> = self
            .replicas
            .iter()
            .filter_map(Replica::current)
            .map(|process| {
                let foreign = matches!(self.spec_of(process).kind, Kind::Foreign(_));
                (process.attempt, foreign && process.step.is_none())
            })
            .collect();
        for (attempt, ready) in adopted {
            if !self.has_line(attempt) {
                self.greeted(turn, attempt, Leadership::NotNeeded, ready);
            }
        }
    }

    /// Takes in what a process says of itself on a new line.
    ///
    /// One that was ready under an earlier daemon is ready now; if it has a store it is told to
    /// lead under a new epoch, which costs it nothing.
    pub(crate) fn greeted(
        &mut self,
        turn: &mut Turn,
        attempt: Attempt,
        leadership: Leadership,
        ready: bool,
    ) {
        let Some(process) = self.process_mut(attempt) else {
            return;
        };
        process.greeted = true;
        if let Leadership::Leading(epoch) = leadership {
            self.epoch = self.epoch.max(epoch);
        }
        turn.dirty.insert(self.name.clone());
        self.hear(turn, attempt, Said::Hello);
        if ready {
            self.hear(turn, attempt, Said::Ready);
        }
    }

    /// Sends a process away whose hello does not fit.
    pub(crate) fn object(&mut self, turn: &mut Turn, attempt: Attempt, objection: &str) {
        match self.role(attempt) {
            Some((at, Role::Incoming)) => {
                self.abort_upgrade(turn, at, RefusalKind::ContractRefused, objection.to_owned());
                self.settle(turn);
            }
            Some((_, Role::Current)) => self.kill(turn, attempt, objection.to_owned()),
            Some((_, Role::Leaving(_))) | None => {}
        }
    }

    /// Drains a serving process, or sends its stop signal to one that does not serve.
    pub(crate) fn send_away(&mut self, turn: &mut Turn, at: usize) {
        let Place::Up(process) = &self.replicas[at].place else {
            return;
        };
        let attempt = process.attempt;
        match process.phase {
            Phase::Ready => {
                let slot = process.slot;
                self.publish_holding(turn, at, attempt, slot);
                self.drain(turn, at, attempt);
            }
            Phase::Launching
            | Phase::Starting
            | Phase::Running
            | Phase::Prepared
            | Phase::Leading(_)
            | Phase::Yielding(_) => self.signal_stop(turn, at, attempt),
            Phase::Draining | Phase::Stopping | Phase::Killing => {}
        }
    }
}

fn due(phase: Phase) -> &'static str {
    match phase {
        Phase::Launching | Phase::Starting => "in touch",
        Phase::Running => "ready",
        Phase::Leading(_) => "leading its store",
        Phase::Prepared
        | Phase::Ready
        | Phase::Yielding(_)
        | Phase::Draining
        | Phase::Stopping
        | Phase::Killing => "done",
    }
}

fn ended(reason: &Option<String>, outcome: Outcome) -> String {
    match reason {
        Some(reason) => format!("{reason}; it {outcome}"),
        None => format!("it {outcome}"),
    }
}
