//! Tests that are worth more time than `cargo xtask test` gives them.

use std::process::ExitCode;

use crate::{check, root};

/// Runs tests of a package for so long.
fn run(package: &str, filter: &[&str], variables: &[(&str, String)]) -> bool {
    let mut arguments = vec!["test", "--package", package];
    arguments.extend_from_slice(filter);
    arguments.extend(["--", "--nocapture", "--test-threads=1"]);
    let mut command = check::cargo(&root(), &arguments);
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("error: cannot run {command:?}: {error}");
            false
        }
    }
}

fn exit(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Parking and ringing: the models with more interruptions, and senders that always park.
pub(crate) fn stress(minutes: u64) -> ExitCode {
    let interruptions = [("LOOM_MAX_PREEMPTIONS", "3".to_owned())];
    let seconds = [("INSULA_STRESS_SECONDS", (minutes * 60).to_string())];
    let models = run("insula-model", &["--test", "waking"], &interruptions);
    let senders = run("insula-ipc", &["--test", "it", "stress"], &seconds);
    exit(models && senders)
}

/// What a service can do to others, in a table.
pub(crate) fn attacks() -> ExitCode {
    exit(run("insula-supervisor", &["--test", "attacks"], &[]))
}

/// Everything that is decoded from a peer, for so many minutes in all.
pub(crate) fn fuzz(minutes: u64) -> ExitCode {
    // Eight of the tests look for as long as they are told, one after the other.
    let seconds = [("INSULA_FUZZ_SECONDS", (minutes * 60 / 8).max(1).to_string())];
    exit(run("insula-contract", &["--test", "fuzz"], &seconds))
}

/// Providers and consumers killed at random moments, so many in all.
pub(crate) fn kills(count: u64) -> ExitCode {
    let kills = [("INSULA_KILLS", count.to_string())];
    exit(run("insula-ipc", &["--test", "kills"], &kills))
}

/// Processes of a host under load killed at random moments, its daemon among them.
pub(crate) fn chaos(kills: u64, seed: Option<u64>) -> ExitCode {
    let mut variables = vec![("INSULA_CHAOS_KILLS", kills.to_string())];
    variables.extend(seed.map(|seed| ("INSULA_CHAOS_SEED", seed.to_string())));
    exit(run("insula-supervisor", &["--test", "chaos"], &variables))
}

/// The core under invented schedules, optimised.
pub(crate) fn simulate(steps: u64, seed: u64) -> ExitCode {
    let variables = [
        ("INSULA_SIM_STEPS", steps.to_string()),
        ("INSULA_SIM_FIRST_SEED", seed.to_string()),
    ];
    let filter = ["--release", "--test", "simulation"];
    exit(run("insula-core", &filter, &variables))
}
