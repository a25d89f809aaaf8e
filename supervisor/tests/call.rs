//! `insulactl call` against a running kv, and local clients that outlive the daemon.

mod support;

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use echo::{Echo, Text, echo as methods};
use insula_ipc::client::CallOptions;
use insula_ipc::local::LocalClient;
use support::{Host, WATCHDOG, wait_for};

/// A user that the host does not know.
const ALLOWED: &str = "60301";
const BY_GROUP: &str = "60302";
const STRANGER: &str = "60303";

fn host_with_kv() -> Host {
    let host = Host::start();
    let manifest = std::fs::read_to_string(support::manifest_of("kv")).unwrap();
    let allow = format!("allow = [\"uid:{ALLOWED}\", \"gid:{BY_GROUP}\"]");
    let manifest = manifest.replace("allow = [\"root\", \"group:users\"]", &allow);
    let release = host.release("kv", &manifest, &["kv"]);
    host.must(&["install", support::path(&release)]);
    host
}

fn output(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_method_is_called_by_its_schema_and_the_answer_is_json() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): calling as another user");
        return;
    }
    let host = host_with_kv();
    let call = |args: &[&str]| output(&host.ctl(&[&["call", "--as", ALLOWED], args].concat()));

    let (code, _, error) = call(&["kv@1"]);
    assert_eq!(code, Some(75), "it does not run: {error}");
    host.must(&["start", "kv"]);

    let (code, said, error) = call(&[]);
    assert_eq!((code, said.as_str()), (Some(0), "kv@1\n"), "{error}");
    let (_, said, _) = call(&["kv@1"]);
    assert!(
        said.contains("get (idempotent): {key: bytes (at most 511)} -> "),
        "{said}"
    );
    assert!(said.contains("put (once): "), "{said}");

    let (code, said, error) = call(&["kv@1", "put", r#"{"key":"a","value":"one"}"#]);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("revision"), "{said}");
    assert!(error.contains("calling as uid 60301"), "{error}");
    let (_, said, error) = call(&["kv@1", "get", r#"{"key":"a"}"#, "--deadline", "2s"]);
    let answer: serde_json::Value = serde_json::from_str(&said).expect(&error);
    assert_eq!(answer["found"]["value"], "one");
    // A method without a request.
    let (_, said, _) = call(&["kv@1", "stats"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["entries"], 1);

    // By group, from the standard input.
    let mut piped = Command::new(env!("CARGO_BIN_EXE_insulactl"))
        .arg("--root")
        .arg(&host.root)
        .args(["call", "--as", BY_GROUP, "kv@1", "get", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut piped.stdin.take().unwrap(), b"{\"key\":[97]}").unwrap();
    let (code, said, _) = output(&piped.wait_with_output().unwrap());
    assert_eq!(code, Some(0));
    assert!(said.contains("\"one\""), "{said}");

    // What the contract itself refuses.
    let (code, _, error) = call(&["kv@1", "get", r#"{"key":""}"#]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("answered with an error: \"KeyEmpty\""),
        "{error}"
    );

    // What is no request.
    let (code, _, error) = call(&["kv@1", "scan", r#"{"keys":{"Prefix":""},"limit":-1}"#]);
    assert_eq!(code, Some(2), "{error}");
    let told = "limit: expected u32, found the number -1; for example 1";
    assert!(error.contains(told), "{error}");
    let (code, said, _) = call(&["kv@1", "get"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains(r#"insulactl call kv@1 get '{"key":"text"}'"#),
        "{said}"
    );
    let (code, _, error) = call(&["kv@1", "fetch", "{}"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("no method `fetch`; there are get, put"),
        "{error}"
    );
    let (code, _, error) = call(&["kv@7"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("nobody provides kv@7; provided are kv@1"),
        "{error}"
    );
}

#[test]
fn who_is_not_allowed_gets_no_edge_and_no_schema_and_root_never_calls() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): calling as another user");
        return;
    }
    let host = host_with_kv();
    host.must(&["start", "kv"]);
    let (code, _, error) = output(&host.ctl(&["call", "--as", STRANGER, "kv@1"]));
    assert_eq!(code, Some(77), "{error}");
    assert!(error.contains("uid 60303 may not use kv@1"), "{error}");
    let (_, said, _) = output(&host.ctl(&["call", "--as", STRANGER]));
    assert_eq!(said, "");
    // Nor the edge, where it has the schema from elsewhere.
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    use std::os::unix::process::CommandExt;
    let asked = Command::new("/proc/self/exe")
        .args(["--exact", "a_stranger_asks_for_an_edge", "--nocapture"])
        .env(STRANGERS_ROOT, &host.root)
        .uid(STRANGER.parse().unwrap())
        .gid(STRANGER.parse().unwrap())
        .output()
        .unwrap();
    let (_, said, error) = output(&asked);
    assert!(
        said.contains("uid 60303 may not use echo@1"),
        "{said}{error}"
    );

    let (code, _, error) = output(&host.ctl(&["call", "--as", "0", "kv@1"]));
    assert_eq!(code, Some(77), "{error}");
    let (code, _, error) = output(&host.ctl(&["call", "kv@1", "stats"]));
    assert_eq!(code, Some(77), "{error}");
    assert!(error.contains("calling as uid 65534 (nobody)"), "{error}");
    let sudo = Command::new(env!("CARGO_BIN_EXE_insulactl"))
        .arg("--root")
        .arg(&host.root)
        .args(["call", "kv@1", "stats"])
        .env("SUDO_UID", ALLOWED)
        .output()
        .unwrap();
    let (code, said, error) = output(&sudo);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("entries"), "{said}");
}

/// Set for the process that plays the stranger.
const STRANGERS_ROOT: &str = "INSULA_TEST_STRANGERS_ROOT";

/// The other half of the test above, in a process of another user; by itself it does nothing.
#[test]
fn a_stranger_asks_for_an_edge() {
    let Some(root) = std::env::var_os(STRANGERS_ROOT) else {
        return;
    };
    let socket = std::path::Path::new(&root).join("run/local.sock");
    let client = LocalClient::connect(&socket).expect("everybody may ask");
    match client.edge::<Echo>() {
        Ok(_) => println!("granted"),
        Err(refused) => println!("{refused}"),
    }
}

#[test]
fn the_shell_completes_contracts_and_methods_from_the_running_daemon() {
    let host = host_with_kv();
    host.must(&["start", "kv"]);
    let complete = |words: &[&str]| {
        let root = support::path(&host.root);
        let line = [&["insulactl", "--root", root, "call"], words].concat();
        let asked = Command::new(env!("CARGO_BIN_EXE_insulactl"))
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", (line.len() - 1).to_string())
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true")
            .env("_CLAP_IFS", "\n")
            .arg("--")
            .args(&line)
            .output()
            .unwrap();
        String::from_utf8(asked.stdout).unwrap()
    };
    assert_eq!(complete(&["k"]).trim(), "kv@1");
    assert_eq!(complete(&["kv@1", "s"]).trim(), "scan\nstats");
    let script = host.must(&["completions", "bash"]);
    assert!(script.contains("COMPLETE"), "{script}");
}

#[test]
fn a_local_client_goes_on_without_the_daemon_and_moves_to_the_next_ones_edge() {
    let mut host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    let client = host.local();
    let (calls, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let more = |what: &str| {
        let before = calls.load(Ordering::Relaxed);
        wait_for(what, || {
            (calls.load(Ordering::Relaxed) >= before + 100).then_some(())
        });
    };
    std::thread::scope(|threads| {
        let caller = threads.spawn(|| {
            let echo = client.attach::<Echo>().expect("a connection");
            let options = CallOptions {
                deadline: Some(WATCHDOG),
                ..CallOptions::default()
            };
            while !stop.load(Ordering::Relaxed) {
                let connection = echo.connection().expect("an edge");
                let text = Text { text: "so".into() };
                let answer = connection.call::<methods::Echo>(&text, options);
                assert_eq!(answer.expect("no call fails").get().unwrap(), text);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        more("calls");
        host.kill_daemon();
        more("calls without a daemon");
        host.start_daemon();
        wait_for("another lease", || {
            (client.supervisors() == 2).then_some(())
        });
        more("calls over the new edge");
        // Only the new edge leads to a process that did not know the old one.
        host.wait_for_state("echo", "READY");
        host.must(&["restart", "echo"]);
        more("calls to another process");
        stop.store(true, Ordering::Relaxed);
        caller.join().expect("no call fails");
    });
}
