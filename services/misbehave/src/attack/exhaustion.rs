//! What a host has only so much of.
//!
//! The manifest that these are tried with says `processes = 64`, `open-files = 256` and
//! `file-size = "1MiB"`. Not here: memory, which only a cgroup v2 limits; the space of the file
//! system that all data lies on, which nothing limits; output and channels, which are limited
//! where they are made.

#![expect(unsafe_code, reason = "fork")]

use std::fs::{self, File};
use std::io;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::Attack;

const PROCESSES: usize = 200;
const DESCRIPTORS: u64 = 8192;
const FILE: u64 = 8 << 20;
const LOCKED: usize = 32 << 20;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "processes",
        text: "makes more processes than it may",
        walls: "limits (with own-uids)",
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
        run: |_| {
            let memory = vec![0_u8; LOCKED];
            // SAFETY: the range is `memory`; the lock ends with this process.
            let locked = unsafe { libc::mlock(memory.as_ptr().cast(), LOCKED) };
            nix::Error::result(locked).map_err(io::Error::from)?;
            Ok(format!("{LOCKED} bytes"))
        },
    },
];
