//! A program that takes all that it gets, once it is told to.
//!
//! It waits for a file `eat` in its working directory, removes it, and begins; so the process that
//! comes after it is quiet.

use std::env;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

/// Of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Of {
    /// Memory, beside a child that takes none.
    Memory,
    /// Processes.
    Processes,
    /// The time of four processors.
    Processors,
    /// Disk, in files of 1 MiB in the working directory; what is refused there stays refused until
    /// somebody takes the directory `eaten` away.
    Disk,
}

/// How much is taken at once.
const BITE: usize = 1 << 20;
/// Threads that use a processor each.
const THREADS: usize = 4;
/// Longer than anybody watches.
const LONG: Duration = Duration::from_secs(1 << 30);

pub(crate) fn run(of: Of) -> ExitCode {
    match eat(of) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn eat(of: Of) -> io::Result<()> {
    // Kept, and never waited for: it ends with this process's cgroup.
    let _beside = match of {
        Of::Memory => Some(quiet_child()?),
        Of::Processes | Of::Processors | Of::Disk => None,
    };
    println!("hungry");
    while !Path::new("eat").exists() {
        thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file("eat")?;
    match of {
        Of::Memory => {
            let mut eaten = Vec::new();
            loop {
                // Written to, so that the kernel must give it.
                eaten.push(black_box(vec![1_u8; BITE]));
            }
        }
        Of::Processes => {
            let mut children = Vec::new();
            let refused = loop {
                match quiet_child() {
                    Ok(child) => children.push(child),
                    Err(error) => break error,
                }
            };
            println!(
                "refused another process after {}: {refused}",
                children.len()
            );
            thread::sleep(LONG);
        }
        Of::Disk => {
            fs::create_dir_all("eaten")?;
            let mut files = 0_u64..;
            let refused = files.find_map(|number| {
                let written = fs::write(format!("eaten/{number}"), vec![1_u8; BITE]);
                written.err().map(|error| (number, error))
            });
            if let Some((number, error)) = refused {
                println!("refused more disk after {number} MiB: {error}");
            }
            thread::sleep(LONG);
        }
        Of::Processors => {
            for _ in 0..THREADS {
                thread::spawn(|| {
                    loop {
                        black_box(0);
                    }
                });
            }
            thread::sleep(LONG);
        }
    }
    Ok(())
}

/// This program, doing nothing.
fn quiet_child() -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .arg("mute")
        .stdin(Stdio::null())
        .spawn()
}
