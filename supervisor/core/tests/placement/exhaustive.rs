//! The best plan of all, found by trying everything: slow, and obvious.
//!
//! It knows cores by how many of each cache group somebody has, since those of a group are alike;
//! everything else it counts anew for each plan.

use insula_core::placement::plan::Worth;
use insula_core::placement::{
    CpuSet, Numa, Policy, Pool, Processors, Request, Seat, Spot, Topology, Whole,
};

/// The host as this module sees it.
pub(crate) struct Host {
    /// Of each cache group: its node, and its cores.
    pub(crate) l3s: Vec<(usize, usize)>,
    pub(crate) nodes: usize,
    threads: u64,
    memory: u64,
    policy: Policy,
}

/// Where somebody sits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sits {
    /// On so many cores of each cache group.
    On(Vec<usize>),
    /// In the pool of a node.
    Node(usize),
    /// In the pool of the host.
    Host,
}

impl Host {
    pub(crate) fn new(topology: &Topology, policy: &Policy) -> Self {
        let mut keys: Vec<_> = topology.cpus.iter().map(|c| (c.node, c.l3)).collect();
        keys.sort_unstable();
        keys.dedup();
        let cores = |l3: u32| {
            let mut cores: Vec<_> = topology.cpus.iter().filter(|c| c.l3 == l3).collect();
            cores.retain(|cpu| cpu.id == cpu.core);
            cores.len()
        };
        let l3s: Vec<_> = keys
            .iter()
            .map(|(node, l3)| (*node as usize, cores(*l3)))
            .collect();
        let all: usize = l3s.iter().map(|(_, cores)| cores).sum();
        Self {
            threads: topology.cpus.len() as u64 / all as u64,
            l3s,
            nodes: topology.nodes.len(),
            memory: topology.nodes[0].memory,
            policy: policy.clone(),
        }
    }

    /// What a seat means here.
    pub(crate) fn read(&self, topology: &Topology, seat: &Seat) -> Sits {
        match &seat.spot {
            Spot::Cores { taken, .. } => {
                let mut l3s: Vec<_> = topology.cpus.iter().map(|c| c.l3).collect();
                l3s.sort_unstable();
                l3s.dedup();
                let of = |l3: &u32| {
                    let first = |c: &&insula_core::placement::Cpu| c.l3 == *l3 && c.id == c.core;
                    let mine: CpuSet = topology.cpus.iter().filter(first).map(|c| c.id).collect();
                    mine.intersection(taken).len()
                };
                Sits::On(l3s.iter().map(of).collect())
            }
            Spot::Pool(Pool::Node(node)) => Sits::Node(*node as usize),
            Spot::Pool(Pool::Host | Pool::List(_)) => Sits::Host,
        }
    }

    fn node_counts(&self, on: &[usize]) -> Vec<usize> {
        let mut counts = vec![0; self.nodes];
        for (cores, (node, _)) in on.iter().zip(&self.l3s) {
            counts[*node] += cores;
        }
        counts
    }

    /// Whether nobody gets more than there is.
    pub(crate) fn holds(&self, requests: &[Request], plan: &[Option<Sits>]) -> bool {
        let mut left: Vec<i64> = self.l3s.iter().map(|(_, cores)| *cores as i64).collect();
        let mut memory = vec![0; self.nodes];
        let mut memory_in_all = 0;
        // Of each node, and last of the host: members, shared, best effort.
        let mut load = vec![(0, 0, 0); self.nodes + 1];
        for (request, sits) in requests.iter().zip(plan) {
            let Some(sits) = sits else { continue };
            memory_in_all += request.memory;
            let node = match sits {
                Sits::On(on) => {
                    for (left, cores) in left.iter_mut().zip(on) {
                        *left -= *cores as i64;
                    }
                    let counts = self.node_counts(on);
                    let total: usize = counts.iter().sum();
                    if request.numa == Numa::Spread {
                        for (memory, count) in memory.iter_mut().zip(&counts) {
                            *memory += request.memory / total as u64 * *count as u64;
                        }
                    }
                    counts.iter().position(|count| *count == total)
                }
                Sits::Node(node) => Some(*node),
                Sits::Host => None,
            };
            match (request.numa, node) {
                (Numa::Local | Numa::Bind, Some(node)) => memory[node] += request.memory,
                (Numa::Local | Numa::Bind, None) => return false,
                (Numa::Interleave, _) => {
                    for memory in &mut memory {
                        *memory += request.memory / self.nodes as u64;
                    }
                }
                (Numa::Any | Numa::Spread, _) => {}
            }
            let (shared, best_effort) = match request.processors {
                Processors::Exclusive { .. } => continue,
                Processors::Shared { share } => (share, 0),
                Processors::BestEffort { share } => (0, share),
            };
            let mut parts = vec![self.nodes];
            if let Sits::Node(node) = sits {
                parts.push(*node);
            }
            for part in parts {
                load[part].0 += 1;
                load[part].1 += shared;
                load[part].2 += best_effort;
            }
        }
        if left.iter().any(|left| *left < 0)
            || memory.iter().any(|used| *used > self.memory)
            || memory_in_all > self.memory * self.nodes as u64
        {
            return false;
        }
        let all: i64 = left.iter().sum();
        if all < self.policy.keep_cores as i64 {
            return false;
        }
        (0..=self.nodes).all(|part| {
            let here = left.iter().zip(&self.l3s);
            let cores: i64 = here
                .filter(|(_, (node, _))| part == self.nodes || *node == part)
                .map(|(left, _)| left)
                .sum();
            let millis = cores as u64 * self.threads * 1000;
            let (members, shared, best_effort) = load[part];
            (members == 0 || cores > 0)
                && shared <= millis * self.policy.shared_percent / 100
                && best_effort <= millis * self.policy.best_effort_percent / 100
        })
    }

    fn foot(&self, sits: &Sits) -> (Option<usize>, Option<usize>) {
        match sits {
            Sits::On(on) => {
                let l3s: Vec<_> = (0..on.len()).filter(|l3| on[*l3] > 0).collect();
                let mut nodes: Vec<_> = l3s.iter().map(|l3| self.l3s[*l3].0).collect();
                nodes.dedup();
                let one = |all: &[usize]| (all.len() == 1).then(|| all[0]);
                (one(&nodes), one(&l3s))
            }
            Sits::Node(node) => (Some(*node), None),
            Sits::Host => ((self.nodes == 1).then_some(0), None),
        }
    }

    /// What it counts that these two sit where they do.
    fn pair(&self, a: &Request, sits_a: &Sits, b: &Request, sits_b: &Sits) -> i64 {
        let weight = |a: &Request, b: &Request| {
            i64::from(a.near.get(&b.service).copied().unwrap_or_default())
        };
        let (a_foot, b_foot) = (self.foot(sits_a), self.foot(sits_b));
        let mut points = 0;
        if a_foot.1.is_some() && a_foot.1 == b_foot.1 {
            points += 3 * (weight(a, b) + weight(b, a));
        } else if a_foot.0.is_some() && a_foot.0 == b_foot.0 {
            points += 2 * (weight(a, b) + weight(b, a));
        }
        if a.service == b.service {
            match (a_foot, b_foot) {
                ((Some(a), _), (Some(b), _)) if a != b => points += 2,
                ((_, Some(a)), (_, Some(b))) if a != b => points += 1,
                _ => {}
            }
        }
        points
    }

    /// How good a plan is.
    pub(crate) fn worth(&self, requests: &[Request], plan: &[Option<Sits>]) -> Worth {
        let seated: Vec<_> = requests
            .iter()
            .zip(plan)
            .filter_map(|(request, sits)| Some((request, sits.as_ref()?)))
            .collect();
        let mut points = 0;
        for (at, (a, sits_a)) in seated.iter().enumerate() {
            for (b, sits_b) in &seated[..at] {
                points += self.pair(a, sits_a, b, sits_b);
            }
        }
        (seated.len(), points)
    }

    /// Everything that one could get, whoever else is there.
    fn choices(&self, request: &Request, left: &[usize]) -> Vec<Sits> {
        match request.processors {
            Processors::Exclusive { cores, whole, .. } => {
                let mut all = Vec::new();
                self.vectors(left, &mut Vec::new(), &mut all);
                all.retain(|on| self.fits(request, cores as usize, whole, on));
                all.into_iter().map(Sits::On).collect()
            }
            Processors::Shared { .. } | Processors::BestEffort { .. } => match request.numa {
                Numa::Local | Numa::Bind => (0..self.nodes).map(Sits::Node).collect(),
                Numa::Any | Numa::Interleave | Numa::Spread => vec![Sits::Host],
            },
        }
    }

    fn vectors(&self, left: &[usize], begun: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        let Some(most) = left.get(begun.len()) else {
            all.push(begun.clone());
            return;
        };
        for cores in 0..=*most {
            begun.push(cores);
            self.vectors(left, begun, all);
            begun.pop();
        }
    }

    fn fits(&self, request: &Request, asked: usize, whole: Whole, on: &[usize]) -> bool {
        let total: usize = on.iter().sum();
        let counts = self.node_counts(on);
        let in_units = match whole {
            Whole::Core => total == asked,
            // All of some groups, and none that is not needed for its node's part.
            Whole::L3 => {
                let whole = |l3: &usize| on[*l3] == 0 || on[*l3] == self.l3s[*l3].1;
                let spread = request.numa == Numa::Spread;
                let needed = |l3: &usize| spread || on[*l3] == 0 || total - on[*l3] < asked;
                total >= asked && (0..on.len()).all(|l3| whole(&l3) && needed(&l3))
            }
        };
        in_units
            && match request.numa {
                Numa::Local | Numa::Bind => counts.iter().filter(|count| **count > 0).count() == 1,
                Numa::Any | Numa::Interleave => true,
                Numa::Spread => self.is_spread(asked, whole, on),
            }
    }

    /// Whether these are from all nodes alike.
    fn is_spread(&self, asked: usize, whole: Whole, on: &[usize]) -> bool {
        let counts = self.node_counts(on);
        let enough = |node: usize, part: usize| match whole {
            Whole::Core => counts[node] == part,
            Whole::L3 => {
                let groups = (0..on.len()).filter(|l3| self.l3s[*l3].0 == node && on[*l3] > 0);
                counts[node] >= part && groups.into_iter().all(|l3| counts[node] - on[l3] < part)
            }
        };
        let least = asked / self.nodes;
        let with_more = (0..1_u32 << self.nodes)
            .filter(|more| more.count_ones() as usize == asked % self.nodes);
        with_more.into_iter().any(|more| {
            (0..self.nodes).all(|node| enough(node, least + (more as usize >> node & 1)))
        })
    }

    /// The most that a pair can count, wherever it sits.
    fn most(&self, a: &Request, b: &Request) -> i64 {
        let own = |request: &Request| matches!(request.processors, Processors::Exclusive { .. });
        let on_cores = own(a) && own(b);
        let weight = a.near.get(&b.service).copied().unwrap_or_default()
            + b.near.get(&a.service).copied().unwrap_or_default();
        let apart = if self.nodes > 1 {
            2
        } else {
            i64::from(on_cores && self.l3s.len() > 1)
        };
        i64::from(weight) * if on_cores { 3 } else { 2 }
            + if a.service == b.service { apart } else { 0 }
    }

    /// The best of all plans.
    pub(crate) fn best(&self, requests: &[Request]) -> (Worth, Vec<Option<Sits>>) {
        let mut best = ((0, 0), vec![None; requests.len()]);
        let mut plan = vec![None; requests.len()];
        let mut most = vec![0; requests.len() + 1];
        for at in (0..requests.len()).rev() {
            let request = &requests[at];
            let brings = requests[..at].iter().map(|other| self.most(request, other));
            most[at] = most[at + 1] + brings.sum::<i64>();
        }
        let left: Vec<_> = self.l3s.iter().map(|(_, cores)| *cores).collect();
        self.try_all(requests, 0, left, (0, 0), &most, &mut plan, &mut best);
        best
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the state of a search, written out"
    )]
    fn try_all(
        &self,
        requests: &[Request],
        at: usize,
        left: Vec<usize>,
        worth: Worth,
        most: &[i64],
        plan: &mut Vec<Option<Sits>>,
        best: &mut (Worth, Vec<Option<Sits>>),
    ) {
        if worth > best.0 {
            *best = (worth, plan.clone());
        }
        let still = (worth.0 + requests.len() - at, worth.1 + most[at]);
        if at == requests.len() || still <= best.0 {
            return;
        }
        for sits in self.choices(&requests[at], &left) {
            plan[at] = Some(sits.clone());
            if self.holds(requests, plan) {
                let points: i64 = (0..at)
                    .filter_map(|other| {
                        let theirs = plan[other].as_ref()?;
                        Some(self.pair(&requests[at], &sits, &requests[other], theirs))
                    })
                    .sum();
                let mut rest = left.clone();
                if let Sits::On(on) = &sits {
                    for (rest, cores) in rest.iter_mut().zip(on) {
                        *rest -= cores;
                    }
                }
                let next = (worth.0 + 1, worth.1 + points);
                self.try_all(requests, at + 1, rest, next, most, plan, best);
            }
            plan[at] = None;
        }
        self.try_all(requests, at + 1, left, worth, most, plan, best);
    }
}
