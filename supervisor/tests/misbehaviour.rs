//! Programs that end when they should not, do not when they should, or leave something behind; and
//! signals that a person sends.

mod support;

use std::fs;
use std::path::PathBuf;

use insula_supervisor::launch::Walls;
use support::{Host, is_running, path, wait_for};

/// Installs a program that misbehaves so, with these lines of `[run]`.
fn install(host: &Host, name: &str, deed: &[&str], run: &str) {
    let mut command = vec!["bin/misbehave"];
    command.extend(deed);
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
         command = {command:?}\n{run}"
    );
    let release = host.release(name, &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
}

fn data(host: &Host, name: &str) -> PathBuf {
    host.root.join("lib/data").join(name)
}

/// What a file says once it is there and not empty.
fn wait_for_text(file: PathBuf) -> String {
    wait_for(&format!("{}", file.display()), || {
        fs::read_to_string(&file)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

#[test]
fn one_that_says_ready_and_ends_is_started_again_so_often_and_no_more() {
    let host = Host::start();
    let run = "[run.restarts]\nwait = \"1ms\"\nmost = 2\n";
    install(
        &host,
        "liar",
        &["exit", "3", "--ready", "--after-ms", "20"],
        run,
    );
    // Whether that is ever seen depends on who is quicker.
    host.ctl(&["start", "liar"]);
    let row = host.wait_for_state("liar", "FATAL");
    let reason = row["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("status 3"), "{row}");
}

#[test]
fn one_that_ignores_that_it_is_to_stop_is_killed() {
    let host = Host::start();
    let run = "type = \"foreign\"\nstop-timeout = \"200ms\"\ndrain-timeout = \"0s\"\n";
    install(&host, "stubborn", &["stubborn"], run);
    host.must(&["start", "stubborn"]);
    let pid = host.pid("stubborn");
    let ignores = data(&host, "stubborn").join("stubborn");
    wait_for("the ignored signal", || ignores.exists().then_some(()));
    host.must(&["stop", "stubborn"]);
    assert!(!is_running(pid));
    assert_eq!(host.row("stubborn")["state"], "STOPPED");
}

#[test]
fn what_a_program_leaves_behind_in_its_session_ends_with_it() {
    let host = Host::start();
    let run = "type = \"foreign\"\nrestart = \"never\"\n";
    install(&host, "parent", &["fork"], run);
    // It may have ended before it was seen to be ready.
    host.ctl(&["start", "parent"]);
    let child = wait_for_text(data(&host, "parent").join("child"));
    let child: i32 = child.parse().unwrap();
    wait_for("the end of the child", || {
        (!is_running(child)).then_some(())
    });
}

#[test]
fn what_begins_a_session_of_its_own_ends_with_the_cgroup() {
    if Walls::probe().cgroup().is_none() {
        println!("SKIPPED (needs a delegated cgroup v2): a child in a session of its own");
        return;
    }
    let host = Host::start();
    let run = "type = \"foreign\"\nrestart = \"never\"\n";
    install(&host, "parent", &["fork", "--session"], run);
    host.ctl(&["start", "parent"]);
    let child = wait_for_text(data(&host, "parent").join("child"));
    let child: i32 = child.parse().unwrap();
    wait_for("the end of the child", || {
        (!is_running(child)).then_some(())
    });
}

#[test]
fn a_signal_reaches_the_processes_of_a_service_and_is_told() {
    let host = Host::start();
    install(&host, "noter", &["signals"], "type = \"foreign\"\n");
    assert_eq!(host.ctl(&["signal", "noter", "HUP"]).status.code(), Some(1));
    host.must(&["start", "noter"]);
    let pid = host.pid("noter");
    let file = data(&host, "noter").join("signals");
    wait_for("its file", || file.exists().then_some(()));
    let told = host.must(&["signal", "noter", "HUP"]);
    assert!(
        told.starts_with("noter:0: sent SIGHUP to attempt "),
        "{told}"
    );
    assert_eq!(wait_for_text(file.clone()), "SIGHUP\n");
    host.must(&["signal", "noter:0", "USR1"]);
    wait_for("the second signal", || {
        let text = fs::read_to_string(&file).unwrap();
        (text == "SIGHUP\nSIGUSR1\n").then_some(())
    });
    assert_eq!(host.pid("noter"), pid);
    for (arguments, code, text) in [
        (["signal", "noter:7", "HUP"], 1, "noter:7 has no process"),
        (["signal", "nobody", "HUP"], 1, "no such service"),
        (["signal", "noter", "NONE"], 2, "possible values: HUP, "),
    ] {
        let refused = host.ctl(&arguments);
        assert_eq!(refused.status.code(), Some(code));
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains(text), "{told}");
    }
    assert!(host.daemon_log().contains("a signal is sent"));

    // What it kills is an end like any other.
    host.must(&["signal", "noter", "KILL"]);
    wait_for("another process", || {
        let row = host.row("noter");
        row["pid"].as_i64().filter(|now| *now != i64::from(pid))
    });
}
