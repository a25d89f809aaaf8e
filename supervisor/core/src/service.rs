//! One service: its instances, its releases, its routes, and what is wanted of it.
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
//! A service that nobody uses may be put away ([`Place::Dormant`]) until somebody does.
//!
//! Each instance of the service has such a place, a [`Replica`]. An upgrade puts a second process
//! beside it ([`Upgrade::incoming`]); at the cut-over it takes the place, and the old one joins
//! [`Replica::leaving`]. A [`Rollout`] does that to one replica after the other. Of a service with a
//! store, which has one replica, at most one process leads; a next leader is told so only when
//! every earlier one has yielded or is gone.

mod dormant;
mod health;
mod replica;
mod rollout;
mod routes;
mod seats;
mod steps;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_contract::edge::SERVER_SLOTS;
use insula_contract::id::{Attempt, ContractId, Epoch, Instance, ServiceName};
use insula_contract::route::TARGETS;
use semver::Version;

use crate::event::{Done, RequestId, UpgradeStep};
use crate::process::{Outcome, Phase, Process, Said};
use crate::restart::RestartHistory;
use crate::seats::NoRoom;
use crate::spec::ServiceSpec;
use crate::time::Time;
use crate::turn::Turn;
pub use rollout::{Rollout, Why};
pub use routes::Route;

/// Instances that a service may have: a page has [`SERVER_SLOTS`] for its processes, and those
/// that leave need one, too.
pub const INSTANCES_MAX: u16 = 12;

const _: () = assert!((INSTANCES_MAX as usize) < SERVER_SLOTS && SERVER_SLOTS <= TARGETS);

/// What is wanted of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It should run.
    Up,
    /// It should not.
    Down,
}

/// What a service needs before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dependency {
    /// A contract that is served.
    Contract(ContractId),
    /// A service that is ready.
    Service(ServiceName),
    /// A place on the host.
    Room(Box<NoRoom>),
}

impl std::fmt::Display for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Contract(contract) => contract.fmt(f),
            Self::Service(name) => name.fmt(f),
            Self::Room(room) => write!(f, "room: its profile {}", room.why),
        }
    }
}

/// What is in an instance's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing, as wanted.
    Stopped,
    /// Nothing: something that it needs is not there.
    Waiting {
        /// Which.
        on: Vec<Dependency>,
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
    /// Nothing, until somebody wants it: it was idle.
    Dormant {
        /// Since when.
        since: Time,
    },
}

/// The replacement of one replica's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The release that serves.
    pub from: Version,
    /// The release that shall.
    pub to: Version,
    /// How far it is.
    pub step: UpgradeStep,
    /// The new process.
    pub incoming: Process,
    /// Set when it failed after the new process may have led: it is killed, and the old release
    /// leads again once it is gone.
    pub failed: Option<String>,
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

/// One instance of a service: its place and the processes that come and go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Whether it should exist; one too many winds down and is forgotten.
    pub wanted: bool,
    /// The release that it runs or would.
    pub version: Version,
    /// What is there.
    pub place: Place,
    /// A replacement under way.
    pub upgrade: Option<Upgrade>,
    /// Processes that are to end.
    pub leaving: Vec<Process>,
    /// Its restarts.
    pub history: RestartHistory,
    /// How the last process ended.
    pub last_end: Option<LastEnd>,
    /// The slot at which the routes hold requests for it while it has nobody.
    pub holds: Option<u8>,
    /// Whether it is recorded that it is down for good.
    pub(crate) rested: bool,
}

impl Replica {
    fn new(version: Version) -> Self {
        Self {
            wanted: true,
            version,
            place: Place::Stopped,
            upgrade: None,
            leaving: Vec::new(),
            history: RestartHistory::default(),
            last_end: None,
            holds: None,
            rested: false,
        }
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
            | Place::Fatal { .. }
            | Place::Dormant { .. } => None,
        }
    }

    fn current_mut(&mut self) -> Option<&mut Process> {
        match &mut self.place {
            Place::Up(process) => Some(process),
            Place::Stopped
            | Place::Waiting { .. }
            | Place::Vacant
            | Place::Backoff { .. }
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Dormant { .. } => None,
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
            | Place::Fatal { .. }
            | Place::Dormant { .. } => None,
        };
        current
            .into_iter()
            .chain(self.upgrade.iter_mut().map(|upgrade| &mut upgrade.incoming))
            .chain(&mut self.leaving)
    }

    /// Whether its process is on its routes.
    pub fn is_ready(&self) -> bool {
        self.current()
            .is_some_and(|process| process.phase == Phase::Ready)
    }

    fn role(&self, attempt: Attempt) -> Option<Role> {
        let is = |process: &Process| process.attempt == attempt;
        if self.current().is_some_and(is) {
            Some(Role::Current)
        } else if self.upgrade.as_ref().is_some_and(|u| is(&u.incoming)) {
            Some(Role::Incoming)
        } else {
            self.leaving.iter().position(is).map(Role::Leaving)
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let waits = match &self.place {
            Place::Backoff { until } => Some(*until),
            Place::Waiting { tell_at, .. } => *tell_at,
            Place::Stopped
            | Place::Up(_)
            | Place::Vacant
            | Place::Exited { .. }
            | Place::Fatal { .. }
            | Place::Dormant { .. } => None,
        };
        self.processes()
            .filter_map(Process::next_deadline)
            .chain(waits)
            .min()
    }
}

/// A service and all that is decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its user id, where services have one of their own.
    pub uid: Option<u32>,
    /// Its installed releases. A map keeps its values in groups of eleven, most often for one: hence
    /// not the specs themselves.
    pub releases: BTreeMap<Version, Arc<ServiceSpec>>,
    /// The release that serves or would.
    pub active: Version,
    /// The one that did before.
    pub previous: Option<Version>,
    /// What is wanted.
    pub goal: Goal,
    /// How many instances a person asked for, instead of the number in the release.
    pub scale: Option<u16>,
    /// Its instances, by their index; at least one.
    pub replicas: Vec<Replica>,
    /// A replacement of all instances under way.
    pub rollout: Option<Rollout>,
    /// The newest epoch that was handed out for its store.
    pub epoch: Epoch,
    /// The seats of its instances, by their numbers, each with its instance's index.
    pub seats: BTreeMap<u64, usize>,
    /// Its routes.
    pub routes: BTreeMap<ContractId, Route>,
    /// Orders that wait for it to be ready, with what to answer then.
    pub until_ready: Vec<(RequestId, Done)>,
    /// Orders that wait for it to be down.
    pub until_stopped: Vec<RequestId>,
    /// Whether it is forgotten as soon as it is down.
    pub(crate) retired: bool,
}

/// Which of a replica's processes an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Current,
    Incoming,
    Leaving(usize),
}

impl Service {
    pub(crate) fn new(spec: ServiceSpec, uid: Option<u32>) -> Self {
        let replica = Replica::new(spec.version.clone());
        Self {
            name: spec.name.clone(),
            uid,
            active: spec.version.clone(),
            replicas: vec![replica; usize::from(spec.instances.clamp(1, INSTANCES_MAX))],
            releases: BTreeMap::from([(spec.version.clone(), Arc::new(spec))]),
            previous: None,
            goal: Goal::Down,
            scale: None,
            rollout: None,
            epoch: Epoch(0),
            seats: BTreeMap::new(),
            routes: BTreeMap::new(),
            until_ready: Vec::new(),
            until_stopped: Vec::new(),
            retired: false,
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

    /// The release that a replica runs or would.
    fn spec_at(&self, at: usize) -> &ServiceSpec {
        &self.releases[&self.replicas[at].version]
    }

    /// What is wanted of a replica.
    fn goal_of(&self, at: usize) -> Goal {
        if self.replicas[at].wanted {
            self.goal
        } else {
            Goal::Down
        }
    }

    /// All its processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.replicas.iter().flat_map(Replica::processes)
    }

    pub(crate) fn process_mut(&mut self, attempt: Attempt) -> Option<&mut Process> {
        self.replicas
            .iter_mut()
            .flat_map(Replica::processes_mut)
            .find(|process| process.attempt == attempt)
    }

    /// Whether every instance that is wanted is on the routes, or has done its task.
    pub fn is_ready(&self) -> bool {
        (0..self.replicas.len()).all(|at| {
            let replica = &self.replicas[at];
            replica.is_ready() || !replica.wanted || self.has_completed(at)
        })
    }

    /// Whether no wanted instance is down for good.
    pub fn is_coming(&self) -> bool {
        (0..self.replicas.len())
            .map(|at| (at, &self.replicas[at]))
            .filter(|(_, replica)| replica.wanted)
            .all(|(at, replica)| match &replica.place {
                Place::Exited { .. } => self.has_completed(at),
                Place::Up(_)
                | Place::Waiting { .. }
                | Place::Vacant
                | Place::Backoff { .. }
                | Place::Dormant { .. } => true,
                Place::Stopped | Place::Fatal { .. } => false,
            })
    }

    /// Whether those that come after it may start: an instance is on the routes, or comes there when
    /// it is wanted, or its task is done.
    pub fn is_there(&self) -> bool {
        self.is_serving()
            || self.is_dormant()
            || (0..self.replicas.len()).any(|at| self.has_completed(at))
    }

    /// Whether at least one instance is on the routes.
    pub fn is_serving(&self) -> bool {
        self.replicas.iter().any(Replica::is_ready)
    }

    /// Whether it has a store that one process at a time writes.
    pub fn has_store(&self) -> bool {
        self.spec().data.is_some()
    }

    /// The replica of an attempt, and what the attempt is there.
    fn role(&self, attempt: Attempt) -> Option<(usize, Role)> {
        self.replicas
            .iter()
            .enumerate()
            .find_map(|(at, replica)| Some((at, replica.role(attempt)?)))
    }

    /// When something is late, or due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.replicas
            .iter()
            .filter_map(Replica::next_deadline)
            .min()
    }

    /// The name of a replica.
    pub fn instance(&self, at: usize) -> Instance {
        Instance {
            service: self.name.clone(),
            index: at as u16,
        }
    }

    /// The name of the replica that an attempt belongs to.
    pub fn instance_of(&self, attempt: Attempt) -> Option<Instance> {
        self.role(attempt).map(|(at, _)| self.instance(at))
    }

    /// Whether a replica should be up.
    fn is_wanted_up(&self, at: usize) -> bool {
        self.goal_of(at) == Goal::Up
    }

    /// A slot that no process has and no route holds for another replica than `at`.
    fn free_slot(&self, at: Option<usize>) -> Option<u8> {
        (0..SERVER_SLOTS as u8).find(|slot| {
            let held = |other: &usize| self.replicas[*other].holds == Some(*slot);
            !self.processes().any(|process| process.slot == *slot)
                && !(0..self.replicas.len())
                    .filter(|other| Some(*other) != at)
                    .any(|other| held(&other))
        })
    }

    // ---- how many ----

    /// How many instances there should be.
    pub fn wanted(&self) -> u16 {
        self.scale
            .unwrap_or(self.spec().instances)
            .clamp(1, INSTANCES_MAX)
    }

    /// Makes as many replicas as there should be, and lets go of the rest.
    pub(crate) fn fit_replicas(&mut self, turn: &mut Turn) {
        let wanted = usize::from(self.wanted());
        self.grow(wanted);
        for at in 0..self.replicas.len() {
            let goal = self.goal;
            let replica = &mut self.replicas[at];
            let before = replica.wanted;
            replica.wanted = at < wanted;
            if replica.wanted && !before && self.rollout.is_none() {
                // It was on its way out while another release came to be active.
                replica.version = self.active.clone();
            }
            if replica.wanted && goal == Goal::Up && (!before || replica.place == Place::Stopped) {
                match replica.place {
                    Place::Stopped
                    | Place::Waiting { .. }
                    | Place::Backoff { .. }
                    | Place::Exited { .. }
                    | Place::Fatal { .. } => {
                        replica.history.clear();
                        replica.place = Place::Backoff { until: turn.now };
                    }
                    // What sleeps was counted, and is wanted when somebody asks for it.
                    Place::Up(_) | Place::Vacant | Place::Dormant { .. } => {}
                }
            }
        }
        turn.dirty.insert(self.name.clone());
        self.settle(turn);
    }

    /// Makes room for this many replicas.
    pub(crate) fn grow(&mut self, replicas: usize) {
        while self.replicas.len() < replicas {
            self.replicas.push(Replica::new(self.active.clone()));
        }
    }

    /// Forgets the last replicas that are not wanted and have no process.
    fn trim(&mut self) {
        while let Some(last) = self.replicas.last()
            && !last.wanted
            && last.processes().next().is_none()
        {
            self.replicas.pop();
        }
    }

    // ---- what processes say ----

    pub(crate) fn hear(&mut self, turn: &mut Turn, attempt: Attempt, said: Said) {
        let Some((at, role)) = self.role(attempt) else {
            return;
        };
        self.hear_at(turn, at, role, attempt, said);
        self.settle(turn);
    }

    /// Brings forward what waits for nothing any more.
    pub(crate) fn settle(&mut self, turn: &mut Turn) {
        if self.goal == Goal::Down {
            self.cancel_rollout(turn);
        }
        for at in 0..self.replicas.len() {
            self.settle_at(turn, at);
        }
        self.roll_on(turn);
        self.trim();
        if self.is_ready() {
            let surplus = self.replicas.iter().any(|replica| !replica.wanted);
            for (request, done) in std::mem::take(&mut self.until_ready) {
                if surplus && matches!(done, Done::Scaled { .. }) {
                    self.until_ready.push((request, done));
                } else {
                    turn.answer(request, Ok(done));
                }
            }
        }
        if self.processes().next().is_none() {
            for request in std::mem::take(&mut self.until_stopped) {
                turn.answer(request, Ok(Done::Stopped));
            }
        }
    }
}
