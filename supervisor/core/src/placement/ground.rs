//! What is taken and what is free: the account of a host, by core, cache group, node and in all.
//!
//! Parts lie within each other (a node's pool within the host's), so what pools owe is checked for
//! each part against what is left there, and that is enough: whoever may use a part may use all of
//! it. Lists of CPUs cut across, so theirs is checked in the list and on the host.

use std::collections::BTreeMap;

use super::Policy;
use super::cpus::CpuSet;
use super::refusal::{Lack, Room, Where};
use super::request::{MemoryPolicy, Millis, Pool, Processors, Request, Seat, Smt, Spot};
use super::topology::Topology;

/// One core: the threads of it that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Core {
    pub(super) cpus: CpuSet,
    /// Index of its node.
    pub(super) node: usize,
    /// Index of its cache group.
    pub(super) l3: usize,
    /// Whether all its threads may be used, so that it can be given away.
    pub(super) whole: bool,
    /// Whether pools have it.
    pub(super) pooled: bool,
    /// Whose it is.
    pub(super) owner: Option<u64>,
}

impl Core {
    fn millis(&self) -> Millis {
        self.cpus.len() as Millis * 1000
    }

    pub(super) fn is_free(&self) -> bool {
        self.whole && self.owner.is_none()
    }
}

/// Cores that share a last-level cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct L3 {
    pub(super) node: usize,
    pub(super) cores: Vec<usize>,
    /// Cores that can be given away.
    pub(super) free: usize,
}

/// What the members of a pool were promised, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) members: usize,
    pub(super) shared: Millis,
    pub(super) best_effort: Millis,
}

/// A part of the host that has a pool: a node, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Cores that can be given away.
    pub(super) free: usize,
    /// All that ever could.
    pub(super) whole: usize,
    /// Cores that the pool has.
    pub(super) pooled: usize,
    /// What they can do.
    pub(super) millis: Millis,
    /// What all who use this part, or a part of it, are promised.
    pub(super) load: Load,
    pub(super) memory: u64,
    pub(super) memory_used: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: u32,
    pub(super) l3s: Vec<usize>,
    pub(super) part: Part,
}

/// The account of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) cores: Vec<Core>,
    pub(super) l3s: Vec<L3>,
    pub(super) nodes: Vec<Node>,
    pub(super) host: Part,
    /// Pools of lists of CPUs that have a member.
    pub(super) lists: BTreeMap<CpuSet, Load>,
    /// Which core a CPU belongs to.
    core_of: BTreeMap<u32, usize>,
}

/// What a request would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taking {
    pub(super) spot: Place,
    /// Bytes by index of node.
    pub(super) memory: Vec<(usize, u64)>,
    pub(super) memory_anywhere: u64,
}

/// Where a request would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// To these cores.
    Cores(Vec<usize>),
    /// To the pool of the host.
    Host,
    /// To the pool of a node.
    Node(usize),
    /// To the pool of a list.
    List(CpuSet),
}

impl Ground {
    pub(super) fn new(topology: &Topology, policy: &Policy) -> Self {
        let mut ground = Self::default();
        for node in &topology.nodes {
            let memory = node.memory;
            ground.nodes.push(Node {
                id: node.id,
                l3s: Vec::new(),
                part: Part {
                    memory,
                    ..Part::default()
                },
            });
            ground.host.memory += memory;
        }
        ground.host.memory = ground.host.memory.saturating_sub(policy.keep_memory);
        let mut cores: BTreeMap<(u32, u32, u32), Vec<&super::topology::Cpu>> = BTreeMap::new();
        for cpu in &topology.cpus {
            let key = (cpu.node, cpu.l3, cpu.core);
            cores.entry(key).or_default().push(cpu);
        }
        let mut l3s: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for ((node, l3, _), threads) in cores {
            let Some(at) = ground.nodes.iter().position(|known| known.id == node) else {
                continue;
            };
            let usable: CpuSet = threads
                .iter()
                .filter(|cpu| cpu.allowed)
                .map(|cpu| cpu.id)
                .collect();
            if usable.is_empty() {
                continue;
            }
            let l3 = *l3s.entry((node, l3)).or_insert_with(|| {
                ground.l3s.push(L3 {
                    node: at,
                    cores: Vec::new(),
                    free: 0,
                });
                ground.nodes[at].l3s.push(ground.l3s.len() - 1);
                ground.l3s.len() - 1
            });
            let core = Core {
                whole: usable.len() == threads.len(),
                pooled: !threads.iter().all(|cpu| cpu.isolated),
                cpus: usable,
                node: at,
                l3,
                owner: None,
            };
            let index = ground.cores.len();
            for cpu in core.cpus.iter() {
                ground.core_of.insert(cpu, index);
            }
            ground.l3s[l3].cores.push(index);
            ground.l3s[l3].free += usize::from(core.whole);
            for part in [&mut ground.nodes[at].part, &mut ground.host] {
                part.free += usize::from(core.whole);
                part.whole += usize::from(core.whole);
                part.pooled += usize::from(core.pooled);
                part.millis += if core.pooled { core.millis() } else { 0 };
            }
            ground.cores.push(core);
        }
        ground
    }

    /// The index of a node.
    pub(super) fn node(&self, id: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// The cores that have one of these CPUs.
    pub(super) fn cores_of(&self, cpus: &CpuSet) -> Vec<usize> {
        let mut cores: Vec<_> = cpus
            .iter()
            .filter_map(|cpu| self.core_of.get(&cpu).copied())
            .collect();
        cores.sort_unstable();
        cores.dedup();
        cores
    }

    fn share_lack(&self, request: &Request, place: &Place, policy: &Policy) -> Option<Lack> {
        let (share, best_effort) = match request.processors {
            Processors::Exclusive { .. } => return None,
            Processors::Shared { share } => (share, false),
            Processors::BestEffort { share } => (share, true),
        };
        let room = |part: Where, millis: Millis, load: &Load| {
            let of = policy.capacity(millis, best_effort);
            let used = if best_effort {
                load.best_effort
            } else {
                load.shared
            };
            let free = of.saturating_sub(used);
            Room { part, free, of }
        };
        let mut rooms = vec![room(Where::Host, self.host.millis, &self.host.load)];
        match place {
            Place::Node(at) => {
                let node = &self.nodes[*at];
                if node.part.pooled == 0 {
                    return Some(Lack::Share {
                        asked: share,
                        best_effort,
                        rooms: vec![room(Where::Node(node.id), 0, &node.part.load)],
                    });
                }
                rooms.push(room(
                    Where::Node(node.id),
                    node.part.millis,
                    &node.part.load,
                ));
            }
            Place::List(list) => {
                let (cpus, millis) = self.list_left(list, &[]);
                let none = Load::default();
                if cpus == 0 {
                    return Some(Lack::Cpus { list: list.clone() });
                }
                rooms.push(room(
                    Where::List(list.clone()),
                    millis,
                    self.lists.get(list).unwrap_or(&none),
                ));
            }
            Place::Host if self.host.pooled == 0 => {
                return Some(Lack::Share {
                    asked: share,
                    best_effort,
                    rooms,
                });
            }
            Place::Host | Place::Cores(_) => {}
        }
        rooms.retain(|room| room.free < share);
        (!rooms.is_empty()).then_some(Lack::Share {
            asked: share,
            best_effort,
            rooms,
        })
    }

    /// CPUs of a list that pools have when these cores are gone, and what they can do.
    fn list_left(&self, list: &CpuSet, gone: &[usize]) -> (usize, Millis) {
        let left = list.iter().filter(|cpu| {
            self.core_of.get(cpu).is_some_and(|core| {
                self.cores[*core].owner.is_none() && !gone.contains(core)
                // Whoever lists an isolated CPU wants it.
            })
        });
        let cpus = left.count();
        (cpus, cpus as Millis * 1000)
    }

    /// Who would be left with too little if these cores were given away.
    fn cores_lack(&self, cores: &[usize], policy: &Policy) -> Option<Lack> {
        let asked = cores.len() as u32;
        let lack = |part: Where, needed: Millis, left: Millis| {
            Some(Lack::SharedCores {
                asked,
                part,
                needed,
                left,
            })
        };
        let check = |part: Where, at: Option<usize>, here: &Part, keep: usize| {
            let gone = cores.iter().map(|core| &self.cores[*core]);
            let gone = gone.filter(|core| core.pooled && at.is_none_or(|at| core.node == at));
            let (count, millis) =
                gone.fold((0, 0), |(n, millis), core| (n + 1, millis + core.millis()));
            let (pooled, left) = (here.pooled - count, here.millis - millis);
            let keep = keep.max(usize::from(here.load.members > 0));
            if count > 0 && pooled < keep {
                return lack(part, keep as Millis * 1000, left);
            }
            policy
                .short(&here.load, left)
                .and_then(|needed| lack(part, needed, left))
        };
        let mut nodes: Vec<_> = cores.iter().map(|core| self.cores[*core].node).collect();
        nodes.dedup();
        for at in nodes {
            let node = &self.nodes[at];
            if let Some(lack) = check(Where::Node(node.id), Some(at), &node.part, 0) {
                return Some(lack);
            }
        }
        if let Some(lack) = check(Where::Host, None, &self.host, policy.keep_cores) {
            return Some(lack);
        }
        self.lists.iter().find_map(|(list, load)| {
            let (cpus, left) = self.list_left(list, cores);
            let part = Where::List(list.clone());
            if cpus == 0 {
                return lack(part, 1000, 0);
            }
            policy
                .short(load, left)
                .and_then(|needed| lack(part, needed, left))
        })
    }

    fn memory_lack(&self, asked: u64, taking: &Taking) -> Option<Lack> {
        let room = |part: Where, here: &Part| Room {
            part,
            free: here.memory.saturating_sub(here.memory_used),
            of: here.memory,
        };
        let mut rooms: Vec<_> = taking
            .memory
            .iter()
            .map(|(at, bytes)| {
                let node = &self.nodes[*at];
                (room(Where::Node(node.id), &node.part), *bytes)
            })
            .collect();
        rooms.push((room(Where::Host, &self.host), asked));
        rooms.retain(|(room, bytes)| room.free < *bytes);
        let rooms: Vec<_> = rooms.into_iter().map(|(room, _)| room).collect();
        (!rooms.is_empty()).then_some(Lack::Memory { asked, rooms })
    }

    /// What there is too little of for this.
    pub(super) fn lack(&self, request: &Request, taking: &Taking, policy: &Policy) -> Option<Lack> {
        let processors = match &taking.spot {
            Place::Cores(cores) => self.cores_lack(cores, policy),
            place @ (Place::Host | Place::Node(_) | Place::List(_)) => {
                self.share_lack(request, place, policy)
            }
        };
        processors.or_else(|| self.memory_lack(request.memory, taking))
    }

    /// The place as others see it.
    pub(super) fn seat(&self, request: &Request, taking: &Taking) -> Seat {
        let spot = match &taking.spot {
            Place::Cores(cores) => {
                let all = cores.iter().flat_map(|core| self.cores[*core].cpus.iter());
                let taken: CpuSet = all.collect();
                let own = matches!(
                    request.processors,
                    Processors::Exclusive { smt: Smt::Own, .. }
                );
                let cpus = if own {
                    let first = |core: &usize| self.cores[*core].cpus.iter().next();
                    cores.iter().filter_map(first).collect()
                } else {
                    taken.clone()
                };
                Spot::Cores { cpus, taken }
            }
            Place::Host => Spot::Pool(Pool::Host),
            Place::Node(at) => Spot::Pool(Pool::Node(self.nodes[*at].id)),
            Place::List(list) => Spot::Pool(Pool::List(list.clone())),
        };
        Seat {
            spot,
            memory: taking
                .memory
                .iter()
                .map(|(at, bytes)| (self.nodes[*at].id, *bytes))
                .collect(),
            memory_anywhere: taking.memory_anywhere,
            policy: self.policy(request, taking),
        }
    }

    fn policy(&self, request: &Request, taking: &Taking) -> MemoryPolicy {
        use super::request::Numa;
        let node = || taking.memory.first().map(|(at, _)| self.nodes[*at].id);
        let policy = match request.numa {
            Numa::Any | Numa::Spread => None,
            Numa::Local => node().map(MemoryPolicy::Preferred),
            Numa::Bind => node().map(MemoryPolicy::Bind),
            Numa::Interleave => {
                let nodes = taking.memory.iter().map(|(at, _)| self.nodes[*at].id);
                Some(MemoryPolicy::Interleave(nodes.collect()))
            }
        };
        policy.unwrap_or_default()
    }

    /// Gives a place to `id`, whether there is room or not.
    pub(super) fn take(&mut self, id: u64, request: &Request, seat: &Seat) {
        match &seat.spot {
            Spot::Cores { taken, .. } => {
                for core in self.cores_of(taken) {
                    if self.cores[core].owner.is_none() {
                        self.cores[core].owner = Some(id);
                        self.count_core(core, false);
                    }
                }
            }
            Spot::Pool(pool) => self.count_member(request, pool, true),
        }
        self.count_memory(seat, true);
    }

    /// Takes it back.
    pub(super) fn give_back(&mut self, id: u64, request: &Request, seat: &Seat) {
        match &seat.spot {
            Spot::Cores { taken, .. } => {
                for core in self.cores_of(taken) {
                    if self.cores[core].owner == Some(id) {
                        self.cores[core].owner = None;
                        self.count_core(core, true);
                    }
                }
            }
            Spot::Pool(pool) => self.count_member(request, pool, false),
        }
        self.count_memory(seat, false);
    }

    fn count_core(&mut self, core: usize, free: bool) {
        let core = &self.cores[core];
        let (whole, pooled, millis) = (core.whole, core.pooled, core.millis());
        let add = |to: &mut usize| if free { *to += 1 } else { *to -= 1 };
        if whole {
            add(&mut self.l3s[core.l3].free);
        }
        for part in [&mut self.nodes[core.node].part, &mut self.host] {
            if whole {
                add(&mut part.free);
            }
            if pooled {
                add(&mut part.pooled);
                if free {
                    part.millis += millis;
                } else {
                    part.millis -= millis;
                }
            }
        }
    }

    fn count_member(&mut self, request: &Request, pool: &Pool, comes: bool) {
        let (shared, best_effort) = match request.processors {
            Processors::Exclusive { .. } => (0, 0),
            Processors::Shared { share } => (share, 0),
            Processors::BestEffort { share } => (0, share),
        };
        let count = |load: &mut Load| {
            if comes {
                load.members += 1;
                load.shared += shared;
                load.best_effort += best_effort;
            } else {
                load.members -= 1;
                load.shared -= shared;
                load.best_effort -= best_effort;
            }
        };
        count(&mut self.host.load);
        match pool {
            Pool::Host => {}
            Pool::Node(id) => {
                if let Some(at) = self.node(*id) {
                    count(&mut self.nodes[at].part.load);
                }
            }
            Pool::List(list) => {
                let load = self.lists.entry(list.clone()).or_default();
                count(load);
                if load.members == 0 {
                    self.lists.remove(list);
                }
            }
        }
    }

    fn count_memory(&mut self, seat: &Seat, comes: bool) {
        let count = |used: &mut u64, bytes: u64| {
            if comes {
                *used += bytes;
            } else {
                *used -= bytes;
            }
        };
        for (id, bytes) in &seat.memory {
            if let Some(at) = self.node(*id) {
                count(&mut self.nodes[at].part.memory_used, *bytes);
            }
            count(&mut self.host.memory_used, *bytes);
        }
        count(&mut self.host.memory_used, seat.memory_anywhere);
    }

    /// The CPUs that the members of a pool may use now.
    pub(super) fn pool_cpus(&self, pool: &Pool) -> CpuSet {
        let node = match pool {
            Pool::Host => None,
            Pool::Node(id) => self.node(*id),
            Pool::List(list) => {
                let free = |cpu: &u32| {
                    self.core_of
                        .get(cpu)
                        .is_some_and(|core| self.cores[*core].owner.is_none())
                };
                return list.iter().filter(free).collect();
            }
        };
        let cores = self.cores.iter().filter(|core| {
            core.pooled && core.owner.is_none() && node.is_none_or(|node| core.node == node)
        });
        cores.flat_map(|core| core.cpus.iter()).collect()
    }
}
