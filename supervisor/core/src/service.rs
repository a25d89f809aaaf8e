//! One service: its place, its upgrade, those of its processes that are leaving.
//!
//! ```text
//!            start                    ready                  stop, drained, ended
//! Stopped ---------> Up(Launching) ---------> Up(Ready) --------------------------> Stopped
//!    |                  |   ^                    |
//!    | a contract is    |   |  the wait is over  | ended, to be started again
//!    v not served       v   |                    v
//! Waiting ----------> (ended early) --------> Backoff --too often--> Fatal     Exited (not to be)
//! ```
//!
//! An upgrade puts a second process beside the place ([`Upgrade::incoming`]); at the cut-over it
//! takes the place, and the old one joins [`Service::leaving`]. Of a service with a store at most
//! one process leads; a next leader is told so only when every earlier one has yielded or is gone.

mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, Epoch, Instance, ServiceName};
use insula_contract::line::{Leadership, ToService};
use insula_contract::route::{RouteState, Target};
use semver::Version;

use crate::event::{Action, Done, Record, Refusal, RefusalKind, RequestId, UpgradeStep};
use crate::process::{Outcome, Phase, Process, Said, Step};
use crate::restart::{RestartHistory, Verdict};
use crate::spec::{RestartPolicy, ServiceSpec};
use crate::time::Time;
use crate::turn::Turn;

/// How long a service may take to confirm that it leads.
const LEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A wait before a restart up to which clients keep their requests.
const HOLD_AT_MOST: Duration = Duration::from_secs(2);

/// What is wanted of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It should run.
    Up,
    /// It should not.
    Down,
}

/// What is in an instance's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing, as wanted.
    Stopped,
    /// Nothing: a contract that it requires is not served.
    Waiting {
        /// Which.
        on: Vec<ContractId>,
        /// When those who wait for the start are told that it may be in vain; a provider that
        /// is started by the same command is given this long.
        tell_at: Option<Time>,
    },
    /// A process.
    Up(Process),
    /// Nothing: the old release is gone and the new one takes the store.
    Vacant,
    /// Nothing until this time.
    Backoff {
        /// When to start again.
        until: Time,
    },
    /// Nothing: it ended, and its policy says that this is the end.
    Exited {
        /// How it ended.
        outcome: Outcome,
    },
    /// Nothing, until a person starts it.
    Fatal {
        /// Why.
        reason: String,
    },
}

/// Why one process is replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// To run another release.
    Upgrade,
    /// To run a fresh process of the same.
    Restart,
}

/// A replacement under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The release that serves.
    pub from: Version,
    /// The release that shall.
    pub to: Version,
    /// How far it is.
    pub step: UpgradeStep,
    /// Why.
    pub why: Why,
    /// The new process.
    pub incoming: Process,
    /// Who waits for it.
    pub request: Option<RequestId>,
    /// Set when it failed after the new process may have led: it is killed, and the old release
    /// leads again once it is gone.
    pub failed: Option<String>,
}

/// A route of this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its index in the table.
    pub index: u32,
    /// What was published last.
    pub target: Target,
}

/// How the last process ended, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastEnd {
    /// Which attempt.
    pub attempt: Attempt,
    /// How.
    pub outcome: Outcome,
    /// When.
    pub at: Time,
    /// What the supervisor knows about the reason.
    pub reason: Option<String>,
}

/// A service and all that is decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its user id, where services have one of their own.
    pub uid: Option<u32>,
    /// Its installed releases.
    pub releases: BTreeMap<Version, ServiceSpec>,
    /// The release that serves or would.
    pub active: Version,
    /// The one that did before.
    pub previous: Option<Version>,
    /// What is wanted.
    pub goal: Goal,
    /// What is there.
    pub place: Place,
    /// A replacement under way.
    pub upgrade: Option<Upgrade>,
    /// Processes that are to end.
    pub leaving: Vec<Process>,
    /// The newest epoch that was handed out for its store.
    pub epoch: Epoch,
    /// Its restarts.
    pub history: RestartHistory,
    /// Its routes.
    pub routes: BTreeMap<ContractId, Route>,
    /// How the last process ended.
    pub last_end: Option<LastEnd>,
    /// Orders that wait for it to be ready, with what to answer then.
    pub until_ready: Vec<(RequestId, Done)>,
    /// Orders that wait for it to be down.
    pub until_stopped: Vec<RequestId>,
}

/// Which of a service's processes an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Current,
    Incoming,
    Leaving(usize),
}

impl Service {
    pub(crate) fn new(spec: ServiceSpec, uid: Option<u32>) -> Self {
        Self {
            name: spec.name.clone(),
            uid,
            active: spec.version.clone(),
            releases: BTreeMap::from([(spec.version.clone(), spec)]),
            previous: None,
            goal: Goal::Down,
            place: Place::Stopped,
            upgrade: None,
            leaving: Vec::new(),
            epoch: Epoch(0),
            history: RestartHistory::default(),
            routes: BTreeMap::new(),
            last_end: None,
            until_ready: Vec::new(),
            until_stopped: Vec::new(),
        }
    }

    /// The release that serves or would.
    pub fn spec(&self) -> &ServiceSpec {
        &self.releases[&self.active]
    }

    /// The release that a process runs.
    pub fn spec_of(&self, process: &Process) -> &ServiceSpec {
        &self.releases[&process.version]
    }

    /// The process in the place.
    pub fn current(&self) -> Option<&Process> {
        match &self.place {
            Place::Up(process) => Some(process),
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => None,
        }
    }

    /// All its processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.current()
            .into_iter()
            .chain(self.upgrade.iter().map(|upgrade| &upgrade.incoming))
            .chain(&self.leaving)
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        let current = match &mut self.place {
            Place::Up(process) => Some(process),
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. } => None,
        };
        current
            .into_iter()
            .chain(self.upgrade.iter_mut().map(|upgrade| &mut upgrade.incoming))
            .chain(&mut self.leaving)
    }

    pub(crate) fn process_mut(&mut self, attempt: Attempt) -> Option<&mut Process> {
        self.processes_mut()
            .find(|process| process.attempt == attempt)
    }

    /// Whether its process is on its routes.
    pub fn is_ready(&self) -> bool {
        self.current()
            .is_some_and(|process| process.phase == Phase::Ready)
    }

    /// Whether requests for one of its contracts are served now.
    pub fn is_served(&self, contract: &ContractId) -> bool {
        self.routes
            .get(contract)
            .is_some_and(|route| route.target.state == RouteState::Serve)
    }

    /// Whether it has a store that one process at a time writes.
    pub fn has_store(&self) -> bool {
        self.spec().data.is_some()
    }

    fn role(&self, attempt: Attempt) -> Option<Role> {
        if self
            .current()
            .is_some_and(|process| process.attempt == attempt)
        {
            Some(Role::Current)
        } else if self
            .upgrade
            .as_ref()
            .is_some_and(|u| u.incoming.attempt == attempt)
        {
            Some(Role::Incoming)
        } else {
            self.leaving
                .iter()
                .position(|p| p.attempt == attempt)
                .map(Role::Leaving)
        }
    }

    /// When something is late, or due.
    pub fn next_deadline(&self) -> Option<Time> {
        let waits = match &self.place {
            Place::Backoff { until } => Some(*until),
            Place::Waiting { tell_at, .. } => *tell_at,
            Place::Stopped
            | Place::Up(_)
            | Place::Vacant
            | Place::Exited { .. }
            | Place::Fatal { .. } => None,
        };
        self.processes()
            .filter_map(|process| process.deadline)
            .chain(waits)
            .min()
    }

    // ---- routes ----

    fn publish(&mut self, turn: &mut Turn, target: Target, drained: Option<Attempt>) {
        for route in self.routes.values_mut() {
            if route.target != target || drained.is_some() {
                route.target = target;
                turn.actions.push(Action::Publish {
                    route: route.index,
                    target,
                    drained,
                });
            }
        }
        turn.dirty.insert(self.name.clone());
    }

    fn publish_state(&mut self, turn: &mut Turn, state: RouteState, drained: Option<Attempt>) {
        let Some(route) = self.routes.values().next() else {
            return;
        };
        let target = Target {
            state,
            ..route.target
        };
        self.publish(turn, target, drained);
    }

    // ---- starting ----

    pub(crate) fn launch(&mut self, turn: &mut Turn) {
        let process = self.launch_process(turn, self.active.clone());
        self.place = Place::Up(process);
    }

    fn launch_process(&mut self, turn: &mut Turn, version: Version) -> Process {
        let attempt = turn.ids.next_attempt();
        let used: BTreeSet<u8> = self.processes().map(|process| process.slot).collect();
        let slot = (0..u8::MAX)
            .find(|slot| !used.contains(slot))
            .expect("few processes");
        let ready_timeout = self.releases[&version].ready_timeout;
        turn.records.push(Record::Began {
            attempt,
            instance: self.instance(),
            version: version.clone(),
            slot,
        });
        turn.launches.push((self.name.clone(), attempt));
        turn.dirty.insert(self.name.clone());
        Process::launching(attempt, version, slot, turn.now, turn.now + ready_timeout)
    }

    /// The only place of this service.
    pub fn instance(&self) -> Instance {
        Instance {
            service: self.name.clone(),
            index: 0,
        }
    }

    // ---- what processes say ----

    pub(crate) fn hear(&mut self, turn: &mut Turn, attempt: Attempt, said: Said) {
        let Some(role) = self.role(attempt) else {
            return;
        };
        let process = self.process_mut(attempt).expect("the role was found");
        let step = process.hear(said);
        match role {
            Role::Current => self.current_stepped(turn, attempt, step),
            Role::Incoming => self.incoming_stepped(turn, step),
            Role::Leaving(index) => self.leaving_stepped(turn, index, step),
        }
        self.settle(turn);
    }

    fn current_stepped(&mut self, turn: &mut Turn, attempt: Attempt, step: Step) {
        match step {
            Step::Ignored | Step::Moved | Step::Prepared => {}
            Step::Leads => self.serve(turn),
            Step::Yielded => self.lead_incoming(turn),
            Step::Drained => {
                let process = self.process_mut(attempt).expect("it is current");
                process.drained = true;
                let state = match self.goal {
                    Goal::Up => RouteState::Hold,
                    Goal::Down => RouteState::Gone,
                };
                self.publish_state(turn, state, Some(attempt));
                self.signal_stop(turn, attempt);
            }
            Step::Late(phase) => self.late(turn, attempt, phase),
            Step::Gone { outcome, .. } => self.current_ended(turn, outcome),
        }
    }

    fn incoming_stepped(&mut self, turn: &mut Turn, step: Step) {
        match step {
            Step::Ignored | Step::Moved | Step::Drained | Step::Yielded => {}
            Step::Prepared => self.incoming_prepared(turn),
            Step::Leads => self.cut_over(turn),
            Step::Late(phase) => {
                let text = format!("the new process was not {} in time", due(phase));
                self.abort_upgrade(turn, RefusalKind::AbnormalTermination, text);
            }
            Step::Gone { outcome, .. } => self.incoming_ended(turn, outcome),
        }
    }

    fn leaving_stepped(&mut self, turn: &mut Turn, index: usize, step: Step) {
        let attempt = self.leaving[index].attempt;
        match step {
            Step::Ignored | Step::Moved | Step::Prepared | Step::Leads | Step::Yielded => {}
            Step::Drained => {
                self.leaving[index].drained = true;
                if let Some(route) = self.routes.values().next() {
                    // Those who still wait for its answers may ask the new one.
                    self.publish(turn, route.target, Some(attempt));
                }
                self.signal_stop(turn, attempt);
            }
            Step::Late(phase) => self.late(turn, attempt, phase),
            Step::Gone { outcome, .. } => {
                let process = self.leaving.remove(index);
                self.bury(turn, &process, outcome);
                if let Some(route) = self.routes.values().next() {
                    // Wakes those who wait for an answer that will not come.
                    self.publish(turn, route.target, None);
                    self.touch_routes(turn);
                }
            }
        }
    }

    /// Publishes the targets once more, so that waiting clients look again.
    fn touch_routes(&mut self, turn: &mut Turn) {
        for route in self.routes.values() {
            let target = route.target;
            turn.actions.push(Action::Publish {
                route: route.index,
                target,
                drained: None,
            });
        }
    }

    fn late(&mut self, turn: &mut Turn, attempt: Attempt, phase: Phase) {
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
            Phase::Draining => self.signal_stop(turn, attempt),
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

    fn kill(&mut self, turn: &mut Turn, attempt: Attempt, reason: String) {
        turn.note(&self.name, format!("attempt {attempt} is killed: {reason}"));
        if let Some(process) = self.process_mut(attempt) {
            process.blame = Some(reason);
            process.enter(Phase::Killing, None);
        }
        turn.actions.push(Action::Kill { attempt });
    }

    fn signal_stop(&mut self, turn: &mut Turn, attempt: Attempt) {
        let deadline = turn.now + self.spec().stop_timeout;
        if let Some(process) = self.process_mut(attempt) {
            process.dismissed = true;
            process.enter(Phase::Stopping, Some(deadline));
        }
        turn.actions.push(Action::Stop { attempt });
    }

    fn drain(&mut self, turn: &mut Turn, attempt: Attempt) {
        let deadline = turn.now + self.spec().drain_timeout;
        if let Some(process) = self.process_mut(attempt) {
            process.dismissed = true;
            process.enter(Phase::Draining, Some(deadline));
        }
        turn.say(attempt, ToService::Drain);
    }

    fn bury(&mut self, turn: &mut Turn, process: &Process, outcome: Outcome) {
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
        self.last_end = Some(LastEnd {
            attempt,
            outcome,
            at: turn.now,
            reason,
        });
    }

    // ---- leading and serving ----

    /// Whether an earlier process may still write the store.
    fn writer_remains(&self) -> bool {
        self.leaving.iter().any(Process::may_write)
    }

    /// Brings forward what waits for nothing any more.
    pub(crate) fn settle(&mut self, turn: &mut Turn) {
        if self.goal == Goal::Down {
            self.wind_down(turn);
            return;
        }
        if self.upgrade.is_some() || self.writer_remains() {
            return;
        }
        let Place::Up(process) = &self.place else {
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
            self.serve(turn);
        }
    }

    fn next_epoch(&mut self, turn: &mut Turn) -> Epoch {
        self.epoch.0 += 1;
        turn.records.push(Record::Epoch {
            service: self.name.clone(),
            epoch: self.epoch,
        });
        self.epoch
    }

    fn serve(&mut self, turn: &mut Turn) {
        let Place::Up(process) = &mut self.place else {
            return;
        };
        process.enter(Phase::Ready, None);
        let (attempt, slot) = (process.attempt, process.slot);
        self.publish(
            turn,
            Target {
                state: RouteState::Serve,
                attempt,
                slot,
            },
            None,
        );
        for (request, done) in std::mem::take(&mut self.until_ready) {
            turn.answer(request, Ok(done));
        }
        turn.note(&self.name, format!("attempt {attempt} is ready"));
    }

    // ---- ends ----

    fn current_ended(&mut self, turn: &mut Turn, outcome: Outcome) {
        let Place::Up(process) = std::mem::replace(&mut self.place, Place::Vacant) else {
            return;
        };
        let reason = process.blame.clone();
        self.bury(turn, &process, outcome);
        let drained = process.drained.then_some(process.attempt);

        match self
            .upgrade
            .as_ref()
            .map(|upgrade| (upgrade.step, upgrade.failed.is_some()))
        {
            Some((UpgradeStep::Starting | UpgradeStep::Finishing, _)) => {
                let text = format!("the old process {outcome} meanwhile");
                self.abort_upgrade(turn, RefusalKind::AbnormalTermination, text);
            }
            Some((UpgradeStep::Yielding, _)) => {
                self.publish_state(turn, RouteState::Hold, drained);
                self.lead_incoming(turn);
                return;
            }
            // The place is filled when the new process leads, or is gone.
            Some((UpgradeStep::Leading, _)) => return,
            None => {}
        }

        if self.goal == Goal::Down {
            self.place = Place::Stopped;
            self.publish_state(turn, RouteState::Gone, drained);
            return;
        }
        if process.dismissed {
            // It was stopped to be started again.
            self.place = Place::Backoff { until: turn.now };
            self.publish_state(turn, RouteState::Hold, drained);
            return;
        }
        let expected = matches!(outcome, Outcome::Code(code)
            if self.spec().expected_exit_codes.contains(&code));
        let again = match self.spec().restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !expected || reason.is_some(),
            RestartPolicy::Never => false,
        };
        if !again {
            self.place = Place::Exited { outcome };
            self.publish_state(turn, RouteState::Gone, drained);
            self.fail_orders(
                turn,
                RefusalKind::AbnormalTermination,
                &ended(&reason, outcome),
            );
            return;
        }
        let chance = turn.ids.next_chance();
        match self.history.ended(
            &turn.limits,
            process.was_ready,
            process.launched,
            turn.now,
            chance,
        ) {
            Verdict::Again(wait) => {
                let state = if wait <= HOLD_AT_MOST {
                    RouteState::Hold
                } else {
                    RouteState::Gone
                };
                self.publish_state(turn, state, drained);
                self.place = Place::Backoff {
                    until: turn.now + wait,
                };
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
                    format!(
                        "never ready in {} starts, last: {last}",
                        turn.limits.start_tries
                    )
                } else {
                    format!(
                        "ended {} times within {} s, last: {last}",
                        turn.limits.intensity + 1,
                        turn.limits.window.as_secs(),
                    )
                };
                self.publish_state(turn, RouteState::Gone, drained);
                self.fail_orders(turn, RefusalKind::AbnormalTermination, &text);
                turn.note(&self.name, format!("is left down: {text}"));
                self.place = Place::Fatal { reason: text };
            }
        }
    }

    /// A launch that did not work: there was no process.
    pub(crate) fn launch_failed(&mut self, turn: &mut Turn, attempt: Attempt, reason: &str) {
        turn.note(
            &self.name,
            format!("attempt {attempt} could not be launched: {reason}"),
        );
        match self.role(attempt) {
            Some(Role::Current) => {
                turn.records.push(Record::Ended { attempt });
                turn.actions.push(Action::Forget { attempt });
                turn.dirty.insert(self.name.clone());
                self.publish_state(turn, RouteState::Gone, None);
                self.fail_orders(turn, RefusalKind::SpawnError, reason);
                self.place = if self.goal == Goal::Down {
                    Place::Stopped
                } else {
                    Place::Fatal {
                        reason: reason.to_owned(),
                    }
                };
            }
            Some(Role::Incoming) => {
                turn.records.push(Record::Ended { attempt });
                turn.actions.push(Action::Forget { attempt });
                turn.dirty.insert(self.name.clone());
                self.end_upgrade(turn, RefusalKind::SpawnError, reason);
            }
            Some(Role::Leaving(index)) => {
                self.leaving.remove(index);
                turn.records.push(Record::Ended { attempt });
                turn.actions.push(Action::Forget { attempt });
                turn.dirty.insert(self.name.clone());
            }
            None => {}
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
    fn wind_down(&mut self, turn: &mut Turn) {
        if let Some(upgrade) = self.upgrade.take() {
            let refusal = Refusal {
                kind: RefusalKind::Superseded,
                text: format!("{} is to be stopped", self.name),
                serving: None,
                hint: None,
            };
            if let Some(request) = upgrade.request {
                turn.answer(request, Err(refusal));
            }
            turn.records.push(Record::Upgrade {
                service: self.name.clone(),
                step: None,
            });
            self.dismiss(turn, upgrade.incoming);
        }
        match &self.place {
            Place::Up(_) => self.send_away(turn),
            Place::Waiting { .. } | Place::Vacant | Place::Backoff { .. } => {
                self.place = Place::Stopped;
                self.publish_state(turn, RouteState::Gone, None);
            }
            // What failed stays told.
            Place::Stopped | Place::Exited { .. } | Place::Fatal { .. } => {}
        }
        if self.processes().next().is_none() {
            for request in std::mem::take(&mut self.until_stopped) {
                turn.answer(request, Ok(Done::Stopped));
            }
        }
    }

    /// Kills a process that never came to serve.
    fn dismiss(&mut self, turn: &mut Turn, mut process: Process) {
        if process.phase != Phase::Killing {
            process.enter(Phase::Killing, None);
            turn.actions.push(Action::Kill {
                attempt: process.attempt,
            });
        }
        self.leaving.push(process);
        turn.dirty.insert(self.name.clone());
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
            Some(Role::Incoming) => {
                self.abort_upgrade(turn, RefusalKind::ContractRefused, objection.to_owned());
                self.settle(turn);
            }
            Some(Role::Current) => self.kill(turn, attempt, objection.to_owned()),
            Some(Role::Leaving(_)) | None => {}
        }
    }

    /// Drains a serving process, or sends its stop signal to one that does not serve.
    pub(crate) fn send_away(&mut self, turn: &mut Turn) {
        let Place::Up(process) = &self.place else {
            return;
        };
        let attempt = process.attempt;
        match process.phase {
            Phase::Ready => {
                self.publish_state(turn, RouteState::Hold, None);
                self.drain(turn, attempt);
            }
            Phase::Launching
            | Phase::Starting
            | Phase::Running
            | Phase::Prepared
            | Phase::Leading(_)
            | Phase::Yielding(_) => self.signal_stop(turn, attempt),
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
