//! The workspace's own commands: `cargo xtask test` runs every check there is.

mod check;
mod deny;
mod process;
mod tally;
mod tests_output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::check::Check;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Commands of the Insula workspace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs all checks and sums them up; fails if one of them failed.
    ///
    /// With CI=true in the environment, a skip whose reason README.md does not allow is a failure.
    Test {
        /// Runs only this check; may be given several times.
        #[arg(long, value_enum, value_name = "NAME")]
        only: Vec<Check>,
    },
}

/// The workspace's root directory.
fn root() -> PathBuf {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("xtask lies below the workspace's root")
        .to_owned()
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Test { only } => check::run_all(&only),
    }
}
