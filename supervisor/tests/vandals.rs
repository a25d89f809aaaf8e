//! A declared consumer that breaks what it can reach of its own channel: nobody but the two ends of
//! that edge is disturbed, and the provider is back for its others.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use echo::{Echo, Text, echo as methods};
use insula_ipc::client::CallOptions;
use support::{Host, WATCHDOG, path, wait_for};

/// The deeds of `misbehave vandal`.
const DEEDS: [&str; 7] = [
    "truncate",
    "cut",
    "unlink",
    "impersonate",
    "scribble",
    "fill",
    "silence",
];
/// Calls of the honest consumer after each deed.
const CALLS: u32 = 100;

fn install(host: &Host, name: &str, command: &str, more: &str) {
    // Whoever is broken is found out soon, and is started again however often that happens.
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
         command = [\"bin/misbehave\", {command}]\nwatchdog = \"2s\"\nstop-timeout = \"1s\"\n\
         [run.restarts]\nwait = \"20ms\"\nmost = 1000\nwithin = \"1h\"\n{more}\n"
    );
    let release = host.release(name, &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    host.must(&["start", name]);
}

fn attempt(host: &Host, name: &str) -> u64 {
    let row = host.wait_for_state(name, "READY");
    row["attempt"]
        .as_u64()
        .expect("who is ready has an attempt")
}

/// Makes a file of a service's own, all at once.
fn put(host: &Host, service: &str, name: &str, text: &str) {
    let data = host.root.join("lib/data").join(service);
    let new = data.join(format!("{name}.new"));
    fs::write(&new, text).unwrap();
    fs::rename(new, data.join(name)).unwrap();
}

fn has(host: &Host, service: &str, name: &str) -> bool {
    host.root.join("lib/data").join(service).join(name).exists()
}

/// The honest consumer's figures since they were last asked for, once there are so many calls.
fn figures(host: &Host, calls: u32) -> String {
    put(host, "user", "mark", &calls.to_string());
    wait_for("the honest consumer's calls", || {
        (!has(host, "user", "mark")).then_some(())
    });
    let figures = host.root.join("lib/data/user/figures");
    fs::read_to_string(figures).unwrap().trim().to_owned()
}

/// Lets the vandal do a deed, and waits until it is done, or the vandal went down with it.
fn commit(host: &Host, deed: &str) {
    // Who has called has a channel.
    let (provider, vandal) = (attempt(host, "former"), attempt(host, "vandal"));
    let channel = host
        .root
        .join("run/channels/former/vandal")
        .join(format!("{provider:x}.{vandal:x}"));
    wait_for("the vandal's channel", || {
        let both = fs::read_dir(&channel).ok()?.count() >= 2;
        both.then_some(())
    });
    let said = |host: &Host| host.must(&["logs", "vandal"]).matches("done").count();
    let before = said(host);
    put(
        host,
        "vandal",
        "deed",
        &format!("{deed} {}", channel.display()),
    );
    wait_for("the deed", || {
        let over = said(host) > before || attempt(host, "vandal") != vandal;
        (over && !has(host, "vandal", "deed")).then_some(())
    });
}

/// Tells the bystander to end, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_vandal_disturbs_nobody_but_its_provider_who_is_back_for_the_others() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): vandals of another user");
        return;
    }
    let host = Host::start();
    install(&host, "former", "\"serve\", \"1\"", "[provides.\"form@1\"]");
    let user = "\"use\", \"1\", \"--deadline-ms=60000\"";
    install(&host, "user", user, "[requires.\"form@1\"]");
    install(&host, "vandal", "\"vandal\"", "[requires.\"form@1\"]");
    host.install_echo("1.0.0");
    host.must(&["start", "echo"]);
    wait_for("the first call", || {
        Some(host.must(&["logs", "user"])).filter(|said| said.contains("called"))
    });
    let (user, echo) = (host.pid("user"), host.pid("echo"));

    let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|threads| {
        // Somebody who has nothing to do with any of them.
        threads.spawn(|| {
            let client = host.local();
            let connection = client.connection::<Echo>().unwrap();
            let options = CallOptions {
                deadline: Some(WATCHDOG),
                ..CallOptions::default()
            };
            let text = Text {
                text: "the same".into(),
            };
            while !over.load(Ordering::Relaxed) {
                // One that fails ends the test when the thread is joined.
                let answer = connection.call::<methods::Echo>(&text, options);
                assert!(answer.is_ok(), "a call failed: {answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let _over = Over(&over);
        println!("before: {}", figures(&host, CALLS));
        for deed in DEEDS {
            let (provider, before) = (attempt(&host, "former"), answered.load(Ordering::Relaxed));
            commit(&host, deed);
            let figures = figures(&host, CALLS);
            assert!(figures.contains(" 0 errors"), "after {deed}: {figures}");
            let now = attempt(&host, "former");
            let outcome = match now - provider {
                0 => "the provider goes on",
                _ => "the provider was started again",
            };
            println!("{deed}: {outcome}; other consumer: {figures}");
            wait_for("a call of the bystander", || {
                (answered.load(Ordering::Relaxed) > before + 10).then_some(())
            });
            // A new channel for the next deed.
            host.must(&["stop", "vandal"]);
            host.must(&["start", "vandal"]);
        }
    });
    assert_eq!(host.pid("user"), user, "a consumer was taken down");
    assert_eq!(host.pid("echo"), echo, "a stranger was taken down");
    assert!(!host.must(&["logs", "user"]).contains("error"));
}
