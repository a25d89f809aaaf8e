//! `insulactl doctor` on this host, with a daemon and without, and what `insulactl` does on a pipe
//! that nobody reads.

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::Host;

/// The findings by name, and who looked.
fn findings(host: &Host) -> (String, BTreeMap<String, Value>) {
    let output = host.ctl(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("as JSON");
    let required = |finding: &Value| finding["verdict"]["required"] == true;
    let findings = report["findings"].as_array().expect("a list");
    let grave = findings.iter().any(required);
    assert_eq!(output.status.code(), Some(i32::from(grave)), "{report:#}");
    let by = report["by"].as_str().expect("a word").to_owned();
    let named = findings.iter().map(|finding| {
        let name = finding["name"].as_str().expect("a name");
        (name.to_owned(), finding.clone())
    });
    (by, named.collect())
}

#[test]
fn the_daemon_is_asked_and_without_one_insulactl_looks_itself() {
    let mut host = Host::start();
    let (by, asked) = findings(&host);
    assert_eq!(by, "insulad");
    let text = String::from_utf8(host.ctl(&["doctor"]).stdout).expect("text");
    assert!(!text.contains('\x1b'), "no terminal, no colours: {text}");
    // Figures in the texts may have changed in between, as that of free space does.
    for name in asked.keys() {
        let shown = format!("  {name} ");
        assert!(
            text.lines().any(|line| line.contains(&shown)),
            "{name}: {text}"
        );
    }

    host.kill_daemon();
    let (by, alone) = findings(&host);
    assert_eq!(by, "insulactl");
    // What the kernel gives does not depend on who looks.
    for name in ["linux", "files", "own-uids", "system-calls", "limits"] {
        assert_eq!(asked[name], alone[name], "{name}");
    }
    let text = String::from_utf8(host.ctl(&["doctor"]).stdout).expect("text");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.contains("insulactl looked itself"), "{first}");
}

#[test]
fn a_number_of_services_that_fits_no_host_is_told_with_the_way_to_mend_it() {
    let host = Host::start();
    let output = host.ctl(&["doctor", "--services", "1000000"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("for 1000000 services"), "{text}");
    assert!(
        text.contains("fs.mount-max is ") && text.contains("mend: `sysctl fs.mount-max="),
        "{text}"
    );
}

#[test]
fn a_pipe_that_nobody_reads_any_more_ends_insulactl_quietly() {
    let host = Host::start();
    host.install_kv("1.0.0");
    for verb in [&["status"] as &[&str], &["systemd", "show"], &["doctor"]] {
        // Nobody reads before anything is printed.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_insulactl"))
            .arg("--root")
            .arg(&host.root)
            .args(verb)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("insulactl runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{verb:?}: {told}");
        assert!(told.is_empty(), "{verb:?}: {told}");
    }
}
