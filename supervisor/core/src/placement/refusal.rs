//! Why an instance gets no place, in numbers.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::cpus::CpuSet;
use super::request::{Millis, Whole};

/// Where something was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// On the whole host.
    Host,
    /// On a node.
    Node(u32),
    /// On the CPUs of a list.
    List(CpuSet),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::List(cpus) => write!(f, "CPUs {cpus}"),
        }
    }
}

/// How much of something there is in a part of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Which part.
    pub part: Where,
    /// What is free.
    pub free: u64,
    /// What there is.
    pub of: u64,
}

/// What there is too little of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// The host is not what is asked for.
    Labels {
        /// What it lacks.
        missing: BTreeSet<String>,
        /// What it is.
        has: BTreeSet<String>,
    },
    /// No CPU of the list may be used here.
    Cpus {
        /// The list.
        list: CpuSet,
    },
    /// Cores for itself.
    Cores {
        /// So many are asked for.
        asked: u32,
        /// In which units.
        whole: Whole,
        /// Where, and how many are free there in those units.
        rooms: Vec<Room>,
    },
    /// There are cores, and those who share them need them.
    SharedCores {
        /// So many are asked for.
        asked: u32,
        /// Who would be left with too little.
        part: Where,
        /// What they need, in thousandths of a CPU.
        needed: Millis,
        /// What would be left to them.
        left: Millis,
    },
    /// A share of CPUs, in thousandths.
    Share {
        /// So much is asked for.
        asked: Millis,
        /// Whether of what is left to best effort.
        best_effort: bool,
        /// Where, and how much is free there.
        rooms: Vec<Room>,
    },
    /// Memory, in bytes.
    Memory {
        /// So much is asked for.
        asked: u64,
        /// Where, and how much is free there.
        rooms: Vec<Room>,
    },
}

/// Why an instance gets no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WhyNot {
    /// What there is too little of.
    pub lack: Lack,
    /// Whether it would have a place if nobody else had one.
    pub fits_alone: bool,
}

fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= 10 << 30 {
        format!("{} GiB", bytes >> 30)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

fn cpus(millis: Millis) -> String {
    if millis.is_multiple_of(1000) {
        format!("{}", millis / 1000)
    } else {
        format!("{}.{:03}", millis / 1000, millis % 1000)
    }
}

fn list(rooms: &[Room], show: impl Fn(u64) -> String) -> String {
    let rooms = rooms.iter().map(|room| {
        let (free, of) = (show(room.free), show(room.of));
        format!("{} has {free} of {of} free", room.part)
    });
    rooms.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels { missing, has } => {
                let words =
                    |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>().join(", ");
                let has = if has.is_empty() {
                    "nothing special".to_owned()
                } else {
                    words(has)
                };
                write!(f, "asks for a host that is {}; it is {has}", words(missing))
            }
            Self::Cpus { list } => write!(f, "asks for CPUs {list}, none of which may be used"),
            Self::Cores {
                asked,
                whole,
                rooms,
            } => {
                let unit = match whole {
                    Whole::Core => "",
                    Whole::L3 => " in whole L3 groups",
                };
                let rooms = list(rooms, |cores| cores.to_string());
                write!(f, "asks for {asked} exclusive cores{unit}; {rooms}")
            }
            Self::SharedCores {
                asked,
                part,
                needed,
                left,
            } => write!(
                f,
                "asks for {asked} exclusive cores; that would leave {} CPUs of {part} to those \
                 who share them, who need {}",
                cpus(*left),
                cpus(*needed)
            ),
            Self::Share {
                asked,
                best_effort,
                rooms,
            } => {
                let kind = if *best_effort {
                    "best-effort"
                } else {
                    "shared"
                };
                let rooms = list(rooms, cpus);
                write!(f, "asks for {} {kind} CPUs; {rooms}", cpus(*asked))
            }
            Self::Memory { asked, rooms } => {
                write!(
                    f,
                    "asks for {} of memory; {}",
                    mib(*asked),
                    list(rooms, mib)
                )
            }
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lack.fmt(f)?;
        if !self.fits_alone {
            f.write_str("; it does not fit this host even alone")?;
        }
        Ok(())
    }
}
