//! The state of a host that has come to rest, as the kernel and the file system tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::SERVICES;
use crate::support::{Host, wait_for};

/// What the daemon may hold open above what it held at the beginning: a question that is being
/// answered, and the like.
const SLACK: usize = 12;

/// A process of the host, by its environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    pid: i64,
    attempt: u64,
    instance: String,
}

/// What a quiet host has open.
#[derive(Debug)]
pub(crate) struct Resting {
    descriptors: usize,
}

impl Resting {
    pub(crate) fn of(host: &Host) -> Self {
        wait_for("rest", || problems(host).is_empty().then_some(()));
        Self {
            descriptors: descriptors(host.daemon_pid()).len(),
        }
    }
}

/// Waits until nothing is wrong.
pub(crate) fn wait_for_it(host: &Host, resting: &Resting, after: &str) {
    let started = std::time::Instant::now();
    loop {
        let mut wrong = problems(host);
        let open = descriptors(host.daemon_pid());
        if open.len() > resting.descriptors + SLACK {
            wrong.push(format!(
                "the daemon has {} descriptors open, {} at first: {open:?}",
                open.len(),
                resting.descriptors
            ));
        }
        if wrong.is_empty() {
            return;
        }
        assert!(
            started.elapsed() < crate::support::WATCHDOG,
            "no rest after {after}: {wrong:#?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// What a process has open.
fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

/// All that is not as it should be.
fn problems(host: &Host) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut shown = BTreeSet::new();
    for (service, count) in SERVICES {
        let rows = host.rows(service);
        if rows.len() != count {
            wrong.push(format!("{service} has {} instances", rows.len()));
        }
        for row in rows {
            if row["state"] != "READY" || !row["upgrading-to"].is_null() {
                wrong.push(format!("{row}"));
                continue;
            }
            match shown_in(&row) {
                Some(found) => drop(shown.insert(found)),
                None => wrong.push(format!("READY without a process: {row}")),
            }
        }
    }
    let living = processes(&host.root);
    for process in living.difference(&shown) {
        wrong.push(format!("not in status: {process:?}"));
    }
    for process in shown.difference(&living) {
        wrong.push(format!("in status, and no such process: {process:?}"));
    }
    let attempts: BTreeSet<u64> = living.iter().map(|process| process.attempt).collect();
    let services: BTreeMap<&str, usize> = SERVICES.into();
    let run = host.root.join("run");
    for directory in ["lines", "notify"] {
        for name in names(&run.join(directory)) {
            let of = name.split('.').next().unwrap_or_default();
            if u64::from_str_radix(of, 16).is_ok_and(|of| !attempts.contains(&of)) {
                wrong.push(format!("left in {directory}: {name}"));
            }
        }
    }
    let channels = run.join("channels");
    let mut edges = BTreeSet::from([channels.clone()]);
    for provider in names(&channels) {
        for consumer in names(&channels.join(&provider)) {
            let edge = channels.join(&provider).join(&consumer);
            let pairs = names(&edge);
            if consumer.starts_with('_') && pairs.is_empty() {
                wrong.push(format!("an edge without a channel: {}", edge.display()));
            }
            for pair in pairs {
                let mut ends = pair.split('.').map(|end| u64::from_str_radix(end, 16));
                let (Some(Ok(server)), Some(Ok(client))) = (ends.next(), ends.next()) else {
                    wrong.push(format!("no channel: {}/{pair}", edge.display()));
                    continue;
                };
                // A local client's end is no process of the host.
                let is_client_dead =
                    services.contains_key(consumer.as_str()) && !attempts.contains(&client);
                if !attempts.contains(&server) || is_client_dead {
                    wrong.push(format!("left: {}/{pair}", edge.display()));
                }
            }
            edges.insert(edge);
        }
    }
    for mount in mounts(&host.root) {
        if !edges.contains(Path::new(&mount)) {
            wrong.push(format!("left mounted: {mount}"));
        }
    }
    wrong
}

fn shown_in(row: &Value) -> Option<Found> {
    let name = row["name"].as_str()?;
    Some(Found {
        pid: row["pid"].as_i64()?,
        attempt: row["attempt"].as_u64()?,
        instance: format!("{name}:{}", row["instance"]),
    })
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Where something is mounted below a directory; each time it is counts.
fn mounts(root: &Path) -> Vec<String> {
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places: Vec<_> = mounted
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| Path::new(place).starts_with(root))
        .map(str::to_owned)
        .collect();
    let different: BTreeSet<_> = places.iter().collect();
    if different.len() < places.len() {
        return vec![format!("something twice: {places:?}")];
    }
    places
}

/// Every living process that was started below a root, whoever its parent is.
fn processes(root: &Path) -> BTreeSet<Found> {
    let mut found = BTreeSet::new();
    for name in names(Path::new("/proc")) {
        let Ok(pid) = name.parse::<i64>() else {
            continue;
        };
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        let variables: BTreeMap<_, _> = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| std::str::from_utf8(variable).ok()?.split_once('='))
            .collect();
        let data = variables.get("INSULA_DATA").copied().unwrap_or_default();
        if !Path::new(data).starts_with(root) {
            continue;
        }
        found.insert(Found {
            pid,
            attempt: attempt(variables.get("INSULA_ATTEMPT").copied()),
            instance: variables
                .get("INSULA_INSTANCE")
                .copied()
                .unwrap_or_default()
                .to_owned(),
        });
    }
    found
}

/// An attempt's number as its environment has it.
fn attempt(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
