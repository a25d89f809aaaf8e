//! The host's files: what changed is applied, and nothing else; order, tasks and commands before a
//! start, with programs of the host.

mod support;

use std::fs;

use support::{Host, wait_for};

fn write(host: &Host, file: &str, text: &str) {
    let path = host.root.join("etc").join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn remove(host: &Host, file: &str) {
    fs::remove_file(host.root.join("etc").join(file)).unwrap();
}

/// A program of the host that runs until it is stopped.
fn sleeper(seconds: u32, more: &str) -> String {
    format!("[run]\ncommand = [\"/usr/bin/sleep\", \"{seconds}\"]\nprofile = \"shared\"\n{more}")
}

#[test]
fn only_what_changed_is_applied_and_only_what_must_is_restarted() {
    let mut host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    write(&host, "services/alpha.toml", &sleeper(1_000, ""));
    write(
        &host,
        "services/beta.toml",
        &sleeper(1_000, "autostart = false\n"),
    );
    let said = host.must(&["update", "--dry-run"]);
    assert_eq!(
        said,
        "alpha: would be added and started\nbeta: would be added\n"
    );
    assert!(
        !host.ctl(&["status", "alpha"]).status.success(),
        "nothing is done by a dry run"
    );
    assert_eq!(
        host.must(&["update"]),
        "alpha: added and started\nbeta: added\n"
    );
    assert_eq!(host.must(&["update"]), "Nothing changed\n");
    host.wait_for_state("alpha", "READY");
    host.wait_for_state("beta", "STOPPED");

    // What is judged by the supervisor holds at once; what a process was started with does not.
    let (alpha, echo) = (host.pid("alpha"), host.pid("echo"));
    write(
        &host,
        "services/alpha.toml",
        &sleeper(1_000, "stop-timeout = \"1s\"\n"),
    );
    write(&host, "services/echo.toml", "[run]\nwatchdog = \"3s\"\n");
    assert_eq!(
        host.must(&["update"]),
        "alpha: changed (stop-timeout)\necho: changed (watchdog)\n"
    );
    assert_eq!((host.pid("alpha"), host.pid("echo")), (alpha, echo));
    write(
        &host,
        "services/alpha.toml",
        &sleeper(2_000, "stop-timeout = \"1s\"\n"),
    );
    assert_eq!(host.must(&["update"]), "alpha: restarted (command)\n");
    assert_eq!(host.pid("echo"), echo);
    let alpha = host.pid("alpha");
    let line = fs::read_to_string(format!("/proc/{alpha}/cmdline")).unwrap();
    assert!(line.contains("2000"), "{line}");

    // A change of a profile concerns those who have it.
    write(
        &host,
        "profiles.toml",
        "[profiles.shared]\nspin = \"7us\"\n",
    );
    let said = host.must(&["update"]);
    assert!(said.contains("alpha: restarted (profile shared)"), "{said}");
    assert!(said.contains("beta: changed (profile shared)"), "{said}");

    // What a killed daemon had taken in holds for the next one, and what was changed meanwhile is
    // taken in by it.
    let (alpha, echo) = (host.pid("alpha"), host.pid("echo"));
    host.kill_daemon();
    write(&host, "services/alpha.toml", &sleeper(3_000, ""));
    host.start_daemon();
    wait_for("the new alpha", || {
        let row = host.row("alpha");
        (row["state"] == "READY" && row["pid"] != alpha).then_some(())
    });
    assert_eq!(host.pid("echo"), echo);

    // What is gone is stopped and forgotten; a release stays, as it says of itself.
    remove(&host, "services/alpha.toml");
    remove(&host, "services/echo.toml");
    assert_eq!(
        host.must(&["update"]),
        "echo: changed (watchdog)\nalpha: removed\n"
    );
    assert!(!host.ctl(&["status", "alpha"]).status.success());
    assert_eq!(host.pid("echo"), echo);
}

#[test]
fn a_mistake_anywhere_leaves_everything_as_it_was_and_all_are_told() {
    let host = Host::start();
    write(&host, "services/alpha.toml", &sleeper(1_000, ""));
    host.must(&["update"]);
    let alpha = host.pid("alpha");
    write(
        &host,
        "services/alpha.toml",
        &sleeper(9, "profile2 = 1\nstop-signal = \"KILL\"\n"),
    );
    write(
        &host,
        "services/beta.toml",
        &sleeper(9, "type = \"native\"\n"),
    );
    write(&host, "services/Gamma.toml", "");
    write(
        &host,
        "services/delta.toml",
        "[run]\ncommand = [\"bin/x\"]\nprofile = \"shared\"\n",
    );
    for verb in [&["update"][..], &["check"]] {
        let output = host.ctl(verb);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("`Gamma` is not a service name"), "{said}");
    }
    remove(&host, "services/Gamma.toml");
    let output = host.ctl(&["update"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "alpha.toml:4:1: run.profile2: unknown key",
        "alpha.toml:5:15: run.stop-signal: no stop signal `KILL`",
        "beta.toml:4:8: run.type: a native service is delivered as a release",
        "delta.toml:2:12: run.command[0]: `bin/x` is not the whole path",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    assert_eq!(host.pid("alpha"), alpha);
    // A circle is a mistake of several files together.
    write(
        &host,
        "services/alpha.toml",
        &format!("after = [\"beta\"]\n{}", sleeper(1_000, "")),
    );
    write(
        &host,
        "services/beta.toml",
        &format!("after = [\"delta\"]\n{}", sleeper(1_000, "")),
    );
    write(
        &host,
        "services/delta.toml",
        &format!("after = [\"alpha\"]\n{}", sleeper(1_000, "")),
    );
    let output = host.ctl(&["update"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("it would wait for itself: "), "{said}");
    assert_eq!(host.pid("alpha"), alpha);
    remove(&host, "services/beta.toml");
    write(&host, "services/alpha.toml", &sleeper(1_000, ""));
    write(
        &host,
        "services/delta.toml",
        &format!("after = [\"alpha\"]\n{}", sleeper(1_000, "")),
    );
    assert_eq!(host.must(&["update"]), "delta: added and started\n");
    assert_eq!(host.pid("alpha"), alpha);
}

#[test]
fn services_start_after_others_and_after_tasks_and_commands_are_done() {
    let mut host = Host::start();
    let touch = |name: &str| format!("[\"/usr/bin/touch\", \"{name}\"]");
    write(
        &host,
        "services/setup.toml",
        &format!(
            "[run]\ntype = \"task\"\ncommand = [\"/bin/sh\", \"-c\", \"touch done; exit 3\"]\n\
             expected-exit-codes = [3]\nprofile = \"shared\"\nbefore-start = [{}]\n",
            touch("before")
        ),
    );
    write(
        &host,
        "services/app.toml",
        &format!(
            "after = [\"setup\"]\n{}",
            sleeper(
                1_000,
                &format!("before-start = [{}, {}]\n", touch("one"), touch("two"))
            )
        ),
    );
    write(
        &host,
        "services/web.toml",
        &format!("after = [\"app\"]\n{}", sleeper(1_000, "")),
    );
    write(
        &host,
        "services/broken.toml",
        &sleeper(
            1_000,
            "before-start = [[\"/bin/false\"]]\n[run.restarts]\nstart-tries = 2\n",
        ),
    );
    let output = host.ctl(&["update"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in [
        "app: added and started",
        "setup: added and started",
        "web: added and started",
        "broken: ERROR",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    assert_eq!(host.row("setup")["state"], "EXITED");
    let fatal = host.wait_for_state("broken", "FATAL");
    assert!(
        fatal["reason"]
            .as_str()
            .unwrap()
            .contains("never ready in 2 starts"),
        "{fatal}"
    );
    let data = host.root.join("lib/data");
    for file in ["setup/before", "setup/done", "app/one", "app/two"] {
        assert!(data.join(file).exists(), "{file}");
    }
    // What is done, and what was given up, stays so when the daemon dies.
    let app = host.pid("app");
    fs::remove_file(data.join("setup/done")).unwrap();
    host.kill_daemon();
    host.start_daemon();
    host.wait_for_state("app", "READY");
    assert_eq!(host.row("setup")["state"], "EXITED");
    assert_eq!(host.row("broken")["state"], "FATAL");
    assert_eq!(host.pid("app"), app);
    assert!(!data.join("setup/done").exists(), "the task ran again");
    assert_eq!(host.must(&["start", "setup"]), "setup: already started\n");
    host.must(&["restart", "setup"]);
    assert!(data.join("setup/done").exists());

    // In reverse at the end.
    host.must(&["shutdown"]);
    let log = host.daemon_log();
    let ended = |name: &str| {
        log.rfind(&format!("{name}: attempt "))
            .unwrap_or_else(|| panic!("{name} in {log}"))
    };
    assert!(ended("web") < ended("app"), "{log}");
}
