//! Several instances of one service: scaled, upgraded, killed, while clients call.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use echo::{Count, Echo, Text, echo as methods};
use insula_ipc::client::{CallError, CallOptions};
use insula_ipc::local::LocalClient;
use support::{Host, WATCHDOG, wait_for};

/// What the clients saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    unknown: AtomicU64,
    /// By attempt, the numbers that it gave.
    counts: Mutex<BTreeMap<u64, BTreeSet<u64>>>,
}

impl Seen {
    fn attempts(&self) -> BTreeSet<u64> {
        self.counts.lock().unwrap().keys().copied().collect()
    }

    /// Waits until the clients called so many times more.
    fn wait_for_calls(&self, more: u64) {
        let before = self.calls.load(Ordering::Relaxed);
        wait_for("more calls", || {
            (self.calls.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }
}

/// Calls until told to stop: a method that may be repeated, and one that may not.
fn call(client: &LocalClient, stop: &AtomicBool, seen: &Seen) {
    let connection = client.connection::<Echo>().expect("a connection");
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    let text = Text {
        text: "the same".into(),
    };
    while !stop.load(Ordering::Relaxed) {
        let echoed = connection
            .call::<methods::Echo>(&text, options)
            .expect("a method that may be repeated never fails");
        assert_eq!(echoed.get().unwrap(), text);
        match connection.call::<methods::Count>(&Count { by: 1 }, options) {
            Ok(counted) => {
                let counted = counted.get().unwrap();
                let fresh = seen
                    .counts
                    .lock()
                    .unwrap()
                    .entry(counted.attempt)
                    .or_default()
                    .insert(counted.count);
                assert!(fresh, "{counted:?} came twice");
            }
            Err(CallError::OutcomeUnknown) => {
                seen.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
    }
}

fn attempts(host: &Host) -> BTreeSet<u64> {
    host.rows("echo")
        .iter()
        .filter(|row| row["state"] == "READY")
        .filter_map(|row| row["attempt"].as_u64())
        .collect()
}

#[test]
fn instances_come_and_go_and_no_client_notices() {
    let host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    let client = host.local();
    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| call(&client, &stop, &seen));
        }
        let stopping = StopAtEnd(&stop);
        seen.wait_for_calls(100);

        let said = host.must(&["scale", "echo", "3"]);
        assert_eq!(said, "echo: 1 -> 3 instances\n");
        let three = attempts(&host);
        assert_eq!(three.len(), 3, "{three:?}");
        assert!(host.must(&["status"]).contains("echo:2 "));
        wait_for("an answer from each instance", || {
            seen.attempts().is_superset(&three).then_some(())
        });

        host.install_echo("1.1.0");
        host.must(&["upgrade", "echo"]);
        let upgraded = attempts(&host);
        assert_eq!(upgraded.len(), 3);
        assert!(upgraded.is_disjoint(&three));
        for row in host.rows("echo") {
            assert_eq!(row["version"], "1.1.0");
        }
        seen.wait_for_calls(100);
        host.must(&["rollback", "echo"]);
        host.must(&["restart", "echo"]);
        let restarted = attempts(&host);
        assert_eq!(restarted.len(), 3);
        wait_for("an answer from each fresh instance", || {
            seen.attempts().is_superset(&restarted).then_some(())
        });

        assert_eq!(
            host.must(&["scale", "echo", "1"]),
            "echo: 3 -> 1 instances\n"
        );
        assert_eq!(attempts(&host).len(), 1);
        seen.wait_for_calls(100);
        assert_eq!(seen.unknown.load(Ordering::Relaxed), 0, "nobody died");
        drop(stopping);
    });
}

#[test]
fn a_killed_instance_costs_at_most_the_requests_that_it_had() {
    let mut host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    host.must(&["scale", "echo", "2"]);
    let client = host.local();
    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| call(&client, &stop, &seen));
        }
        let stopping = StopAtEnd(&stop);
        const KILLS: u64 = 6;
        for kill in 0..KILLS {
            seen.wait_for_calls(50);
            let row = host.rows("echo")[(kill % 2) as usize].clone();
            let killed = row["attempt"].clone();
            let pid = row["pid"].as_i64().expect("it runs") as i32;
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("our service's process");
            wait_for("its replacement", || {
                let now = host.rows("echo");
                let ready = now.iter().all(|row| row["state"] == "READY");
                let gone = now.iter().all(|row| row["attempt"] != killed);
                (ready && gone).then_some(())
            });
        }
        // Each of the two clients had at most one request there.
        let unknown = seen.unknown.load(Ordering::Relaxed);
        assert!(unknown <= 2 * KILLS, "{unknown} outcomes unknown");
        seen.wait_for_calls(50);
        drop(stopping);
    });
    // What a person asked for outlives the daemon.
    host.kill_daemon();
    host.start_daemon();
    wait_for("both instances", || {
        (attempts(&host).len() == 2).then_some(())
    });
}

#[test]
fn what_cannot_have_several_instances_says_why() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let refused = host.ctl(&["scale", "kv", "2"]);
    assert_eq!(refused.status.code(), Some(65));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("written by one process"), "{text}");
    assert_eq!(host.ctl(&["scale", "kv", "0"]).status.code(), Some(65));
    assert_eq!(host.rows("kv").len(), 1);
}

/// Lets the clients stop also when the test panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
