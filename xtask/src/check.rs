//! The checks, one after the other, and their sum.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::ValueEnum;

use crate::tally::Tally;
use crate::tests_output::Reader;
use crate::{deny, process, root, vm};

/// Something that is checked of the whole workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    Lock,
    Format,
    Clippy,
    Build,
    Unit,
    Process,
    DocTests,
    Docs,
    Deny,
    Advisories,
    Vm,
}

impl Check {
    fn title(self) -> &'static str {
        match self {
            Self::Lock => "Cargo.lock says what the manifests ask for",
            Self::Format => "every file is formatted by rustfmt",
            Self::Clippy => "clippy finds nothing in any target",
            Self::Build => "every program builds",
            Self::Unit => "unit, table and property tests",
            Self::Process => "tests with real processes, one at a time",
            Self::DocTests => "the examples in the documentation",
            Self::Docs => "rustdoc finds nothing",
            Self::Deny => "licences, bans and sources of the dependencies",
            Self::Advisories => "known vulnerabilities of the dependencies",
            Self::Vm => "a host of its own, under systemd, in a virtual machine",
        }
    }

    fn run(self, root: &Path) -> Tally {
        match self {
            Self::Lock => whole(
                self,
                cargo(root, &["tree", "--locked", "--workspace", "--depth", "0"]),
            ),
            Self::Format => whole(self, cargo(root, &["fmt", "--all", "--check"])),
            Self::Clippy => whole(
                self,
                cargo(
                    root,
                    &[
                        "clippy",
                        "--workspace",
                        "--all-targets",
                        "--",
                        "-D",
                        "warnings",
                    ],
                ),
            ),
            Self::Build => whole(self, cargo(root, &["build", "--workspace"])),
            Self::Unit => tests(self, cargo(root, &test(&["--lib", "--bins"], &[]))),
            Self::Process => tests(
                self,
                cargo(root, &test(&["--test", "*"], &["--test-threads=1"])),
            ),
            Self::DocTests => tests(self, cargo(root, &test(&["--doc"], &[]))),
            Self::Docs => {
                let mut command = cargo(root, &["doc", "--workspace", "--no-deps"]);
                command.env("RUSTDOCFLAGS", "-D warnings");
                whole(self, command)
            }
            Self::Deny => deny::lists(root),
            Self::Advisories => deny::advisories(root),
            Self::Vm => vm::check(),
        }
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no check is hidden");
        f.write_str(value.get_name())
    }
}

/// Runs the named checks, or all if none is named, and prints their sum.
pub(crate) fn run_all(only: &[Check]) -> ExitCode {
    let root = root();
    let started = Instant::now();
    let mut total = Tally::default();
    for check in Check::value_variants() {
        if !only.is_empty() && !only.contains(check) {
            continue;
        }
        println!("\n=== {check}: {}", check.title());
        let begin = Instant::now();
        let tally = check.run(&root);
        let verdict = if tally.failed.is_empty() {
            "done"
        } else {
            "FAILED"
        };
        println!(
            "=== {check}: {verdict} after {:.1} s: {tally}",
            begin.elapsed().as_secs_f64()
        );
        total.add(tally);
    }
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        total.refuse_other_skips();
    }
    println!("\n=== all: {:.1} s", started.elapsed().as_secs_f64());
    for skip in &total.skipped {
        println!("{skip}");
    }
    for failure in &total.failed {
        println!("FAILED: {failure}");
    }
    println!("{total}");
    if total.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A call of the cargo that runs this program.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(arguments);
    // The variables that cargo sets for this package would make cargo's children rebuild it.
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("CARGO_PKG_") || known.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The arguments of a `cargo test` that runs on after a failure and shows what tests said that
/// passed.
fn test<'a>(targets: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    let head = ["test", "--workspace", "--no-fail-fast"];
    [&head[..], targets, &["--", "--show-output"], options].concat()
}

/// Runs a command that passes or fails as a whole.
pub(crate) fn whole(check: Check, mut command: Command) -> Tally {
    match command.status() {
        Ok(status) if status.success() => Tally::passed(),
        Ok(status) => Tally::failed(format!("{check} ({status})")),
        Err(error) => Tally::failed(format!("{check}: cannot run {command:?}: {error}")),
    }
}

/// Runs a command that runs tests.
fn tests(check: Check, mut command: Command) -> Tally {
    let mut reader = Reader::default();
    let outcome = process::run(&mut command, |line| {
        if reader.read(line) {
            println!("{line}");
        }
    });
    match outcome {
        Ok(status) => reader.finish(&check.to_string(), status.success()),
        Err(error) => Tally::failed(format!("{check}: cannot run {command:?}: {error}")),
    }
}
