//! The cgroup of the services, held by a unit of its own.
//!
//! The unit has one idle process, in a leaf: a cgroup that gives controllers to its children may
//! have no process itself. It says in the run directory where its cgroup is; the daemon makes
//! those of services there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use thiserror::Error;

use super::notify::Unit;
use crate::paths::Paths;

/// The file in the run directory that names the cgroup.
const FILE: &str = "payload";
/// The leaf of the process that holds it.
const LEAF: &str = "hold";

/// Why the cgroup cannot be held.
#[derive(Debug, Error)]
#[error("cannot {what}")]
pub struct HoldError {
    what: &'static str,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> HoldError {
    move |source| HoldError { what, source }
}

/// Holds the cgroup that this process was started in, until SIGTERM or SIGINT.
pub fn hold(paths: &Paths) -> Result<(), HoldError> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals
        .thread_block()
        .map_err(|error| failed("block signals")(error.into()))?;
    let group = own_group().map_err(failed("find the own cgroup"))?;
    let leaf = group.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make a leaf in the own cgroup")(error));
        }
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), "0").map_err(failed("move into the leaf"))?;
    enable_controllers(&group).map_err(failed("give controllers to the services"))?;
    paths.create().map_err(failed("make the run directory"))?;
    let file = paths.run().join(FILE);
    let fresh = file.with_extension("new");
    fs::write(&fresh, group.as_os_str().as_encoded_bytes())
        .and_then(|()| fs::rename(&fresh, &file))
        .map_err(failed("say where the cgroup is"))?;
    Unit::from_environment().ready();
    let waited = signals.wait();
    // The next one would write another.
    let _ = fs::remove_file(file);
    waited
        .map(drop)
        .map_err(|error| failed("wait for a signal")(error.into()))
}

/// The cgroup that the payload's unit holds, if it does.
pub fn find(paths: &Paths) -> Option<PathBuf> {
    let group = PathBuf::from(fs::read_to_string(paths.run().join(FILE)).ok()?);
    // What a unit that is gone left behind names a cgroup that nobody holds.
    let held = fs::read_to_string(group.join(LEAF).join("cgroup.procs")).ok()?;
    (!held.trim().is_empty()).then_some(group)
}

/// Gives a cgroup's children every controller that it has itself.
pub fn enable_controllers(group: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )?;
    }
    Ok(())
}

/// The cgroup v2 directory that this process is in.
fn own_group() -> io::Result<PathBuf> {
    let none = |text: &str| io::Error::new(io::ErrorKind::NotFound, text);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next() == Some("cgroup2")).then_some(place)
        })
        .ok_or_else(|| none("no cgroup v2 is mounted"))?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| none("this process is in no cgroup v2"))?;
    // Started again in its unit, it is where it was: systemd starts it above the leaf.
    Ok(Path::new(mount).join(own))
}
