//! What a host has only so much of.
//!
//! The manifest that these are tried with says `processes = 64`, `open-files = 256` and
//! `file-size = "1MiB"`; where the host can, also `memory-max = "64MiB"`, `cpu-max = "50%"`,
//! `data-max = "8MiB"` and `data-files-max = 500`. Not here: output and channels, which are limited
//! where they are made.

#![expect(unsafe_code, reason = "fork")]

use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::Attack;

const PROCESSES: usize = 200;
const DESCRIPTORS: u64 = 8192;
const FILE: u64 = 8 << 20;
const LOCKED: usize = 32 << 20;
/// In MiB.
const MEMORY: usize = 128;
/// Of 1 MiB each.
const SPACE: u32 = 24;
const FILES: u32 = 1000;
/// That each want a processor for themselves.
const THREADS: usize = 4;
/// Long enough that what an emulated processor is given too much while it stands still is taken back.
const BUSY: Duration = Duration::from_secs(6);
/// Hundredths of a processor: five times the limit, and well below what the threads get without one.
const SHARE: u128 = 250;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "processes",
        text: "makes more processes than it may",
        walls: "limits (with own-uids)",
        ends_all: false,
        run: |_| {
            let mut made = Vec::new();
            let mut outcome = Ok(format!("{PROCESSES} processes"));
            while made.len() < PROCESSES {
                // SAFETY: this process has one thread; the child only sleeps.
                match unsafe { fork() } {
                    Ok(ForkResult::Child) => loop {
                        nix::unistd::pause();
                    },
                    Ok(ForkResult::Parent { child }) => made.push(child),
                    Err(error) => {
                        outcome = Err(error.into());
                        break;
                    }
                }
            }
            for child in made {
                kill(child, Signal::SIGKILL)?;
                waitpid(child, None)?;
            }
            outcome
        },
    },
    Attack {
        name: "descriptors",
        text: "raises its limit of descriptors, and opens as many",
        walls: "limits",
        ends_all: false,
        run: |_| {
            // Where this is refused, it takes as many as it has.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS + 16, DESCRIPTORS + 16);
            let mut open = Vec::new();
            for _ in 0..DESCRIPTORS {
                open.push(File::open("/dev/null")?);
            }
            Ok(format!("{} descriptors", open.len()))
        },
    },
    Attack {
        name: "file-size",
        text: "makes a file larger than it may",
        walls: "limits",
        ends_all: false,
        run: |_| {
            let path = format!("large-{}", std::process::id());
            let file = File::create_new(&path)?;
            fs::remove_file(&path)?;
            file.set_len(FILE)?;
            Ok(format!("{FILE} bytes"))
        },
    },
    Attack {
        name: "locked-memory",
        text: "keeps more memory from being swapped than it may",
        walls: "limits",
        ends_all: false,
        run: |_| {
            let memory = vec![0_u8; LOCKED];
            // SAFETY: the range is `memory`; the lock ends with this process.
            let locked = unsafe { libc::mlock(memory.as_ptr().cast(), LOCKED) };
            nix::Error::result(locked).map_err(io::Error::from)?;
            Ok(format!("{LOCKED} bytes"))
        },
    },
];

/// What a cgroup v2 limits.
pub(super) const OF_MEMORY: &[Attack] = &[Attack {
    name: "memory",
    text: "takes more memory than it may",
    walls: "limits (cgroup)",
    ends_all: true,
    run: |_| {
        let mut taken = Vec::new();
        while taken.len() < MEMORY {
            // Written to, so that the kernel must give it.
            taken.push(black_box(vec![1_u8; 1 << 20]));
        }
        Ok(format!("{MEMORY} MiB"))
    },
}];

/// The same.
pub(super) const OF_PROCESSORS: &[Attack] = &[Attack {
    name: "processors",
    text: "uses more processors than it may",
    walls: "limits (cgroup)",
    ends_all: false,
    run: |_| {
        let begun = Instant::now();
        for _ in 0..THREADS {
            thread::spawn(|| {
                loop {
                    black_box(0);
                }
            });
        }
        thread::sleep(BUSY);
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let used = usage.user_time() + usage.system_time();
        let micros = u128::try_from(used.num_microseconds()).unwrap_or(0);
        let share = micros * 100 / begun.elapsed().as_micros().max(1);
        if share > SHARE {
            Ok(format!("{share} % of a processor"))
        } else {
            Err(io::Error::other(format!("got {share} % of a processor")))
        }
    },
}];

/// What quotas of a file system limit.
pub(super) const OF_DATA: &[Attack] = &[
    Attack {
        name: "data-space",
        text: "fills the disk with files that are each small enough",
        walls: "data-quotas",
        ends_all: false,
        run: |_| fill(SPACE, &vec![1; 1 << 20]),
    },
    Attack {
        name: "data-files",
        text: "makes more files than it may",
        walls: "data-quotas",
        ends_all: false,
        run: |_| fill(FILES, b""),
    },
];

/// Makes so many files, and takes them away again.
fn fill(count: u32, bytes: &[u8]) -> io::Result<String> {
    let directory = PathBuf::from(format!("filling-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let write = |number: u32| fs::write(directory.join(number.to_string()), bytes);
    let written = (0..count).try_for_each(write);
    fs::remove_dir_all(&directory)?;
    written.map(|()| format!("{count} files of {} bytes", bytes.len()))
}
