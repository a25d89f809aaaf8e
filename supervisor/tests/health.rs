//! Processes that are stuck, and programs that are asked how they are.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};

use insula_ipc::client::CallOptions;
use insula_ipc::dynamic::DynamicClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Host, WATCHDOG, path, wait_for};

/// How long a stuck process is borne in these tests.
const BORNE: &str = "1500ms";

fn install_trouble(host: &Host, workers: u32, more: &str) {
    let manifest = format!(
        "name = \"trouble\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
         command = [\"bin/misbehave\", \"trouble\", \"--workers\", \"{workers}\"]\n\
         watchdog = \"{BORNE}\"\n{more}[provides.\"trouble@1\"]\nallow = [\"*\"]\n"
    );
    let release = host.release("trouble", &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    host.must(&["start", "trouble"]);
}

fn connect(host: &Host) -> DynamicClient {
    let contract = "trouble@1".parse().unwrap();
    let local = host.local();
    let (_, schema) = wait_for("a provider", || local.describe(&contract).ok());
    let edge = local.edge_of(&contract, &schema).unwrap();
    let client = DynamicClient::connect(&edge, schema).unwrap();
    // The connection to the daemon is the lease of the edge.
    std::mem::forget(local);
    client
}

fn call(client: &DynamicClient, method: &str, request: Value) -> Result<Value, String> {
    let options = CallOptions {
        // What is stuck has to get its time on a busy machine first.
        deadline: Some(5 * WATCHDOG),
        ..CallOptions::default()
    };
    client
        .call(method, &request, options)
        .map_err(|error| format!("{error:?}"))
}

/// The process that answers.
fn who(client: &DynamicClient) -> i32 {
    let answer = call(client, "who", Value::Null).unwrap();
    i32::try_from(answer["pid"].as_i64().unwrap()).unwrap()
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Asserts that a request is answered by another process than `stuck`, which was killed for `why`.
fn is_replaced(host: &Host, stuck: i32, why: &str) {
    let client = connect(host);
    assert_ne!(who(&client), stuck);
    let log = host.daemon_log();
    assert!(log.contains(why), "no `{why}` in the log:\n{log}");
    assert!(!support::is_running(stuck));
}

#[test]
fn an_idle_process_that_was_stopped_is_found_by_its_first_request() {
    let host = Host::start();
    install_trouble(&host, 0, "");
    // One that is known to its provider, and one that has still to be.
    let known = connect(&host);
    let first = who(&known);
    signal(first, Signal::SIGSTOP);
    let second = who(&known);
    assert_ne!(second, first);
    is_replaced(&host, first, "it is stopped");
    signal(second, Signal::SIGSTOP);
    let stranger = connect(&host);
    assert_ne!(who(&stranger), second);
    is_replaced(&host, second, "it is stopped");
}

/// Gets a process stuck by a request that nobody may repeat, and expects another in its place.
fn is_found(host: &Host, trouble: &str, why: &str) {
    let client = connect(host);
    let stuck = who(&client);
    let lost = call(&client, trouble, Value::Null).unwrap_err();
    assert!(lost.contains("OutcomeUnknown"), "{lost}");
    is_replaced(host, stuck, why);
}

#[test]
fn one_that_spins_and_one_that_is_locked_are_replaced() {
    let host = Host::start();
    install_trouble(&host, 0, "");
    is_found(&host, "spin", "used the processor");
    is_found(&host, "lock", "it sleeps");
}

#[test]
fn one_whose_other_threads_are_all_locked_is_replaced() {
    let host = Host::start();
    install_trouble(&host, 1, "");
    is_found(&host, "lock", "it sleeps");
}

/// Processes that leave no processor free.
struct Busy(Vec<Child>);

impl Busy {
    fn start(many: usize) -> Self {
        let spin = || {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
        };
        Self((0..many).map(|_| spin().unwrap()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may not be there any more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_slow_one_on_a_busy_machine_is_left_alone_and_a_stuck_one_is_not() {
    let host = Host::start();
    install_trouble(&host, 0, "");
    let client = connect(&host);
    let first = who(&client);
    let busy = Busy::start(4);
    // Each takes so long that its client calls it late, and there is an answer in between.
    for _ in 0..3 {
        let answer = call(&client, "work", json!({"ms": 1100})).unwrap();
        assert_eq!(answer["pid"], first);
    }
    assert_eq!(who(&client), first);
    assert!(host.daemon_log().contains("a request waits too long"));
    assert_eq!(host.row("trouble")["restarts"], 0);
    is_found(&host, "spin", "used the processor");
    drop(busy);
}

/// A guest that is told what to say by a file.
struct Guest<'a> {
    host: &'a Host,
    data: PathBuf,
}

impl<'a> Guest<'a> {
    fn start(host: &'a Host) -> Self {
        let manifest = "name = \"guest\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\n\
                        ready = \"notify\"\nwatchdog = \"4s\"\nprofile = \"shared\"\n\
                        command = [\"bin/misbehave\", \"notify\"]\n[run.restarts]\nwait = \"10ms\"\n";
        let release = host.release("guest", manifest, &["misbehave"]);
        host.must(&["install", path(&release)]);
        host.must(&["start", "guest"]);
        let pid = host.pid("guest");
        let data = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        Self { host, data }
    }

    fn say(&self, text: &str) {
        fs::write(self.data.join("say.new"), text).unwrap();
        fs::rename(self.data.join("say.new"), self.data.join("say")).unwrap();
    }

    fn wait_for_status(&self, status: &Value) {
        wait_for("the status", || {
            (self.host.row("guest")["status"] == *status).then_some(())
        });
    }

    fn wait_for_replacement(&self, of: i32) -> i32 {
        let row = wait_for("another process", || {
            Some(self.host.row("guest")).filter(|row| row["state"] == "READY" && row["pid"] != of)
        });
        i32::try_from(row["pid"].as_i64().unwrap()).unwrap()
    }
}

#[test]
fn what_a_guest_says_of_itself_is_shown_and_its_silence_is_its_end() {
    let mut host = Host::start();
    let data = {
        let guest = Guest::start(&host);
        guest.wait_for_status(&json!("trying"));
        guest.say("STATUS=at work");
        guest.wait_for_status(&json!("at work"));
        guest.say("STATUS=");
        guest.wait_for_status(&Value::Null);
        guest.data
    };
    // The next daemon hears it too, and is told that it lives.
    let pid = host.pid("guest");
    host.kill_daemon();
    host.start_daemon();
    let guest = Guest { host: &host, data };
    guest.host.wait_for_state("guest", "READY");
    guest.say("STATUS=known");
    guest.wait_for_status(&json!("known"));
    assert_eq!(host.pid("guest"), pid);

    guest.say("WATCHDOG=trigger");
    let second = guest.wait_for_replacement(pid);
    assert!(host.daemon_log().contains("it said that it does not work"));
    fs::write(guest.data.join("mute"), "").unwrap();
    // It is silent from now on, and so are those after it until the file goes.
    wait_for("its end", || (!support::is_running(second)).then_some(()));
    assert!(
        host.daemon_log()
            .contains("did not say for 4.0 s that it lives")
    );
    fs::remove_file(guest.data.join("mute")).unwrap();
    guest.wait_for_replacement(second);
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Installs a guest that does nothing, with a shell script in its release to ask it by.
fn install_asked(host: &Host, name: &str, script: &str, run: &str) -> PathBuf {
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\nprofile = \"shared\"\n\
         network = \"loopback\"\ncommand = [\"bin/misbehave\", \"mute\"]\n{run}"
    );
    let release = host.release(name, &manifest, &["misbehave"]);
    let asks = release.join("bin/ask");
    fs::copy("/bin/sh", release.join("bin/sh")).unwrap();
    fs::write(&asks, script).unwrap();
    host.must(&["install", path(&release)]);
    release
}

#[test]
fn a_probe_that_fails_degrades_and_one_that_goes_on_failing_kills() {
    let host = Host::start();
    // It is well while it can read a file of its data.
    let ask = "[\"bin/sh\", \"-c\", \"read word < well && test $word = yes || { echo unwell; exit 1; }\"]";
    let run = format!(
        "[run.restarts]\nwait = \"10ms\"\n[run.liveness]\ncommand = {ask}\nevery = \"50ms\"\n\
         timeout = \"30s\"\nfailures = 1000000\n"
    );
    install_asked(&host, "asked", "", &run);
    host.must(&["start", "asked"]);
    let pid = host.pid("asked");
    let data = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    let row = host.wait_for_state("asked", "DEGRADED");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("exited with status 1: "), "{reason}");
    assert!(host.must(&["status"]).contains("DEGRADED"));
    let why = host.must(&["why", "asked"]);
    assert!(why.contains("asked is DEGRADED: "), "{why}");
    assert!(why.contains("reason: its probe failed "), "{why}");
    fs::write(data.join("well"), "yes\n").unwrap();
    let row = host.wait_for_state("asked", "READY");
    assert_eq!((&row["pid"], &row["reason"]), (&json!(pid), &Value::Null));
    fs::remove_file(data.join("well")).unwrap();
    host.wait_for_state("asked", "DEGRADED");
    assert_eq!(host.pid("asked"), pid);
    host.must(&["stop", "asked"]);

    // Nobody listens.
    let address = free_address();
    let run = format!(
        "[run.restarts]\nwait = \"10ms\"\nmost = 1000\n[run.liveness]\nprobe = \"http://{address}/health\"\n\
         every = \"50ms\"\ntimeout = \"30s\"\nfailures = 2\n"
    );
    install_asked(&host, "dead", "", &run);
    host.must(&["start", "dead"]);
    let pid = host.pid("dead");
    wait_for("its end", || (!support::is_running(pid)).then_some(()));
    wait_for("its replacement", || {
        (host.row("dead")["restarts"].as_i64() > Some(0)).then_some(())
    });
    let log = host.daemon_log();
    assert!(
        log.contains("its probe failed 2 of 2 times: cannot connect"),
        "{log}"
    );
}

#[test]
fn a_program_is_ready_when_its_start_up_probe_is_good() {
    let host = Host::start();
    let address = free_address();
    let run = format!("ready = \"http://{address}/health\"\n");
    install_asked(&host, "web", "", &run);
    let ask = "ready = { command = [\"bin/sh\", \"-c\", \"read word < well\"] }\n";
    install_asked(&host, "file", "", ask);
    std::thread::scope(|threads| {
        let web = threads.spawn(|| host.must(&["start", "web"]));
        let file = threads.spawn(|| host.must(&["start", "file"]));
        host.wait_for_state("web", "RUNNING");
        host.wait_for_state("file", "RUNNING");
        let data = fs::read_link(format!("/proc/{}/cwd", host.pid("file"))).unwrap();
        assert!(!web.is_finished() && !file.is_finished());
        fs::write(data.join("well"), "yes\n").unwrap();
        assert_eq!(file.join().unwrap(), "file: started\n");
        assert!(!web.is_finished());
        let listener = TcpListener::bind(address).unwrap();
        threads.spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = [0; 16];
            std::io::Read::read_exact(&mut client, &mut head).unwrap();
            assert_eq!(&head, b"GET /health HTTP");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            std::io::Write::write_all(&mut client, answer).unwrap();
        });
        assert_eq!(web.join().unwrap(), "web: started\n");
    });
}

#[test]
fn a_probe_ends_with_the_program_that_it_asks() {
    let host = Host::start();
    let ask = "[\"bin/sh\", \"-c\", \"echo $$ > asking; while :; do :; done\"]";
    let run = format!(
        "[run.liveness]\ncommand = {ask}\nevery = \"50ms\"\ntimeout = \"60s\"\nfailures = 3\n"
    );
    install_asked(&host, "asked", "", &run);
    host.must(&["start", "asked"]);
    let data = fs::read_link(format!("/proc/{}/cwd", host.pid("asked"))).unwrap();
    let asking: i32 = wait_for("the probe", || {
        let text = fs::read_to_string(data.join("asking")).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    });
    host.must(&["stop", "asked"]);
    wait_for("the end of the probe", || {
        (!support::is_running(asking)).then_some(())
    });
    assert!(!host.daemon_log().contains("panicked"));
}
