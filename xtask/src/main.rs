//! The workspace's own commands: `cargo xtask demo` shows what Insula does, `cargo xtask test` runs
//! every check there is.

mod check;
mod demo;
mod deny;
mod long;
mod mutate;
mod process;
mod tally;
mod tests_output;
mod vm;

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
    /// Attacks neighbours and the host from within a service, with the walls and without, and prints
    /// what came of each attack.
    Attacks,
    /// Kills the daemon and services of a host under load at random moments, and checks that nothing
    /// is lost, doubled, orphaned or forgotten.
    Chaos {
        /// Processes that are killed.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        kills: u64,
        /// Makes the choices of the run that printed this seed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Upgrades, kills and rolls back a service under load, and prints what its clients noticed.
    Demo {
        /// Records of 1,000 bytes that are loaded first.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..))]
        records: u64,
        /// Clients that run the workload, each an ordinary local program's thread.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
        clients: u64,
        /// Seconds between the upgrade, the kill and the rollback.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        pause: u64,
    },
    /// Decodes mutated inputs for minutes, of everything that is decoded from a peer.
    Fuzz {
        /// How long.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        minutes: u64,
    },
    /// Kills providers and consumers at random moments, with live traffic, and shows what their
    /// survivors noticed and kept.
    Kills {
        /// Processes that are killed.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(20..=1_000_000))]
        count: u64,
    },
    /// Breaks the supervisor's core in one place after the other, and sees its tests go red.
    Mutate {
        /// Events that the simulation tries on each.
        #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(3_000..=100_000_000))]
        steps: u64,
        /// Only those with this in their description; may be given several times.
        #[arg(long, value_name = "TEXT")]
        only: Vec<String>,
    },
    /// Runs the supervisor's core under a fake kernel and clock, with faults from seeds, and checks
    /// its invariants after every step.
    Simulate {
        /// Events that are tried.
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(3_000..=100_000_000_000))]
        steps: u64,
        /// The first seed; each is good for 3,000 steps.
        #[arg(long, default_value_t = 1_000)]
        seed: u64,
    },
    /// Looks for lost wake-ups for minutes: larger models, and senders that always park while their
    /// servers are killed and cut over.
    Stress {
        /// How long the senders send.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        minutes: u64,
    },
    /// Runs all checks and sums them up; fails if one of them failed.
    ///
    /// With CI=true in the environment, a skip whose reason README.md does not allow is a failure.
    Test {
        /// Runs only this check; may be given several times.
        #[arg(long, value_enum, value_name = "NAME")]
        only: Vec<Check>,
    },
    /// Boots Debian in a virtual machine, with systemd and this workspace's programs.
    Vm {
        #[command(subcommand)]
        command: vm::Command,
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

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target)
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Attacks => long::attacks(),
        Command::Chaos { kills, seed } => long::chaos(kills, seed),
        Command::Demo {
            records,
            clients,
            pause,
        } => demo::run(demo::Extent {
            records,
            clients,
            pause: std::time::Duration::from_secs(pause),
        }),
        Command::Fuzz { minutes } => long::fuzz(minutes),
        Command::Kills { count } => long::kills(count),
        Command::Mutate { steps, only } => mutate::run(&root(), steps, &only),
        Command::Simulate { steps, seed } => long::simulate(steps, seed),
        Command::Stress { minutes } => long::stress(minutes),
        Command::Test { only } => check::run_all(&only),
        Command::Vm { command } => vm::run(command),
    }
}
