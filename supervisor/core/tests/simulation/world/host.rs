//! The simulated host's processors, and that nobody runs on what is somebody else's own.

use std::collections::BTreeMap;
use std::time::Duration;

use insula_contract::id::Attempt;
use insula_core::core::Core;
use insula_core::placement::{CpuSet, Placement, Policy, Spot, Topology};
use insula_core::service::{Dependency, Place};
use insula_core::spec::{Cpus, PlaceSpec, ProfileSpec, Spin};

use super::World;

/// Cores of the host; the instances of some services want more of them than there are.
const CORES: u32 = 5;

fn profile(cores: u32, share: u64) -> ProfileSpec {
    ProfileSpec {
        cpus: Cpus::All,
        spin: Spin::For(Duration::ZERO),
        best_effort: false,
        queue_delay: None,
        resources: Default::default(),
        place: PlaceSpec {
            cores,
            share,
            ..PlaceSpec::default()
        },
        idle: Default::default(),
    }
}

/// A core that knows its host; one of two seeds leaves it without.
pub(super) fn on_host(core: Core, seed: u64) -> Core {
    if seed.is_multiple_of(2) {
        return core;
    }
    let profiles = [
        ("dense", profile(0, 0)),
        ("share", profile(0, 1500)),
        ("alone", profile(1, 0)),
        ("pair", profile(2, 0)),
    ];
    let profiles: BTreeMap<_, _> = profiles
        .into_iter()
        .map(|(name, profile)| (name.to_owned(), profile))
        .collect();
    let topology = Topology::uniform(1, 1, CORES, 1, 1 << 30);
    core.on_host(
        Placement::new(topology, Policy::default()),
        profiles,
        "dense",
    )
}

impl World {
    /// The CPUs that an attempt was told to run on, and those that are its own.
    pub(super) fn seat(&self, attempt: Attempt, cpus: CpuSet) -> (CpuSet, CpuSet) {
        let service = self.core.service_of(attempt);
        let mut processes = service.into_iter().flat_map(|service| service.processes());
        let seat = processes
            .find(|process| process.attempt == attempt)
            .and_then(|process| self.core.seats().host().seat(process.seat?));
        let own = match seat.map(|seat| &seat.spot) {
            Some(Spot::Cores { taken, .. }) => taken.clone(),
            Some(Spot::Pool(_)) | None => CpuSet::default(),
        };
        let cpus = if cpus.is_empty() {
            (0..CORES).collect()
        } else {
            cpus
        };
        (cpus, own)
    }

    /// Nobody runs on a core that is another instance's own; who is being killed without being
    /// known any more may.
    pub(super) fn check_cores(&self, shown: &str) {
        let living = self
            .fakes
            .iter()
            .filter(|(attempt, fake)| fake.exists && self.core.service_of(**attempt).is_some());
        let living: Vec<_> = living.collect();
        for (owner, has) in living.iter().filter(|(_, fake)| !fake.own.is_empty()) {
            for (other, runs) in &living {
                let both = has.own.intersection(&runs.cpus);
                if runs.instance != has.instance && !both.is_empty() {
                    self.fail(&format!(
                        "attempt {other} of {} runs on CPUs {both}, which are the own of attempt \
                         {owner} of {}\nafter {shown}",
                        runs.instance, has.instance
                    ));
                }
            }
        }
    }

    /// Who waits for room at the end has none.
    pub(super) fn check_room(&self) {
        for service in self.core.services().values() {
            for replica in &service.replicas {
                let Place::Waiting { on, .. } = &replica.place else {
                    continue;
                };
                let waits = on.iter().any(|on| matches!(on, Dependency::Room(_)));
                let seats = self.core.seats();
                let request = seats.request(&service.releases[&replica.version]);
                if waits && seats.host().clone().add(u64::MAX, request).is_ok() {
                    self.fail(&format!("{} waits for room that there is", service.name));
                }
            }
        }
        let used = self.core.services().values().flat_map(|s| s.seats.keys());
        if used.count() != self.core.seats().host().ids().count() {
            self.fail("a seat is nobody's");
        }
    }
}
