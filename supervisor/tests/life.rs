//! Real processes: a daemon, kv, and what `insulactl` says of them.

mod support;

use support::Host;

#[test]
fn a_service_is_installed_started_stopped_and_every_step_has_its_exit_code() {
    let host = Host::start();
    assert_eq!(
        host.ctl(&["status"]).status.code(),
        Some(0),
        "nothing installed is all well"
    );
    assert_eq!(
        host.ctl(&["start", "kv"]).status.code(),
        Some(1),
        "no such service"
    );
    assert_eq!(host.ctl(&["start"]).status.code(), Some(2), "wrong usage");
    assert_eq!(
        host.ctl(&["status", "kv"]).status.code(),
        Some(4),
        "unknown name"
    );

    host.install_kv("1.0.0");
    assert_eq!(
        host.ctl(&["status"]).status.code(),
        Some(3),
        "kv is not running"
    );
    assert!(host.must(&["start", "kv"]).contains("kv: started"));
    assert!(host.must(&["start", "kv"]).contains("kv: already started"));
    assert_eq!(host.ctl(&["status"]).status.code(), Some(0));
    let row = host.row("kv");
    assert_eq!(
        (&row["state"], &row["version"]),
        (&"READY".into(), &"1.0.0".into())
    );

    assert!(host.must(&["stop", "kv"]).contains("kv: stopped"));
    assert!(host.must(&["stop", "kv"]).contains("kv: not running"));
    assert_eq!(host.ctl(&["status"]).status.code(), Some(3));
}

#[test]
fn a_killed_service_comes_back_as_another_process() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let before = host.pid("kv");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(before),
        nix::sys::signal::SIGKILL,
    )
    .unwrap();
    support::wait_for("another process", || {
        let row = host.row("kv");
        let pid = row["pid"].as_i64()?;
        (row["state"] == "READY" && pid != i64::from(before)).then_some(())
    });
    assert_eq!(host.row("kv")["restarts"], 1);
}

#[test]
fn an_upgrade_and_a_rollback_replace_the_process_and_say_so() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.install_kv("1.1.0");
    host.must(&["start", "kv"]);
    let first = host.pid("kv");
    assert!(host.must(&["upgrade", "kv"]).contains("1.0.0 -> 1.1.0"));
    let second = host.pid("kv");
    assert_ne!(first, second);
    assert_eq!(host.row("kv")["version"], "1.1.0");
    assert!(host.must(&["upgrade", "kv"]).contains("active already"));
    assert!(host.must(&["rollback", "kv"]).contains("1.1.0 -> 1.0.0"));
    assert_ne!(host.pid("kv"), second);
    assert_eq!(host.row("kv")["version"], "1.0.0");
    assert!(host.must(&["restart", "kv"]).contains("kv: restarted"));
    let output = host.ctl(&["upgrade", "kv", "9.9.9"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("installed are 1.0.0, 1.1.0"), "{text}");
}

#[test]
fn a_release_that_never_gets_ready_is_rolled_back_and_the_old_one_serves_throughout() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let before = host.pid("kv");
    let manifest = std::fs::read_to_string(support::manifest_of("kv")).unwrap();
    let manifest =
        support::with_version(&manifest, "2.0.0").replace("\"--durability\"", "\"--nonsense\"");
    let release = host.release("kv-2.0.0", &manifest, &["kv"]);
    host.must(&["install", support::path(&release)]);
    let output = host.ctl(&["upgrade", "kv"]);
    assert_eq!(
        output.status.code(),
        Some(7),
        "could not be started: {output:?}"
    );
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("rolled back") && text.contains("kv 1.0.0 serves"),
        "{text}"
    );
    assert_eq!(host.pid("kv"), before);
    assert_eq!(host.row("kv")["state"], "READY");
}

#[test]
fn services_outlive_a_killed_daemon_and_the_next_one_takes_charge_of_them() {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let before = host.pid("kv");
    host.kill_daemon();
    assert!(support::is_running(before), "kv died with the daemon");
    host.start_daemon();
    host.wait_for_state("kv", "READY");
    assert_eq!(host.pid("kv"), before, "a second copy was started");
    assert!(host.must(&["stop", "kv"]).contains("kv: stopped"));
    assert!(!support::is_running(before), "kv still runs");
}

/// One request to the gateway: its status.
fn status_of(port: u16, request: &str) -> Option<u16> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

#[test]
fn consumers_go_on_after_deaths_of_their_provider_and_of_the_daemon() {
    const PORT: u16 = 18_182;
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.install_gateway(PORT);
    host.must(&["start", "kv", "gateway"]);
    let gateway = host.pid("gateway");
    let kill_kv = |host: &Host| {
        let pid = host.pid("kv");
        let process = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(process, nix::sys::signal::SIGKILL).unwrap();
        support::wait_for("another kv", || {
            let row = host.row("kv");
            (row["state"] == "READY" && row["pid"] != pid).then_some(())
        });
    };
    assert_eq!(
        status_of(PORT, "GET /kv/a"),
        Some(404),
        "kv answers, and has nothing"
    );
    // The second restart waits, and for that while the edge has no channel.
    for _ in 0..3 {
        kill_kv(&host);
        assert_eq!(status_of(PORT, "GET /kv/a"), Some(404));
    }
    host.kill_daemon();
    assert_eq!(status_of(PORT, "GET /kv/a"), Some(404), "without a daemon");
    host.start_daemon();
    host.wait_for_state("kv", "READY");
    host.wait_for_state("gateway", "READY");
    kill_kv(&host);
    assert_eq!(status_of(PORT, "GET /kv/a"), Some(404), "after both died");
    host.install_kv("1.1.0");
    host.must(&["upgrade", "kv"]);
    assert_eq!(
        status_of(PORT, "GET /kv/a"),
        Some(404),
        "after an upgrade by the next daemon"
    );
    assert_eq!(host.pid("gateway"), gateway);
    host.must(&["stop", "kv"]);
    assert_eq!(status_of(PORT, "GET /kv/a"), Some(503), "nobody is there");
}

#[test]
fn a_release_stays_the_active_one_over_two_deaths_of_the_daemon() {
    let mut host = Host::start();
    for version in ["1.0.0", "1.1.0"] {
        host.install_echo(version);
    }
    host.must(&["start", "echo"]);
    host.must(&["upgrade", "echo", "1.1.0"]);
    let pid = host.pid("echo");
    for _ in 0..2 {
        host.kill_daemon();
        host.start_daemon();
        let row = host.wait_for_state("echo", "READY");
        assert_eq!(
            (&row["version"], &row["pid"]),
            (&"1.1.0".into(), &pid.into())
        );
    }
    assert!(host.must(&["rollback", "echo"]).contains("1.1.0 -> 1.0.0"));
}
