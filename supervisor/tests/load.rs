//! Real processes under load: what was acknowledged is there, whatever happened to kv meanwhile.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::Host;

/// Between two events: long enough for hundreds of operations, and no state to wait for.
const WORK: Duration = Duration::from_millis(700);

/// Runs a workload while kv is upgraded, killed, rolled back and restarted, and lets the load
/// verify every record; its exit code says whether anything failed, was lost or done twice.
fn nothing_fails_under(workload: &str, kill_daemon: bool) {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.install_kv("1.1.0");
    host.must(&["start", "kv"]);
    let mut load = Command::new(support::program("kv-load"))
        .arg("--root")
        .arg(&host.root)
        .args(["exercise", "--workload", workload, "--records", "300"])
        .args(["--clients", "2", "--marks"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut words = load.stdin.take().unwrap();
    std::thread::sleep(WORK * 2);
    assert!(host.must(&["upgrade", "kv"]).contains("1.0.0 -> 1.1.0"));
    std::thread::sleep(WORK);
    for _ in 0..3 {
        let pid = host.pid("kv");
        let process = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(process, nix::sys::signal::SIGKILL).unwrap();
        support::wait_for("another process", || {
            let row = host.row("kv");
            (row["state"] == "READY" && row["pid"] != pid).then_some(())
        });
        std::thread::sleep(WORK);
    }
    if kill_daemon {
        host.kill_daemon();
        std::thread::sleep(WORK);
        host.start_daemon();
        host.wait_for_state("kv", "READY");
        std::thread::sleep(WORK);
    } else {
        assert!(host.must(&["rollback", "kv"]).contains("1.1.0 -> 1.0.0"));
        std::thread::sleep(WORK);
        assert!(host.must(&["restart", "kv"]).contains("restarted"));
        std::thread::sleep(WORK);
    }
    writeln!(words, "stop").unwrap();
    let output = load.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn no_write_is_lost_by_an_upgrade_a_kill_a_rollback_or_a_restart() {
    nothing_fails_under("A", false);
}

#[test]
fn no_increment_is_lost_or_doubled_by_them() {
    nothing_fails_under("F", false);
}

#[test]
fn a_daemon_that_is_killed_disturbs_nobody_who_is_connected() {
    nothing_fails_under("B", true);
}
