//! What the host consists of, as sysfs tells it.
//!
//! Everything is read below a root, so that other hosts can be looked at as directories. What sysfs
//! does not say is left simple: one node where there are none, one cache group for each package and
//! node where caches are not told. The CPUs that the daemon may use are the caller's word: affinity,
//! in which the kernel has already taken the cpuset of the daemon's cgroup into account.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use insula_core::placement::{Cpu, CpuSet, NoCpuSet, Node, Topology};
use thiserror::Error;

/// Why it cannot be told what the host consists of.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// A file is not there, or cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{path} is no list of CPUs")]
    List {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: NoCpuSet,
    },
    /// The CPUs that this process may use cannot be told.
    #[error("cannot tell which CPUs may be used")]
    Affinity(#[source] io::Error),
}

fn read(path: &Path) -> Result<String, TopologyError> {
    std::fs::read_to_string(path).map_err(|source| TopologyError::Read {
        path: path.to_owned(),
        source,
    })
}

fn list(path: &Path) -> Result<CpuSet, TopologyError> {
    read(path)?.parse().map_err(|source| TopologyError::List {
        path: path.to_owned(),
        source,
    })
}

/// A list that need not be there.
fn list_or_none(path: &Path) -> CpuSet {
    list(path).unwrap_or_default()
}

fn number(path: &Path) -> Option<u32> {
    read(path).ok()?.trim().parse().ok()
}

/// The directories below `parent` that are a word and a number, by the number.
fn numbered(parent: &Path, word: &str) -> BTreeMap<u32, PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix(word)?.parse().ok()?;
        Some((number, entry.path()))
    });
    numbered.collect()
}

/// Bytes, as a line of `meminfo` says them: `MemTotal:  24657312 kB`, with `Node 0 ` before it or
/// not.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"))?;
    let kib = line.split_whitespace().rev().nth(1)?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// The CPUs that share the last-level cache of one.
fn last_level(cpu: &Path) -> Option<CpuSet> {
    let caches = numbered(&cpu.join("cache"), "index");
    let shared = caches.values().filter_map(|cache| {
        let level = number(&cache.join("level"))?;
        let shared = list(&cache.join("shared_cpu_list")).ok()?;
        (!shared.is_empty()).then_some((level, shared))
    });
    shared.max_by_key(|(level, _)| *level).map(|(_, cpus)| cpus)
}

/// This host.
///
/// # Errors
/// Its CPUs cannot be told.
pub fn of_this_host() -> Result<Topology, TopologyError> {
    let cores = core_affinity::get_core_ids()
        .ok_or_else(|| TopologyError::Affinity(io::Error::last_os_error()))?;
    let allowed = cores.into_iter().filter_map(|core| core.id.try_into().ok());
    below(Path::new("/sys"), Path::new("/proc"), &allowed.collect())
}

/// The host whose `/sys` and `/proc` lie here, and of which these CPUs may be used.
///
/// # Errors
/// The list of its CPUs that are online cannot be read.
pub fn below(sys: &Path, proc: &Path, allowed: &CpuSet) -> Result<Topology, TopologyError> {
    let cpus = sys.join("devices/system/cpu");
    let online = list(&cpus.join("online"))?;
    let isolated = list_or_none(&cpus.join("isolated"));
    let mut nodes = Vec::new();
    let mut node_of: BTreeMap<u32, u32> = BTreeMap::new();
    let directories = numbered(&sys.join("devices/system/node"), "node");
    for (id, directory) in &directories {
        for cpu in list_or_none(&directory.join("cpulist")).iter() {
            node_of.insert(cpu, *id);
        }
        let distances = read(&directory.join("distance")).unwrap_or_default();
        let distances = distances.split_whitespace().map(str::parse);
        let meminfo = read(&directory.join("meminfo")).unwrap_or_default();
        nodes.push(Node {
            id: *id,
            memory: total_memory(&meminfo).unwrap_or(0),
            distances: directories
                .keys()
                .copied()
                .zip(distances.filter_map(Result::ok))
                .collect(),
        });
    }
    if nodes.is_empty() {
        let meminfo = read(&proc.join("meminfo")).unwrap_or_default();
        nodes.push(Node {
            id: 0,
            memory: total_memory(&meminfo).unwrap_or(0),
            distances: BTreeMap::from([(0, 10)]),
        });
    }
    let first = |cpus: CpuSet| cpus.iter().find(|cpu| online.contains(*cpu));
    let mut found: Vec<Cpu> = online
        .iter()
        .map(|id| {
            let directory = cpus.join(format!("cpu{id}"));
            let topology = directory.join("topology");
            let core = list_or_none(&topology.join("thread_siblings_list"));
            Cpu {
                id,
                package: number(&topology.join("physical_package_id")).unwrap_or(0),
                node: node_of.get(&id).copied().unwrap_or(nodes[0].id),
                l3: last_level(&directory).and_then(first).unwrap_or(u32::MAX),
                core: first(core).unwrap_or(id),
                isolated: isolated.contains(id),
                allowed: allowed.contains(id),
            }
        })
        .collect();
    let mut packages: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for cpu in &mut found {
        let group = packages.entry((cpu.package, cpu.node)).or_insert(cpu.id);
        if cpu.l3 == u32::MAX {
            cpu.l3 = *group;
        }
    }
    Ok(Topology {
        cpus: found,
        offline: list_or_none(&cpus.join("offline")),
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use insula_core::placement::{Placement, Policy, Pool};

    use super::*;

    /// A host as a description: what its files are made from.
    struct Described {
        topology: Topology,
        has_nodes: bool,
        has_caches: bool,
    }

    fn write(path: PathBuf, text: impl AsRef<str>) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.as_ref()).unwrap();
    }

    fn alike(topology: &Topology, of: impl Fn(&Cpu) -> (u32, u32), like: &Cpu) -> CpuSet {
        let alike = topology.cpus.iter().filter(|cpu| of(cpu) == of(like));
        alike.map(|cpu| cpu.id).collect()
    }

    /// Makes the files, and reads them.
    fn read_back(described: &Described) -> Topology {
        let root = tempfile::tempdir().unwrap();
        let (sys, proc) = (root.path().join("sys"), root.path().join("proc"));
        let cpus = sys.join("devices/system/cpu");
        let topology = &described.topology;
        let all = |keep: &dyn Fn(&Cpu) -> bool| -> CpuSet {
            let kept = topology.cpus.iter().filter(|cpu| keep(cpu));
            kept.map(|cpu| cpu.id).collect()
        };
        write(cpus.join("online"), format!("{}\n", all(&|_| true)));
        write(cpus.join("offline"), format!("{}\n", topology.offline));
        write(
            cpus.join("isolated"),
            format!("{}\n", all(&|cpu| cpu.isolated)),
        );
        for cpu in &topology.cpus {
            let directory = cpus.join(format!("cpu{}", cpu.id));
            let told = directory.join("topology");
            write(
                told.join("physical_package_id"),
                format!("{}\n", cpu.package),
            );
            // Of a core with a thread that is offline, the kernel names those that are online.
            let siblings = alike(topology, |cpu| (cpu.core, 0), cpu);
            write(told.join("thread_siblings_list"), format!("{siblings}\n"));
            if described.has_caches {
                let shared = alike(topology, |cpu| (cpu.l3, 0), cpu);
                for (index, level, shared) in
                    [(0, 1, &siblings), (2, 2, &siblings), (3, 3, &shared)]
                {
                    let cache = directory.join(format!("cache/index{index}"));
                    write(cache.join("level"), format!("{level}\n"));
                    write(cache.join("shared_cpu_list"), format!("{shared}\n"));
                }
            }
        }
        let memory = topology.memory() / 1024;
        write(
            proc.join("meminfo"),
            format!("MemTotal:  {memory} kB\nMemFree: 1 kB\n"),
        );
        for node in topology.nodes.iter().filter(|_| described.has_nodes) {
            let directory = sys.join(format!("devices/system/node/node{}", node.id));
            let list = all(&|cpu| cpu.node == node.id);
            write(directory.join("cpulist"), format!("{list}\n"));
            let distances: Vec<_> = node.distances.values().map(u32::to_string).collect();
            write(
                directory.join("distance"),
                format!("{}\n", distances.join(" ")),
            );
            let memory = node.memory / 1024;
            let meminfo = format!("Node {} MemTotal:  {memory} kB\n", node.id);
            write(directory.join("meminfo"), meminfo);
        }
        below(&sys, &proc, &topology.allowed()).unwrap()
    }

    #[test]
    fn two_sockets_with_threads_are_two_nodes() {
        let described = Described {
            topology: Topology::uniform(2, 1, 64, 2, 256 << 30),
            has_nodes: true,
            has_caches: true,
        };
        let read = read_back(&described);
        assert_eq!(read, described.topology);
        assert_eq!(read.cpus.len(), 256);
        assert_eq!(read.nodes[1].distances[&0], 20);
    }

    #[test]
    fn a_virtual_machine_without_numa_is_one_node() {
        let described = Described {
            topology: Topology::uniform(1, 1, 8, 1, 16 << 30),
            has_nodes: false,
            has_caches: false,
        };
        assert_eq!(read_back(&described), described.topology);
    }

    #[test]
    fn cache_groups_within_a_socket_are_told_apart() {
        let described = Described {
            topology: Topology::uniform(2, 8, 8, 2, 384 << 30),
            has_nodes: true,
            has_caches: true,
        };
        let read = read_back(&described);
        assert_eq!(read, described.topology);
        let groups: CpuSet = read.cpus.iter().map(|cpu| cpu.l3).collect();
        assert_eq!(groups.len(), 16);
    }

    #[test]
    fn holes_are_seen() {
        let mut topology = Topology::uniform(1, 2, 4, 2, 16 << 30);
        // The second thread of core 3 and all of core 5 are offline.
        topology.offline = [5, 11, 13].into_iter().collect();
        topology.cpus.retain(|cpu| ![5, 11, 13].contains(&cpu.id));
        for cpu in &mut topology.cpus {
            cpu.isolated = cpu.core == 6;
            cpu.allowed = cpu.id != 0;
        }
        let described = Described {
            topology,
            has_nodes: true,
            has_caches: true,
        };
        let read = read_back(&described);
        assert_eq!(read, described.topology);
        let host = Placement::new(read, Policy::default());
        assert_eq!(host.pool_cpus(&Pool::Host).to_string(), "1-4,7-10,12,15");
    }

    #[test]
    fn this_host_has_the_cpus_that_may_be_used() {
        let topology = of_this_host().unwrap();
        assert!(!topology.allowed().is_empty());
        assert!(topology.memory() > 0);
    }
}
