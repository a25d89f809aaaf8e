//! Who sits where: cores, shares of CPUs and memory, given out and taken back.
//!
//! A [`Placement`] keeps the account of one host. It is pure and deterministic: the same requests
//! in the same order get the same seats. Who sits stays where he is; [`Placement::add`] finds a
//! seat for one more, or says with numbers why there is none ([`WhyNot`]).
//!
//! ```text
//! cores      one owner each, with all their threads; whole cache groups where asked for
//! pools      of the host, of a node, of a list of CPUs: what nobody owns; promised in
//!            thousandths of a CPU, up to a declared factor, for shared and best effort apart
//! memory     promised by node, or from anywhere; never more than there is
//! ```
//!
//! A place is chosen for these reasons, in this order: near those that it talks to and apart from
//! its own kind; in few cache groups and nodes; filling what is already broken into (cores), or
//! leaving the most room (pools).
//!
//! [`plan::plan`] places many at once and may search for a better order, with a limit on its steps. The
//! account trusts what requests say; nothing here measures what is used.

mod candidates;
mod cpus;
mod ground;
pub mod plan;
mod refusal;
mod request;
mod topology;

use std::collections::{BTreeMap, BTreeSet};

use insula_contract::id::ServiceName;
use serde::{Deserialize, Serialize};

use candidates::{Candidate, Foot, Relative};
pub use cpus::{CpuSet, NoCpuSet};
use ground::{Ground, Load, Taking};
pub use refusal::{Lack, Room, Where, WhyNot};
pub use request::{MemoryPolicy, Millis, Numa, Pool, Processors, Request, Seat, Smt, Spot, Whole};
pub use topology::{Cpu, Node, Topology};

/// Others that a request has to do with and that are looked at, at most.
const RELATIVES: usize = 32;
/// More than this is not counted by [`Placement::how_many`].
pub const MANY: usize = 1000;

/// What the host keeps back, and how much it promises twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Cores that are never given away; at least one is needed by the daemon itself.
    pub keep_cores: usize,
    /// Memory that is never promised, in bytes.
    pub keep_memory: u64,
    /// How much of shared CPUs is promised, in per cent.
    pub shared_percent: u64,
    /// How much of shared CPUs best effort may count on, in per cent.
    pub best_effort_percent: u64,
    /// What the host is, beside what its topology says.
    pub labels: BTreeSet<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            keep_cores: 1,
            keep_memory: 0,
            shared_percent: 100,
            best_effort_percent: 400,
            labels: BTreeSet::new(),
        }
    }
}

impl Policy {
    fn percent(&self, best_effort: bool) -> u64 {
        if best_effort {
            self.best_effort_percent
        } else {
            self.shared_percent
        }
    }

    /// What is promised of so much.
    fn capacity(&self, millis: Millis, best_effort: bool) -> Millis {
        millis * self.percent(best_effort) / 100
    }

    /// What these need, if it is more than there is.
    fn short(&self, load: &Load, left: Millis) -> Option<Millis> {
        let kinds = [(load.shared, false), (load.best_effort, true)];
        kinds.into_iter().find_map(|(promised, best_effort)| {
            let percent = self.percent(best_effort).max(1);
            (promised > self.capacity(left, best_effort))
                .then(|| (promised * 100).div_ceil(percent))
        })
    }
}

/// One that has a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seated {
    request: Request,
    seat: Seat,
    foot: Foot,
}

/// A place that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Alternative {
    /// Which.
    pub seat: Seat,
    /// How good it is: relations, compactness, fit.
    pub points: (i64, i64, i64),
    /// What speaks against it.
    pub lack: Option<Lack>,
}

/// The account of a host, and who sits where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    topology: Topology,
    policy: Policy,
    labels: BTreeSet<String>,
    ground: Ground,
    seated: BTreeMap<u64, Seated>,
    /// Those of each service.
    kin: BTreeMap<ServiceName, BTreeSet<u64>>,
    /// Those that are drawn to each service.
    drawn: BTreeMap<ServiceName, BTreeSet<u64>>,
    /// How often cores changed hands.
    handed_over: u64,
    /// How often room became free.
    freed: u64,
}

impl Placement {
    /// An empty host.
    pub fn new(topology: Topology, policy: Policy) -> Self {
        Self {
            ground: Ground::new(&topology, &policy),
            labels: topology.labels().union(&policy.labels).cloned().collect(),
            topology,
            policy,
            ..Self::default()
        }
    }

    /// The host.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What it keeps back and promises twice.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the host is, in words.
    pub fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// Finds a seat for one more; nobody else moves.
    ///
    /// # Errors
    /// There is no room.
    ///
    /// # Panics
    /// `id` has a seat already.
    pub fn add(&mut self, id: u64, request: Request) -> Result<&Seat, WhyNot> {
        assert!(!self.seated.contains_key(&id), "{id} has a seat");
        match self.search(&request) {
            Ok(candidate) => Ok(self.sit(id, request, &candidate)),
            Err(lack) => Err(WhyNot {
                lack,
                fits_alone: self.emptied().search(&request).is_ok(),
            }),
        }
    }

    /// Gives `id` the seat that it has had under an earlier daemon, whatever the account says.
    pub fn take_up(&mut self, id: u64, request: Request, seat: Seat) {
        self.remove(id);
        let foot = self.foot_of(&seat);
        self.insert(
            id,
            Seated {
                request,
                seat,
                foot,
            },
        );
    }

    /// Takes the seat of `id` back; whether it had one.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(gone) = self.seated.remove(&id) else {
            return false;
        };
        self.ground.give_back(id, &gone.request, &gone.seat);
        self.note_cores(&gone.seat);
        let forget = |index: &mut BTreeMap<ServiceName, BTreeSet<u64>>, name: &ServiceName| {
            if let Some(ids) = index.get_mut(name) {
                ids.remove(&id);
                if ids.is_empty() {
                    index.remove(name);
                }
            }
        };
        forget(&mut self.kin, &gone.request.service);
        for name in gone.request.near.keys() {
            forget(&mut self.drawn, name);
        }
        self.freed += 1;
        true
    }

    /// How often room became free: nobody who was refused fits before this changes.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Where `id` sits.
    pub fn seat(&self, id: u64) -> Option<&Seat> {
        Some(&self.seated.get(&id)?.seat)
    }

    /// What `id` asked for.
    pub fn request(&self, id: u64) -> Option<&Request> {
        Some(&self.seated.get(&id)?.request)
    }

    /// All that have a seat.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.seated.keys().copied()
    }

    /// The CPUs that a seat comes to now.
    pub fn cpus(&self, seat: &Seat) -> CpuSet {
        match &seat.spot {
            Spot::Cores { cpus, .. } => cpus.clone(),
            Spot::Pool(pool) => self.ground.pool_cpus(pool),
        }
    }

    /// The pools that there are: of the host, of its nodes, and of lists with a member.
    pub fn pools(&self) -> Vec<Pool> {
        let nodes = self.ground.nodes.iter().map(|node| Pool::Node(node.id));
        let lists = self.ground.lists.keys().cloned().map(Pool::List);
        std::iter::once(Pool::Host)
            .chain(nodes)
            .chain(lists)
            .collect()
    }

    /// The CPUs of a pool: those that nobody has for himself.
    pub fn pool_cpus(&self, pool: &Pool) -> CpuSet {
        self.ground.pool_cpus(pool)
    }

    /// Changes whenever a core gets an owner or loses one.
    pub fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// Who has a CPU for himself.
    pub fn owner(&self, cpu: u32) -> Option<u64> {
        let core = self.ground.cores_of(&CpuSet::from_iter([cpu]));
        self.ground.cores[*core.first()?].owner
    }

    /// How many more with this request fit, up to [`MANY`], and what binds then.
    pub fn how_many(&self, request: &Request) -> (usize, Option<WhyNot>) {
        let mut host = self.clone();
        let first = self.seated.keys().next_back().map_or(0, |last| last + 1);
        for count in 0..MANY {
            if let Err(why) = host.add(first + count as u64, request.clone()) {
                return (count, Some(why));
            }
        }
        (MANY, None)
    }

    /// Where one with a seat could sit instead, with what speaks against each of these places; the
    /// best first. The first one is its own, unless another has become better since it came.
    pub fn alternatives(&self, id: u64) -> Vec<Alternative> {
        let Some(request) = self.request(id).cloned() else {
            return Vec::new();
        };
        let mut without = self.clone();
        without.remove(id);
        let relatives = without.relatives(&request);
        let (mut found, rejected) =
            candidates::find(&without.ground, &request, &relatives, &self.policy);
        let mut options = Vec::new();
        while let Some(best) = candidates::best(&found) {
            let candidate = found.remove(best);
            let score = candidate.score;
            options.push(Alternative {
                seat: without.ground.seat(&request, &candidate.taking),
                points: (score.points, score.compact, score.fit),
                lack: None,
            });
        }
        options.extend(rejected.into_iter().map(|(taking, lack)| Alternative {
            seat: without.ground.seat(&request, &taking),
            points: (0, 0, 0),
            lack: Some(lack),
        }));
        options
    }

    /// One that would have to move to make room, and where to: the first that helps.
    pub fn move_for(&self, request: &Request) -> Option<(u64, Seat)> {
        self.ids().find_map(|id| {
            let mut without = self.clone();
            let moved = self.request(id)?.clone();
            without.remove(id);
            let newcomer = without.seated.keys().next_back().map_or(0, |last| last + 1);
            without.add(newcomer.max(id + 1), request.clone()).ok()?;
            let seat = without.add(id, moved).ok()?.clone();
            Some((id, seat))
        })
    }

    /// The host with nobody on it.
    fn emptied(&self) -> Self {
        Self::new(self.topology.clone(), self.policy.clone())
    }

    fn search(&self, request: &Request) -> Result<Candidate, Lack> {
        let has = &self.labels;
        if !request.labels.is_subset(has) {
            let missing = request.labels.difference(has).cloned().collect();
            let has = has.clone();
            return Err(Lack::Labels { missing, has });
        }
        let relatives = self.relatives(request);
        let (mut found, rejected) =
            candidates::find(&self.ground, request, &relatives, &self.policy);
        match candidates::best(&found) {
            Some(best) => Ok(found.swap_remove(best)),
            None => Err(self.lack(request, rejected)),
        }
    }

    /// What all places lack, as one.
    fn lack(&self, request: &Request, rejected: Vec<(Taking, Lack)>) -> Lack {
        let asked = match request.processors {
            Processors::Exclusive { cores, whole, .. } => (cores, whole),
            Processors::Shared { .. } | Processors::BestEffort { .. } => (0, Whole::Core),
        };
        let mut lacks = rejected.into_iter().map(|(_, lack)| lack);
        let Some(mut first) = lacks.next() else {
            return Lack::Cores {
                asked: asked.0,
                whole: asked.1,
                rooms: candidates::core_rooms(&self.ground, request),
            };
        };
        // The same thing is short in several parts: all of them are named.
        for next in lacks {
            let (rooms, more) = match (&mut first, next) {
                (Lack::Memory { rooms, .. }, Lack::Memory { rooms: more, .. }) => (rooms, more),
                (Lack::Share { rooms, .. }, Lack::Share { rooms: more, .. }) => (rooms, more),
                _ => continue,
            };
            for room in more {
                if !rooms.contains(&room) {
                    rooms.push(room);
                }
            }
        }
        first
    }

    fn relatives(&self, request: &Request) -> Vec<Relative> {
        let mut relatives = Vec::new();
        let mut see = |id: &u64| {
            let other = &self.seated[id];
            let forth = request.near.get(&other.request.service);
            let back = other.request.near.get(&request.service);
            let weight = |weight: Option<&u32>| weight.copied().map_or(0, i64::from);
            relatives.push(Relative {
                weight: weight(forth) + weight(back),
                kin: other.request.service == request.service,
                foot: other.foot,
            });
        };
        let kin = self.kin.get(&request.service).into_iter().flatten();
        let near = request.near.keys().filter(|name| **name != request.service);
        let near = near.filter_map(|name| self.kin.get(name)).flatten();
        let drawn = self.drawn.get(&request.service).into_iter().flatten();
        let drawn = drawn.filter(|id| {
            let other = &self.seated[*id].request.service;
            *other != request.service && !request.near.contains_key(other)
        });
        kin.chain(near)
            .chain(drawn)
            .take(RELATIVES)
            .for_each(&mut see);
        relatives
    }

    fn sit(&mut self, id: u64, request: Request, candidate: &Candidate) -> &Seat {
        let seat = self.ground.seat(&request, &candidate.taking);
        let foot = candidate.foot;
        self.insert(
            id,
            Seated {
                request,
                seat,
                foot,
            },
        );
        &self.seated[&id].seat
    }

    fn insert(&mut self, id: u64, seated: Seated) {
        self.ground.take(id, &seated.request, &seated.seat);
        self.note_cores(&seated.seat);
        let service = seated.request.service.clone();
        self.kin.entry(service).or_default().insert(id);
        for name in seated.request.near.keys() {
            self.drawn.entry(name.clone()).or_default().insert(id);
        }
        self.seated.insert(id, seated);
    }

    fn note_cores(&mut self, seat: &Seat) {
        if let Spot::Cores { .. } = seat.spot {
            self.handed_over += 1;
        }
    }

    fn foot_of(&self, seat: &Seat) -> Foot {
        let one = |mut all: Vec<usize>| {
            all.sort_unstable();
            all.dedup();
            (all.len() == 1).then(|| all[0])
        };
        let cores = match &seat.spot {
            Spot::Cores { taken, .. } => self.ground.cores_of(taken),
            Spot::Pool(Pool::Node(id)) => {
                let node = self.ground.node(*id);
                return Foot { node, l3: None };
            }
            Spot::Pool(Pool::Host) => {
                let node = (self.ground.nodes.len() == 1).then_some(0);
                return Foot { node, l3: None };
            }
            Spot::Pool(Pool::List(list)) => {
                let cores = self.ground.cores_of(list);
                let nodes = cores.iter().map(|core| self.ground.cores[*core].node);
                let node = one(nodes.collect());
                return Foot { node, l3: None };
            }
        };
        let cores = || cores.iter().map(|core| &self.ground.cores[*core]);
        Foot {
            node: one(cores().map(|core| core.node).collect()),
            l3: one(cores().map(|core| core.l3).collect()),
        }
    }
}
