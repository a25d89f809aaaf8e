//! Other processes: a neighbour's and the daemon's.

#![expect(unsafe_code, reason = "calls that nothing wraps")]

use std::fs::{self, File};
use std::io;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "signal-neighbour",
        text: "may signal a neighbour",
        walls: "own-uids, signals",
        ends_all: false,
        run: |target| signal(target.pid),
    },
    Attack {
        name: "signal-daemon",
        text: "may signal the daemon",
        walls: "own-uids, signals",
        ends_all: false,
        run: |target| signal(target.daemon),
    },
    Attack {
        name: "trace-neighbour",
        text: "traces a neighbour",
        walls: "own-uids, files, system-calls",
        ends_all: false,
        run: |target| trace(target.pid),
    },
    Attack {
        name: "trace-daemon",
        text: "traces the daemon",
        walls: "own-uids, files, system-calls",
        ends_all: false,
        run: |target| trace(target.daemon),
    },
    Attack {
        name: "read-memory",
        text: "reads a neighbour's memory by process_vm_readv",
        walls: "own-uids, files, system-calls",
        ends_all: false,
        run: |target| read_memory(target.pid),
    },
    Attack {
        name: "read-memory-daemon",
        text: "reads the daemon's memory by process_vm_readv",
        walls: "own-uids, files, system-calls",
        ends_all: false,
        run: |target| read_memory(target.daemon),
    },
    Attack {
        name: "open-memory",
        text: "opens a neighbour's /proc/PID/mem for writing",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| open_memory(target.pid),
    },
    Attack {
        name: "open-memory-daemon",
        text: "opens the daemon's /proc/PID/mem for writing",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| open_memory(target.daemon),
    },
    Attack {
        name: "read-environment",
        text: "reads a neighbour's environment",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let bytes = fs::read(format!("/proc/{}/environ", target.pid))?;
            Ok(format!("{} bytes", bytes.len()))
        },
    },
    Attack {
        name: "take-descriptor",
        text: "takes a copy of a neighbour's descriptor",
        walls: "own-uids, files, system-calls",
        ends_all: false,
        run: |target| {
            // SAFETY: integers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, target.pid, 0) };
            let fd = nix::Error::result(fd)?;
            // SAFETY: integers only; both descriptors end with this process.
            let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, fd, 0, 0) };
            Ok(format!("descriptor {}", nix::Error::result(taken)?))
        },
    },
];

fn signal(pid: i32) -> io::Result<String> {
    kill(Pid::from_raw(pid), None)?;
    Ok(format!("signal 0 to {pid}"))
}

fn trace(pid: i32) -> io::Result<String> {
    // SAFETY: with this request the last two arguments are integers of 0. It stops nobody, and ends
    // with this process.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    nix::Error::result(seized)?;
    Ok(format!("seized {pid}"))
}

/// Reads a few bytes of the first thing that is mapped; where that cannot be told, of an address
/// that means nothing, which is as good for asking.
fn read_memory(pid: i32) -> io::Result<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let address = maps
        .split('-')
        .next()
        .and_then(|start| usize::from_str_radix(start, 16).ok())
        .unwrap_or(4096);
    let mut bytes = [0_u8; 4];
    let local = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: bytes.len(),
    };
    // SAFETY: `bytes` is as long as said; what is remote is not this process's memory.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    nix::Error::result(read)?;
    Ok(format!("{bytes:?} at {address:#x}"))
}

fn open_memory(pid: i32) -> io::Result<String> {
    let path = format!("/proc/{pid}/mem");
    File::options().read(true).write(true).open(&path)?;
    Ok(format!("{path} is open"))
}
