//! Counts the system calls of processes by the kernel's tracepoint `raw_syscalls:sys_enter`.
//!
//! While a counter is open every system call of the host takes the slow way through the kernel's
//! entry, so calls are counted in runs in which nothing is timed.

#![expect(
    unsafe_code,
    reason = "perf_event_open and detached mounts have no wrapper"
)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::unistd::Pid;

/// The first version of the kernel's `perf_event_attr`, which every kernel since reads.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    breakpoint_address: u64,
}

/// `PERF_TYPE_TRACEPOINT`
const TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOEXEC: u64 = 8;
const EVENT: &str = "events/raw_syscalls/sys_enter/id";

/// Counts the system calls of all threads that some processes have when it is made.
#[derive(Debug)]
pub struct SystemCalls {
    counters: Vec<File>,
}

impl SystemCalls {
    /// Begins to count for `processes`; an error where the host does not let this user count.
    pub fn count(processes: &[Pid]) -> std::io::Result<Self> {
        let event = event_number()?;
        let mut counters = Vec::new();
        for process in processes {
            for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let task = task?.file_name();
                let Some(task) = task.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                counters.push(open(event, task)?);
            }
        }
        Ok(Self { counters })
    }

    /// How many there were since it was made.
    pub fn total(&mut self) -> std::io::Result<u64> {
        let mut total = 0;
        for counter in &mut self.counters {
            let mut bytes = [0; 8];
            counter.read_exact(&mut bytes)?;
            total += u64::from_ne_bytes(bytes);
        }
        Ok(total)
    }
}

fn owned(result: libc::c_long) -> std::io::Result<OwnedFd> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to the caller, who owns it alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn open(event: u64, task: libc::pid_t) -> std::io::Result<File> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: event,
        ..Attributes::default()
    };
    // SAFETY: `attributes` is of the size that it states and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            task,
            -1,
            -1,
            CLOEXEC,
        )
    };
    owned(result).map(File::from)
}

/// The tracepoint's number, from a tracefs that is mounted, or from one of our own that nobody
/// else sees.
fn event_number() -> std::io::Result<u64> {
    let text = match std::fs::read_to_string(format!("/sys/kernel/tracing/{EVENT}")) {
        Ok(text) => text,
        Err(_) => {
            let mount = detached_tracefs()?;
            let path = format!("/proc/self/fd/{}/{EVENT}", mount.as_raw_fd());
            std::fs::read_to_string(path)?
        }
    };
    text.trim()
        .parse()
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

fn detached_tracefs() -> std::io::Result<OwnedFd> {
    const CONFIGURE_CREATE: libc::c_uint = 6;
    // SAFETY: the name is a string that ends with a zero and outlives the call.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1 as libc::c_uint) })?;
    // SAFETY: creating takes no key, value or number.
    let configured = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CONFIGURE_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    if configured < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_call_counts_once() {
        let mut calls = match SystemCalls::count(&[Pid::this()]) {
            Ok(calls) => calls,
            Err(error) => {
                println!("SKIPPED (no perf events: {error}): counting system calls");
                return;
            }
        };
        let before = calls.total().unwrap();
        for _ in 0..1000 {
            let _ = nix::unistd::getppid();
        }
        let counted = calls.total().unwrap() - before;
        assert!((1000..1100).contains(&counted), "{counted}");
    }
}
