//! What /proc and pidfds tell of processes.

#![expect(unsafe_code, reason = "pidfd_open and posix_spawn")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stamps::WATCHDOG;

/// A process that can be waited for, whoever its parent is.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until the processes of all these ended.
pub(crate) fn wait_for_ends(processes: &[OwnedFd]) -> Result<(), String> {
    let within = PollTimeout::try_from(WATCHDOG).expect("a short time");
    for process in processes {
        let mut ready = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, within) {
            Ok(0) => return Err(format!("a process did not end within {WATCHDOG:?}")),
            Ok(_) => {}
            Err(error) => return Err(format!("cannot wait for a process: {error}")),
        }
    }
    Ok(())
}

/// Sends a signal to a process that is known to be there.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("cannot signal {pid}: {error}"))
}

/// Runs a command to its end, whatever its exit code is; its output goes nowhere.
pub(crate) fn run(mut command: Command) -> Result<Option<i32>, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    Ok(status.code())
}

/// Runs a command that must work, and gives what it printed.
pub(crate) fn must(mut command: Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!(
        "{command:?} ended with {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A process and all that it started, apart from these programs' processes.
pub(crate) fn tree(root: i32, without: &str) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Some((name, fields)) = stat(pid) else {
            continue;
        };
        if name != without {
            let parent = fields[1].parse().unwrap_or(0);
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found
}

/// The name of a process, and the fields of its `stat` from the third.
fn stat(pid: i32) -> Option<(String, Vec<String>)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1.to_owned();
    Some((name, fields.split_whitespace().map(str::to_owned).collect()))
}

/// What processes have in memory, in bytes, added up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Each page divided among those that have it.
    pub(crate) proportional: u64,
    /// Pages that nobody else has.
    pub(crate) own: u64,
}

/// What these processes have in memory.
pub(crate) fn sets(pids: &[i32]) -> Memory {
    let mut all = Memory::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let rollup = rollup.unwrap_or_default();
        let of = |what: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(what));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) * 1024
        };
        all.proportional += of("Pss:");
        all.own += of("Private_Clean:") + of("Private_Dirty:");
    }
    all
}

/// Proportional set sizes of processes in bytes, added up.
pub(crate) fn memory(pids: &[i32]) -> u64 {
    sets(pids).proportional
}

/// The time that the threads of these processes were on a core.
pub(crate) fn used(pids: &[i32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let of = |pid: &i32| -> u64 {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        let threads = threads.into_iter().flatten().flatten();
        threads.filter_map(|thread| of_thread(thread.path())).sum()
    };
    Duration::from_nanos(pids.iter().map(of).sum())
}

/// How often the threads of these processes were put on a core after having waited.
pub(crate) fn wake_ups(pids: &[i32]) -> u64 {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let status = fs::read_to_string(path.join("status")).ok()?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
            .trim()
            .parse()
            .ok()
    };
    let of = |pid: &i32| -> u64 {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|thread| of_thread(thread.path()))
            .sum()
    };
    pids.iter().map(of).sum()
}

/// User and system time that a process used so far.
pub(crate) fn cpu_time(pid: i32) -> Duration {
    let ticks = stat(pid).map_or(0, |(_, fields)| {
        let field = |index: usize| fields[index].parse::<u64>().unwrap_or(0);
        field(11) + field(12)
    });
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100);
    Duration::from_millis(ticks * 1000 / per_second)
}
