//! What services use of the host, by profile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::aside::Stops;
use crate::driver::{Gains, now};

/// What the processes of a profile used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Use {
    /// Whether it gets only what others leave.
    pub best_effort: bool,
    /// Processes that live.
    pub processes: u64,
    /// Processor time of those, in nanoseconds.
    pub cpu_ns: u64,
    /// Their resident memory in bytes; what they share counts for each.
    pub resident: u64,
}

/// What the host's processors did since it was booted, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Host {
    /// How many there are.
    pub cpus: u64,
    /// Time that they worked, in nanoseconds.
    pub busy_ns: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of it that could be had.
    pub memory_available: u64,
}

/// All of it at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Utilisation {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at_ns: u64,
    /// The host.
    pub host: Host,
    /// Services, by profile.
    pub profiles: BTreeMap<String, Use>,
    /// How often best-effort services were stopped for others, since the daemon began.
    pub stops: Stops,
    /// What idle services gave back, since the daemon began.
    pub idle: Gains,
}

/// Whom to look at, so that it can be done beside the driver.
#[derive(Debug, Default)]
pub struct Sights {
    /// Profile, whether it is best effort, process id, cgroup.
    pub(crate) processes: Vec<(String, bool, i32, Option<PathBuf>)>,
    pub(crate) stops: Stops,
    pub(crate) idle: Gains,
}

impl Sights {
    /// Looks at all of them.
    pub fn look(&self) -> Utilisation {
        let mut profiles: BTreeMap<String, Use> = BTreeMap::new();
        for (profile, best_effort, pid, group) in &self.processes {
            let entry = profiles.entry(profile.clone()).or_default();
            let of_group = group.as_deref().and_then(group_cpu);
            // It may have ended meanwhile.
            let cpu = of_group.or_else(|| process_cpu(*pid)).unwrap_or_default();
            entry.best_effort = *best_effort;
            entry.processes += 1;
            entry.cpu_ns += u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
            entry.resident += resident(*pid).unwrap_or(0);
        }
        Utilisation {
            at_ns: now().0,
            host: host().unwrap_or_default(),
            profiles,
            stops: self.stops,
            idle: self.idle.clone(),
        }
    }
}

/// The time of all that ever ran in a cgroup.
pub(crate) fn group_cpu(group: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(micros.trim().parse().ok()?))
}

fn ticks(count: u64) -> Duration {
    // USER_HZ is 100 on every architecture that Insula runs on.
    Duration::from_millis(count * 10)
}

pub(crate) fn process_cpu(pid: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(ticks(user + system))
}

pub(crate) fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

fn host() -> Option<Host> {
    let (cpus, busy) = processors(&std::fs::read_to_string("/proc/stat").ok()?)?;
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Host {
        cpus,
        busy_ns: u64::try_from(busy.as_nanos()).ok()?,
        memory: of("MemTotal:")?,
        memory_available: of("MemAvailable:")?,
    })
}

/// How many processors `/proc/stat` lists, and how long they were neither idle nor waited for a
/// disk, nor were taken by the host of a virtual machine.
fn processors(text: &str) -> Option<(u64, Duration)> {
    let cpus = text
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .count();
    let all = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Option<Vec<u64>> = all.split_whitespace().map(|t| t.parse().ok()).collect();
    let times = times?;
    // user, nice, system, idle, iowait, irq, softirq; guests are within user and nice.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| times.get(*at)).sum();
    Some((cpus as u64, ticks(busy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_their_idle_time_is_left_out() {
        let text = "cpu  10 20 30 4000 500 6 7 80 9 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 1\n";
        assert_eq!(processors(text), Some((2, ticks(10 + 20 + 30 + 6 + 7))));
    }

    #[test]
    fn a_process_is_looked_at_by_its_number() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(resident(own).unwrap() > 100_000);
        let begun = process_cpu(own).unwrap();
        while process_cpu(own).unwrap() == begun {
            std::hint::black_box(std::fs::read("/proc/self/stat").unwrap());
        }
    }
}
