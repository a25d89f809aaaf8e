//! Limits of services on this host, which may be able to enforce them or not; that they hold is
//! tried in the guests of `cargo xtask vm`.

mod support;

use std::fs;
use std::process::{Command, Stdio};

use support::{Host, manifest_of, path};

const LIMITED: &str = "[run]\ncommand = [\"/usr/bin/sleep\", \"1000\"]\nprofile = \"dense\"\n\
                       [run.limits]\nmemory-max = \"64MiB\"\npids-max = 20\n";

/// What limits `limited`, and whether it is in force; it uses something of each.
fn limits(host: &Host) -> Vec<(&'static str, bool)> {
    let report = host.must(&["limits", "limited:0", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let limits = report["instances"][0]["limits"].as_array().unwrap();
    let known = ["memory-max", "pids-max"];
    let told = limits.iter().map(|limit| {
        assert!(limit["used"].as_u64().unwrap() > 0, "{limit}");
        let key = known.iter().find(|key| limit["key"] == **key).unwrap();
        (*key, limit["in-force"] == limit["set"])
    });
    told.collect()
}

#[test]
fn limits_are_enforced_or_the_service_is_not_started_unless_a_person_wants_it() {
    let mut host = Host::start();
    let services = host.root.join("etc/services");
    fs::create_dir_all(&services).unwrap();
    fs::write(services.join("limited.toml"), LIMITED).unwrap();
    let doctor = host.ctl(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let enforced = doctor
        .lines()
        .any(|line| line.starts_with("ok") && line.contains(" limits "));
    host.ctl(&["update"]);
    if enforced {
        host.wait_for_state("limited", "READY");
        assert!(host.row("limited")["reason"].is_null());
        assert_eq!(limits(&host), [("memory-max", true), ("pids-max", true)]);
        return;
    }
    host.wait_for_state("limited", "FATAL");
    let why = host.must(&["why", "limited"]);
    let refusal = "cannot enforce here what limits it: memory-max, pids-max";
    assert!(why.contains(refusal), "{why}");

    host.kill_daemon();
    let mut command = Command::new(env!("CARGO_BIN_EXE_insulad"));
    command.args(["--isolation", "best-effort"]);
    host.start_daemon_by(command, Stdio::null());
    host.must(&["start", "limited"]);
    let told = host.must(&["status", "limited"]);
    assert!(told.contains("READY"), "{told}");
    assert!(
        told.contains("not enforced on this host: memory-max, pids-max"),
        "{told}"
    );
    assert_eq!(limits(&host), [("memory-max", false), ("pids-max", false)]);
    let told = host.must(&["limits"]);
    assert!(told.contains("not enforced: no cgroup v2"), "{told}");
    assert_eq!(host.ctl(&["limits", "nobody"]).status.code(), Some(1));
    host.must(&["stop", "limited"]);
    assert_eq!(host.ctl(&["limits", "limited"]).status.code(), Some(3));
}

#[test]
fn a_store_takes_no_more_than_its_manifest_says_and_answers_on() {
    let host = Host::start();
    let manifest = fs::read_to_string(manifest_of("kv")).unwrap();
    let manifest = manifest.replace("\"4GiB\"", "\"1MiB\"");
    let manifest = manifest.replace("\"root\", \"group:users\"", "\"*\"");
    let release = host.release("kv", &manifest, &["kv"]);
    host.must(&["install", path(&release)]);
    host.must(&["start", "kv"]);
    let value = "v".repeat(50_000);
    let put = |key: u32| {
        let request = format!("{{\"key\": \"{key}\", \"value\": \"{value}\"}}");
        host.ctl(&["call", "--deadline", "60s", "kv@1", "put", &request])
    };
    let (taken, refusal) = (0..100)
        .map(|key| (key, put(key)))
        .find(|(_, output)| !output.status.success())
        .expect("five times what it may hold");
    let refusal = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(refusal.contains("full"), "{refusal}");
    let bytes = u64::from(taken) * 50_000;
    assert!(
        (1 << 19..=1 << 20).contains(&bytes),
        "{bytes} in {taken} entries"
    );
    let first = host.must(&[
        "call",
        "--deadline",
        "60s",
        "kv@1",
        "get",
        "{\"key\": \"0\"}",
    ]);
    assert!(first.contains(&value), "what was taken is there");
}
