//! Has processes that run leave CPUs that somebody got for himself, or use those that became free.
//!
//! Affinity is a thread's own: each thread of the process, and of what it started in its cgroup, is
//! told. A thread that comes meanwhile has the affinity of the one that made it, so the threads are
//! listed until no new one is found. A program that may change its affinity can take it back: what
//! holds against that is a cpuset, which needs a cgroup controller.

use std::collections::BTreeSet;
use std::io;

use insula_contract::id::Attempt;
use insula_core::placement::CpuSet;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Driver, log_io};

/// How often the threads are listed, at most: who makes threads faster than that is let go.
const ROUNDS: usize = 16;

impl Driver {
    pub(super) fn confine(&self, attempts: &[Attempt], cpus: &CpuSet) {
        let mut set = nix::sched::CpuSet::new();
        for cpu in cpus.iter() {
            if let Err(error) = set.set(cpu as usize) {
                tracing::warn!(cpu, %error, "this CPU is beyond an affinity");
            }
        }
        for attempt in attempts {
            let process = self.processes.get(attempt);
            let pid = process.and_then(|process| process.pid());
            let mut pids: BTreeSet<i32> = pid.into_iter().collect();
            if let Some(groups) = &self.groups {
                pids.extend(groups.processes(*attempt));
            }
            for pid in pids {
                log_io("confine a process to its CPUs", confine(pid, &set));
            }
        }
    }
}

/// Tells all threads of a process; one that is gone needs nothing.
fn confine(pid: i32, cpus: &nix::sched::CpuSet) -> io::Result<()> {
    let mut told = BTreeSet::new();
    for _ in 0..ROUNDS {
        let entries = match std::fs::read_dir(format!("/proc/{pid}/task")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let threads = entries.flatten().filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.parse::<i32>().ok()
        });
        let new: Vec<_> = threads.filter(|thread| told.insert(*thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in new {
            match nix::sched::sched_setaffinity(Pid::from_raw(thread), cpus) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
