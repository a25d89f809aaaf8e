//! Attacks of a service on its neighbours and its host: each is one small deed that works for who
//! is not walled in, and says what it got, or why it did not.
//!
//! Each runs in a process of its own, so that one that is killed, or leaves itself changed, does not
//! disturb the next. None leaves anything behind, and none harms whom it reaches.

mod exhaustion;
mod files;
pub(crate) mod judge;
mod kernel;
mod neighbours;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};

/// Whom to attack.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The daemon's root directory, unless its files lie in the usual places.
    #[arg(long)]
    root: Option<PathBuf>,
    /// The service whose files and channels are tried.
    #[arg(long)]
    neighbour: String,
    /// Its process.
    #[arg(long)]
    pid: i32,
    /// The daemon's process.
    #[arg(long)]
    daemon: i32,
    /// A TCP port of this host that somebody listens on.
    #[arg(long)]
    port: u16,
    /// A program of root that runs as root whoever starts it.
    #[arg(long)]
    set_user_id: PathBuf,
    /// What this host can limit beside what every host can.
    #[arg(long = "limit", value_enum)]
    limits: Vec<Limit>,
    /// A table of attacks: those that succeeded there are left out.
    #[arg(long)]
    but: Option<PathBuf>,
}

/// What only some hosts can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Limit {
    /// Memory, by cgroup v2.
    Memory,
    /// Time of the processors, by cgroup v2.
    Processors,
    /// The space of a file system, by its quotas.
    Data,
}

impl Target {
    fn arguments(&self) -> Vec<String> {
        let mut all = vec![
            format!("--neighbour={}", self.neighbour),
            format!("--pid={}", self.pid),
            format!("--daemon={}", self.daemon),
            format!("--port={}", self.port),
            format!("--set-user-id={}", self.set_user_id.display()),
        ];
        all.extend(
            self.root
                .iter()
                .map(|root| format!("--root={}", root.display())),
        );
        all.extend(self.limits.iter().map(|limit| {
            let value = limit.to_possible_value().expect("no limit is hidden");
            format!("--limit={}", value.get_name())
        }));
        all
    }

    /// One of the daemon's directories: `lib`, `run` or `log`.
    fn directory(&self, name: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(name),
            None if name == "run" => "/run/insula".into(),
            None => Path::new("/var").join(name).join("insula"),
        }
    }
}

/// One deed.
struct Attack {
    name: &'static str,
    /// What it does, in a sentence.
    text: &'static str,
    /// The walls that stand against it.
    walls: &'static str,
    /// Whether it may be answered by the end of the whole service that does it.
    ends_all: bool,
    /// What it got, or why nothing.
    run: fn(&Target) -> io::Result<String>,
}

fn all(target: &Target) -> impl Iterator<Item = &'static Attack> {
    let limited = target.limits.iter().map(|limit| match limit {
        Limit::Memory => exhaustion::OF_MEMORY,
        Limit::Processors => exhaustion::OF_PROCESSORS,
        Limit::Data => exhaustion::OF_DATA,
    });
    [
        files::ATTACKS,
        neighbours::ATTACKS,
        kernel::ATTACKS,
        exhaustion::ATTACKS,
    ]
    .into_iter()
    .chain(limited)
    .flatten()
}

/// Runs one in this process and prints what came of it.
pub(crate) fn one(name: &str, target: &Target) -> io::Result<()> {
    let attack = all(target)
        .find(|attack| attack.name == name)
        .ok_or_else(|| io::Error::other(format!("no attack `{name}`")))?;
    match (attack.run)(target) {
        Ok(evidence) => println!("succeeded\t{evidence}"),
        Err(error) => println!("denied\t{error}"),
    }
    Ok(())
}

/// The rows that are done, in the working directory: what is killed goes on after them.
const ROWS: &str = "attacks.part";
/// The name of the attack that is under way, and the process that runs it.
const UNDER_WAY: &str = "attacks.now";

/// Runs all of them, each in a process of its own: a line each of name, walls, outcome, and evidence
/// or reason, parted by tabs.
///
/// One that takes this whole process with it is told of when the next one goes on in its place.
pub(crate) fn every(target: &Target) -> io::Result<String> {
    let program = std::env::args_os()
        .next()
        .ok_or_else(|| io::Error::other("no name of its own"))?;
    let mut rows = read(ROWS)?;
    let proven = match &target.but {
        Some(table) => judge::succeeded(table)?,
        None => BTreeSet::new(),
    };
    let under_way = read(UNDER_WAY)?;
    for attack in all(target) {
        let begin = format!("{}\t", attack.name);
        if proven.contains(attack.name) || rows.lines().any(|row| row.starts_with(&begin)) {
            continue;
        }
        let outcome = if under_way == attack.name {
            let word = if attack.ends_all { "denied" } else { "broken" };
            format!("{word}\tkilled with its whole service")
        } else {
            fs::write(UNDER_WAY, attack.name)?;
            run(&program, attack, target)?
        };
        let (walls, text) = (attack.walls, attack.text);
        rows.push_str(&format!("{begin}{walls}\t{text}\t{outcome}\n"));
        fs::write(ROWS, &rows)?;
    }
    for path in [UNDER_WAY, ROWS] {
        if Path::new(path).exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(rows)
}

fn run(program: &OsStr, attack: &Attack, target: &Target) -> io::Result<String> {
    let output = Command::new(program)
        .args(["--alone", "attack", "--only", attack.name])
        .args(target.arguments())
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(match output.status.signal() {
        Some(signal) => format!("denied\tkilled by signal {signal}"),
        None if !output.status.success() || said.is_empty() => {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("broken\t{}: {}", output.status, errors.replace('\n', " "))
        }
        None => said.trim_end().replace('\n', " "),
    })
}

/// What a file holds; nothing where there is none.
fn read(path: &str) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}
