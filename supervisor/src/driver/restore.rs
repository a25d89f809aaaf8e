//! Taking charge of what an earlier daemon left.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use insula_contract::id::{Attempt, Instance};
use insula_core::core::Stored;
use insula_core::event::Record;
use insula_core::spec::{Kind, Readiness, ServiceSpec};
use thiserror::Error;

use super::processes::StartError;
use super::{Driver, DriverError, now, setup};
use crate::cgroup::Groups;
use crate::config::Applied;
use crate::ledger::{Ledger, LedgerError, uids_of_data};
use crate::memory::{EdgePage, RouteTable};
use crate::meters::Meters;
use crate::paths::Paths;
use crate::release::Depot;

/// What was found.
pub(super) struct Found {
    stored: Stored,
    living: BTreeMap<Attempt, (i32, OwnedFd)>,
    /// The memfds that each living process holds: their numbers in it, and their names.
    memfds: BTreeMap<Attempt, Vec<(i32, String)>>,
}

impl Found {
    /// All memfds, with the attempt and the process that holds them.
    fn memfds(&self) -> impl Iterator<Item = (Attempt, i32, i32, &str)> {
        self.memfds.iter().flat_map(|(attempt, memfds)| {
            let pid = self.living[attempt].0;
            memfds
                .iter()
                .map(move |memfd| (*attempt, pid, memfd.0, memfd.1.as_str()))
        })
    }
}

/// The memfds of a process; none of one that has just ended.
fn memfds_of(pid: i32) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let memfd = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let link = link.to_str().filter(|link| link.starts_with("/memfd:"))?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, link.to_owned()))
    };
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(memfd)
        .collect()
}

/// Why it could not be looked for.
#[derive(Debug, Error)]
pub(super) enum RestoreError {
    /// The ledgers.
    #[error("cannot read what was stored")]
    Ledger(#[from] LedgerError),
    /// The kernel.
    #[error("cannot look for the processes of an earlier daemon")]
    Process(#[from] std::io::Error),
}

/// Reads the ledgers, and finds the processes that still run.
pub(super) fn find(
    ledger: &Ledger,
    depot: &Depot,
    paths: &Paths,
    applied: &Applied,
    groups: Option<&Groups>,
    kept: Vec<OwnedFd>,
) -> Result<Found, RestoreError> {
    let mut kept: BTreeMap<u64, OwnedFd> = kept
        .into_iter()
        .filter_map(|pidfd| Some((crate::ledger::inode_of(&pidfd).ok()??, pidfd)))
        .collect();
    let mut records = ledger.records()?;
    // Should the ledger be lost, the owners of the data tell the user ids.
    let mut uids = uids_of_data(&paths.data_root())?;
    for record in &records {
        if let Record::Uid { service, .. } = record {
            uids.remove(service);
        }
    }
    let of_data = |(service, uid)| Record::Uid { service, uid };
    records.extend(uids.into_iter().map(of_data));
    let known = ledger.processes()?;
    let mut living = BTreeMap::new();
    for record in &records {
        let Record::Began { attempt, .. } = record else {
            continue;
        };
        let found = match known.get(attempt) {
            // One that systemd kept says how its process ended, if it has.
            Some(identity) => match kept.remove(&identity.inode) {
                Some(pidfd) => Some((identity.pid, pidfd)),
                None => identity.find()?.map(|pidfd| (identity.pid, pidfd)),
            },
            // It may have been launched before it was recorded as a process.
            None => match groups.and_then(|groups| find_in_group(groups, *attempt)) {
                Some(found) => Some(found),
                None => find_by_number(*attempt)?,
            },
        };
        if let Some(found) = found {
            living.insert(*attempt, found);
        }
    }
    // In the order in which they were decided.
    records.sort_by_key(|record| match record {
        Record::Began { attempt, .. } => attempt.0,
        _ => 0,
    });
    let releases = applied.over(depot.specs());
    let alive = living
        .iter()
        .map(|(attempt, (pid, _))| (*attempt, *pid))
        .collect();
    let memfds = living
        .iter()
        .map(|(attempt, (pid, _))| (*attempt, memfds_of(*pid)))
        .collect();
    Ok(Found {
        memfds,
        stored: Stored {
            releases,
            records,
            alive,
            new_boot: ledger.is_new_boot(),
        },
        living,
    })
}

/// Looks for the program in the cgroup of an attempt.
fn find_in_group(groups: &Groups, attempt: Attempt) -> Option<(i32, OwnedFd)> {
    let processes = groups.processes(attempt);
    let pid = processes
        .into_iter()
        .find(|pid| is_first_of_its_session(*pid))?;
    let pidfd = crate::watch::pidfd_open(pid).ok()?;
    // It was that process only if it still is in there.
    groups
        .processes(attempt)
        .contains(&pid)
        .then_some((pid, pidfd))
}

/// Looks for a process with an attempt's number in its environment.
fn find_by_number(attempt: Attempt) -> std::io::Result<Option<(i32, OwnedFd)>> {
    let mark = format!("{}={attempt}", insula_contract::line::ENV_ATTEMPT);
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
            && is_first_of_its_session(pid)
            && let Ok(pidfd) = crate::watch::pidfd_open(pid)
        {
            return Ok(Some((pid, pidfd)));
        }
    }
    Ok(None)
}

/// What a service starts inherits its environment, but leads no session.
fn is_first_of_its_session(pid: i32) -> bool {
    nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)))
        .is_ok_and(|session| session.as_raw() == pid)
}

/// The route table that living services hold, or a new one.
pub(super) fn routes(found: &Found) -> std::io::Result<RouteTable> {
    for (_, pid, number, name) in found.memfds() {
        if !name.starts_with("/memfd:insula-routes") {
            continue;
        }
        if let Ok(table) = RouteTable::recover(pid, number) {
            return Ok(table);
        }
    }
    RouteTable::create()
}

/// The meters that living processes hold.
pub(super) fn meters(found: &Found) -> BTreeMap<Attempt, Meters> {
    let mut meters = BTreeMap::new();
    for (attempt, pid, number, name) in found.memfds() {
        if Meters::parse_link(name) != Some(attempt) {
            continue;
        }
        match Meters::recover(pid, number) {
            Ok(recovered) => {
                meters.insert(attempt, recovered);
            }
            Err(error) => tracing::warn!(%attempt, %error, "meters are not taken up"),
        }
    }
    meters
}

/// The pages of edges that living consumers hold: both ends go on with them.
pub(super) fn pages(found: &Found) -> BTreeMap<(u32, Attempt), EdgePage> {
    let mut pages = BTreeMap::new();
    for (attempt, pid, number, name) in found.memfds() {
        let Some((route, consumer)) = EdgePage::parse_link(name) else {
            continue;
        };
        if consumer != attempt {
            continue;
        }
        match EdgePage::recover(pid, number) {
            Ok(page) => {
                // The earlier daemon may have died between a change of the route and its ring.
                if let Err(error) = page.ring() {
                    tracing::warn!(%attempt, %error, "cannot ring on a page");
                }
                pages.insert((route, consumer), page);
            }
            Err(error) => tracing::warn!(%attempt, %error, "a page is not taken up"),
        }
    }
    pages
}

/// An instance, and the release that its process runs.
type Whose<'a> = (&'a Instance, &'a ServiceSpec);

/// Whose the attempts are and what they run: the releases as they are installed, and whether it is
/// a command before a start.
fn runs(stored: &Stored) -> BTreeMap<Attempt, (Option<Whose<'_>>, bool)> {
    let releases: BTreeMap<_, _> = stored
        .releases
        .iter()
        .map(|spec| ((&spec.name, &spec.version), spec))
        .collect();
    let runs = stored.records.iter().filter_map(|record| match record {
        Record::Began {
            attempt,
            instance,
            version,
            step,
            ..
        } => {
            let spec = releases.get(&(&instance.service, version)).copied();
            let whose = spec.map(|spec| (instance, spec));
            Some((*attempt, (whose, step.is_some())))
        }
        _ => None,
    });
    runs.collect()
}

impl Driver {
    pub(super) fn take_up(&mut self, found: Found) -> Result<(), DriverError> {
        let Found { stored, living, .. } = found;
        let runs = runs(&stored);
        let mut notifying = Vec::new();
        for (attempt, (pid, pidfd)) in living {
            tracing::info!(%attempt, pid, "found a living process of an earlier daemon");
            let (spec, step) = runs.get(&attempt).copied().unwrap_or_default();
            let native = spec.is_none_or(|(_, spec)| spec.kind == Kind::Native) && !step;
            if let Some((instance, spec)) = spec {
                match self.lines.recover(attempt, instance, &spec.output) {
                    // What it writes was never a pipe.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    recovered => super::log_io("go on reading a service's output", recovered),
                }
                self.sockets.recover(&spec.name, &spec.sockets, &pidfd);
                if spec.kind == Kind::Foreign(Readiness::Notify) && !step {
                    notifying.push((attempt, pid));
                }
            }
            let handle = self.watch(attempt, pidfd, native);
            let handle = handle.map_err(setup::<StartError>("watch an adopted process"))?;
            self.processes.insert(attempt, handle);
            if let Some((_, spec)) = spec {
                self.let_yield(attempt, &self.profile(&spec.profile));
            }
        }
        let alive = stored.alive.clone();
        if let Some(groups) = &mut self.groups {
            let cleared = groups.clear_but(|attempt| alive.contains_key(&attempt));
            super::log_io("remove the cgroups of who is gone", cleared);
        }
        let left = self.lines.clear_but(|attempt| alive.contains_key(&attempt));
        super::log_io("remove the pipes of who is gone", left);
        self.channels
            .clear_but(|attempt| alive.contains_key(&attempt))
            .map_err(setup("clear old channels"))?;
        crate::leftovers::clear_sockets(&self.paths, |attempt| alive.contains_key(&attempt))
            .map_err(setup("clear old sockets"))?;
        let decision = self.core.restore(now(), stored);
        for (attempt, pid) in notifying {
            let uid = self.core.service_of(attempt).and_then(|known| known.uid);
            self.hear_again(attempt, pid, uid);
        }
        self.carry_out(decision)
    }
}
