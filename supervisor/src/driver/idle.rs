//! Who is idle and is put away, or gives memory back; and who is wanted again.
//!
//! Nothing is polled: a service that may be put away is looked at once in the time after which it is.
//! Native services are idle while the meters of their processes do not move, nothing is under way in
//! them and nobody subscribes to them, nor they to others; programs that know nothing of Insula while
//! they take no processor time and nobody is connected to a socket that is held for them. What
//! sleeps is wanted when a client of it says so, or when somebody connects to one of its sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_contract::id::{Attempt, ContractId, ServiceName};
use insula_contract::local::{Answer, Described, WhyNot};
use insula_core::event::{ClientId, Event};
use insula_core::service::Goal;
use insula_core::spec::{IdleSpec, Kind};
use insula_core::time::Time;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Driver, DriverError, News, log_io, now};
use crate::meters::Meters;

/// How long a local client that asks what a service is like waits for one that is being woken.
const DESCRIBE_WAIT: Duration = Duration::from_secs(8);

/// What idle services gave back, since the daemon began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gains {
    /// How often a service was put away.
    pub put_away: u64,
    /// Those that are away, with the resident bytes that their processes had; what these shared
    /// counted for each. Unknown, and left out, where an earlier daemon put them away.
    pub away: BTreeMap<ServiceName, u64>,
    /// How often memory was taken back from an idle process.
    pub reclaims: u64,
    /// How many bytes that were, together.
    pub reclaimed: u64,
}

impl Gains {
    pub(super) fn reclaimed(&mut self, bytes: u64) {
        self.reclaims += 1;
        self.reclaimed += bytes;
    }
}

/// What was seen of a service last.
#[derive(Debug, Default)]
struct Watched {
    at: Time,
    /// Its processes, and a number that changes when they are used.
    seen: Option<(BTreeSet<Attempt>, u64)>,
    /// When it was last found that it had been used.
    since: Time,
    reclaimed: bool,
    /// A look is under way.
    looking: bool,
}

/// The services that may be idle.
#[derive(Debug, Default)]
pub(super) struct Idlers {
    watched: BTreeMap<ServiceName, Watched>,
    by_time: BTreeSet<(Time, ServiceName)>,
    /// Who waits for connections to those that are away.
    waiters: BTreeMap<ServiceName, AbortHandle>,
    /// Local clients that asked what a service is like that is being woken.
    asking: Vec<(ClientId, ContractId)>,
    pub(super) gains: Gains,
}

impl Idlers {
    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    fn set(&mut self, name: &ServiceName, at: Time) {
        if let Some(watched) = self.watched.get_mut(name) {
            self.by_time.remove(&(watched.at, name.clone()));
            watched.at = at;
            self.by_time.insert((at, name.clone()));
        }
    }

    fn forget(&mut self, name: &ServiceName) {
        if let Some(watched) = self.watched.remove(name) {
            self.by_time.remove(&(watched.at, name.clone()));
        }
    }

    /// A process of a service was started.
    pub(super) fn began(&mut self, name: &ServiceName) {
        self.gains.away.remove(name);
        if let Some(waiter) = self.waiters.remove(name) {
            waiter.abort();
        }
    }
}

/// What is to be looked at, beside the driver.
#[derive(Debug)]
struct Look {
    service: ServiceName,
    attempts: BTreeSet<Attempt>,
    meters: Vec<Meters>,
    /// Process ids of foreign programs, with their cgroups.
    programs: Vec<(i32, Option<PathBuf>)>,
    sockets: Vec<SocketAddr>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Looked {
    service: ServiceName,
    attempts: BTreeSet<Attempt>,
    /// A number that changes with its use; `None` while it is being used, or cannot be looked at.
    mark: Option<u64>,
}

impl Look {
    fn look(self) -> Looked {
        let mark = self.mark();
        Looked {
            service: self.service,
            attempts: self.attempts,
            mark,
        }
    }

    fn mark(&self) -> Option<u64> {
        let mut mark = 0_u64;
        for meters in &self.meters {
            let (more, busy) = meters.use_mark().ok()?;
            if busy {
                return None;
            }
            mark = mark.rotate_left(7).wrapping_add(more);
        }
        if !self.sockets.is_empty() && is_connected(&self.sockets) {
            return None;
        }
        for (pid, group) in &self.programs {
            for pid in family(*pid, group.as_deref()) {
                mark = mark.wrapping_add(run_time(pid)).wrapping_add(1);
            }
        }
        Some(mark)
    }
}

/// The processes of a program: those of its cgroup, or of its session.
fn family(pid: i32, group: Option<&Path>) -> Vec<i32> {
    if let Some(text) = group.and_then(|g| std::fs::read_to_string(g.join("cgroup.procs")).ok()) {
        return text.lines().filter_map(|line| line.parse().ok()).collect();
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let session = |of: i32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(of)));
    pids.filter(|of| session(*of).is_ok_and(|id| id.as_raw() == pid))
        .collect()
}

/// Nanoseconds that the threads of a process were on a processor.
fn run_time(pid: i32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    times.fold(0, u64::wrapping_add)
}

/// Whether somebody is connected to one of these addresses, or was a moment ago.
fn is_connected(sockets: &[SocketAddr]) -> bool {
    /// States of include/net/tcp_states.h that are no connection.
    const NONE: [&str; 3] = ["06", "07", "0A"];
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().and_then(|local| local.rsplit_once(':'));
            let port = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            let state = fields.nth(1).unwrap_or_default();
            sockets.iter().any(|socket| Some(socket.port()) == port) && !NONE.contains(&state)
        })
    })
}

/// Has the kernel take back what it can of a cgroup's memory; how many bytes that were.
fn reclaim(group: &Path) -> std::io::Result<u64> {
    let current = || -> std::io::Result<u64> {
        let text = std::fs::read_to_string(group.join("memory.current"))?;
        text.trim()
            .parse()
            .map_err(|_| std::io::ErrorKind::InvalidData.into())
    };
    let before = current()?;
    match std::fs::write(group.join("memory.reclaim"), before.to_string()) {
        // Not all of it could be taken, as most often.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        done => done?,
    }
    Ok(before.saturating_sub(current()?))
}

/// Waits until somebody connects to one of these.
async fn connected(sockets: Vec<OwnedFd>) -> std::io::Result<()> {
    let mut waits = tokio::task::JoinSet::new();
    for socket in sockets {
        let socket = crate::watch::readiness(socket)?;
        waits.spawn(async move { socket.readable().await.map(drop) });
    }
    match waits.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(_)) | None => Ok(()),
    }
}

impl Driver {
    fn idle_spec(&self, name: &ServiceName) -> IdleSpec {
        let Some(service) = self.core.services().get(name) else {
            return IdleSpec::default();
        };
        let spec = service.spec();
        let profile = self.profile(&spec.profile).idle;
        // What a task uses is its own affair, and what has no cgroup cannot be told apart.
        let reclaims = spec.kind != Kind::Task && self.groups.is_some();
        IdleSpec {
            dormant_after: spec.dormant_after(&profile),
            reclaim_after: profile.reclaim_after.filter(|_| reclaims),
        }
    }

    /// Looks from now on whether a service is idle, if it matters.
    pub(super) fn watch_idle(&mut self, name: &ServiceName) {
        let IdleSpec {
            dormant_after,
            reclaim_after,
        } = self.idle_spec(name);
        let Some(after) = dormant_after.into_iter().chain(reclaim_after).min() else {
            self.idlers.forget(name);
            return;
        };
        let at = now() + after;
        let known = self.idlers.watched.entry(name.clone()).or_default();
        if known.at == Time::default() || known.at > at {
            self.idlers.set(name, at);
        }
    }

    /// What is to become of idle services may be another thing than before.
    pub(super) fn watch_idle_anew(&mut self) -> Result<(), DriverError> {
        let names: Vec<_> = self.core.services().keys().cloned().collect();
        for name in names {
            self.watch_idle(&name);
            let service = &self.core.services()[&name];
            if service.is_dormant() && self.idle_spec(&name).dormant_after.is_none() {
                self.turn(Event::Wanted { service: name })?;
            }
        }
        self.open_sockets_of_the_dormant();
        Ok(())
    }

    /// Begins the looks that are due.
    pub(super) fn look_at_idlers(&mut self) {
        let time = now();
        while let Some((at, name)) = self.idlers.by_time.first().cloned()
            && at <= time
        {
            self.look_at(&name);
        }
    }

    fn look_at(&mut self, name: &ServiceName) {
        let spec = self.idle_spec(name);
        let after = spec
            .dormant_after
            .into_iter()
            .chain(spec.reclaim_after)
            .min();
        let service = self.core.services().get(name);
        let (Some(after), Some(service)) = (after, service) else {
            self.idlers.forget(name);
            return;
        };
        if service.processes().next().is_none() {
            // It is watched again from its next start on.
            self.idlers.forget(name);
            return;
        }
        let look = service
            .at_rest()
            .and_then(|attempts| self.sight(name, attempts));
        self.idlers.set(name, now() + after);
        let watched = self.idlers.watched.get_mut(name).expect("it was just set");
        match look {
            Some(look) if !watched.looking => {
                watched.looking = true;
                let news = self.news.clone();
                tokio::task::spawn_blocking(move || {
                    // The loop ends before the daemon does.
                    let _ = news.send(News::Looked(Box::new(look.look())));
                });
            }
            Some(_) => {}
            None => watched.seen = None,
        }
    }

    /// What is to be looked at of a service; `None` where it is plain that it is being used.
    fn sight(&self, name: &ServiceName, attempts: BTreeSet<Attempt>) -> Option<Look> {
        let service = self.core.services().get(name)?;
        let spec = service.spec();
        let subscribed = |page: &crate::memory::EdgePage| page.has_subscription().unwrap_or(true);
        let served = service.routes.values().any(|route| {
            let all = (route.index, Attempt(0))..=(route.index, Attempt(u64::MAX));
            self.pages.range(all).any(|(_, page)| subscribed(page))
        });
        let used = spec.requires.keys().any(|contract| {
            let provider = self.core.provider_of(contract);
            let route = provider.and_then(|p| self.core.services().get(p)?.routes.get(contract));
            let Some(route) = route else {
                return false;
            };
            let mut own = attempts.iter();
            own.any(|own| self.pages.get(&(route.index, *own)).is_some_and(subscribed))
        });
        if served || used {
            return None;
        }
        let native = spec.kind == Kind::Native;
        let meters = attempts.iter().filter_map(|own| self.meters.get(own));
        let meters: Vec<_> = meters.cloned().collect();
        if native && meters.len() != attempts.len() {
            return None;
        }
        let programs = service
            .processes()
            .filter(|_| !native)
            .filter_map(|process| {
                let group = self.groups.as_ref().and_then(|g| g.path(process.attempt));
                Some((process.pid?, group))
            });
        Some(Look {
            service: name.clone(),
            meters,
            programs: programs.collect(),
            sockets: spec.sockets.values().copied().collect(),
            attempts,
        })
    }

    /// Takes in what was seen of a service.
    pub(super) fn looked(&mut self, looked: &Looked) -> Result<(), DriverError> {
        let name = &looked.service;
        let spec = self.idle_spec(name);
        let time = now();
        let Some(watched) = self.idlers.watched.get_mut(name) else {
            return Ok(());
        };
        watched.looking = false;
        let seen = looked.mark.map(|mark| (looked.attempts.clone(), mark));
        if seen.is_none() || watched.seen != seen {
            watched.seen = seen;
            watched.since = time;
            watched.reclaimed = false;
            return Ok(());
        }
        let idle = time.since(watched.since);
        let reclaims = !watched.reclaimed && spec.reclaim_after.is_some_and(|after| idle >= after);
        watched.reclaimed |= reclaims;
        if spec.dormant_after.is_some_and(|after| idle >= after) {
            return self.put_away(looked);
        }
        let since = watched.since;
        let left = [spec.dormant_after, spec.reclaim_after.filter(|_| !reclaims)];
        let next = left
            .into_iter()
            .flatten()
            .filter(|after| *after > idle)
            .min();
        if let Some(after) = next {
            self.idlers.set(name, since + after);
        }
        if reclaims {
            self.reclaim(&looked.attempts);
        }
        Ok(())
    }

    fn put_away(&mut self, looked: &Looked) -> Result<(), DriverError> {
        let (service, attempts) = (looked.service.clone(), looked.attempts.clone());
        let pids = attempts
            .iter()
            .filter_map(|own| self.processes.get(own)?.pid());
        let memory = pids.filter_map(crate::statm::resident).sum();
        self.turn(Event::Idle {
            service: service.clone(),
            attempts,
        })?;
        let known = self.core.services().get(&service);
        if known.is_some_and(|service| service.is_asleep()) {
            self.idlers.gains.put_away += 1;
            self.idlers.gains.away.insert(service, memory);
        }
        Ok(())
    }

    fn reclaim(&self, attempts: &BTreeSet<Attempt>) {
        for attempt in attempts {
            let Some(group) = self.groups.as_ref().and_then(|g| g.path(*attempt)) else {
                continue;
            };
            let (news, attempt) = (self.news.clone(), *attempt);
            tokio::task::spawn_blocking(move || match reclaim(&group) {
                Ok(bytes) => {
                    let _ = news.send(News::Reclaimed(bytes));
                }
                Err(error) => tracing::debug!(%attempt, %error, "no memory is taken back"),
            });
        }
    }

    // ---- who is wanted again ----

    /// Somebody holds a request for a contract.
    pub(super) fn want(&mut self, contract: &ContractId) -> Result<(), DriverError> {
        let provider = self.core.provider_of(contract);
        let service = provider.and_then(|name| self.core.services().get(name));
        match service.filter(|service| service.is_asleep()) {
            Some(service) => {
                let service = service.name.clone();
                self.turn(Event::Wanted { service })
            }
            None => Ok(()),
        }
    }

    /// Waits for connections to the sockets of services that are away.
    pub(super) fn wait_at_sockets(&mut self) {
        let away = self.sockets.owners().filter(|name| {
            let service = self.core.services().get(*name);
            service.is_some_and(|s| s.is_dormant() && s.processes().next().is_none())
                && self
                    .idlers
                    .waiters
                    .get(*name)
                    .is_none_or(AbortHandle::is_finished)
        });
        for name in away.cloned().collect::<Vec<_>>() {
            let sockets = match self.sockets.copies(&name) {
                Ok(sockets) => sockets,
                Err(error) => {
                    tracing::warn!(service = %name, %error, "nobody waits at its sockets");
                    self.pending.push_back(Event::Wanted { service: name });
                    continue;
                }
            };
            let waiter = tokio::spawn(wait(name.clone(), sockets, self.news.clone()));
            self.idlers.waiters.insert(name, waiter.abort_handle());
        }
    }

    /// The sockets of what an earlier daemon put away went with it.
    fn open_sockets_of_the_dormant(&mut self) {
        for service in self.core.services().values() {
            if service.is_dormant() && service.processes().next().is_none() {
                let opened = self.sockets.of(&service.name, &service.spec().sockets);
                log_io("open the sockets of what is put away", opened.map(drop));
            }
        }
        self.wait_at_sockets();
    }

    // ---- what it is like ----

    /// Answers a local client that asks what a contract is like, once whoever is being woken has said
    /// so.
    pub(super) fn describe_soon(
        &mut self,
        client: ClientId,
        contract: ContractId,
    ) -> Result<(), DriverError> {
        let described = self.describe(client, &contract);
        let unknown = matches!(
            &described,
            Described::Refused {
                why: WhyNot::NotRunning,
                ..
            }
        );
        let away = self.core.provider_of(&contract).is_some_and(|name| {
            let service = &self.core.services()[name];
            service.is_asleep() || (service.goal == Goal::Up && service.is_coming())
        });
        if !unknown || !away {
            self.tell_client(client, Answer::Described(described), Vec::new());
            return Ok(());
        }
        self.idlers.asking.push((client, contract.clone()));
        let (news, asked) = (self.news.clone(), contract.clone());
        tokio::spawn(async move {
            tokio::time::sleep(DESCRIBE_WAIT).await;
            let _ = news.send(News::DescribeDue(client, asked));
        });
        self.want(&contract)
    }

    /// Answers who still waits for that.
    pub(super) fn describe_now(&mut self, client: ClientId, contract: &ContractId) {
        let waits = |(of, what): &(ClientId, ContractId)| *of == client && what == contract;
        let before = self.idlers.asking.len();
        self.idlers.asking.retain(|asking| !waits(asking));
        if self.idlers.asking.len() < before {
            let described = self.describe(client, contract);
            self.tell_client(client, Answer::Described(described), Vec::new());
        }
    }

    /// Somebody said hello: answers who waited for that.
    pub(super) fn describe_to_who_waits(&mut self) {
        for (client, contract) in self.idlers.asking.clone() {
            if matches!(self.describe(client, &contract), Described::Served { .. }) {
                self.describe_now(client, &contract);
            }
        }
    }
}

async fn wait(service: ServiceName, sockets: Vec<OwnedFd>, news: mpsc::UnboundedSender<News>) {
    if let Err(error) = connected(sockets).await {
        // It is started, rather than never found.
        tracing::warn!(%service, %error, "cannot wait at its sockets");
    }
    // The loop ends before the daemon does.
    let _ = news.send(News::Event(Event::Wanted { service }));
}
