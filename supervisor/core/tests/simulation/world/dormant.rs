//! Services that nobody uses, and those who want them then.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_contract::id::{Attempt, ServiceName};
use insula_contract::route::RouteState;
use insula_core::event::Event;
use insula_core::service::{Dependency, Goal, Place, Service};

use super::{NAMES, REST, World};

/// Longer than a way to the end takes.
const GONE: Duration = Duration::from_secs(5);

impl World {
    /// Nobody uses some service, or somebody wants one.
    pub(super) fn use_or_not(&mut self) {
        let name = NAMES[self.random(NAMES.len() as u64) as usize];
        match self.random(3) {
            0 => {
                self.wanted.insert(name.parse().unwrap());
                self.tell_wishes();
            }
            // What was looked at may be gone by then.
            1 if self.random(4) == 0 => {
                let stranger = BTreeSet::from([Attempt(self.random(1 << 20))]);
                self.put_away(name, &stranger);
            }
            _ => {
                self.put_away(name, &BTreeSet::new());
            }
        }
    }

    /// The daemon finds that nobody used a service with these processes; with its own, for none.
    pub(super) fn put_away(&mut self, name: &str, looked_at: &BTreeSet<Attempt>) -> bool {
        let service: ServiceName = name.parse().unwrap();
        let known = self.core.services().get(&service);
        let Some(own) = known.and_then(Service::at_rest) else {
            return false;
        };
        let attempts = match looked_at.is_empty() {
            true => own,
            false => looked_at.clone(),
        };
        self.turn(Event::Idle { service, attempts });
        looked_at.is_empty()
    }

    /// Whether who wants a service sees that it sleeps: on its route, or at a socket that is held for
    /// it.
    fn looks_dormant(&self, service: &Service) -> bool {
        if service.routes.is_empty() {
            return service.is_dormant();
        }
        service.routes.values().any(|route| {
            self.routes
                .iter()
                .any(|((of, _), target)| *of == route.index && target.state == RouteState::Dormant)
        })
    }

    /// Who wants a service that sleeps says so, again if a daemon dies meanwhile.
    pub(super) fn tell_wishes(&mut self) {
        for name in self.wanted.clone() {
            let Some(service) = self.core.services().get(&name) else {
                self.wanted.remove(&name);
                continue;
            };
            let given_up = service
                .replicas
                .iter()
                .any(|replica| matches!(replica.place, Place::Exited { .. } | Place::Fatal { .. }));
            if service.is_serving() || given_up || service.goal == Goal::Down {
                self.wanted.remove(&name);
                continue;
            }
            let said =
                |event: &Event| matches!(event, Event::Wanted { service } if *service == name);
            if self.looks_dormant(service) && !self.queue.values().any(said) {
                self.later(5, Event::Wanted { service: name });
            }
        }
    }

    /// All instances that are put away.
    fn dormant(&self) -> BTreeSet<String> {
        let all = self.core.services().values();
        let each = all.flat_map(|service| (0..service.replicas.len()).map(move |at| (service, at)));
        each.filter(|(service, at)| matches!(service.replicas[*at].place, Place::Dormant { .. }))
            .map(|(service, at)| service.instance(at).to_string())
            .collect()
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        let mut steps = 0;
        while self.now < end && self.step() {
            steps += 1;
            if steps > 20_000 {
                self.fail("it never comes to rest");
            }
        }
        self.now = self.now.max(end);
    }

    /// Without faults: who is put away is, and who is wanted comes back.
    pub(super) fn sleep_and_wake(&mut self) {
        let serving = |world: &Self| -> BTreeSet<Attempt> {
            let all = world.core.services().values();
            let users = all.filter(|service| service.name.as_str() != "store");
            let ready = users.flat_map(|service| &service.replicas);
            let ready = ready.filter(|replica| replica.is_ready());
            ready
                .filter_map(|replica| Some(replica.current()?.attempt))
                .collect()
        };
        let before = serving(self);
        let mut asleep = Vec::new();
        if self.put_away("store", &BTreeSet::new()) {
            asleep.push("store");
        }
        self.run_for(GONE);
        if !serving(self).is_superset(&before) {
            self.fail("who uses what is put away goes with it");
        }
        for name in ["guest", "front", "middle"] {
            if self.put_away(name, &BTreeSet::new()) {
                asleep.push(name);
            }
        }
        self.run_for(GONE);
        for name in &asleep {
            let service: ServiceName = name.parse().unwrap();
            let service = &self.core.services()[&service];
            if !service.is_dormant() || service.processes().next().is_some() {
                self.fail(&format!("{name} is not put away"));
            }
            self.wanted.insert(service.name.clone());
        }
        let dormant = self.dormant();
        // The next daemon starts nobody whom nobody wants.
        let wanted = std::mem::take(&mut self.wanted);
        self.restart_daemon(true);
        self.run_for(GONE);
        if self.dormant() != dormant {
            self.fail(&format!("{dormant:?} were put away before the daemon died"));
        }
        self.wanted = wanted;
        self.tell_wishes();
        self.run_for(REST);
        let waits_for = |service: &Service, what: fn(&Dependency) -> bool| {
            service.replicas.iter().any(|replica| {
                matches!(&replica.place, Place::Waiting { on, .. } if on.iter().any(what))
            })
        };
        // Who finds no room any more holds up those who need it.
        let mut all = self.core.services().values();
        let no_room = all.any(|service| waits_for(service, |on| matches!(on, Dependency::Room(_))));
        for name in asleep {
            let service: ServiceName = name.parse().unwrap();
            let service = &self.core.services()[&service];
            let excused = no_room && waits_for(service, |_| true);
            if !service.is_ready() && !excused {
                self.fail(&format!("{name} is wanted and does not come back"));
            }
        }
    }
}
