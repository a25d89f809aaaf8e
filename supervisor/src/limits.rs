//! Limits in force against what is used, instance by instance.
//!
//! What is set is the daemon's word; whether it is in force and what is used is the kernel's: from
//! the cgroup of the instance's process, and where that has no such controller from the process
//! itself, without what it started.

use std::fs;
use std::path::{Path, PathBuf};

use insula_contract::id::{Attempt, Instance};
use insula_core::limits::Resources;
use serde::{Deserialize, Serialize};

use crate::quota::Usage;
use crate::utilisation::{group_cpu, process_cpu, resident};

/// One limit of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limit {
    /// The key that sets it, as `memory-max`.
    pub key: String,
    /// What it is set to: bytes, processes, thousandths of a processor, a weight.
    pub set: u64,
    /// What the kernel holds the instance to; `None` where it does not.
    pub in_force: Option<u64>,
    /// What is used of it, in the same unit; `None` of a share, and where it cannot be told.
    pub used: Option<u64>,
}

/// An instance, what limits it and what it uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Which.
    pub instance: Instance,
    /// Its attempt.
    pub attempt: Attempt,
    /// Its profile.
    pub profile: String,
    /// What is set for it by its profile and itself.
    pub limits: Vec<Limit>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Processor time since it began, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Of that time, how long it was kept from the processors by `cpu-max`.
    pub throttled_ns: Option<u64>,
}

/// All instances that have a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holdings {
    /// By service and instance.
    pub instances: Vec<Held>,
    /// Why some limits are not in force, where this host cannot enforce them all.
    pub not_enforced: Vec<String>,
}

/// Whom to look at, so that it can be done beside the driver.
#[derive(Debug, Clone, Default)]
pub struct Sights {
    pub(crate) instances: Vec<Sight>,
    pub(crate) not_enforced: Vec<String>,
}

/// A process, and what limits it.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) instance: Instance,
    pub(crate) attempt: Attempt,
    pub(crate) profile: String,
    pub(crate) pid: i32,
    pub(crate) holds: Resources,
    pub(crate) group: Option<PathBuf>,
    /// What its user keeps on the disk, and may.
    pub(crate) data: Option<Usage>,
}

impl Sights {
    /// Looks at all of them.
    pub fn look(self) -> Holdings {
        Holdings {
            instances: self.instances.into_iter().map(Sight::look).collect(),
            not_enforced: self.not_enforced,
        }
    }
}

impl Sight {
    fn look(self) -> Held {
        let group = self.group.as_deref();
        let of_group = |file: &str| number(group?, file);
        let memory = of_group("memory.current").or_else(|| resident(self.pid));
        let tasks = of_group("pids.current").or_else(|| threads(self.pid));
        let cpu = group.and_then(group_cpu).or_else(|| process_cpu(self.pid));
        let throttled = group.and_then(|group| figure(group, "cpu.stat", "throttled_usec"));
        let of = &self.holds;
        let settings = [
            ("memory-high", of.memory_high, "memory.high", memory),
            ("memory-max", of.memory_max, "memory.max", memory),
            ("pids-max", of.pids_max, "pids.max", tasks),
            ("cpu-max", of.cpu_max, "cpu.max", None),
            ("cpu-weight", of.cpu_weight, "cpu.weight", None),
            ("io-weight", of.io_weight, "io.weight", None),
        ];
        let limits = settings.into_iter().filter_map(|(key, set, file, used)| {
            Some(Limit {
                key: key.to_owned(),
                set: set?,
                in_force: group.and_then(|group| in_force(group, file)),
                used,
            })
        });
        let data = self.data.as_ref();
        let on_disk = [
            (
                "data-max",
                of.data_max,
                data.map(|data| (data.bounds.bytes, data.bytes)),
            ),
            (
                "data-files-max",
                of.data_files_max,
                data.map(|data| (data.bounds.files, data.files)),
            ),
        ];
        let on_disk = on_disk.into_iter().filter_map(|(key, set, data)| {
            Some(Limit {
                key: key.to_owned(),
                set: set?,
                in_force: data.and_then(|(bound, _)| bound),
                used: data.map(|(_, used)| used),
            })
        });
        Held {
            limits: limits.chain(on_disk).collect(),
            instance: self.instance,
            attempt: self.attempt,
            profile: self.profile,
            memory,
            tasks,
            cpu_ns: cpu.and_then(|time| u64::try_from(time.as_nanos()).ok()),
            throttled_ns: throttled.map(|micros| micros.saturating_mul(1_000)),
        }
    }
}

/// What the kernel says that it enforces, in the units of the keys.
fn in_force(group: &Path, file: &str) -> Option<u64> {
    match file {
        // `MOST PERIOD`, in microseconds; `max PERIOD` is none.
        "cpu.max" => {
            let text = fs::read_to_string(group.join(file)).ok()?;
            let mut fields = text.split_whitespace().map(str::parse::<u64>);
            let most = fields.next()?.ok()?;
            let period = fields.next()?.ok()?;
            most.checked_mul(1_000)?.checked_div(period)
        }
        // `default 100`, and lines for devices.
        "io.weight" => figure(group, file, "default"),
        _ => number(group, file),
    }
}

/// A number in a file of its own; `None` where there is no file, or it says `max`.
fn number(group: &Path, file: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    text.trim().parse().ok()
}

/// A number beside its key.
fn figure(group: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

fn threads(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Bounds;

    fn sight(group: Option<&Path>) -> Sight {
        Sight {
            instance: Instance {
                service: "kv".parse().unwrap(),
                index: 0,
            },
            attempt: Attempt(7),
            profile: "small".to_owned(),
            pid: i32::try_from(std::process::id()).unwrap(),
            holds: Resources {
                memory_max: Some(64 << 20),
                pids_max: Some(20),
                cpu_max: Some(500),
                io_weight: Some(50),
                data_max: Some(1 << 30),
                ..Resources::default()
            },
            group: group.map(Path::to_owned),
            data: group.map(|_| Usage {
                bytes: 4_096,
                files: 2,
                bounds: Bounds {
                    bytes: Some(1 << 30),
                    files: None,
                },
            }),
        }
    }

    #[test]
    fn what_is_in_force_and_used_is_what_the_cgroup_says() {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.current", "1048576\n"),
            ("memory.max", "67108864\n"),
            ("pids.current", "3\n"),
            // Not as it was set.
            ("pids.max", "max\n"),
            ("cpu.max", "50000 100000\n"),
            (
                "cpu.stat",
                "usage_usec 1500\nnr_throttled 4\nthrottled_usec 250\n",
            ),
            ("io.weight", "default 50\n8:0 100\n"),
        ] {
            fs::write(group.path().join(file), text).unwrap();
        }
        let held = sight(Some(group.path())).look();
        let told: Vec<_> = held
            .limits
            .iter()
            .map(|limit| (limit.key.as_str(), limit.set, limit.in_force, limit.used))
            .collect();
        let expected = [
            ("memory-max", 64 << 20, Some(64 << 20), Some(1 << 20)),
            ("pids-max", 20, None, Some(3)),
            ("cpu-max", 500, Some(500), None),
            ("io-weight", 50, Some(50), None),
            ("data-max", 1 << 30, Some(1 << 30), Some(4_096)),
        ];
        assert_eq!(told, expected);
        assert_eq!(held.cpu_ns, Some(1_500_000));
        assert_eq!(held.throttled_ns, Some(250_000));
    }

    #[test]
    fn without_a_cgroup_nothing_is_in_force_and_the_process_tells_what_it_uses() {
        let held = sight(None).look();
        assert!(held.limits.iter().all(|limit| limit.in_force.is_none()));
        assert!(held.memory.unwrap() > 100_000);
        assert!(held.tasks.unwrap() >= 1);
        assert_eq!(held.limits[0].used, held.memory);
        assert_eq!(held.throttled_ns, None);
    }
}
