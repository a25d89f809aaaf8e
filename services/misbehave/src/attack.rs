//! Attacks of a service on its neighbours and its host: each is one small deed that works for who
//! is not walled in, and says what it got, or why it did not.
//!
//! Each runs in a process of its own, so that one that is killed, or leaves itself changed, does not
//! disturb the next. None leaves anything behind, and none harms whom it reaches.

mod exhaustion;
mod files;
mod kernel;
mod neighbours;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

/// Whom to attack.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The daemon's root directory.
    #[arg(long)]
    root: PathBuf,
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
}

impl Target {
    fn arguments(&self) -> [(&'static str, String); 5] {
        [
            ("--root", self.root.display().to_string()),
            ("--neighbour", self.neighbour.clone()),
            ("--pid", self.pid.to_string()),
            ("--daemon", self.daemon.to_string()),
            ("--port", self.port.to_string()),
        ]
    }
}

/// One deed.
struct Attack {
    name: &'static str,
    /// What it does, in a sentence.
    text: &'static str,
    /// The walls that stand against it.
    walls: &'static str,
    /// What it got, or why nothing.
    run: fn(&Target) -> io::Result<String>,
}

fn all() -> impl Iterator<Item = &'static Attack> {
    [
        files::ATTACKS,
        neighbours::ATTACKS,
        kernel::ATTACKS,
        exhaustion::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

/// Runs one in this process and prints what came of it.
pub(crate) fn one(name: &str, target: &Target) -> io::Result<()> {
    let attack = all()
        .find(|attack| attack.name == name)
        .ok_or_else(|| io::Error::other(format!("no attack `{name}`")))?;
    match (attack.run)(target) {
        Ok(evidence) => println!("succeeded\t{evidence}"),
        Err(error) => println!("denied\t{error}"),
    }
    Ok(())
}

/// Runs all of them, each in a process of its own: a line each of name, walls, outcome, and evidence
/// or reason, parted by tabs.
pub(crate) fn every(target: &Target) -> io::Result<String> {
    let program = std::env::args_os()
        .next()
        .ok_or_else(|| io::Error::other("no name of its own"))?;
    let mut table = String::new();
    for attack in all() {
        let mut command = Command::new(&program);
        command.args(["--alone", "attack", "--only", attack.name]);
        for (name, value) in target.arguments() {
            command.args([name, &value]);
        }
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let outcome = match output.status.signal() {
            Some(signal) => format!("denied\tkilled by signal {signal}"),
            None if !output.status.success() || said.is_empty() => {
                let errors = String::from_utf8_lossy(&output.stderr);
                format!("broken\t{}: {}", output.status, errors.replace('\n', " "))
            }
            None => said.trim_end().replace('\n', " "),
        };
        let (name, walls, text) = (attack.name, attack.walls, attack.text);
        table.push_str(&format!("{name}\t{walls}\t{text}\t{outcome}\n"));
    }
    Ok(table)
}
