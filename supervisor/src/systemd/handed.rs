//! Descriptors that the daemon is started with, as sd_listen_fds(3) has it.
//!
//! systemd hands the control socket over, which stays open while the daemon is away.

#![expect(
    unsafe_code,
    reason = "takes descriptors that the process was started with"
)]

use std::collections::VecDeque;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of the first one.
pub const FIRST: RawFd = 3;

/// Name of the control socket that systemd keeps.
pub const CONTROL: &str = "control";
/// Name of the control socket that an earlier program of this process opened.
pub const OWN_CONTROL: &str = "own-control";
/// Name of the lock that says that this is the only daemon.
pub const LOCK: &str = "lock";

/// What was handed over, by name, in its order.
#[derive(Debug, Default)]
pub struct Handed {
    descriptors: VecDeque<(String, OwnedFd)>,
}

impl Handed {
    /// Takes what this process was started with, the first time; to be called before anything
    /// else opens a descriptor.
    pub fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Self::default();
        }
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID") != std::process::id().to_string() {
            return Self::default();
        }
        let count = variable("LISTEN_FDS").parse().unwrap_or(0);
        let names = variable("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let mut descriptors = VecDeque::new();
        for fd in (FIRST..).take(count) {
            let name = names.next().unwrap_or_default().to_owned();
            // SAFETY: the call looks at a number; one that is no descriptor is an error.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                continue;
            }
            // SAFETY: it is open, as was just seen. Who started this process opened it for it,
            // which the process id in the environment says; and this happens once.
            descriptors.push_back((name, unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        Self { descriptors }
    }

    /// The next one of this name.
    pub fn next(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.descriptors.iter().position(|(is, _)| is == name)?;
        self.descriptors
            .remove(at)
            .map(|(_, descriptor)| descriptor)
    }
}
