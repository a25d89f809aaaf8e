//! Who runs where: exclusive cores with real processes.

mod support;

use std::collections::BTreeSet;
use std::fs;

use insula_core::placement::CpuSet;
use nix::sched::{CpuSet as Affinity, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Host, wait_for};

const PROFILES: &str = "[profiles.alone]\ncores = 1\n";
const SLEEPER: &str = "[run]\nprofile = \"alone\"\nautostart = false\n\
                       command = [\"/bin/sh\", \"-c\", \"exec sleep 1000000\"]\n";

/// What this process may use.
fn usable() -> CpuSet {
    let affinity = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus = (0..Affinity::count()).filter(|cpu| affinity.is_set(*cpu).unwrap());
    cpus.map(|cpu| u32::try_from(cpu).unwrap()).collect()
}

/// The CPUs of each thread of a process; one set where they are alike.
fn allowed(pid: i32) -> BTreeSet<CpuSet> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |task: std::io::Result<fs::DirEntry>| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        list.parse().ok()
    };
    tasks.filter_map(of_thread).collect()
}

fn only(cpus: &CpuSet) -> BTreeSet<CpuSet> {
    BTreeSet::from([cpus.clone()])
}

/// A host with a service that shares, and some that want a core for themselves.
fn host(sleepers: &[&str]) -> Host {
    let host = Host::start();
    let etc = host.root.join("etc");
    fs::create_dir_all(etc.join("services")).unwrap();
    fs::write(etc.join("profiles.toml"), PROFILES).unwrap();
    for name in sleepers {
        fs::write(etc.join(format!("services/{name}.toml")), SLEEPER).unwrap();
    }
    host.must(&["update"]);
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    host
}

/// Takes up the cores that there are, but one; the last one that got one.
fn fill(host: &Host, all: &CpuSet) -> Vec<String> {
    let names: Vec<_> = (1..all.len())
        .map(|number| format!("own-{number}"))
        .collect();
    for name in &names {
        host.must(&["start", name]);
    }
    names
}

#[test]
fn an_exclusive_core_is_nobody_elses() {
    let all = usable();
    if all.len() < 2 {
        println!("SKIPPED (needs two cores): an_exclusive_core_is_nobody_elses");
        return;
    }
    let mut host = host(&["own"]);
    let kv = host.pid("kv");
    assert_eq!(allowed(kv), only(&all));

    host.must(&["start", "own"]);
    let own = host.pid("own");
    let core = allowed(own).pop_first().unwrap();
    assert!(!core.is_empty() && core.len() < all.len(), "{core}");
    let rest = all.without(&core);
    assert_eq!(allowed(kv), only(&rest), "who runs already leaves the core");
    host.must(&["restart", "kv"]);
    let kv = host.pid("kv");
    assert_eq!(allowed(kv), only(&rest), "who comes later is kept off it");
    let picture: Value = serde_json::from_str(&host.must(&["topology", "--json"])).unwrap();
    let first = core.iter().next().unwrap().to_string();
    assert_eq!(picture["owners"][&first], "own:0", "{picture}");
    assert_eq!(picture["shared"], rest.to_string(), "{picture}");
    let explained = host.must(&["explain", "own"]);
    let says = format!("own:0 runs on CPUs {core} (its own)");
    assert!(explained.contains(&says), "{explained}");
    assert!(explained.contains(&format!("here: {core}")), "{explained}");

    // The next daemon leaves everybody where he is.
    host.kill_daemon();
    host.start_daemon();
    assert_eq!((host.pid("own"), host.pid("kv")), (own, kv));
    host.must(&["restart", "kv"]);
    let kv = host.pid("kv");
    assert_eq!(allowed(kv), only(&rest));
    assert_eq!(allowed(own), only(&core));

    // One that crashes finds its core again.
    nix::sys::signal::kill(Pid::from_raw(own), nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = wait_for("another process", || {
        let row = host.row("own");
        let pid = i32::try_from(row["pid"].as_i64()?).unwrap();
        (pid != own && row["state"] == "READY").then_some(pid)
    });
    assert_eq!(allowed(again), only(&core));

    host.must(&["stop", "own"]);
    assert_eq!(allowed(kv), only(&all), "it is given back");
}

#[test]
fn who_finds_no_core_waits_for_one_and_says_so() {
    let all = usable();
    if all.len() < 2 {
        println!("SKIPPED (needs two cores): who_finds_no_core_waits_for_one");
        return;
    }
    let host = host(&["late"]);
    let services = host.root.join("etc/services");
    for number in 1..all.len() {
        fs::write(services.join(format!("own-{number}.toml")), SLEEPER).unwrap();
    }
    // More than there can ever be.
    let profiles = format!("{PROFILES}[profiles.huge]\ncores = {}\n", all.len() + 1);
    fs::write(host.root.join("etc/profiles.toml"), profiles).unwrap();
    let huge = SLEEPER.replace("alone", "huge");
    fs::write(services.join("huge.toml"), huge).unwrap();
    host.must(&["update"]);
    let threads: usize = {
        let siblings = "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list";
        let text = fs::read_to_string(siblings).unwrap_or_default();
        text.parse::<CpuSet>().map_or(1, |cpus| cpus.len().max(1))
    };
    let names = fill(&host, &(0..(all.len() / threads) as u32).collect());

    let output = host.ctl(&["start", "late"]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot place late"), "{said}");
    assert!(said.contains("asks for 1 exclusive cores"), "{said}");
    let row = host.row("late");
    assert_eq!(row["state"], "WAITING", "{row}");
    assert!(row["reason"].as_str().unwrap().contains("room"), "{row}");

    let planned = host.ctl(&["plan", "--add", "late=1", "--add", "kv=2"]);
    let text = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert_eq!(planned.status.code(), Some(7), "{text}");
    assert!(text.contains("late more 1: no place"), "{text}");
    assert!(text.contains("kv more 2: shared CPUs"), "{text}");
    let capacity: Value = serde_json::from_str(&host.must(&["capacity", "--json"])).unwrap();
    let of = |name: &str| {
        let rows = capacity.as_array().unwrap().iter();
        rows.clone()
            .find(|row| row["profile"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("alone")["more"], 0, "{capacity}");
    assert!(of("alone")["binds"].is_string(), "{capacity}");
    assert!(
        of("dense")["binds"].is_null(),
        "nothing binds what asks for nothing"
    );

    let output = host.ctl(&["start", "huge"]);
    assert_eq!(output.status.code(), Some(7));
    let row = host.row("huge");
    assert_eq!(row["state"], "FATAL", "{row}");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("not fit this host even alone"), "{row}");

    let first = names.first().unwrap();
    let core = allowed(host.pid(first));
    host.must(&["stop", first]);
    host.wait_for_state("late", "READY");
    assert_eq!(allowed(host.pid("late")), core);
}
