//! Best-effort services get what others leave, and step aside.

mod support;

use std::fs;
use std::path::PathBuf;

use insula_ipc::dynamic::DynamicClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Host, WATCHDOG, path, wait_for};

/// A service whose requests are not to lie for long, and a program that takes every processor.
fn host() -> Host {
    let host = Host::start();
    let manifest = "name = \"trouble\"\nversion = \"1.0.0\"\n[run]\nprofile = \"latency\"\n\
                    command = [\"bin/misbehave\", \"trouble\"]\n\
                    [provides.\"trouble@1\"]\nallow = [\"*\"]\n";
    let release = host.release("trouble", manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    let services = host.root.join("etc/services");
    fs::create_dir_all(&services).unwrap();
    let burner = "[run]\nprofile = \"background\"\ninstances = 2\n\
                  command = [\"/bin/sh\", \"-c\", \"while :; do :; done\"]\n";
    fs::write(services.join("burner.toml"), burner).unwrap();
    host.must(&["update"]);
    host.must(&["start", "trouble"]);
    wait_for("both burners", || {
        let rows = host.rows("burner");
        let ready = rows.iter().filter(|row| row["state"] == "READY").count();
        (ready == 2).then_some(())
    });
    host
}

fn utilisation(host: &Host) -> Value {
    let said = host.must(&["utilisation", "--over", "100ms", "--json"]);
    serde_json::from_str(&said).unwrap()
}

fn burners(host: &Host) -> Vec<i32> {
    let rows = host.rows("burner");
    let pids = rows.iter().map(|row| row["pid"].as_i64().unwrap());
    pids.map(|pid| i32::try_from(pid).unwrap()).collect()
}

/// Processor time of a process, in the kernel's ticks.
fn ticks(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = text.rsplit_once(')').unwrap().1.split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

fn runs_on(pid: i32) {
    let before = ticks(pid);
    wait_for("a best-effort service to run", || {
        (ticks(pid) > before).then_some(())
    });
}

/// Its cgroup, if it has one of its own.
fn group(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim_start_matches('/');
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(|root| PathBuf::from(root).join(own))
        .into_iter()
        .find(|group| own.contains("insula") && group.join("cgroup.freeze").exists())
}

#[test]
fn best_effort_is_the_kernels_idle_class_and_the_first_to_go_without_memory() {
    let host = host();
    let utilisation = utilisation(&host);
    let background = &utilisation["profiles"]["background"];
    assert_eq!(background["processes"], 2, "{utilisation}");
    assert_eq!(background["best-effort"], true);
    assert_eq!(utilisation["profiles"]["latency"]["best-effort"], false);
    for pid in burners(&host) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
        // Field 41 of proc_pid_stat(5).
        let idle = libc::SCHED_IDLE.to_string();
        assert_eq!(fields[39], idle, "the scheduling policy of {pid}");
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(score.trim(), "500");
        runs_on(pid);
    }
}

#[test]
fn requests_that_lie_too_long_stop_best_effort_for_a_moment_and_no_longer() {
    let host = host();
    let burner = burners(&host)[0];
    if group(burner).is_none() {
        println!("SKIPPED (needs a delegated cgroup v2): requests_that_lie_too_long");
        return;
    }
    let trouble = host.pid("trouble");
    let contract = "trouble@1".parse().unwrap();
    let local = host.local();
    let (_, schema) = local.describe(&contract).unwrap();
    let edge = local.edge_of(&contract, &schema).unwrap();
    let signal = |signal| kill(Pid::from_raw(trouble), signal).unwrap();
    wait_for("best-effort services to be stopped", || {
        std::thread::scope(|scope| {
            signal(Signal::SIGSTOP);
            let call = scope.spawn(|| {
                let client = DynamicClient::connect(&edge, schema.clone()).unwrap();
                let options = insula_ipc::client::CallOptions {
                    deadline: Some(WATCHDOG),
                    ..Default::default()
                };
                client.call("who", &Value::Null, options).unwrap();
            });
            // The request lies there meanwhile.
            let state = host.row("trouble");
            assert_eq!(state["state"], "READY", "{state}");
            signal(Signal::SIGCONT);
            call.join().unwrap();
        });
        // Since the daemon began.
        let said: Value = serde_json::from_str(&ask(&host)).unwrap();
        (said["stops"]["count"].as_u64() > Some(0)).then_some(())
    });
    runs_on(burner);
}

/// What the control API says of what services use.
fn ask(host: &Host) -> String {
    use std::io::{Read, Write};
    let mut stream =
        std::os::unix::net::UnixStream::connect(host.root.join("run/control.sock")).unwrap();
    write!(stream, "GET /v1/utilisation HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn what_a_daemon_left_stopped_goes_on_with_the_next() {
    let mut host = host();
    let burner = burners(&host)[0];
    let Some(group) = group(burner) else {
        println!("SKIPPED (needs a delegated cgroup v2): what_a_daemon_left_stopped");
        return;
    };
    host.kill_daemon();
    fs::write(group.join("cgroup.freeze"), "1").unwrap();
    wait_for("the cgroup to be frozen", || {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap();
        events.contains("frozen 1").then_some(())
    });
    host.start_daemon();
    runs_on(burner);
    // And it can be stopped as ever.
    host.must(&["stop", "burner"]);
    assert!(!support::is_running(burner));
}
