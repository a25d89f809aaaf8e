//! The load generator for `kv@1`: the YCSB core workloads, latencies and gaps, and a verifier that
//! knows every acknowledged write.
//!
//! It is an ordinary local client of the host's supervisor, and the only writer of its records.
//!
//! Exit status: 0 where all went well; 1 where a request failed, a write was lost or doubled, or
//! something was left unread; 2 for wrong arguments; 3 where it could not begin; 130 after a
//! second interrupt. A first interrupt ends the phase and reports what was measured so far.

mod arguments;
mod bulk;
mod client;
mod expect;
mod failure;
mod measure;
mod progress;
mod record;
mod report;
mod run;
mod session;
mod stop;
#[cfg(test)]
mod store;
mod workload;
mod zipfian;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use stop::Stop;

/// Something failed, was lost, or was left unread.
const FAILED: u8 = 1;
/// It could not begin.
const NOT_BEGUN: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Stop::at_signals()
        .map_err(Box::<dyn Error>::from)
        .and_then(|stop| session::perform(&arguments, &stop));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            ExitCode::from(NOT_BEGUN)
        }
    }
}
