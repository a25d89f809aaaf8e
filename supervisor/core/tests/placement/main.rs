//! Placement against exhaustive search on random small hosts, and what must hold of every account.

mod exhaustive;
mod optimum;
mod properties;

use std::collections::{BTreeMap, BTreeSet};

use insula_core::placement::{Numa, Processors, Request, Smt, Topology, Whole};

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A kind of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Exclusive,
    Shared,
    Numa,
    Mixed,
}

pub(crate) const GIB: u64 = 1 << 30;

/// A small host.
pub(crate) fn host(chance: &mut Chance, class: Class) -> Topology {
    let (nodes, l3s) = match class {
        Class::Exclusive => chance.of(&[(1, 2), (1, 3), (2, 1), (2, 2)]),
        Class::Shared => chance.of(&[(2, 1), (3, 1)]),
        Class::Numa | Class::Mixed => chance.of(&[(2, 1), (2, 2), (3, 1)]),
    };
    let cores = 2 + chance.below(2) as u32;
    let threads = 1 + chance.below(2) as u32;
    Topology::uniform(nodes, l3s, cores, threads, 4 * GIB)
}

/// One of some services' instances.
pub(crate) fn request(chance: &mut Chance, class: Class) -> Request {
    let service = ["a", "b", "c"][chance.below(3) as usize];
    let exclusive = |chance: &mut Chance| Processors::Exclusive {
        cores: 1 + chance.below(3) as u32,
        whole: if chance.below(5) == 0 {
            Whole::L3
        } else {
            Whole::Core
        },
        smt: chance.of(&[Smt::Share, Smt::Own]),
    };
    let pooled = |chance: &mut Chance| {
        let share = 250 * chance.below(9);
        if chance.below(4) == 0 {
            Processors::BestEffort { share: 4 * share }
        } else {
            Processors::Shared { share }
        }
    };
    let processors = match class {
        Class::Exclusive => exclusive(chance),
        Class::Shared => pooled(chance),
        Class::Numa | Class::Mixed if chance.below(2) == 0 => exclusive(chance),
        Class::Numa | Class::Mixed => pooled(chance),
    };
    let numa = match class {
        Class::Exclusive => chance.of(&[Numa::Any, Numa::Any, Numa::Local]),
        Class::Shared => chance.of(&[Numa::Any, Numa::Local, Numa::Local, Numa::Bind]),
        Class::Numa => chance.of(&[
            Numa::Local,
            Numa::Local,
            Numa::Bind,
            Numa::Interleave,
            Numa::Spread,
        ]),
        Class::Mixed => chance.of(&[Numa::Any, Numa::Local, Numa::Bind]),
    };
    let memory = match class {
        Class::Exclusive => 0,
        Class::Shared | Class::Numa | Class::Mixed => chance.below(9) * GIB / 3,
    };
    let mut near = BTreeMap::new();
    if chance.below(3) == 0 {
        let other = ["a", "b", "c"][chance.below(3) as usize];
        if other != service {
            near.insert(other.parse().unwrap(), 1 + chance.below(2) as u32);
        }
    }
    Request {
        service: service.parse().unwrap(),
        processors,
        within: None,
        memory,
        numa,
        labels: BTreeSet::new(),
        near,
    }
}
