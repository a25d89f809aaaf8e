//! Where a request could go, and which of these places is best.

use super::cpus::CpuSet;
use super::ground::{Ground, Place, Taking};
use super::refusal::{Lack, Room, Where};
use super::request::{Numa, Processors, Request, Whole};

/// Where a place is, as far as distances count: `None` where it is in more than one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Foot {
    pub(super) node: Option<usize>,
    pub(super) l3: Option<usize>,
}

/// A place that a request could have, and how good it is; the greater the better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) taking: Taking,
    pub(super) foot: Foot,
    pub(super) score: Score,
}

/// How good a place is, the most important first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Near those that it talks to, apart from its kin.
    pub(super) points: i64,
    /// Less one for each cache group, and a hundred for each node, beyond the first.
    pub(super) compact: i64,
    /// How well it fills what it breaks into, or how much room it leaves in a pool.
    pub(super) fit: i64,
    /// What else speaks for it.
    pub(super) last: i64,
}

/// Another instance that a request has to do with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relative {
    pub(super) weight: i64,
    pub(super) kin: bool,
    pub(super) foot: Foot,
}

/// What it counts that two instances are where they are.
///
/// They talk: twice the weight on one node, three times behind one cache. They are of one service:
/// 2 on different nodes, 1 behind different caches.
pub(super) fn points(weight: i64, kin: bool, a: Foot, b: Foot) -> i64 {
    let same = |a: Option<usize>, b: Option<usize>| a.is_some() && a == b;
    let differ = |a: Option<usize>, b: Option<usize>| a.is_some() && b.is_some() && a != b;
    let near = if same(a.l3, b.l3) {
        3
    } else if same(a.node, b.node) {
        2
    } else {
        0
    };
    let apart = if differ(a.node, b.node) {
        2
    } else if differ(a.l3, b.l3) {
        1
    } else {
        0
    };
    weight * near + if kin { apart } else { 0 }
}

/// What can be given away: the cores of each cache group that are free, best first.
struct Free<'a> {
    ground: &'a Ground,
    within: Option<&'a CpuSet>,
    whole: Whole,
}

impl Free<'_> {
    fn may(&self, core: usize) -> bool {
        let core = &self.ground.cores[core];
        let inside = |within: &CpuSet| core.cpus.iter().all(|cpu| within.contains(cpu));
        core.is_free() && self.within.is_none_or(inside)
    }

    /// So many of a group.
    fn count(&self, l3: usize) -> usize {
        let group = &self.ground.l3s[l3];
        let free = match self.within {
            None => group.free,
            Some(_) => group.cores.iter().filter(|core| self.may(**core)).count(),
        };
        match self.whole {
            Whole::Core => free,
            Whole::L3 if free == group.cores.len() => free,
            Whole::L3 => 0,
        }
    }

    /// `n` cores of a group: isolated ones first, which pools have no use for, then the last ones,
    /// since the first have the most interrupts.
    fn cores(&self, l3: usize, n: usize) -> Vec<usize> {
        let group = self.ground.l3s[l3].cores.iter().rev();
        let mut cores: Vec<_> = group.copied().filter(|core| self.may(*core)).collect();
        cores.sort_by_key(|core| self.ground.cores[*core].pooled);
        cores.truncate(n);
        cores.sort_unstable();
        cores
    }

    /// `n` cores of these groups: of one if one has them, and of that which they fill best; else of
    /// as few as possible.
    fn gather(&self, l3s: &[usize], n: usize) -> Option<Vec<usize>> {
        let mut free: Vec<_> = l3s.iter().map(|l3| (self.count(*l3), *l3)).collect();
        free.retain(|(count, _)| *count > 0);
        if free.iter().map(|(count, _)| count).sum::<usize>() < n {
            return None;
        }
        // The fullest first; of equals, the one with the higher number.
        free.sort_unstable();
        let mut left = n;
        let mut cores = Vec::new();
        while left > 0 {
            let fitting = free.iter().find(|(count, _)| *count >= left);
            let at = fitting
                .and_then(|(best, _)| free.iter().rposition(|(count, _)| count == best))
                .unwrap_or(free.len() - 1);
            let (count, l3) = free.remove(at);
            let part = match self.whole {
                Whole::Core => left.min(count),
                Whole::L3 => count,
            };
            cores.extend(self.cores(l3, part));
            left = left.saturating_sub(part);
        }
        cores.sort_unstable();
        Some(cores)
    }
}

/// Nodes and cores up to which every way to split the cores over two nodes is looked at.
const SPLIT_NODES: usize = 4;
const SPLIT_CORES: usize = 8;

fn exclusive(ground: &Ground, request: &Request, n: usize, whole: Whole) -> Vec<Vec<usize>> {
    let free = Free {
        ground,
        within: request.within.as_ref(),
        whole,
    };
    let mut found = Vec::new();
    let of = |at: usize| -> usize {
        let l3s = &ground.nodes[at].l3s;
        l3s.iter().map(|l3| free.count(*l3)).sum()
    };
    // So many of each node; whole groups may be more.
    let split = |parts: &[usize]| {
        let gathered = ground.nodes.iter().zip(parts);
        let gathered = gathered.map(|(node, part)| free.gather(&node.l3s, *part));
        Some(gathered.collect::<Option<Vec<_>>>()?.concat())
    };
    let nodes = ground.nodes.len();
    if request.numa == Numa::Spread {
        // From all nodes alike; what is left over, from any of them.
        let (part, over) = (n / nodes.max(1), n % nodes.max(1));
        let starts = if over == 0 { 1 } else { nodes };
        let parts = (0..starts).map(|start| {
            let extra = |at: usize| usize::from((at + nodes - start) % nodes < over);
            (0..nodes).map(|at| part + extra(at)).collect::<Vec<_>>()
        });
        found.extend(parts.filter_map(|parts| split(&parts)));
        return found;
    }
    for node in &ground.nodes {
        let mut counts = Vec::new();
        for l3 in &node.l3s {
            let count = free.count(*l3);
            if count >= n {
                counts.push(count);
                found.extend(free.gather(&[*l3], n));
            }
        }
        if counts.is_empty() {
            found.extend(free.gather(&node.l3s, n));
        }
    }
    let anywhere = matches!(request.numa, Numa::Any | Numa::Interleave);
    if anywhere && nodes > 1 && found.is_empty() {
        // The node with most first, so that it is spread over few.
        let mut order: Vec<_> = (0..nodes).collect();
        order.sort_by_key(|at| usize::MAX - of(*at));
        let mut left = n;
        let mut parts = vec![0; nodes];
        for at in order {
            parts[at] = left.min(of(at));
            left -= parts[at];
        }
        found.extend(split(&parts).filter(|_| left == 0));
    }
    if anywhere && (2..=SPLIT_NODES).contains(&nodes) && (2..=SPLIT_CORES).contains(&n) {
        // Where a pool needs a core, not all may be had that are free.
        for one in 0..nodes {
            for other in (0..nodes).filter(|other| *other != one) {
                for of_one in n.div_ceil(2)..n {
                    let mut parts = vec![0; nodes];
                    (parts[one], parts[other]) = (of_one, n - of_one);
                    found.extend(split(&parts));
                }
            }
        }
    }
    found
}

/// All places that make a difference, whether there is room for the rest of the request or not.
fn places(ground: &Ground, request: &Request) -> Vec<Place> {
    match request.processors {
        Processors::Exclusive { cores, whole, .. } => {
            let found = exclusive(ground, request, cores as usize, whole);
            found.into_iter().map(Place::Cores).collect()
        }
        Processors::Shared { .. } | Processors::BestEffort { .. } => {
            if let Some(list) = &request.within {
                return vec![Place::List(list.clone())];
            }
            match request.numa {
                Numa::Local | Numa::Bind => (0..ground.nodes.len()).map(Place::Node).collect(),
                Numa::Any | Numa::Interleave | Numa::Spread => vec![Place::Host],
            }
        }
    }
}

/// Splits memory over nodes in these parts; the first gets the rest.
fn split(bytes: u64, parts: &[(usize, u64)]) -> Vec<(usize, u64)> {
    let whole: u64 = parts.iter().map(|(_, part)| part).sum();
    if whole == 0 {
        return Vec::new();
    }
    let mut split: Vec<_> = parts
        .iter()
        .filter(|(_, part)| *part > 0)
        .map(|(at, part)| (*at, bytes / whole * part))
        .collect();
    let rest = bytes - split.iter().map(|(_, bytes)| bytes).sum::<u64>();
    split[0].1 += rest;
    split
}

fn taking(ground: &Ground, request: &Request, place: Place) -> (Taking, Foot, Vec<usize>) {
    let (cores, mut nodes): (&[usize], Vec<usize>) = match &place {
        Place::Cores(cores) => (
            cores,
            cores.iter().map(|core| ground.cores[*core].node).collect(),
        ),
        Place::Node(at) => (&[], vec![*at]),
        Place::Host => (&[], (0..ground.nodes.len()).collect()),
        Place::List(list) => (
            &[],
            ground
                .cores_of(list)
                .iter()
                .map(|core| ground.cores[*core].node)
                .collect(),
        ),
    };
    let per_node = nodes.clone();
    nodes.sort_unstable();
    nodes.dedup();
    let mut l3s: Vec<_> = cores.iter().map(|core| ground.cores[*core].l3).collect();
    l3s.sort_unstable();
    l3s.dedup();
    let one = |of: &[usize]| (of.len() == 1).then(|| of[0]);
    let foot = Foot {
        node: one(&nodes),
        l3: one(&l3s),
    };
    let bytes = request.memory;
    let memory = match (request.numa, foot.node) {
        (Numa::Local | Numa::Bind, Some(at)) => vec![(at, bytes)],
        (Numa::Interleave, _) => {
            let with_memory = (0..ground.nodes.len())
                .filter(|at| ground.nodes[*at].part.memory > 0)
                .map(|at| (at, 1));
            split(bytes, &with_memory.collect::<Vec<_>>())
        }
        (Numa::Spread, _) if !cores.is_empty() => {
            let of = |at: usize| per_node.iter().filter(|node| **node == at).count() as u64;
            split(
                bytes,
                &nodes.iter().map(|at| (*at, of(*at))).collect::<Vec<_>>(),
            )
        }
        (Numa::Any | Numa::Local | Numa::Bind | Numa::Spread, _) => Vec::new(),
    };
    let counted: u64 = memory.iter().map(|(_, bytes)| bytes).sum();
    let taking = Taking {
        spot: place,
        memory,
        memory_anywhere: bytes - counted,
    };
    (taking, foot, l3s)
}

/// Thousandths of a part's room that are left after taking some of it; the least of all kinds.
fn headroom(ground: &Ground, at: usize, request: &Request) -> i64 {
    let part = &ground.nodes[at].part;
    let left = |free: u64, takes: u64, of: u64| -> i64 {
        if of == 0 {
            return 0;
        }
        (free as i64 - takes as i64) * 1000 / of as i64
    };
    let share = match request.processors {
        Processors::Exclusive { .. } => 0,
        Processors::Shared { share } | Processors::BestEffort { share } => share,
    };
    let used = part.load.shared + part.load.best_effort;
    let cpu = left(part.millis, used + share, part.millis);
    let memory = left(
        part.memory.saturating_sub(part.memory_used),
        request.memory,
        part.memory,
    );
    cpu.min(memory)
}

/// The places where there is room, each with its score, and what the others lack.
pub(super) fn find(
    ground: &Ground,
    request: &Request,
    relatives: &[Relative],
    policy: &super::Policy,
) -> (Vec<Candidate>, Vec<(Taking, Lack)>) {
    let mut found = Vec::new();
    let mut rejected = Vec::new();
    for place in places(ground, request) {
        let (taking, foot, l3s) = taking(ground, request, place);
        if let Some(lack) = ground.lack(request, &taking, policy) {
            rejected.push((taking, lack));
            continue;
        }
        let near = relatives
            .iter()
            .map(|other| points(other.weight, other.kin, foot, other.foot));
        let mut score = Score {
            points: near.sum(),
            ..Score::default()
        };
        match &taking.spot {
            Place::Cores(cores) => {
                let mut nodes: Vec<_> = cores.iter().map(|c| ground.cores[*c].node).collect();
                nodes.sort_unstable();
                nodes.dedup();
                let beyond = |count: usize| count as i64 - 1;
                score.compact = -(100 * beyond(nodes.len()) + beyond(l3s.len()));
                let free: usize = l3s.iter().map(|l3| ground.l3s[*l3].free).sum();
                score.fit = cores.len() as i64 - free as i64;
                let of_node: usize = nodes.iter().map(|at| ground.nodes[*at].part.free).sum();
                score.last = -(of_node as i64);
            }
            Place::Node(at) => score.fit = headroom(ground, *at, request),
            Place::Host | Place::List(_) => {}
        }
        found.push(Candidate {
            taking,
            foot,
            score,
        });
    }
    (found, rejected)
}

/// The index of the best: of equals the last among cores, and the first among pools.
pub(super) fn best(candidates: &[Candidate]) -> Option<usize> {
    (0..candidates.len()).max_by(|a, b| {
        let of = |at: usize| &candidates[at];
        let equal = match of(*a).taking.spot {
            Place::Cores(_) => a.cmp(b),
            Place::Host | Place::Node(_) | Place::List(_) => b.cmp(a),
        };
        of(*a).score.cmp(&of(*b).score).then(equal)
    })
}

/// How many cores are free, in the units that are asked for.
pub(super) fn core_rooms(ground: &Ground, request: &Request) -> Vec<Room> {
    let Processors::Exclusive { whole, .. } = request.processors else {
        return Vec::new();
    };
    let free = Free {
        ground,
        within: request.within.as_ref(),
        whole,
    };
    let rooms = ground.nodes.iter().map(|node| Room {
        part: Where::Node(node.id),
        free: node.l3s.iter().map(|l3| free.count(*l3) as u64).sum(),
        of: node.part.whole as u64,
    });
    rooms.collect()
}
