//! Who is compared: each runs the same payload so many times, and is asked the same things.

mod floor;
mod insula;
mod runit;
mod s6;
mod supervisord;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stamps::Stamps;

pub(crate) use floor::{ROLE as FLOOR_ROLE, serve as serve_floor};
pub(crate) use insula::Insula;
pub(crate) use insula::programs;

/// What every contestant is given.
#[derive(Debug)]
pub(crate) struct Task {
    /// How many services.
    pub(crate) count: usize,
    /// The program, absolute.
    pub(crate) payload: PathBuf,
    /// Where its processes stamp.
    pub(crate) stamps: Stamps,
    /// A directory in memory for what a contestant keeps.
    pub(crate) scratch: PathBuf,
}

impl Task {
    /// The payload's argument for a service.
    pub(crate) fn argument(&self, index: usize) -> String {
        format!("{}:{index}", self.stamps.id())
    }

    /// The name of a service.
    pub(crate) fn name(&self, index: usize) -> String {
        format!("s{index:05}")
    }

    /// Makes a directory of its own for a contestant.
    fn directory(&self, name: &str) -> Result<PathBuf, String> {
        let directory = self.scratch.join(name);
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        Ok(directory)
    }

    /// A script for a service that is this payload and no shell.
    fn script(&self, directory: &Path, index: usize) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt;
        let text = format!("#!{} {}\n", self.payload.display(), self.argument(index));
        let path = directory.join("run");
        std::fs::write(&path, text)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// One supervisor with its services.
pub(crate) trait Contestant {
    /// For the tables.
    fn name(&self) -> String;

    /// Makes ready what is not timed, and gives the order to start all; gives when it was given.
    /// Returns before or after they run.
    fn start(&mut self) -> Result<i64, String>;

    /// Orders all services to stop; returns when the order was carried out, or was given.
    fn stop(&mut self) -> Result<(), String>;

    /// Ends what [`Self::start`] began besides services; once these are gone.
    fn end(&mut self) -> Result<(), String>;

    /// Its processes, without the services.
    fn processes(&self) -> Vec<i32>;

    /// Commands that tell how all services are, with a name each.
    fn status(&self) -> Vec<(&'static str, Command)>;

    /// The command that restarts one service, if there is one.
    fn restart(&self, index: usize) -> Option<Command>;

    /// Whether a killed service comes back only after a pause of a second or more.
    fn pauses(&self) -> bool;
}

/// The program of a contestant, if it is installed.
fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The peers from Debian packages: their package, a program of it, and how it is made.
type Maker = fn(&Task) -> Result<Box<dyn Contestant>, String>;
const PEERS: [(&str, &str, Maker); 3] = [
    ("supervisor", "supervisord", |task| {
        Ok(Box::new(supervisord::Supervisord::new(task)?))
    }),
    ("runit", "runsvdir", |task| {
        Ok(Box::new(runit::Runit::new(task)?))
    }),
    ("s6", "s6-svscan", |task| Ok(Box::new(s6::S6::new(task)?))),
];

/// The bare loop.
pub(crate) fn floor(task: &Task) -> Box<dyn Contestant> {
    Box::new(floor::Floor::new(task))
}

/// Installs the peers' packages that lack.
pub(crate) fn install_peers() -> Result<(), String> {
    let lacking: Vec<_> = PEERS
        .iter()
        .filter(|(_, program, _)| find(program).is_none())
        .map(|(package, ..)| *package)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", lacking.join(", "));
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(lacking)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Nothing of them is to run by itself: this is not the run level for it.
        .env("RUNLEVEL", "1");
    crate::process::must(command).map(drop)
}

/// The peers that are installed and can take so many services; says who is left out.
pub(crate) fn peers(
    task: &Task,
    wants: impl Fn(&str) -> bool,
) -> Result<Vec<Box<dyn Contestant>>, String> {
    let mut found = Vec::new();
    for (package, program, make) in PEERS {
        if !wants(program) && !wants(package) {
            continue;
        }
        if find(program).is_none() {
            println!(
                "SKIPPED (not installed): {program}; `apt-get install {package}`, or --install"
            );
        } else if package == "runit" && task.count > runit::SERVICES_MAX {
            println!(
                "SKIPPED (takes at most {} services): {program}",
                runit::SERVICES_MAX
            );
        } else {
            found.push(make(task)?);
        }
    }
    Ok(found)
}
