//! What an instance asks of the host, and what it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use insula_contract::id::ServiceName;
use serde::{Deserialize, Serialize};

use super::cpus::CpuSet;

/// Thousandths of a CPU.
pub type Millis = u64;

/// The processors that an instance asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Processors {
    /// Cores of its own.
    Exclusive {
        /// At least so many.
        cores: u32,
        /// In which units.
        whole: Whole,
        /// What becomes of the other threads of its cores.
        smt: Smt,
    },
    /// A part of what nobody has for himself.
    Shared {
        /// How much of it is promised.
        share: Millis,
    },
    /// What the others leave.
    BestEffort {
        /// How much it is expected to use, for the count of how many fit.
        share: Millis,
    },
}

/// In which units cores are given away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whole {
    /// Core by core.
    #[default]
    Core,
    /// Groups of cores that share a last-level cache, so that nobody else uses that cache.
    L3,
}

/// What becomes of the second threads of cores that are given away; nobody else ever gets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smt {
    /// The instance runs on all threads.
    #[default]
    Share,
    /// It runs on one thread of each core, and the others stay idle: each of its threads has a
    /// core of its own.
    Own,
}

/// Where memory comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numa {
    /// Anywhere.
    #[default]
    Any,
    /// Cores and memory of one node; when its memory is full after all, that of others.
    Local,
    /// Cores and memory of one node, and never memory of another.
    Bind,
    /// Cores anywhere, pages from all nodes in turn.
    Interleave,
    /// Cores from all nodes alike, memory where each thread first touches it.
    Spread,
}

/// What an instance asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Whose instance it is: those of one service are kept apart.
    pub service: ServiceName,
    /// Processors.
    pub processors: Processors,
    /// Only these CPUs, where the profile names some.
    pub within: Option<CpuSet>,
    /// Memory that is promised, in bytes.
    pub memory: u64,
    /// Where from.
    pub numa: Numa,
    /// What the host must be.
    pub labels: BTreeSet<String>,
    /// Services that it talks to, and how much: it is drawn to them.
    pub near: BTreeMap<ServiceName, u32>,
}

impl Request {
    /// Whether the other asks for the same, wherever it is drawn to.
    pub fn asks_as(&self, other: &Self) -> bool {
        self.processors == other.processors
            && self.within == other.within
            && self.memory == other.memory
            && self.numa == other.numa
            && self.labels == other.labels
    }

    /// One that asks for nothing.
    pub fn nothing(service: ServiceName) -> Self {
        Self {
            service,
            processors: Processors::Shared { share: 0 },
            within: None,
            memory: 0,
            numa: Numa::Any,
            labels: BTreeSet::new(),
            near: BTreeMap::new(),
        }
    }
}

/// What several instances share: the CPUs of a part of the host that nobody has for himself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// All of the host.
    Host,
    /// Those of one node.
    Node(u32),
    /// Those of a list.
    List(CpuSet),
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's shared CPUs"),
            Self::Node(node) => write!(f, "the shared CPUs of node {node}"),
            Self::List(cpus) => write!(f, "the shared ones of CPUs {cpus}"),
        }
    }
}

/// Which processors an instance got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spot {
    /// Its own.
    Cores {
        /// The CPUs that it runs on.
        cpus: CpuSet,
        /// All threads of its cores: nobody else runs there.
        taken: CpuSet,
    },
    /// Those of a pool.
    Pool(Pool),
}

/// Where an instance's memory comes from, as set_mempolicy(2) says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryPolicy {
    /// The kernel's default: the node of whoever touches it first.
    #[default]
    Default,
    /// This node while it has some.
    Preferred(u32),
    /// This node alone.
    Bind(u32),
    /// These nodes in turn.
    Interleave(BTreeSet<u32>),
}

/// The place that an instance got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seat {
    /// Its processors.
    pub spot: Spot,
    /// Bytes that are promised, by node.
    pub memory: BTreeMap<u32, u64>,
    /// Bytes that are promised and come from anywhere.
    pub memory_anywhere: u64,
    /// What the kernel is told.
    pub policy: MemoryPolicy,
}
