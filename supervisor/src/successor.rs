//! The daemon's own upgrade: another program takes the process over, in place.
//!
//! ```text
//! check     the program, as a child: does it understand what is stored, and the host's files?
//! hand over the loop ends; output is written, the ledgers are closed
//! exec      same process, same children; control socket and lock are passed on
//! ```
//!
//! What runs notices nothing, as when the daemon dies: the successor finds the services by the
//! ledger. But nobody else can come between, who asks meanwhile waits in the control socket's queue,
//! and the services stay children, so that no end of one goes unheard. Where the program cannot be
//! run after all, the one that was there runs again.

#![expect(
    unsafe_code,
    reason = "descriptors are put to the numbers that a program expects"
)]

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::systemd::handed::FIRST;

/// The argument with which a program is asked whether it could take over.
pub const CHECK: &str = "--check";
/// How long it may take to say so.
const CHECK_WITHIN: Duration = Duration::from_secs(20);
const CHECK_AGAIN: Duration = Duration::from_millis(5);
/// Where descriptors wait to be put where they belong: beyond what is handed over.
const ASIDE: RawFd = 64;
/// The program that runs, whatever became of its file.
const ITSELF: &str = "/proc/self/exe";

/// What a program says of itself before it takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checked {
    /// Its version.
    pub version: String,
    /// What it does not understand; it can take over if there is nothing.
    pub problems: Vec<String>,
}

/// Whether this program could take over here: it reads what is stored, and changes nothing.
pub fn check(paths: &Paths) -> Checked {
    let mut problems = Vec::new();
    let mut note = |what: &str, error: &dyn std::error::Error| {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        problems.push(text);
    };
    if let Err(error) = crate::ledger::check(paths) {
        note("the ledgers", &error);
    }
    if let Err(error) =
        crate::config::Applied::load(&paths.lib().join(crate::driver::update::APPLIED))
    {
        note("what the host's files said last", &error);
    }
    if let Err(error) = crate::release::Depot::open(paths) {
        note("the depot", &error);
    }
    Checked {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        problems,
    }
}

/// The program of this process, unless another one is named.
pub fn program(named: Option<PathBuf>) -> io::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    let own = std::fs::read_link(ITSELF)?;
    // A package that replaced the file left another one in its place.
    let text = own.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(path) => path.into(),
        None => own,
    })
}

/// Asks a program whether it could take over; an error says why it is not asked any further.
pub fn ask(program: &Path) -> Result<Checked, String> {
    let shown = program.display();
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg(CHECK)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .map_err(|error| format!("{shown} cannot be run: {error}"))?;
    let mut output = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        // What is no text is no answer.
        let _ = output.by_ref().take(1 << 20).read_to_string(&mut said);
        said
    });
    let asked = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if asked.elapsed() < CHECK_WITHIN => std::thread::sleep(CHECK_AGAIN),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{shown} {CHECK} does not end"));
            }
            Err(error) => return Err(format!("{shown} cannot be waited for: {error}")),
        }
    };
    let said = reader.join().unwrap_or_default();
    serde_json::from_str(&said).map_err(|_| {
        format!("{shown} {CHECK} ended with {status} and did not say whether it can take over")
    })
}

/// Runs a program in this process's place, with these descriptors by their names; where that
/// cannot be, the one that runs is run again. Returns only if not even that is possible.
pub fn exec(program: &Path, handed: Vec<(&str, OwnedFd)>) -> io::Error {
    if let Err(error) = place(&handed) {
        return error;
    }
    let names: Vec<_> = handed.iter().map(|(name, _)| *name).collect();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let run = |program: &Path| {
        let mut command = Command::new(program);
        command
            .args(arguments.iter().skip(1))
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", handed.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        if let Some(own) = arguments.first() {
            command.arg0(own);
        }
        command.exec()
    };
    let error = run(program);
    eprintln!(
        "error: {} cannot take over, the program that ran runs again: {error}",
        program.display()
    );
    run(Path::new(ITSELF))
}

/// Puts descriptors to the numbers from [`FIRST`] on, open for the next program.
fn place(handed: &[(&str, OwnedFd)]) -> io::Result<()> {
    // What lies at those numbers may be one of them.
    let mut copies = Vec::new();
    for (_, descriptor) in handed {
        let copy = fcntl(descriptor.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(ASIDE))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        copies.push(unsafe { OwnedFd::from_raw_fd(copy) });
    }
    for (number, copy) in (FIRST..).zip(&copies) {
        // SAFETY: two numbers. Whatever was at that number is closed, which its owner does not know:
        // this process uses no descriptor any more but these before it runs another program.
        if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
