//! A storm: twenty services that end as soon as they began, beside one that answers calls.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use echo::{Echo, Text, echo as methods};
use insula_ipc::client::CallOptions;
use support::{Host, WATCHDOG, wait_for};

/// How many crash.
const CRASHING: usize = 20;
/// How often each is started again before it is left down.
const RESTARTS: u64 = 4;
/// Calls in which an idle daemon is seen to be idle.
const CALM: u64 = 500;

/// Processor time of all threads of a process, in nanoseconds.
fn processor_time(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            // A thread that ended meanwhile used what it used, and then the sums differ.
            let text = fs::read_to_string(task.unwrap().path().join("schedstat"));
            let text = text.unwrap_or_default();
            let used = text.split(' ').next().and_then(|used| used.parse().ok());
            used.unwrap_or(0_u64)
        })
        .sum()
}

#[test]
fn a_storm_of_crashes_is_bounded_and_costs_nobody_else_a_call() {
    let host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    let services = host.root.join("etc/services");
    fs::create_dir_all(&services).unwrap();
    for index in 0..CRASHING {
        let manifest = format!(
            "[run]\ncommand = [\"/bin/false\"]\nprofile = \"dense\"\nautostart = false\n\
             [run.restarts]\nwait = \"20ms\"\nmost = {RESTARTS}\nwithin = \"1h\"\n"
        );
        fs::write(services.join(format!("x{index:02}.toml")), manifest).unwrap();
    }
    host.must(&["update"]);
    let echo = host.pid("echo");

    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let client = host.local();
            let connection = client.connection::<Echo>().unwrap();
            let text = Text {
                text: "the same".into(),
            };
            while !over.load(Ordering::Relaxed) {
                // One that fails ends the test when the thread is joined.
                let answer = connection.call::<methods::Echo>(&text, options);
                assert!(answer.is_ok(), "a call failed: {answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        let more = || {
            let before = answered.load(Ordering::Relaxed);
            wait_for("more answers", || {
                (answered.load(Ordering::Relaxed) >= before + CALM).then_some(())
            });
        };
        more();
        let mut start = vec!["start".to_owned()];
        start.extend((0..CRASHING).map(|index| format!("x{index:02}")));
        let start: Vec<&str> = start.iter().map(String::as_str).collect();
        // Whether an order is told of a start or of the end depends on which is seen first.
        let began = Instant::now();
        host.ctl(&start);
        wait_for("the end of the storm", || {
            let rows = host.rows("all");
            let down = rows.iter().filter(|row| row["state"] == "FATAL");
            (down.count() == CRASHING).then_some(())
        });
        // From the third on, starts in a row have turns on the host, two a second for each CPU.
        let in_turn = CRASHING as u64 * (RESTARTS - 2);
        let cpus = std::thread::available_parallelism().unwrap().get();
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(500) * (in_turn - 1) as u32 / cpus as u32,
            "{took:?}"
        );
        for row in host.rows("all") {
            match row["name"].as_str() {
                Some("echo") => {
                    assert_eq!(row["pid"], echo, "{row}");
                    assert_eq!(row["restarts"], 0, "{row}");
                }
                _ => assert_eq!(row["restarts"], RESTARTS, "{row}"),
            }
        }
        // Whoever is down is left alone.
        let daemon = host.daemon_pid();
        wait_for("a calm in which the daemon does nothing", || {
            let before = processor_time(daemon);
            more();
            (processor_time(daemon) == before).then_some(())
        });
    });
}
