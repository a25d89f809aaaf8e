//! Taking up what an earlier run of the daemon left, and taking in releases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_contract::id::{Attempt, ContractId, Instance, ServiceName};
use insula_contract::route::CAPACITY;
use semver::Version;

use super::{Core, Decision};
use crate::event::{Action, Record};
use crate::process::{Phase, Process};
use crate::seats::Held;
use crate::service::{Goal, INSTANCES_MAX, Place, Route, Service};
use crate::spec::ServiceSpec;
use crate::time::Time;
use crate::turn::Turn;

/// What an earlier run of the daemon stored, in its own order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The releases in the depot.
    pub releases: Vec<ServiceSpec>,
    /// The records that hold now.
    pub records: Vec<Record>,
    /// The attempts that still run, with their process ids, for people.
    pub alive: BTreeMap<Attempt, i32>,
    /// Whether the host was started since: then what is not to start by itself stays down.
    pub new_boot: bool,
}

/// What is stored of an attempt that began.
#[derive(Debug)]
struct Began {
    instance: Instance,
    version: Version,
    slot: u8,
    step: Option<u16>,
    beside: bool,
    seat: Option<Box<Held>>,
}

impl Core {
    /// Takes up what an earlier run of the daemon left: records, and processes that still run.
    pub fn restore(&mut self, now: Time, stored: Stored) -> Decision {
        let mut turn = self.begin(now);
        // Routes first: an index that services hold must not be given to another.
        for record in &stored.records {
            if let Record::Route { route, .. } = record {
                turn.ids.route = turn.ids.route.max(route + 1);
            }
            if let (Record::Uid { uid, .. }, Some(next)) = (record, &mut turn.ids.uid) {
                *next = (*next).max(uid + 1);
            }
        }
        let mut uids = BTreeMap::new();
        let mut routes = BTreeMap::new();
        let mut active = BTreeSet::new();
        for record in &stored.records {
            match record {
                Record::Uid { service, uid } => {
                    uids.insert(service.clone(), *uid);
                }
                Record::Route {
                    service,
                    contract,
                    route,
                } => {
                    routes.insert((service.clone(), contract.clone()), *route);
                }
                Record::Active { service, .. } => {
                    active.insert(service.clone());
                }
                Record::Goal { .. }
                | Record::Scale { .. }
                | Record::Epoch { .. }
                | Record::Upgrade { .. }
                | Record::Began { .. }
                | Record::Rested { .. }
                | Record::Ended { .. } => {}
            }
        }
        for spec in stored.releases {
            install(
                &mut turn,
                &mut self.services,
                &mut self.providers,
                spec,
                |name| uids.get(name).copied(),
                |name, contract| routes.get(&(name.clone(), contract.clone())).copied(),
                |name| active.contains(name),
            );
        }
        turn.seats.providers.clone_from(&self.providers);
        let mut rested = BTreeMap::new();
        self.uids = uids;
        self.uids.extend(turn.new_uids());
        let mut began: BTreeMap<Attempt, Began> = BTreeMap::new();
        for record in stored.records {
            match record {
                Record::Goal { service, up } => {
                    if let Some(service) = self.services.get_mut(&service) {
                        service.goal = if up { Goal::Up } else { Goal::Down };
                    }
                }
                Record::Active {
                    service,
                    active,
                    previous,
                } => {
                    if let Some(service) = self.services.get_mut(&service)
                        && service.releases.contains_key(&active)
                    {
                        service.active = active;
                        service.previous = previous.filter(|v| service.releases.contains_key(v));
                    }
                }
                Record::Scale { service, instances } => {
                    if let Some(service) = self.services.get_mut(&service) {
                        service.scale = (instances > 0).then_some(instances);
                    }
                }
                Record::Epoch { service, epoch } => {
                    if let Some(service) = self.services.get_mut(&service) {
                        service.epoch = service.epoch.max(epoch);
                    }
                }
                Record::Began {
                    attempt,
                    instance,
                    version,
                    slot,
                    step,
                    beside,
                    seat,
                } => {
                    let began_as = Began {
                        instance,
                        version,
                        slot,
                        step,
                        beside,
                        seat,
                    };
                    began.insert(attempt, began_as);
                }
                Record::Ended { attempt } => {
                    began.remove(&attempt);
                }
                Record::Rested { instance, rest } => {
                    rested.insert(instance, rest);
                }
                // An upgrade that was under way is given up: the release that is recorded as
                // active serves, and whoever else runs is killed below.
                Record::Upgrade { .. } | Record::Uid { .. } | Record::Route { .. } => {}
            }
        }
        for service in self.services.values_mut() {
            for replica in &mut service.replicas {
                replica.version = service.active.clone();
            }
        }
        if stored.new_boot {
            for service in self.services.values_mut() {
                if service.goal == Goal::Up && !service.spec().autostart {
                    service.goal = Goal::Down;
                    turn.records.push(Record::Goal {
                        service: service.name.clone(),
                        up: false,
                    });
                }
            }
        }
        self.adopt(&mut turn, began, &stored.alive);
        for service in self.services.values_mut() {
            // Before what rests is known: a place that nobody was adopted into may rest, too.
            service.grow(usize::from(service.wanted()));
        }
        for (instance, rest) in rested {
            if let (Some(service), Some(rest)) = (self.services.get_mut(&instance.service), rest) {
                service.restore_rest(usize::from(instance.index), rest);
            }
        }
        for service in self.services.values_mut() {
            service.fit_replicas(&mut turn);
            service.wake_in_part(&mut turn);
        }
        for service in self.services.values_mut() {
            service.publish_restored(&mut turn);
        }
        for service in self.services.values_mut() {
            service.greet_foreign(&mut turn);
        }
        turn.touched.extend(self.services.keys().cloned());
        self.finish(&mut turn);
        self.decide(turn)
    }

    /// Gives living processes their places: the active release's newest attempt that served serves
    /// on, the rest leave.
    fn adopt(
        &mut self,
        turn: &mut Turn,
        began: BTreeMap<Attempt, Began>,
        alive: &BTreeMap<Attempt, i32>,
    ) {
        // What was to take over and had not yet comes last, and so has a place only where nobody else
        // of its release lives.
        let mut began: Vec<_> = began.into_iter().rev().collect();
        began.sort_by_key(|(_, began)| began.beside);
        for (attempt, began) in began {
            let Began {
                instance,
                version,
                slot,
                step,
                beside,
                seat,
            } = began;
            let name = instance.service.clone();
            let known = self
                .services
                .get_mut(&name)
                .filter(|service| service.releases.contains_key(&version));
            let at = usize::from(instance.index).min(usize::from(INSTANCES_MAX) - 1);
            let (Some(service), Some(pid)) = (known, alive.get(&attempt)) else {
                if alive.contains_key(&attempt) {
                    // Nobody knows any more what it is.
                    turn.actions.push(Action::Kill { attempt });
                }
                turn.records.push(Record::Ended { attempt });
                turn.actions.push(Action::Forget { attempt });
                continue;
            };
            service.grow(at + 1);
            let deadline = turn.now + service.releases[&version].ready_timeout;
            let mut process = Process::launching(attempt, version, slot, turn.now, deadline);
            process.phase = Phase::Starting;
            process.pid = Some(*pid);
            process.step = step;
            if let Some(held) = &seat {
                service.adopt_seat(at, &mut process, held.id);
                let held = (**held).clone();
                turn.seats
                    .host_mut()
                    .take_up(held.id, held.request, held.seat);
            }
            self.attempts.insert(attempt, name.clone());
            let active = process.version == service.active;
            let stores = service.spec_of(&process).data.is_some();
            let replica = &mut service.replicas[at];
            if replica.place == Place::Stopped && active {
                if beside {
                    turn.records.push(Record::Began {
                        attempt,
                        instance,
                        version: process.version.clone(),
                        slot,
                        step,
                        beside: false,
                        seat,
                    });
                }
                replica.place = Place::Up(process);
            } else {
                process.enter(Phase::Killing, None);
                // It may have been told to lead, and nobody remembers.
                process.led = stores;
                process.blame = Some("it belongs to an upgrade that was given up".to_owned());
                turn.actions.push(Action::Kill { attempt });
                replica.leaving.push(process);
            }
            turn.dirty.insert(name);
        }
    }
}

pub(super) fn install(
    turn: &mut Turn,
    services: &mut BTreeMap<ServiceName, Service>,
    providers: &mut BTreeMap<ContractId, ServiceName>,
    spec: ServiceSpec,
    known_uid: impl Fn(&ServiceName) -> Option<u32>,
    known_route: impl Fn(&ServiceName, &ContractId) -> Option<u32>,
    is_stored: impl Fn(&ServiceName) -> bool,
) {
    let name = spec.name.clone();
    let contracts: Vec<_> = spec.provides.keys().cloned().collect();
    if let Some(service) = services.get_mut(&name) {
        service
            .releases
            .insert(spec.version.clone(), Arc::new(spec));
    } else {
        let uid = known_uid(&name).or_else(|| {
            let uid = turn.ids.uid?;
            turn.ids.uid = Some(uid + 1);
            turn.records.push(Record::Uid {
                service: name.clone(),
                uid,
            });
            Some(uid)
        });
        // What is stored about it says more than the order in which releases are read.
        if !is_stored(&name) {
            turn.records.push(Record::Active {
                service: name.clone(),
                active: spec.version.clone(),
                previous: None,
            });
        }
        services.insert(name.clone(), Service::new(spec, uid));
    }
    let service = services.get_mut(&name).expect("it was just inserted");
    for contract in contracts {
        providers
            .entry(contract.clone())
            .or_insert_with(|| name.clone());
        if service.routes.contains_key(&contract) {
            continue;
        }
        let index = known_route(&name, &contract).unwrap_or_else(|| {
            let index = turn.ids.route;
            assert!((index as usize) < CAPACITY, "the route table is full");
            turn.ids.route += 1;
            turn.records.push(Record::Route {
                service: name.clone(),
                contract: contract.clone(),
                route: index,
            });
            index
        });
        service.routes.insert(contract, Route::new(index));
    }
}
