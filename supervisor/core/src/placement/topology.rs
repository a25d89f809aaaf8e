//! What a host consists of, as far as placement cares.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::cpus::CpuSet;

/// Memory for each CPU up to which a host is called `high-cpu`: clouds sell 1 to 2 GiB so.
const HIGH_CPU: u64 = 2 << 30;
/// Memory for each CPU from which on a host is called `high-memory`: clouds sell 8 GiB so, of which
/// the kernel keeps some.
const HIGH_MEMORY: u64 = 7 << 30;

/// One CPU that is online: a hardware thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// The socket that it is in.
    pub package: u32,
    /// Its NUMA node.
    pub node: u32,
    /// The lowest number of a CPU that shares its last-level cache.
    pub l3: u32,
    /// The lowest number of a CPU that is a thread of the same core.
    pub core: u32,
    /// Whether the kernel keeps others off it by itself (`isolcpus`).
    pub isolated: bool,
    /// Whether the daemon, and so its services, may use it.
    pub allowed: bool,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its memory, in bytes.
    pub memory: u64,
    /// How far other nodes are, as the firmware says: 10 is itself.
    pub distances: BTreeMap<u32, u32>,
}

/// A host: its CPUs and its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Topology {
    /// Its CPUs that are online, by ascending number.
    pub cpus: Vec<Cpu>,
    /// Those that are not.
    pub offline: CpuSet,
    /// Its NUMA nodes, by ascending number; one where it has none.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// A host of equal parts. CPUs are numbered as Linux does on PCs: first one thread of each
    /// core, then the second ones.
    pub fn uniform(
        nodes: u32,
        l3s_per_node: u32,
        cores_per_l3: u32,
        threads: u32,
        memory_per_node: u64,
    ) -> Self {
        let cores = nodes * l3s_per_node * cores_per_l3;
        let cpus = (0..threads * cores).map(|id| {
            let core = id % cores;
            let l3 = core / cores_per_l3;
            Cpu {
                id,
                package: l3 / l3s_per_node,
                node: l3 / l3s_per_node,
                l3: l3 * cores_per_l3,
                core,
                isolated: false,
                allowed: true,
            }
        });
        let distance = |from: u32, to: u32| if from == to { 10 } else { 20 };
        let nodes_made = (0..nodes).map(|id| Node {
            id,
            memory: memory_per_node,
            distances: (0..nodes).map(|to| (to, distance(id, to))).collect(),
        });
        Self {
            cpus: cpus.collect(),
            offline: CpuSet::default(),
            nodes: nodes_made.collect(),
        }
    }

    /// The CPUs that services may use.
    pub fn allowed(&self) -> CpuSet {
        let allowed = self.cpus.iter().filter(|cpu| cpu.allowed);
        allowed.map(|cpu| cpu.id).collect()
    }

    /// Memory in all, in bytes.
    pub fn memory(&self) -> u64 {
        self.nodes.iter().map(|node| node.memory).sum()
    }

    /// What can be said of the host in a word: `numa`, `smt`, `high-cpu`, `high-memory`.
    pub fn labels(&self) -> BTreeSet<String> {
        let per_cpu = self.memory() / (self.cpus.len() as u64).max(1);
        let labels = [
            ("numa", self.nodes.len() > 1),
            ("smt", self.cpus.iter().any(|cpu| cpu.core != cpu.id)),
            ("high-cpu", per_cpu > 0 && per_cpu <= HIGH_CPU),
            ("high-memory", per_cpu >= HIGH_MEMORY),
        ];
        let true_ones = labels.into_iter().filter(|(_, is)| *is);
        true_ones.map(|(label, _)| label.to_owned()).collect()
    }
}
