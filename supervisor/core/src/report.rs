//! What `status` shows: one row per instance.

use insula_contract::id::ServiceName;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::process::{Phase, Process};
use crate::service::{Dependency, Place, Replica, Service};
use crate::time::Time;

/// The state of an instance: supervisord's names and numbers where the meaning is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Down, as wanted.
    Stopped,
    /// Something that it needs is not there.
    Waiting,
    /// Launched, and not yet in touch.
    Starting,
    /// In touch, and not yet ready.
    Running,
    /// On its routes.
    Ready,
    /// On its routes, and something speaks against it, or what it needs is not there.
    Degraded,
    /// Finishing what it accepted.
    Draining,
    /// Told to end.
    Stopping,
    /// Ended; starts again by itself.
    Backoff,
    /// Ended, and not to be started again.
    Exited,
    /// Left down until a person starts it.
    Fatal,
    /// Idle, and put away until somebody wants it.
    Dormant,
}

impl State {
    /// supervisord's number; those that it lacks lie between.
    pub fn code(self) -> u16 {
        match self {
            Self::Stopped => 0,
            Self::Dormant => 3,
            Self::Waiting => 5,
            Self::Starting => 10,
            Self::Running => 20,
            Self::Ready => 25,
            Self::Degraded => 27,
            Self::Backoff => 30,
            Self::Draining => 35,
            Self::Stopping => 40,
            Self::Exited => 100,
            Self::Fatal => 200,
        }
    }

    /// The name in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "STOPPED",
            Self::Waiting => "WAITING",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Ready => "READY",
            Self::Degraded => "DEGRADED",
            Self::Draining => "DRAINING",
            Self::Stopping => "STOPPING",
            Self::Backoff => "BACKOFF",
            Self::Exited => "EXITED",
            Self::Fatal => "FATAL",
            Self::Dormant => "DORMANT",
        }
    }

    /// Whether `status` counts it as up: it is, or is on its way without help.
    pub fn is_up(self) -> bool {
        match self {
            Self::Waiting
            | Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Degraded
            | Self::Draining
            | Self::Stopping
            | Self::Backoff
            | Self::Dormant => true,
            Self::Stopped | Self::Exited | Self::Fatal => false,
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// The service.
    pub name: ServiceName,
    /// Which instance.
    pub instance: u16,
    /// How many instances the service has.
    pub instances: u16,
    /// Its state.
    pub state: State,
    /// The state's number.
    pub code: u16,
    /// The process id, while there is a process.
    pub pid: Option<i32>,
    /// The attempt, while there is a process.
    pub attempt: Option<u64>,
    /// How long the process runs, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// Memory that the process has in use, in bytes; what it shares counts in full. The shell
    /// around the core fills it in.
    pub memory: Option<u64>,
    /// The release that runs, or would.
    pub version: Version,
    /// The release before, to which `rollback` goes.
    pub previous: Option<Version>,
    /// The profile.
    pub profile: String,
    /// The user id that it runs under, if it has one of its own.
    pub uid: Option<u32>,
    /// Restarts by the supervisor since a person started it.
    pub restarts: u64,
    /// The release that is coming, during an upgrade.
    pub upgrading_to: Option<Version>,
    /// Why it is as it is, where that is not plain.
    pub reason: Option<String>,
    /// What it says of itself by sd_notify(3).
    pub status: Option<String>,
    /// How the process before ended, if there was one since the daemon started.
    pub last_end: Option<String>,
}

impl Row {
    /// Its name in a list: `kv`, or `kv:1` where the service has several instances.
    pub fn label(&self) -> String {
        if self.instances > 1 {
            format!("{}:{}", self.name, self.instance)
        } else {
            self.name.to_string()
        }
    }
}

/// The rows of all instances, by name.
pub fn rows(core: &Core, now: Time) -> Vec<Row> {
    core.services()
        .values()
        .flat_map(|service| {
            let missing = core.missing(service);
            let rows = 0..service.replicas.len();
            rows.map(move |at| row(service, at, &missing, now))
        })
        .collect()
}

fn row(service: &Service, at: usize, missing: &[Dependency], now: Time) -> Row {
    let replica = &service.replicas[at];
    let process = replica.current();
    let state = state(replica, missing);
    Row {
        name: service.name.clone(),
        instance: at as u16,
        instances: service.replicas.len() as u16,
        state,
        code: state.code(),
        pid: process.and_then(|process| process.pid),
        attempt: process.map(|process| process.attempt.0),
        uptime_ms: process.map(|process| {
            u64::try_from(now.since(process.launched).as_millis()).unwrap_or(u64::MAX)
        }),
        memory: None,
        version: process.map_or_else(|| replica.version.clone(), |p| p.version.clone()),
        previous: service.previous.clone(),
        profile: service.spec().profile.clone(),
        uid: service.uid,
        restarts: replica.history.restarts,
        upgrading_to: service.rollout.as_ref().map(|rollout| rollout.to.clone()),
        reason: reason(replica, missing, now),
        status: process.and_then(|process| process.health.status.clone()),
        last_end: last_end(replica),
    }
}

fn state(replica: &Replica, missing: &[Dependency]) -> State {
    match &replica.place {
        Place::Stopped => State::Stopped,
        Place::Waiting { .. } => State::Waiting,
        Place::Vacant => State::Starting,
        Place::Backoff { .. } => State::Backoff,
        Place::Exited { .. } => State::Exited,
        Place::Fatal { .. } => State::Fatal,
        Place::Dormant { .. } => State::Dormant,
        Place::Up(process) => process_state(process, missing),
    }
}

fn process_state(process: &Process, missing: &[Dependency]) -> State {
    match process.phase {
        Phase::Launching | Phase::Starting => State::Starting,
        Phase::Running | Phase::Prepared | Phase::Leading(_) => State::Running,
        Phase::Ready if process.health.trouble.is_some() || !missing.is_empty() => State::Degraded,
        Phase::Ready | Phase::Yielding(_) => State::Ready,
        Phase::Draining => State::Draining,
        Phase::Stopping | Phase::Killing => State::Stopping,
    }
}

fn last_end(replica: &Replica) -> Option<String> {
    let end = replica.last_end.as_ref()?;
    Some(match &end.reason {
        Some(reason) => format!("{} ({reason})", end.outcome),
        None => end.outcome.to_string(),
    })
}

fn reason(replica: &Replica, missing: &[Dependency], now: Time) -> Option<String> {
    let last = || last_end(replica);
    match &replica.place {
        Place::Waiting { on, .. } => Some(format!("waits for {}", list(on))),
        Place::Backoff { until } => Some(format!(
            "starts again in {:.1} s; {}",
            until.since(now).as_secs_f64(),
            last().unwrap_or_else(|| "not started yet".to_owned())
        )),
        Place::Exited { .. } => last(),
        Place::Fatal { reason } => Some(reason.clone()),
        Place::Dormant { since } => Some(format!(
            "put away {} s ago as nobody used it; starts when somebody does",
            now.since(*since).as_secs()
        )),
        Place::Up(process) if process.blame.is_some() => process.blame.clone(),
        Place::Up(process) if process.phase == Phase::Ready => {
            let trouble = process.health.trouble.clone();
            let absent = (!missing.is_empty()).then(|| format!("{} is not there", list(missing)));
            trouble.or(absent)
        }
        Place::Up(process) => process
            .step
            .map(|step| format!("runs command {} before its start", step + 1)),
        Place::Stopped | Place::Vacant => None,
    }
}

fn list(needed: &[Dependency]) -> String {
    let needed: Vec<_> = needed.iter().map(ToString::to_string).collect();
    needed.join(", ")
}
