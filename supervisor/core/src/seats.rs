//! The seats of instances: what profiles ask for, who was told which CPUs, and what is stored of
//! it.
//!
//! A seat belongs to an instance, not to a process: what replaces a process beside it sits with it,
//! and one that crashed finds its seat when it comes back. It is given back when the instance is
//! down, or waits for something.

use std::collections::BTreeMap;

use insula_contract::id::{ContractId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::placement::{
    CpuSet, MemoryPolicy, Placement, Pool, Processors, Request, Seat, Spot, WhyNot,
};
use crate::spec::{Cpus, PlaceSpec, ProfileSpec, ServiceSpec};

/// How much it counts that one service uses a contract of another.
const USES: u32 = 1;

/// A seat as it is stored, so that the next daemon leaves its instance where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The seat's number.
    pub id: u64,
    /// What was asked for.
    pub request: Request,
    /// What was got.
    pub seat: Seat,
}

/// Why an instance waits for room, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// Why it has no seat.
    pub why: WhyNot,
    /// How often room had become free by then: before it does so again, there is no use in trying.
    pub(crate) since: u64,
}

/// The host, its profiles, and who was told what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seats {
    host: Placement,
    profiles: BTreeMap<String, ProfileSpec>,
    /// The profile of a service whose own was taken away.
    fallback: String,
    pub(crate) providers: BTreeMap<ContractId, ServiceName>,
    /// The CPUs that the members of each pool run on, as far as they were told.
    told: BTreeMap<Pool, CpuSet>,
    /// What the account of owners was when they were told.
    told_at: Option<u64>,
}

impl Seats {
    pub(crate) fn new(
        host: Placement,
        profiles: BTreeMap<String, ProfileSpec>,
        fallback: &str,
    ) -> Self {
        Self {
            host,
            profiles,
            fallback: fallback.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn set_profiles(&mut self, profiles: BTreeMap<String, ProfileSpec>) {
        self.profiles = profiles;
    }

    /// The account.
    pub fn host(&self) -> &Placement {
        &self.host
    }

    pub(crate) fn host_mut(&mut self) -> &mut Placement {
        &mut self.host
    }

    /// The profiles by name.
    pub fn profiles(&self) -> &BTreeMap<String, ProfileSpec> {
        &self.profiles
    }

    /// Whether nobody has a seat, since nothing is known of the host.
    pub fn are_off(&self) -> bool {
        self.host.topology().cpus.is_empty()
    }

    /// What an instance of this release asks for.
    pub fn request(&self, spec: &ServiceSpec) -> Request {
        let profile = self.profiles.get(&spec.profile);
        let profile = profile.or_else(|| self.profiles.get(&self.fallback));
        let mut request = match profile {
            Some(profile) => request_of(spec.name.clone(), profile),
            None => Request::nothing(spec.name.clone()),
        };
        let providers = spec.requires.keys().filter_map(|contract| {
            let provider = self.providers.get(contract)?;
            (*provider != spec.name).then(|| (provider.clone(), USES))
        });
        request.near = providers.collect();
        request
    }

    /// What is to be stored of a seat.
    pub(crate) fn held(&self, id: Option<u64>) -> Option<Box<Held>> {
        let id = id?;
        Some(Box::new(Held {
            id,
            request: self.host.request(id)?.clone(),
            seat: self.host.seat(id)?.clone(),
        }))
    }

    /// The CPUs and the memory of a seat; no CPUs where it is all that services may use.
    pub fn given(&self, id: Option<u64>) -> (CpuSet, MemoryPolicy) {
        let Some(seat) = id.and_then(|id| self.host.seat(id)) else {
            return Default::default();
        };
        let cpus = self.host.cpus(seat);
        let all = cpus == self.host.topology().allowed();
        let cpus = if all { CpuSet::default() } else { cpus };
        (cpus, seat.policy.clone())
    }

    /// The pool that a seat is in.
    pub(crate) fn pool(&self, id: u64) -> Option<&Pool> {
        match &self.host.seat(id)?.spot {
            Spot::Pool(pool) => Some(pool),
            Spot::Cores { .. } => None,
        }
    }

    /// The pools whose members must be told that they run on other CPUs than before.
    pub(crate) fn changed(&mut self) -> Vec<(Pool, CpuSet)> {
        if self.told_at == Some(self.host.handed_over()) || self.are_off() {
            return Vec::new();
        }
        // As long as nobody has cores for himself, what programs do with their own affinity is theirs.
        let begins = self.host.handed_over() == 0;
        self.told_at = Some(self.host.handed_over());
        let pools = self.host.pools();
        let mut changed = Vec::new();
        for pool in pools {
            let cpus = self.host.pool_cpus(&pool);
            if self.told.get(&pool) != Some(&cpus) {
                self.told.insert(pool.clone(), cpus.clone());
                if !begins {
                    changed.push((pool, cpus));
                }
            }
        }
        changed
    }
}

/// What a profile asks for.
pub fn request_of(service: ServiceName, profile: &ProfileSpec) -> Request {
    let PlaceSpec {
        cores,
        whole,
        smt,
        share,
        memory,
        numa,
        needs,
    } = &profile.place;
    let processors = match *cores {
        0 if profile.best_effort => Processors::BestEffort { share: *share },
        0 => Processors::Shared { share: *share },
        cores => Processors::Exclusive {
            cores,
            whole: *whole,
            smt: *smt,
        },
    };
    Request {
        service,
        processors,
        within: match &profile.cpus {
            Cpus::All => None,
            Cpus::List(list) => Some(list.iter().map(|cpu| *cpu as u32).collect()),
        },
        memory: *memory,
        numa: *numa,
        labels: needs.clone(),
        near: BTreeMap::new(),
    }
}
