//! Channels of local clients, which do not die with the processes that the daemon watches.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use echo::{Echo, EchoClient, Text};
use insula_ipc::client::{CallError, CallOptions};
use insula_ipc::local::Attached;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Host, WATCHDOG, wait_for};

/// A maker that did not run in time is no fault of the daemon: so often one is given another try.
const TRIES: u32 = 3;
/// Much longer than the daemon waits before it looks again.
const SWEPT_WITHIN: Duration = Duration::from_secs(20);

fn host() -> Host {
    let host = Host::start();
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    host
}

/// The channels of local clients with the process of echo that runs.
fn channel(host: &Host) -> PathBuf {
    wait_for("a channel", || {
        let row = host.row("echo");
        let attempt = row["attempt"].as_u64()?;
        let edges = fs::read_dir(host.root.join("run/channels/echo")).ok()?;
        let pairs = edges.flatten().filter_map(|edge| {
            let of_client = edge.file_name().to_str()?.starts_with('_');
            of_client.then(|| fs::read_dir(edge.path()).ok())?
        });
        pairs
            .flatten()
            .flatten()
            .map(|pair| pair.path())
            .find(|pair| {
                let name = pair.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(&format!("{attempt:x}.")))
            })
    })
}

/// Kills echo, and makes its channel anew the moment it is removed, as a client does that is just
/// opening it.
fn make_anew(host: &Host) -> PathBuf {
    let pair = channel(host);
    let made = pair.clone();
    let maker = std::thread::spawn(move || {
        let started = Instant::now();
        loop {
            match fs::create_dir(&made) {
                Ok(()) => return fs::write(made.join("segment"), "left").unwrap(),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{error}"),
            }
            assert!(started.elapsed() < WATCHDOG, "it was never removed");
            std::thread::yield_now();
        }
    });
    kill(Pid::from_raw(host.pid("echo")), Signal::SIGKILL).unwrap();
    maker.join().unwrap();
    pair
}

/// Calls until it is answered: after a change of the daemon the next edge is on its way.
fn echo_at_last(attached: &Attached<Echo>) {
    let text = insula_ipc::payload::Text::new("hello");
    wait_for("an answer", || {
        let client = EchoClient::new(attached.connection().ok()?);
        let answer = client.echo(&Text { text }).ok()?;
        (answer.get().ok()?.text == text).then_some(())
    });
}

#[test]
fn a_channel_that_is_made_anew_while_it_is_removed_is_removed_again() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): making a channel's directory anew");
        return;
    }
    let mut host = host();
    let local = host.local();
    let attached = local.attach::<Echo>().unwrap();
    echo_at_last(&attached);
    let swept = (0..TRIES).any(|_| {
        let pair = make_anew(&host);
        let started = Instant::now();
        while pair.exists() && started.elapsed() < SWEPT_WITHIN {
            std::thread::sleep(Duration::from_millis(20));
        }
        let swept = !pair.exists();
        host.wait_for_state("echo", "READY");
        swept
    });
    assert!(swept, "what was made anew stays");

    // And by the next daemon, when this one does not come to it.
    let pair = make_anew(&host);
    host.kill_daemon();
    host.start_daemon();
    wait_for("the removal by the next daemon", || {
        (!pair.exists()).then_some(())
    });
    host.wait_for_state("echo", "READY");
    echo_at_last(&attached);
}

#[test]
fn a_call_whose_provider_dies_with_the_daemon_does_not_wait_for_its_deadline() {
    let mut host = host();
    let local = host.local();
    let (tell, told) = mpsc::channel();
    let (go, gone_on) = mpsc::channel();
    let caller = std::thread::spawn(move || {
        let attached = local.attach::<Echo>().unwrap();
        echo_at_last(&attached);
        tell.send(None).unwrap();
        let () = gone_on.recv().unwrap();
        let connection = attached.connection().unwrap();
        let options = CallOptions {
            deadline: Some(WATCHDOG * 60),
            ..CallOptions::default()
        };
        let text = insula_ipc::payload::Text::new("to be or not to be");
        let call = connection.submit::<echo::echo::Echo>(&Text { text }, options);
        tell.send(None).unwrap();
        let outcome = call.unwrap().wait().map(|_| ());
        tell.send(Some(outcome)).unwrap();
        // On the edge of the next daemon it goes on.
        let () = gone_on.recv().unwrap();
        echo_at_last(&attached);
    });
    told.recv_timeout(WATCHDOG).unwrap();
    let pid = host.pid("echo");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    go.send(()).unwrap();
    // The request lies at a process that will never take it.
    told.recv_timeout(WATCHDOG).unwrap();
    host.kill_daemon();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    host.start_daemon();
    let outcome = told
        .recv_timeout(WATCHDOG)
        .expect("an end before the deadline");
    assert_eq!(outcome, Some(Err(CallError::OutcomeUnknown)));
    host.wait_for_state("echo", "READY");
    go.send(()).unwrap();
    caller.join().unwrap();
}
