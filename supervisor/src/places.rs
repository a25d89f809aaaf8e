//! Who sits where, and who could: what `topology`, `plan`, `explain` and `capacity` tell.
//!
//! The driver gives a copy of the account; everything is found out on that, beside its loop.

use std::collections::BTreeMap;

use insula_contract::id::ServiceName;
use insula_core::core::Core;
use insula_core::placement::plan::{STEPS, plan};
use insula_core::placement::{
    Alternative, CpuSet, MANY, MemoryPolicy, Request, Seat, Spot, Topology,
};
use insula_core::seats::{Seats, request_of};
use insula_core::service::{Dependency, Place};
use insula_core::spec::ServiceSpec;
use serde::{Deserialize, Serialize};

/// More instances than are planned for at once.
const ADDED_MAX: usize = 10_000;

/// A copy of the account, with the names of who sits where.
#[derive(Debug)]
pub struct Places {
    seats: Seats,
    /// Who has which seat.
    who: BTreeMap<u64, (String, ServiceName)>,
    /// The releases that run or would, and how many instances have no seat.
    services: BTreeMap<ServiceName, (ServiceSpec, usize)>,
    waiting: Vec<Waiting>,
}

/// One that waits for room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which instance.
    pub instance: String,
    /// Why.
    pub why: String,
}

/// A seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SeatRow {
    /// Whose.
    pub instance: String,
    /// Under which profile.
    pub profile: String,
    /// The CPUs that it runs on.
    pub cpus: String,
    /// The CPUs that nobody else uses for its sake; none where it shares.
    pub own: Option<String>,
    /// Bytes that are promised to it.
    pub memory: u64,
    /// Where they come from.
    pub from: String,
}

/// A host and who sits where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Picture {
    /// Changes when a field changes its meaning.
    pub schema: u32,
    /// The host.
    pub topology: Topology,
    /// What it is, in words.
    pub labels: Vec<String>,
    /// The CPUs that nobody has for himself.
    pub shared: String,
    /// Who has each CPU for himself.
    pub owners: BTreeMap<u32, String>,
    /// All who have a seat.
    pub seats: Vec<SeatRow>,
    /// All who wait for one.
    pub waiting: Vec<Waiting>,
}

/// What would become of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Planned {
    /// Which.
    pub instance: String,
    /// Its seat, if it gets one.
    pub seat: Option<SeatRow>,
    /// Why it gets none.
    pub why: Option<String>,
    /// A move of another that would make room for it.
    pub move_of: Option<SeatRow>,
}

/// How many more instances of a profile fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Capacity {
    /// Which profile.
    pub profile: String,
    /// So many; at least so many where nothing binds.
    pub more: usize,
    /// What there would be too little of for one more.
    pub binds: Option<String>,
}

/// Where an instance could sit instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Instead {
    /// There.
    pub cpus: String,
    /// Whether it is where it sits.
    pub taken: bool,
    /// What speaks for it, or against it.
    pub why: String,
}

/// Why an instance sits where it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explained {
    /// Its seat.
    pub seat: SeatRow,
    /// What it asks for.
    pub asks: String,
    /// All places, the best first.
    pub places: Vec<Instead>,
}

/// What `explain` tells of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Its instances that have a seat.
    pub seats: Vec<Explained>,
    /// Those that wait for one.
    pub waiting: Vec<Waiting>,
}

fn from(policy: &MemoryPolicy) -> String {
    match policy {
        MemoryPolicy::Default => "any node".to_owned(),
        MemoryPolicy::Preferred(node) => format!("node {node} first"),
        MemoryPolicy::Bind(node) => format!("node {node} only"),
        MemoryPolicy::Interleave(nodes) => {
            let nodes: CpuSet = nodes.iter().copied().collect();
            format!("nodes {nodes} in turn")
        }
    }
}

impl Places {
    /// As they are now.
    pub fn of(core: &Core) -> Self {
        let mut who = BTreeMap::new();
        let mut services = BTreeMap::new();
        let mut waiting = Vec::new();
        for service in core.services().values() {
            for (id, at) in &service.seats {
                let instance = service.instance(*at).to_string();
                who.insert(*id, (instance, service.name.clone()));
            }
            let wanted = usize::from(service.wanted());
            let seated = (0..wanted).filter(|at| service.seats.values().any(|of| of == at));
            let unseated = wanted - seated.count();
            services.insert(service.name.clone(), (service.spec().clone(), unseated));
            for (at, replica) in service.replicas.iter().enumerate() {
                let Place::Waiting { on, .. } = &replica.place else {
                    continue;
                };
                let why = on.iter().find_map(|needed| match needed {
                    Dependency::Room(room) => Some(room.why.to_string()),
                    Dependency::Contract(_) | Dependency::Service(_) => None,
                });
                waiting.extend(why.map(|why| Waiting {
                    instance: service.instance(at).to_string(),
                    why,
                }));
            }
        }
        Self {
            seats: core.seats().clone(),
            who,
            services,
            waiting,
        }
    }

    fn name(&self, id: u64) -> String {
        self.who
            .get(&id)
            .map_or("?".to_owned(), |who| who.0.clone())
    }

    fn row(&self, instance: String, service: &ServiceName, seat: &Seat, cpus: &CpuSet) -> SeatRow {
        let spec = self.services.get(service);
        SeatRow {
            instance,
            profile: spec.map_or_else(String::new, |(spec, _)| spec.profile.clone()),
            cpus: cpus.to_string(),
            own: match &seat.spot {
                Spot::Cores { taken, .. } => Some(taken.to_string()),
                Spot::Pool(_) => None,
            },
            memory: seat.memory.values().sum::<u64>() + seat.memory_anywhere,
            from: from(&seat.policy),
        }
    }

    fn seated(&self, id: u64) -> Option<SeatRow> {
        let (instance, service) = self.who.get(&id)?;
        let seat = self.seats.host().seat(id)?;
        let cpus = self.seats.host().cpus(seat);
        Some(self.row(instance.clone(), service, seat, &cpus))
    }

    /// A picture of it all.
    pub fn picture(&self) -> Picture {
        let host = self.seats.host();
        let topology = host.topology().clone();
        let owners = topology.cpus.iter().filter_map(|cpu| {
            let owner = host.owner(cpu.id)?;
            Some((cpu.id, self.name(owner)))
        });
        Picture {
            schema: 1,
            labels: host.labels().iter().cloned().collect(),
            shared: host
                .pool_cpus(&insula_core::placement::Pool::Host)
                .to_string(),
            owners: owners.collect(),
            seats: host.ids().filter_map(|id| self.seated(id)).collect(),
            waiting: self.waiting.clone(),
            topology,
        }
    }

    /// What would become of so many more instances of services, or of all that have no seat.
    ///
    /// # Errors
    /// No such service.
    pub fn plan(&self, add: &[(ServiceName, usize)]) -> Result<Vec<Planned>, String> {
        let mut requests: Vec<(String, ServiceName, Request)> = Vec::new();
        let mut more = |name: &ServiceName, count: usize, word: &str| -> Result<(), String> {
            let Some((spec, _)) = self.services.get(name) else {
                let known: Vec<_> = self.services.keys().map(ServiceName::as_str).collect();
                return Err(format!(
                    "no such service `{name}`; installed are {}",
                    known.join(", ")
                ));
            };
            for number in 1..=count.min(ADDED_MAX) {
                let instance = format!("{name}{word}{number}");
                requests.push((instance, name.clone(), self.seats.request(spec)));
            }
            Ok(())
        };
        if add.is_empty() {
            for (name, (_, unseated)) in &self.services {
                more(name, *unseated, " down ")?;
            }
        }
        for (name, count) in add {
            more(name, *count, " more ")?;
        }
        let asked: Vec<_> = requests.iter().map(|(_, _, asked)| asked.clone()).collect();
        let made = plan(self.seats.host(), &asked, STEPS);
        let planned = requests.into_iter().enumerate();
        let planned = planned.map(|(index, (instance, service, request))| {
            let seat = made.seat(index).map(|seat| {
                let cpus = made.host.cpus(seat);
                self.row(instance.clone(), &service, seat, &cpus)
            });
            let why = made.seats[index].as_ref().err().map(ToString::to_string);
            let move_of = why.as_ref().and_then(|_| {
                let (id, seat) = self.seats.host().move_for(&request)?;
                let (instance, service) = self.who.get(&id)?;
                let cpus = match &seat.spot {
                    Spot::Cores { cpus, .. } => cpus.clone(),
                    Spot::Pool(pool) => self.seats.host().pool_cpus(pool),
                };
                Some(self.row(instance.clone(), service, &seat, &cpus))
            });
            Planned {
                instance,
                seat,
                why,
                move_of,
            }
        });
        Ok(planned.collect())
    }

    /// How many more of each profile fit, each by itself.
    pub fn capacity(&self) -> Vec<Capacity> {
        let nobody: ServiceName = "nobody".parse().expect("a name");
        let profiles = self.seats.profiles().iter();
        let capacity = profiles.map(|(name, profile)| {
            let request = request_of(nobody.clone(), profile);
            let (more, binds) = self.seats.host().how_many(&request);
            debug_assert!(more <= MANY, "it is not counted further");
            Capacity {
                profile: name.clone(),
                more,
                binds: binds.map(|why| why.lack.to_string()),
            }
        });
        capacity.collect()
    }

    /// Why the instances of a service sit where they do.
    pub fn explain(&self, name: &ServiceName) -> Explanation {
        let ids = self.who.iter().filter(|(_, who)| who.1 == *name);
        let seats = ids.filter_map(|(id, _)| {
            let seat = self.seated(*id)?;
            let own = self.seats.host().seat(*id)?;
            let alternatives = self.seats.host().alternatives(*id);
            let places = alternatives.iter().map(|place| self.instead(place, own));
            Some(Explained {
                asks: asks(self.seats.host().request(*id)?),
                places: places.collect(),
                seat,
            })
        });
        let of_it = |waiting: &&Waiting| waiting.instance.starts_with(&format!("{name}:"));
        Explanation {
            seats: seats.collect(),
            waiting: self.waiting.iter().filter(of_it).cloned().collect(),
        }
    }

    fn instead(&self, place: &Alternative, own: &Seat) -> Instead {
        let cpus = match &place.seat.spot {
            Spot::Cores { cpus, .. } => cpus.to_string(),
            Spot::Pool(pool) => pool.to_string(),
        };
        let why = match (&place.lack, place.points) {
            (Some(lack), _) => lack.to_string(),
            (None, (points, compact, fit)) => format!(
                "relations {points}, compactness {compact}, fit {fit}: the greater the better, in \
                 this order"
            ),
        };
        Instead {
            taken: place.seat.spot == own.spot,
            cpus,
            why,
        }
    }
}

fn asks(request: &Request) -> String {
    use insula_core::placement::{Processors, Smt, Whole};
    let mut asks = match request.processors {
        Processors::Exclusive { cores, whole, smt } => {
            let whole = if whole == Whole::L3 {
                " in whole L3 groups"
            } else {
                ""
            };
            let smt = if smt == Smt::Own {
                ", one thread of each"
            } else {
                ""
            };
            format!("{cores} exclusive cores{whole}{smt}")
        }
        Processors::Shared { share } => format!("{share} thousandths of shared CPUs"),
        Processors::BestEffort { share } => format!("best effort, counted as {share} thousandths"),
    };
    if let Some(list) = &request.within {
        asks += &format!(", of CPUs {list}");
    }
    if request.memory > 0 {
        asks += &format!(", {} MiB of memory", request.memory >> 20);
    }
    let near: Vec<_> = request.near.keys().map(ServiceName::as_str).collect();
    if !near.is_empty() {
        asks += &format!(", near {}", near.join(", "));
    }
    asks
}
