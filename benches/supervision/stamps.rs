//! When each supervised process ran its first instruction, as it says so itself.

#![expect(unsafe_code, reason = "System V shared memory")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How long anything may take before the bench gives up.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);
/// How often the page is looked at; the stamps tell the time, not the look.
const LOOK: Duration = Duration::from_micros(500);

/// Nanoseconds of `CLOCK_MONOTONIC`, as the payload stamps.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the kernel has CLOCK_MONOTONIC");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// Milliseconds between two times of [`now`].
pub(crate) fn milliseconds(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1e6
}

/// What a payload writes; laid out as in `payload.rs`.
#[repr(C)]
struct Slot {
    count: AtomicU32,
    pid: AtomicI32,
    time: AtomicI64,
}

/// What a slot said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// How many processes wrote to it.
    pub(crate) count: u32,
    /// The last one.
    pub(crate) pid: i32,
    /// When it ran its first instruction.
    pub(crate) time: i64,
}

/// The page of stamps, a slot for each service.
#[derive(Debug)]
pub(crate) struct Stamps {
    id: i32,
    at: *const Slot,
    slots: usize,
}

impl Stamps {
    pub(crate) fn create(slots: usize) -> io::Result<Self> {
        // SAFETY: three integers. Any user may write: services have users of their own.
        let id = unsafe {
            libc::shmget(
                libc::IPC_PRIVATE,
                slots * size_of::<Slot>(),
                libc::IPC_CREAT | 0o666,
            )
        };
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel chooses the place.
        let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        let error = io::Error::last_os_error();
        if at.addr() == usize::MAX {
            // SAFETY: it is ours, and the third argument is not used.
            unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
            return Err(error);
        }
        Ok(Self {
            id,
            at: at.cast(),
            slots,
        })
    }

    /// What a payload is told, before its slot.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    pub(crate) fn stamp(&self, index: usize) -> Stamp {
        assert!(index < self.slots);
        // SAFETY: the page is attached for as long as this lives and has so many slots; they are
        // atomic words, which other processes may write.
        let slot = unsafe { &*self.at.add(index) };
        let count = slot.count.load(Ordering::Acquire);
        Stamp {
            count,
            pid: slot.pid.load(Ordering::Relaxed),
            time: slot.time.load(Ordering::Relaxed),
        }
    }

    /// The stamps of the first `count` services.
    pub(crate) fn all(&self, count: usize) -> Vec<Stamp> {
        (0..count).map(|index| self.stamp(index)).collect()
    }

    /// Waits until each of these has a stamp beyond the one that it had, and gives the time of the
    /// last.
    pub(crate) fn wait_beyond(&self, had: &[(usize, Stamp)]) -> Result<i64, String> {
        let began = Instant::now();
        let mut last = 0;
        for (index, had) in had {
            loop {
                let stamp = self.stamp(*index);
                if stamp.count > had.count {
                    last = last.max(stamp.time);
                    break;
                }
                if began.elapsed() > WATCHDOG {
                    return Err(format!("service {index} did not come within {WATCHDOG:?}"));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(last)
    }
}

impl Drop for Stamps {
    fn drop(&mut self) {
        // SAFETY: it is ours and attached here; the processes that have it keep it until they end.
        unsafe {
            libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut());
            libc::shmdt(self.at.cast());
        }
    }
}

/// Builds the payload below `directory`.
pub(crate) fn build_payload(directory: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("supervision/payload.rs");
    let program = directory.join("payload");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(compiler)
        .args(["--edition", "2024", "-O", "-C", "panic=abort"])
        .args(["-C", "relocation-model=static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args(["-C", "link-arg=-static", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    match built {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("rustc ended with {status}")),
        Err(error) => Err(format!("cannot run rustc: {error}")),
    }
}
