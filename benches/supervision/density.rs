//! Many small real services on one host: `echo`, made with the kit, as so many services, each with
//! a user, walls, a line and two threads of its own; beside as many copies of the payload under
//! everybody else.
//!
//! Nothing else of a contract but its first provider can be there, so these offer theirs to nobody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::contestants::{self, Contestant, Insula, Task};
use crate::process::{self, Memory};
use crate::stamps::{milliseconds, now};

/// What is counted of one supervisor with its services.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    /// Who, with what.
    pub(crate) name: String,
    /// From the order until all are ready, or until the last one's first instruction, ms.
    pub(crate) start: f64,
    /// Of all services.
    pub(crate) services: Memory,
    /// Of the supervisor's processes.
    pub(crate) supervisor: Memory,
    /// What the host had less to give, bytes: the kernel's part is in it.
    pub(crate) host: u64,
    /// Part of one core that all of them used while idle.
    pub(crate) idle: f64,
    /// How often their threads were put on a core a second meanwhile.
    pub(crate) wake_ups: f64,
}

/// Everybody in turn, with as many services as the task has.
pub(crate) fn run(
    programs: &Path,
    disk: &Path,
    task: &Task,
    idle: Duration,
    wants: impl Fn(&str) -> bool,
) -> Result<Vec<Dense>, String> {
    let mut found = vec![native(programs, disk, task.count, idle)?];
    if wants("insula") {
        eprintln!("density: installing the payload for insulad");
        let mut insula = Insula::with(programs, disk.join("dense"), true, task)?;
        found.push(payload(&mut insula, task, idle)?);
    }
    let mut others = Vec::new();
    if wants("floor") {
        others.push(contestants::floor(task));
    }
    others.extend(contestants::peers(task, wants)?);
    for mut other in others {
        found.push(payload(other.as_mut(), task, idle)?);
    }
    Ok(found)
}

fn native(programs: &Path, disk: &Path, count: usize, idle: Duration) -> Result<Dense, String> {
    eprintln!("density: installing {count} services");
    let root = disk.join("native");
    let mut insula = Insula::new(programs, root.clone(), true)?;
    for index in 0..count {
        install(&insula, programs, &root, index)?;
    }
    let before = available()?;
    let ordered = insula.start()?;
    // The order is answered when all are ready.
    let start = milliseconds(ordered, now());
    let mut status = insula.control(&["status", "--json"]);
    status.arg("all");
    let report: serde_json::Value = serde_json::from_str(&process::must(status)?)
        .map_err(|error| format!("status: {error}"))?;
    let rows = report["services"].as_array().into_iter().flatten();
    let pids: Vec<i32> = rows
        .filter(|row| row["state"] == "READY")
        .filter_map(|row| i32::try_from(row["pid"].as_i64()?).ok())
        .collect();
    if pids.len() != count {
        return Err(format!("{} of {count} are ready", pids.len()));
    }
    let name = format!("{}: echo, ready", insula.name());
    let dense = rest(name, start, before, &insula.processes(), &pids, idle)?;
    insula.stop()?;
    Ok(dense)
}

/// A release of `echo` under a name of its own.
fn install(insula: &Insula, programs: &Path, root: &Path, index: usize) -> Result<(), String> {
    let release = root.join("release");
    let manifest = format!(
        "name = \"e{index:05}\"\nversion = \"1.0.0\"\n[run]\ncommand = [\"bin/echo\"]\n\
         profile = \"dense\"\nautostart = false\n"
    );
    fs::create_dir_all(release.join("bin"))
        .and_then(|()| fs::write(release.join("service.toml"), manifest))
        .and_then(|()| fs::copy(programs.join("echo"), release.join("bin/echo")))
        .map_err(|error| format!("cannot lay out echo: {error}"))?;
    let mut install = insula.control(&["install"]);
    install.arg(release);
    process::must(install).map(drop)
}

fn payload(who: &mut dyn Contestant, task: &Task, idle: Duration) -> Result<Dense, String> {
    let name = format!("{}: payload, started", who.name());
    eprintln!("density: {name}");
    let had: Vec<_> = task
        .stamps
        .all(task.count)
        .into_iter()
        .enumerate()
        .collect();
    let before = available()?;
    let ordered = who.start()?;
    let start = milliseconds(ordered, task.stamps.wait_beyond(&had)?);
    let stamps = task.stamps.all(task.count);
    let pids: Vec<i32> = stamps.iter().map(|stamp| stamp.pid).collect();
    let dense = rest(name, start, before, &who.processes(), &pids, idle)?;
    let processes = pids
        .iter()
        .map(|pid| process::pidfd(*pid).map_err(|error| format!("{pid} is gone: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    who.stop()?;
    process::wait_for_ends(&processes)?;
    who.end()?;
    Ok(dense)
}

fn rest(
    name: String,
    start: f64,
    before: u64,
    supervisors: &[i32],
    services: &[i32],
    idle: Duration,
) -> Result<Dense, String> {
    // What was done last has its echoes, and the kernel frees some of it late.
    std::thread::sleep(Duration::from_secs(2));
    let host = before.saturating_sub(available()?);
    let all: Vec<_> = supervisors.iter().chain(services).copied().collect();
    let used = |pids: &[i32]| (process::used(pids), process::wake_ups(pids));
    let (from, began) = (used(&all), now());
    std::thread::sleep(idle);
    let (to, ended) = (used(&all), now());
    let seconds = milliseconds(began, ended) / 1e3;
    Ok(Dense {
        name,
        start,
        services: process::sets(services),
        supervisor: process::sets(supervisors),
        host,
        idle: to.0.saturating_sub(from.0).as_secs_f64() / seconds,
        wake_ups: to.1.saturating_sub(from.1) as f64 / seconds,
    })
}

/// What the host can still give, in bytes.
fn available() -> Result<u64, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| "no MemAvailable in /proc/meminfo".to_owned())
}
