//! `cargo xtask mutate`: breaks the core in one place after the other, in a copy, and sees its
//! tests and the simulation go red.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// The processor time, in seconds, that each process of cargo's may use.
const CPU_MAX: &str = "--cpu=120";

/// A mistake that somebody could make.
struct Mutation {
    what: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn of(
    what: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Mutation {
    Mutation {
        what,
        file,
        from,
        to,
    }
}

const MUTATIONS: &[Mutation] = &[
    of(
        "an event of another attempt counts",
        "service.rs",
        "let is = |process: &Process| process.attempt == attempt;",
        "let is = |_: &Process| true;",
    ),
    of(
        "the back-off is never reset",
        "restart.rs",
        "if now.since(launched) >= limits.stable {",
        "if now.since(launched) > limits.stable * 1_000_000 {",
    ),
    of(
        "who waits for his turn no more keeps it",
        "core.rs",
        "            turn.pace.note(service, turn.now);\n",
        "",
    ),
    of(
        "a turn is had twice",
        "pace.rs",
        "                self.next = self.next.max(turn + 1);\n",
        "",
    ),
    of(
        "there is no back-off",
        "restart.rs",
        "        self.in_a_row += 1;\n",
        "",
    ),
    of(
        "nothing is too often",
        "restart.rs",
        "if self.ends.len() > limits.intensity {",
        "if self.ends.len() > limits.intensity + 1_000 {",
    ),
    of(
        "acts without a record",
        "core.rs",
        "            records: turn.records,\n",
        "            records: Vec::new(),\n",
    ),
    of(
        "a launch is not recorded",
        "service/replica.rs",
        "        turn.records.push(Record::Began {",
        "        drop(Record::Began {",
    ),
    of(
        "an epoch is not recorded",
        "service/replica.rs",
        "        turn.records.push(Record::Epoch {",
        "        drop(Record::Epoch {",
    ),
    of(
        "a goal is not recorded",
        "orders.rs",
        "            turn.records.push(Record::Goal {",
        "            drop(Record::Goal {",
    ),
    of(
        "the next leads before the last is gone",
        "service/replica.rs",
        "self.replicas[at].leaving.iter().any(Process::may_write)",
        "false",
    ),
    of(
        "nobody is ever late",
        "core.rs",
        "            service.hear(turn, attempt, Said::Late);\n",
        "",
    ),
    of(
        "what it needs is not waited for",
        "core.rs",
        "            if missing.is_empty() {\n",
        "            if true {\n",
    ),
    of(
        "a shutdown goes in any order",
        "core/needs.rs",
        "self.services.get_mut(&name).filter(|_| !used)",
        "self.services.get_mut(&name).filter(|_| used || true)",
    ),
    of(
        "who died is said to owe nothing",
        "service/replica.rs",
        "        let drained = process.drained.then_some(process.attempt);\n",
        "        let drained = Some(process.attempt);\n",
    ),
    of(
        "a sick process is left on its routes",
        "service/health.rs",
        "                self.publish_holding(turn, at, attempt, slot);\n",
        "                let _ = (at, slot);\n",
    ),
    of(
        "who is wanted sleeps on",
        "service/dormant.rs",
        "                self.replicas[at].place = Place::Backoff { until: turn.now };\n",
        "",
    ),
    of(
        "a wish on the way to sleep is forgotten",
        "service/dormant.rs",
        "            Place::Up(process) => process.sleeps = false,",
        "            Place::Up(_) => {}",
    ),
    of(
        "who is not wanted any more stays up",
        "service.rs",
        "        if self.replicas[at].wanted {\n            self.goal\n",
        "        if true {\n            self.goal\n",
    ),
    of(
        "a living process is not adopted",
        "core/restore.rs",
        "if replica.place == Place::Stopped && active {",
        "if replica.place == Place::Stopped && active && false {",
    ),
    of(
        "what was given up comes back with the daemon",
        "service/steps.rs",
        "            && replica.place == Place::Stopped\n",
        "            && replica.place == Place::Vacant\n",
    ),
    of(
        "a failed probe counts for nothing",
        "health.rs",
        "                self.failures += 1;\n",
        "",
    ),
    of(
        "a watchdog does not bite",
        "health.rs",
        "            && at <= now\n",
        "            && at > now\n",
    ),
    of(
        "a ready process of a failed upgrade stays",
        "service/upgrade.rs",
        "                self.dismiss(turn, at, incoming);\n",
        "                drop(incoming);\n",
    ),
    of(
        "an order to stop is never answered",
        "service.rs",
        "            for request in std::mem::take(&mut self.until_stopped) {\n                turn.answer(request, Ok(Done::Stopped));\n            }\n",
        "",
    ),
    of(
        "two processes share a slot",
        "service.rs",
        "            !self.processes().any(|process| process.slot == *slot)\n",
        "            !self.processes().any(|process| process.slot == *slot && *slot > 0)\n",
    ),
];

/// Copies what git knows of the workspace, as it lies here.
fn copy(root: &Path, to: &Path) -> Result<(), String> {
    let files = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run git: {error}"))?;
    for file in String::from_utf8_lossy(&files.stdout).split_terminator('\0') {
        let target = to.join(file);
        let parent = target.parent().unwrap_or(to);
        // A file that is removed and not yet committed is still listed.
        if !root.join(file).exists() {
            continue;
        }
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(root.join(file), &target).map(drop))
            .map_err(|error| format!("cannot copy {file}: {error}"))?;
    }
    Ok(())
}

/// What the tests of the core said.
enum Said {
    Red(String),
    Green,
    NotBuilt(String),
}

fn test(tree: &Path, target: &Path, steps: u64) -> Result<Said, String> {
    let run = |arguments: &[&str]| {
        // A broken core may turn for ever; a sound one takes seconds.
        Command::new("prlimit")
            .args([CPU_MAX, env!("CARGO")])
            .args(["test", "--release", "--locked", "-p", "insula-core"])
            .args(arguments)
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", target)
            // Built often and run once.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("INSULA_SIM_STEPS", steps.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run cargo by prlimit: {error}"))
    };
    let built = run(&["--no-run"])?;
    if !built.status.success() {
        let text = String::from_utf8_lossy(&built.stderr).into_owned();
        return Ok(Said::NotBuilt(text));
    }
    let tested = run(&["--no-fail-fast"])?;
    if tested.status.success() {
        return Ok(Said::Green);
    }
    let text = String::from_utf8_lossy(&tested.stdout).into_owned();
    let failed = text
        .lines()
        .filter_map(|line| line.strip_suffix(" ... FAILED"));
    let failed: Vec<_> = failed
        .filter_map(|line| line.strip_prefix("test "))
        .collect();
    if failed.is_empty() && String::from_utf8_lossy(&tested.stderr).contains("SIGXCPU") {
        return Ok(Said::Red("it does not come to an end".to_owned()));
    }
    let seed = text.lines().find(|line| line.starts_with("seed "));
    let seed = seed.map_or_else(String::new, |line| format!(" ({line})"));
    Ok(Said::Red(format!("{}{seed}", failed.join(", "))))
}

/// Tries all mutations, or those with one of these words in what they do; each must be caught.
pub(crate) fn run(root: &Path, steps: u64, only: &[String]) -> ExitCode {
    match try_all(root, steps, only) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(missed) => {
            eprintln!("error: {missed} mutations are not caught");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_all(root: &Path, steps: u64, only: &[String]) -> Result<usize, String> {
    let base: PathBuf = root.join("target").join("mutate");
    let (tree, target) = (base.join("tree"), base.join("target"));
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("cannot clear {}: {error}", tree.display()));
        }
        _ => {}
    }
    copy(root, &tree)?;
    match test(&tree, &target, steps)? {
        Said::Green => println!("unbroken: green"),
        Said::Red(what) => return Err(format!("the core fails unbroken: {what}")),
        Said::NotBuilt(text) => return Err(format!("the core does not build:\n{text}")),
    }
    let mut missed = 0;
    let wanted = |mutation: &&Mutation| {
        only.is_empty() || only.iter().any(|word| mutation.what.contains(word))
    };
    let mutations: Vec<_> = MUTATIONS.iter().filter(wanted).collect();
    if mutations.is_empty() {
        return Err("no mutation is called so".to_owned());
    }
    for mutation in &mutations {
        let path = tree.join("supervisor/core/src").join(mutation.file);
        let sound = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if sound.matches(mutation.from).count() != 1 {
            return Err(format!(
                "`{}`: its place in {} is not there, or not the only one",
                mutation.what, mutation.file
            ));
        }
        let write =
            |text: &str| fs::write(&path, text).map_err(|error| format!("cannot write: {error}"));
        write(&sound.replace(mutation.from, mutation.to))?;
        let begun = Instant::now();
        let said = test(&tree, &target, steps);
        write(&sound)?;
        let seconds = begun.elapsed().as_secs_f64();
        match said? {
            Said::Red(what) => println!("caught  {:5.1} s  {}: {what}", seconds, mutation.what),
            Said::Green => {
                missed += 1;
                println!("MISSED  {:5.1} s  {}", seconds, mutation.what);
            }
            Said::NotBuilt(text) => {
                return Err(format!("`{}` does not build:\n{text}", mutation.what));
            }
        }
    }
    println!(
        "{} of {} mutations caught",
        mutations.len() - missed,
        mutations.len()
    );
    Ok(missed)
}
