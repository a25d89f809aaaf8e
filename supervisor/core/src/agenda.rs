//! When each service needs the core next, and which of them run: so that no turn looks at services
//! that it does not concern.

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::ServiceName;

use crate::service::{Place, Service};
use crate::time::Time;

/// Deadlines by time, and who waits for a contract.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Agenda {
    by_time: BTreeSet<(Time, ServiceName)>,
    by_service: BTreeMap<ServiceName, Time>,
    waiting: BTreeSet<ServiceName>,
    running: BTreeSet<ServiceName>,
}

fn keep(set: &mut BTreeSet<ServiceName>, name: &ServiceName, is_in: bool) {
    if !is_in {
        set.remove(name);
    } else if !set.contains(name) {
        set.insert(name.clone());
    }
}

impl Agenda {
    /// Takes a service as it is now.
    pub(crate) fn note(&mut self, service: &Service) {
        let name = &service.name;
        let at = service.next_deadline();
        if at != self.by_service.get(name).copied() {
            if let Some(before) = self.by_service.remove(name) {
                self.by_time.remove(&(before, name.clone()));
            }
            if let Some(at) = at {
                self.by_service.insert(name.clone(), at);
                self.by_time.insert((at, name.clone()));
            }
        }
        let waits = service
            .replicas
            .iter()
            .any(|replica| matches!(replica.place, Place::Waiting { .. }));
        keep(&mut self.waiting, name, waits);
        let runs = service.processes().next().is_some();
        keep(&mut self.running, name, runs);
    }

    /// Forgets a service that is no more.
    pub(crate) fn forget(&mut self, name: &ServiceName) {
        if let Some(at) = self.by_service.remove(name) {
            self.by_time.remove(&(at, name.clone()));
        }
        self.waiting.remove(name);
        self.running.remove(name);
    }

    /// The first deadline of all.
    pub(crate) fn first(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Whose deadline has come.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = &ServiceName> {
        self.by_time
            .iter()
            .take_while(move |(at, _)| *at <= now)
            .map(|(_, name)| name)
    }

    /// Whether no service has a process.
    pub(crate) fn nothing_runs(&self) -> bool {
        self.running.is_empty()
    }

    /// Who has an instance that waits for a contract.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &ServiceName> {
        self.waiting.iter()
    }
}
