//! Programs that end when they should not, or do not when they should, or not all of them.

#![expect(unsafe_code, reason = "fork, and signals that are ignored")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use insula::Service;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, fork, setsid};

/// Ends with a code after a time, having said that it is ready if it is to lie.
pub(crate) fn exit(code: u8, after: Duration, ready: bool) -> ExitCode {
    if !ready {
        std::thread::sleep(after);
        return ExitCode::from(code);
    }
    Service::new().run(|context| {
        context.runtime().ready();
        std::thread::sleep(after);
        std::process::exit(i32::from(code))
    })
}

/// Lives on when it is asked to end.
pub(crate) fn stubborn() -> ExitCode {
    // SAFETY: no handler is installed.
    match unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) } {
        Ok(_) => said(File::create("stubborn").map(drop)),
        Err(error) => said(Err(error.into())),
    }
}

/// Ends with 0 once it has a child that lives on and whose number the file `child` holds.
pub(crate) fn fork_away(session: bool) -> ExitCode {
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            if session && let Err(error) = setsid() {
                return said(Err(error.into()));
            }
            let own = std::process::id().to_string();
            let written =
                fs::write("child.new", own).and_then(|()| fs::rename("child.new", "child"));
            said(written)
        }
        Ok(ForkResult::Parent { .. }) => loop {
            if fs::exists("child").unwrap_or(false) {
                return ExitCode::SUCCESS;
            }
            std::thread::sleep(Duration::from_millis(1));
        },
        Err(error) => said(Err(error.into())),
    }
}

/// Writes a line into the file `signals` for each signal that it gets, and lives on.
pub(crate) fn signals() -> ExitCode {
    said(note_signals())
}

fn note_signals() -> io::Result<()> {
    let noted: SigSet = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]
        .into_iter()
        .collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&noted), None)?;
    let mut file = File::create("signals")?;
    loop {
        writeln!(file, "{}", noted.wait()?)?;
    }
}

/// Lives for ever after something that worked.
fn said(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => loop {
            std::thread::park();
        },
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
