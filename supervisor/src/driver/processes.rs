//! Launching processes, and the tasks that wait for them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use insula_contract::id::{Attempt, Instance, ServiceName};
use insula_contract::line::{
    ENV_ATTEMPT, ENV_DATA, ENV_DATA_SIZE, ENV_INSTANCE, FromService, SCHEMAS_MAX, TRANSPORT,
    ToService,
};
use insula_core::event::Event;
use insula_core::placement::{CpuSet, MemoryPolicy};
use insula_core::spec::{self, Kind, Readiness, ServiceSpec};
use nix::sys::resource::{Resource, getrlimit};
use semver::Version;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::execute::LINE_RETRY;
use super::{Driver, News};
use crate::cgroup::{Given, Group, end};
use crate::foreign::notify::NotifySocket;
use crate::launch::{
    Access, Calls, Launch, LaunchError, MemoryMode, Network, programs_of_the_host, system_access,
};
use crate::ledger::Identity;
use crate::line::{Line, LineError};
use crate::paths::Paths;
use crate::probe::Recipe;
use crate::watch;

/// Environment variable: the release's version.
const ENV_RELEASE: &str = "INSULA_RELEASE";
/// `oom_score_adj` of best-effort services: half of the host's memory more than they have.
const FIRST_TO_GO: &str = "500";
/// How often a line that cannot be connected is tried again.
const LINE_TRIES: u32 = 250;

/// Why a process could not be started.
#[derive(Debug, Error)]
pub(super) enum StartError {
    /// The release is not known any more.
    #[error("release {0} is not installed")]
    NoRelease(Version),
    /// The host cannot hold it to what limits it.
    #[error("cannot enforce here what limits it: {}; `insulactl doctor` says why", .0.join(", "))]
    Limits(Vec<String>),
    /// Something it needs could not be made.
    #[error("cannot {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The launch.
    #[error("cannot launch it")]
    Launch(#[from] LaunchError),
}

fn prepare(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Prepare { what, source }
}

/// A living process, as the driver holds it.
#[derive(Debug)]
pub(super) struct ProcessHandle {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    line: mpsc::UnboundedSender<(ToService, Vec<OwnedFd>)>,
    pub(super) tasks: Vec<AbortHandle>,
    /// The liveness probe that is under way, or the last one.
    pub(super) probing: Option<AbortHandle>,
}

impl ProcessHandle {
    pub(super) fn say(&self, message: ToService, descriptors: Vec<OwnedFd>) {
        // A line that is gone says so by itself.
        let _ = self.line.send((message, descriptors));
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        watch::pidfd_signal(self.pidfd.get_ref(), signal)
    }

    /// Its process id, while it is there.
    pub(super) fn pid(&self) -> Option<i32> {
        let number = self.pidfd.get_ref().as_raw_fd();
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        pid.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Kills the process and the others of its process group.
    pub(super) fn kill_tree(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)?;
        watch::pidfd_signal_group(self.pidfd.get_ref(), libc::SIGKILL)
    }

    /// Waits for nothing of it any more.
    pub(super) fn hear_no_more(&self) {
        for task in self.tasks.iter().chain(&self.probing) {
            task.abort();
        }
    }

    /// Lets go of a process that is gone.
    pub(super) fn end(self) {
        self.hear_no_more();
    }
}

impl Driver {
    pub(super) fn launch(
        &mut self,
        attempt: Attempt,
        instance: &Instance,
        (version, step): (&Version, Option<u16>),
        uid: Option<u32>,
        uses: &[(ServiceName, String)],
        (cpus, memory): (&CpuSet, &MemoryPolicy),
    ) -> Result<i32, StartError> {
        let spec = self
            .core
            .services()
            .get(&instance.service)
            .and_then(|service| service.releases.get(version))
            .ok_or_else(|| StartError::NoRelease(version.clone()))?
            .clone();
        // Without users of their own, services have the daemon's.
        let uid = match &spec.host.user {
            Some(user) => uid.map(|_| user.uid),
            None => uid,
        };
        // What only the host's file defines has no release, and runs a program of the host.
        let release = self.depot.directory(&instance.service, version);
        if release.is_none() && !spec.command[0].starts_with('/') {
            return Err(StartError::NoRelease(version.clone()));
        }
        let data = self
            .paths
            .create_data(&instance.service, uid)
            .map_err(prepare("make its data directory"))?;
        let mut channels: Vec<PathBuf> = Vec::new();
        if !spec.provides.is_empty() {
            self.channels
                .open_provider(&instance.service, uid)
                .map_err(prepare("make its channels' directory"))?;
            channels.push(self.channels.of_provider(&instance.service));
        }
        channels.extend(uses.iter().map(|(p, own)| self.channels.parent(p, own)));
        let output = self
            .lines
            .open(attempt, instance, &spec.output, uid)
            .map_err(prepare("open its output"))?;
        let command = match step {
            Some(step) => &spec.before_start[usize::from(step)],
            None => &spec.command,
        };
        let native = step.is_none() && spec.kind == Kind::Native;
        let readiness = match &spec.kind {
            Kind::Foreign(readiness) if step.is_none() => Some(readiness.clone()),
            Kind::Native | Kind::Task | Kind::Foreign(_) => None,
        };
        let listener = match native {
            true => {
                let listener = crate::line::listen_for(&self.paths, attempt);
                Some(listener.map_err(prepare("make its line"))?)
            }
            false => None,
        };
        let line = match &readiness {
            Some(Readiness::Line(pattern)) => Some(self.lines.watch(attempt, pattern)),
            Some(_) | None => None,
        };
        let notify = match &readiness {
            Some(Readiness::Notify) => {
                let socket = NotifySocket::bind(&self.paths, attempt, uid);
                Some(socket.map_err(prepare("make its notification socket"))?)
            }
            Some(_) | None => None,
        };
        let profile = self.profile(&spec.profile);
        let lacking = self.lacking(&spec);
        if !lacking.is_empty() && !self.walls.are_lenient() {
            return Err(StartError::Limits(lacking));
        }
        self.bound_data(&spec, uid)
            .map_err(prepare("bound its data"))?;
        let (of_profile, holds) = self.resources(&spec);
        let given = Given {
            profile: &spec.profile,
            limits: &of_profile,
            best_effort: profile.best_effort,
        };
        let group = self
            .groups
            .as_mut()
            .map(|groups| groups.make(attempt, &given, &holds))
            .transpose()
            .map_err(prepare("make its cgroup"))?;
        let executable = match &release {
            Some(release) => release.join(&command[0]),
            None => PathBuf::from(&command[0]),
        };
        let mut execute: Vec<_> = release.into_iter().collect();
        if command[0].starts_with('/') {
            // A program of the host may run others of the host, as it would anywhere.
            execute.push(executable.clone());
            execute.extend(programs_of_the_host());
        }
        let of_the_host =
            |paths: &BTreeSet<String>| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let own = Access {
            read_only: of_the_host(&spec.host.reads),
            execute,
            read_write: std::iter::once(data.clone())
                .chain(channels)
                .chain(of_the_host(&spec.host.writes))
                .collect(),
            reuse: output.access,
        };
        let memory = self.memory(memory);
        let launch = Launch {
            executable,
            arguments: command[1..].iter().map(OsString::from).collect(),
            environment: environment(&spec, attempt, instance, &data, notify.as_ref()),
            directory: match &spec.host.directory {
                Some(directory) => directory.into(),
                None => data,
            },
            output: Some(output.out.as_fd()),
            errors: Some(output.err.as_fd()),
            line: listener.as_ref().map(AsFd::as_fd),
            sockets: match step {
                // They are the program's.
                Some(_) => Vec::new(),
                None => self
                    .sockets
                    .of(&instance.service, &spec.sockets)
                    .map_err(prepare("open its sockets"))?,
            },
            watchdog: spec.watchdog.filter(|_| notify.is_some()),
            tied: false,
            uid,
            cpus: numbers(cpus),
            memory,
            idle: profile.best_effort,
            nice: None,
            limits: limits(&spec, self.walls.has_own_uids()),
            access: self.walls.has_landlock().then(|| system_access().and(own)),
            network: network(&spec),
            calls: self.walls.has_filters().then(|| calls(&spec)),
            cgroup: group.as_ref().map(Group::descriptor),
        };
        let owner = instance.service.as_str();
        let launched = crate::launch::spawn_with(&launch, &mut self.rulesets, owner)?;
        let score = match (profile.best_effort, self.sheltered) {
            (true, _) => Some(FIRST_TO_GO),
            (false, true) => Some("0"),
            (false, false) => None,
        };
        if let Some(score) = score {
            // For a moment it had the daemon's own value, and so has what it started in that time.
            super::log_io(
                "tell the kernel's out-of-memory killer what to think of a service",
                std::fs::write(format!("/proc/{}/oom_score_adj", launched.pid), score),
            );
        }
        let identity =
            Identity::of(launched.pid, &launched.pidfd).map_err(prepare("tell its identity"))?;
        let mut handle = self.watch(attempt, launched.pidfd, native)?;
        if let Some(readiness) = readiness {
            let task = self.await_readiness(attempt, launched.pid, &readiness, notify)?;
            handle.tasks.extend(task);
        }
        if let Some(line) = line {
            handle.tasks.push(self.await_line(attempt, line));
        }
        self.processes.insert(attempt, handle);
        self.idlers.began(&instance.service);
        if step.is_none() {
            self.watch_idle(&instance.service);
        }
        self.let_yield(attempt, &profile);
        self.to_keep.push(attempt);
        self.launched.push((attempt, identity));
        Ok(launched.pid)
    }

    /// What the kernel is told about memory; nothing where there is but one node.
    fn memory(&self, policy: &MemoryPolicy) -> Option<(MemoryMode, Vec<u32>)> {
        if self.core.seats().host().topology().nodes.len() < 2 {
            return None;
        }
        match policy {
            MemoryPolicy::Default => None,
            MemoryPolicy::Preferred(node) => Some((MemoryMode::Preferred, vec![*node])),
            MemoryPolicy::Bind(node) => Some((MemoryMode::Bind, vec![*node])),
            MemoryPolicy::Interleave(nodes) => {
                Some((MemoryMode::Interleave, nodes.iter().copied().collect()))
            }
        }
    }

    /// Has an edge's new channels lie where the provider's memory does, if all its processes agree.
    pub(super) fn place_channels(&mut self, provider: &ServiceName, consumer: &str) {
        if self.core.seats().host().topology().nodes.len() < 2 {
            return;
        }
        let Some(service) = self.core.services().get(provider) else {
            return;
        };
        let seats = service.processes().map(|process| process.seat);
        let mut policies: Vec<_> = seats.map(|seat| self.core.seats().given(seat).1).collect();
        policies.dedup();
        let memory = match &policies[..] {
            [policy] => self.memory(policy),
            _ => None,
        };
        let placed = self.channels.place(provider, consumer, memory.as_ref());
        super::log_io("say which nodes a channel lies on", placed);
    }

    /// Starts the tasks that wait for a process and its words.
    pub(super) fn watch(
        &mut self,
        attempt: Attempt,
        pidfd: OwnedFd,
        native: bool,
    ) -> Result<ProcessHandle, StartError> {
        let pidfd = Arc::new(crate::watch::readiness(pidfd).map_err(prepare("watch it"))?);
        let (line, words) = mpsc::unbounded_channel();
        let news = self.news.clone();
        let watched = pidfd.clone();
        let group = self.groups.as_ref().and_then(|groups| groups.path(attempt));
        let wait = tokio::spawn(async move {
            let outcome = watch::wait(watched.clone()).await;
            // What it left behind in its process group goes with it; there may be nothing.
            let _ = watch::pidfd_signal_group(watched.get_ref(), libc::SIGKILL);
            if let Some(reason) = group.and_then(|group| end::cause(&group, outcome)) {
                let _ = news.send(News::Event(Event::Blamed { attempt, reason }));
            }
            let _ = news.send(News::Event(Event::Exited { attempt, outcome }));
        });
        let mut tasks = vec![wait.abort_handle()];
        if native {
            let talk = tokio::spawn(talk(self.paths.clone(), attempt, words, self.news.clone()));
            tasks.push(talk.abort_handle());
        }
        Ok(ProcessHandle {
            pidfd,
            line,
            tasks,
            probing: None,
        })
    }

    /// How a command of an attempt's release is run beside its program.
    pub(super) fn recipe(
        &self,
        attempt: Attempt,
        command: &[String],
    ) -> Result<Recipe, StartError> {
        let gone = || prepare("find the program")(io::ErrorKind::NotFound.into());
        let service = self.core.service_of(attempt).ok_or_else(gone)?;
        let process = service
            .processes()
            .find(|process| process.attempt == attempt)
            .ok_or_else(gone)?;
        let instance = service.instance_of(attempt).ok_or_else(gone)?;
        let spec = &service.releases[&process.version];
        let release = self
            .depot
            .directory(&spec.name, &spec.version)
            .ok_or_else(|| StartError::NoRelease(spec.version.clone()))?;
        let data = self.paths.data(&spec.name);
        let mut environment = environment(spec, attempt, &instance, &data, None);
        // The next daemon would take it for the program.
        environment.retain(|(key, _)| key != ENV_ATTEMPT);
        let own = Access {
            read_only: Vec::new(),
            execute: vec![release.clone()],
            read_write: vec![data.clone()],
            reuse: Vec::new(),
        };
        let group = self.groups.as_ref().map(|groups| groups.find(attempt));
        Ok(Recipe {
            executable: release.join(&command[0]),
            arguments: command[1..].iter().map(OsString::from).collect(),
            environment,
            directory: data,
            uid: service.uid,
            cpus: numbers(&self.core.seats().given(process.seat).0),
            limits: limits(spec, self.walls.has_own_uids()),
            access: self.walls.has_landlock().then(|| system_access().and(own)),
            network: network(spec),
            calls: self.walls.has_filters().then(|| calls(spec)),
            group: group.transpose().map_err(prepare("open its cgroup"))?,
        })
    }
}

fn numbers(cpus: &CpuSet) -> Vec<usize> {
    cpus.iter().map(|cpu| cpu as usize).collect()
}

fn limits(spec: &ServiceSpec, has_own_uid: bool) -> Vec<(Resource, u64)> {
    let of = &spec.limits;
    // A daemon without rights gives no more than it has.
    let locked = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, most)) if !has_own_uid => of.locked_memory.min(most),
        Ok(_) | Err(_) => of.locked_memory,
    };
    let mut limits = vec![
        (Resource::RLIMIT_NOFILE, of.open_files),
        (Resource::RLIMIT_MEMLOCK, locked),
        // With these, no thread of it is ever preferred to others.
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_NICE, 0),
    ];
    limits.extend(of.file_size.map(|size| (Resource::RLIMIT_FSIZE, size)));
    // The kernel counts a user's processes: without a user of its own, those of others, too.
    limits.extend(has_own_uid.then_some((Resource::RLIMIT_NPROC, of.processes)));
    limits
}

fn calls(spec: &ServiceSpec) -> Calls {
    let native = match spec.kind {
        Kind::Native => true,
        Kind::Task | Kind::Foreign(_) => false,
    };
    Calls::of(native, spec.network != spec::Network::None)
}

fn network(spec: &ServiceSpec) -> Network {
    Network {
        // A service that may use the network at large may listen where it likes, too.
        listen: spec.listen.clone(),
        connect: spec.network != spec::Network::None,
    }
}

fn environment(
    spec: &ServiceSpec,
    attempt: Attempt,
    instance: &Instance,
    data: &std::path::Path,
    notify: Option<&NotifySocket>,
) -> Vec<(OsString, OsString)> {
    let mut environment = spec.environment.clone();
    for (key, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        (ENV_ATTEMPT, attempt.to_string()),
        (ENV_DATA, data.to_string_lossy().into_owned()),
        (ENV_INSTANCE, instance.to_string()),
        (ENV_RELEASE, spec.version.to_string()),
    ] {
        environment.insert(key.to_owned(), value);
    }
    if let Some(data) = &spec.data {
        environment.insert(ENV_DATA_SIZE.to_owned(), data.size_max.to_string());
    }
    if let Some(notify) = notify {
        let path = notify.path().to_string_lossy().into_owned();
        environment.insert("NOTIFY_SOCKET".to_owned(), path);
    }
    environment
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// Keeps an attempt's line: connects, and passes words both ways until the process is gone.
async fn talk(
    paths: Paths,
    attempt: Attempt,
    mut words: mpsc::UnboundedReceiver<(ToService, Vec<OwnedFd>)>,
    news: mpsc::UnboundedSender<News>,
) {
    for _ in 0..LINE_TRIES {
        match crate::line::connect_to(&paths, attempt) {
            Ok(line) => {
                match exchange(&line, attempt, &mut words, &news).await {
                    // It is ending; its exit says how.
                    LineError::Closed => {}
                    error => {
                        let error = super::because("line", &error);
                        tracing::warn!(%attempt, error, "a line ended");
                    }
                }
                return;
            }
            // Its process was not yet there, or is gone.
            Err(error) => {
                tracing::debug!(%attempt, %error, "cannot connect to a line yet");
                tokio::time::sleep(LINE_RETRY).await;
            }
        }
    }
    tracing::warn!(%attempt, "a line could not be connected");
}

async fn exchange(
    line: &Line,
    attempt: Attempt,
    words: &mut mpsc::UnboundedReceiver<(ToService, Vec<OwnedFd>)>,
    news: &mpsc::UnboundedSender<News>,
) -> LineError {
    let mut schemas = Vec::new();
    loop {
        tokio::select! {
            word = words.recv() => match word {
                Some((message, descriptors)) => {
                    if let Err(error) = line.send(&message, &descriptors).await {
                        return error;
                    }
                }
                None => return LineError::Closed,
            },
            heard = line.receive::<FromService>() => match heard {
                Ok(FromService::Schema(_)) if schemas.len() == SCHEMAS_MAX => {
                    return LineError::Schemas;
                }
                Ok(FromService::Schema(schema)) => schemas.push(schema),
                Ok(FromService::Late { contract, waited_ms }) => {
                    let waited = Duration::from_millis(waited_ms);
                    // The loop ends before the daemon does.
                    let _ = news.send(News::Late(Some(attempt), contract, waited));
                }
                Ok(message) => {
                    let schemas = std::mem::take(&mut schemas);
                    // The loop ends before the daemon does.
                    let _ = match event_of(attempt, message) {
                        Some(event @ Event::Greeted { .. }) => {
                            news.send(News::Greeted(Box::new(event), schemas))
                        }
                        Some(event) => news.send(News::Event(event)),
                        None => Ok(()),
                    };
                }
                Err(error) => return error,
            },
        }
    }
}

/// What a service's word means to the core.
fn event_of(own: Attempt, message: FromService) -> Option<Event> {
    Some(match message {
        FromService::Hello {
            attempt,
            transport,
            provides,
            requires,
            leadership,
            ready,
            serving,
            ..
        } => {
            if attempt != own || transport != TRANSPORT {
                tracing::warn!(%own, %attempt, transport, "a hello that does not fit is ignored");
                return None;
            }
            Event::Greeted {
                attempt,
                provides,
                requires,
                leadership,
                ready,
                serving,
                verdicts: Vec::new(),
            }
        }
        FromService::Ready => Event::Ready { attempt: own },
        FromService::Yielded { epoch } => Event::Yielded {
            attempt: own,
            epoch,
        },
        FromService::Leading { epoch } => Event::Leading {
            attempt: own,
            epoch,
        },
        FromService::Drained => Event::Drained { attempt: own },
        FromService::Pong { ping } => Event::Ponged { attempt: own, ping },
        FromService::Serving { .. } | FromService::Schema(_) => return None,
        FromService::Late {
            contract,
            waited_ms,
        } => {
            tracing::warn!(attempt = %own, %contract, waited_ms, "a request waits too long");
            return None;
        }
        FromService::Failing { reason } => {
            tracing::warn!(attempt = %own, reason, "a service says that it fails");
            return None;
        }
    })
}
