//! Another program takes the daemon's process over.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use insula_ipc::client::CallOptions;
use insula_ipc::dynamic::DynamicClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Host, WATCHDOG, path, wait_for};

/// How often the daemon is upgraded under load; `INSULA_DAEMON_UPGRADES` says otherwise.
const UPGRADES: u32 = 20;

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn pids(host: &Host) -> Vec<i32> {
    ["kv", "trouble"].map(|name| host.pid(name)).to_vec()
}

/// A host with `kv` and `trouble`.
fn host() -> Host {
    let host = Host::start();
    host.install_kv("1.0.0");
    let manifest = "name = \"trouble\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
                    command = [\"bin/misbehave\", \"trouble\"]\n\
                    [provides.\"trouble@1\"]\nallow = [\"*\"]\n";
    let release = host.release("trouble", manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    host.must(&["start", "all"]);
    host
}

#[test]
fn upgrades_of_the_daemon_lose_nothing_and_disturb_nobody() {
    let host = host();
    let daemon = host.daemon_pid();
    let services = pids(&host);
    // A client that was there before keeps its edge.
    let contract = "trouble@1".parse().unwrap();
    let local = host.local();
    let (_, schema) = local.describe(&contract).unwrap();
    let edge = local.edge_of(&contract, &schema).unwrap();
    let client = DynamicClient::connect(&edge, schema).unwrap();
    let said = host.root.join("load.err");
    let mut load = Command::new(support::program("kv-load"))
        .arg("--root")
        .arg(&host.root)
        .args(["exercise", "--workload", "A", "--records", "300"])
        .args(["--clients", "2", "--marks"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(&said).unwrap();
    // A program that just begins finds no daemon while one makes way for the next.
    wait_for("the load to run", || {
        said().contains("running workload").then_some(())
    });
    let upgrades = std::env::var("INSULA_DAEMON_UPGRADES");
    let upgrades = upgrades.map_or(UPGRADES, |text| text.parse().unwrap());
    let mut open = None;
    for number in 0..upgrades {
        let said = host.must(&["daemon", "upgrade"]);
        assert!(said.contains(&format!("(pid {daemon})")), "{said}");
        let options = CallOptions {
            deadline: Some(WATCHDOG),
            ..CallOptions::default()
        };
        client.call("who", &Value::Null, options).unwrap();
        assert_eq!(pids(&host), services, "upgrade {number}");
        // Lines are connected one after the other, and the load's clients come back.
        if number == 0 {
            open = Some(descriptors(daemon));
        }
    }
    let most = open.unwrap() + 8;
    wait_for(
        "the daemon to hold no more than after its first upgrade",
        || (descriptors(daemon) <= most).then_some(()),
    );
    // One that ended before says why.
    let _ = writeln!(load.stdin.take().unwrap(), "stop");
    let output = load.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        said()
    );
}

#[test]
fn the_end_of_a_service_is_heard_by_whoever_has_the_process_then() {
    let host = host();
    for number in 1..=5 {
        let pid = host.pid("trouble");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        host.must(&["daemon", "upgrade"]);
        wait_for("another process", || {
            let row = host.row("trouble");
            (row["state"] == "READY" && row["pid"] != pid).then_some(())
        });
        // Nothing is left of it, not even its number.
        assert!(!support::is_running(pid));
        let log = host.daemon_log();
        let heard = log.matches("was ended by signal 9").count();
        assert_eq!(heard, number, "{log}");
    }
}

fn script(host: &Host, text: &str) -> PathBuf {
    let program = host.root.join("another-insulad");
    fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn a_program_that_cannot_take_over_is_refused_and_nothing_changes() {
    let host = host();
    let services = pids(&host);
    let began = host.must(&["daemon", "version"]);
    let refused = |program: &PathBuf, why: &str| {
        let output = host.ctl(&["daemon", "upgrade", path(program)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(host.must(&["daemon", "version"]), began);
        assert_eq!(pids(&host), services);
    };
    refused(&host.root.join("nothing"), "cannot be run");
    refused(&script(&host, "exit 1"), "did not say whether it can");
    let too_new = "echo '{\"version\":\"9.0.0\",\"problems\":[\"the ledgers: too old\"]}'; exit 1";
    refused(&script(&host, too_new), "9.0.0: the ledgers: too old");
    let program = script(&host, "exit 0");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&program, "cannot be run");
}

#[test]
fn where_the_program_cannot_be_run_after_all_the_old_one_goes_on() {
    let host = host();
    let services = pids(&host);
    // It says that it could, and then it is gone.
    let text = "echo '{\"version\":\"9.0.0\",\"problems\":[]}'; rm -- \"$0\"";
    let said = host.must(&["daemon", "upgrade", path(&script(&host, text))]);
    assert!(!said.contains("9.0.0"), "{said}");
    assert_eq!(pids(&host), services);
    host.must(&["restart", "trouble"]);
    let log = host.daemon_log();
    assert!(log.contains("runs again"), "{log}");
}
