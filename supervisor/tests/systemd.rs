//! The daemon as systemd runs it, with this test in systemd's place.

#![expect(unsafe_code, reason = "descriptors come by messages")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Host, WATCHDOG};

/// What the daemon tells, and a `systemctl` that says what the test wants.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    programs: PathBuf,
}

impl Systemd {
    fn new(host: &Host) -> Self {
        let path = host.root.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(100)))
            .unwrap();
        let programs = host.root.join("programs");
        fs::create_dir(&programs).unwrap();
        let systemd = Self {
            socket,
            path,
            programs,
        };
        systemd.has_job("");
        systemd
    }

    /// What `systemctl list-jobs` prints from now on.
    fn has_job(&self, list: &str) {
        let program = self.programs.join("systemctl");
        fs::write(&program, format!("#!/bin/sh\necho '{list}'\n")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A command that runs the daemon as systemd does; it takes its control socket as its input.
    fn command(&self, with_control: bool) -> Command {
        let script = if with_control {
            "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=control \
             WATCHDOG_PID=$$ exec \"$0\" \"$@\""
        } else {
            "WATCHDOG_PID=$$ exec \"$0\" \"$@\""
        };
        let path = format!(
            "{}:{}",
            self.programs.display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_insulad")])
            .env("PATH", path)
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "200000")
            .env("INSULA_UNIT", "insulad.service");
        command
    }

    /// Reads messages until one has this line.
    fn hear(&self, line: &str) -> String {
        let started = Instant::now();
        let mut buffer = [0; 4096];
        while started.elapsed() < WATCHDOG {
            let Ok(length) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|said| said == line) {
                return text;
            }
        }
        panic!("the daemon did not say {line}");
    }
}

impl Systemd {
    /// Reads messages until one has descriptors to keep, and gives these.
    fn take_in(&self) -> Vec<OwnedFd> {
        use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
        use std::os::fd::{AsRawFd, FromRawFd};
        let started = Instant::now();
        let mut buffer = [0; 4096];
        let mut control = nix::cmsg_space!([i32; 253]);
        while started.elapsed() < WATCHDOG {
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let socket = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), flags)
            else {
                continue;
            };
            let length = message.bytes;
            let mut taken = Vec::new();
            for part in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(numbers) = part {
                    // SAFETY: the kernel has just made these descriptors, and nobody else owns them.
                    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
                    taken.extend(numbers.into_iter().map(own));
                }
            }
            if !taken.is_empty() {
                let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
                for line in ["FDSTORE=1", "FDNAME=pidfd", "FDPOLL=0"] {
                    assert!(said.lines().any(|is| is == line), "{said}");
                }
                return taken;
            }
        }
        panic!("the daemon had nothing kept");
    }
}

#[test]
fn how_a_process_ended_that_died_without_a_daemon_is_known_by_what_systemd_kept() {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.kill_daemon();
    let systemd = Systemd::new(&host);
    host.start_daemon_by(systemd.command(false), Stdio::null());
    systemd.hear("READY=1");
    host.must(&["start", "kv"]);
    let mut kept = systemd.take_in();
    assert_eq!(kept.len(), 1);
    let kv = host.pid("kv");
    host.kill_daemon();
    kill(Pid::from_raw(kv), Signal::SIGKILL).unwrap();
    // Whoever is its parent now reaps it.
    support::wait_for("the end of kv", || (!support::is_running(kv)).then_some(()));
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=pidfd \
                  WATCHDOG_PID=$$ exec \"$0\" \"$@\"";
    let mut command = systemd.command(false);
    let path = command
        .get_envs()
        .find_map(|(name, value)| (name == "PATH").then_some(value?.to_owned()))
        .unwrap();
    command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_insulad")])
        .env("PATH", path)
        .env("NOTIFY_SOCKET", &systemd.path);
    host.start_daemon_by(command, Stdio::from(kept.remove(0)));
    support::wait_for("another process", || {
        let row = host.row("kv");
        (row["state"] == "READY" && row["pid"] != kv).then_some(())
    });
    let log = host.daemon_log();
    if log.contains("unknown") {
        println!("SKIPPED (needs Linux 6.15): how a process ended that died without a daemon");
        return;
    }
    assert!(log.contains("was ended by signal 9"), "{log}");
}

fn signal(host: &Host, signal: Signal) {
    kill(Pid::from_raw(host.daemon_pid()), signal).unwrap();
}

#[test]
fn the_daemon_says_how_it_is_and_that_it_turns() {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    host.kill_daemon();
    let systemd = Systemd::new(&host);
    host.start_daemon_by(systemd.command(false), Stdio::null());
    systemd.hear("READY=1");
    systemd.hear("STATUS=1 of 1 ready");
    for _ in 0..3 {
        systemd.hear("WATCHDOG=1");
    }
    signal(&host, Signal::SIGHUP);
    let reloading = systemd.hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    systemd.hear("READY=1");
    // Nothing was changed by it.
    host.wait_for_state("kv", "READY");
    let kv = host.pid("kv");
    signal(&host, Signal::SIGTERM);
    systemd.hear("STOPPING=1");
    assert!(host.wait_for_end().success());
    assert!(!support::is_running(kv), "a stop stops the services");
}

#[test]
fn a_restart_leaves_the_services_alone_and_a_stop_does_not() {
    let mut host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    host.kill_daemon();
    let systemd = Systemd::new(&host);
    host.start_daemon_by(systemd.command(false), Stdio::null());
    host.wait_for_state("kv", "READY");
    let kv = host.pid("kv");
    systemd.has_job(" 7 insulad.service restart running");
    signal(&host, Signal::SIGTERM);
    assert!(host.wait_for_end().success());
    assert!(support::is_running(kv), "a restart stopped a service");
    host.start_daemon_by(systemd.command(false), Stdio::null());
    host.wait_for_state("kv", "READY");
    assert_eq!(host.pid("kv"), kv);
    systemd.has_job(" 8 insulad.service stop running");
    signal(&host, Signal::SIGTERM);
    assert!(host.wait_for_end().success());
    assert!(!support::is_running(kv), "a stop left a service");
}

#[test]
fn who_connects_while_the_daemon_is_away_waits_for_the_next_one() {
    let mut host = Host::start();
    host.kill_daemon();
    let path = host.root.join("run/control.sock");
    fs::remove_file(&path).unwrap();
    let control = UnixListener::bind(&path).unwrap();
    let handed = || Stdio::from(OwnedFd::from(control.try_clone().unwrap()));
    let systemd = Systemd::new(&host);
    host.start_daemon_by(systemd.command(true), handed());
    host.kill_daemon();
    let mut waiting = UnixStream::connect(&path).unwrap();
    waiting.set_read_timeout(Some(WATCHDOG)).unwrap();
    waiting
        .write_all(b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    host.start_daemon_by(systemd.command(true), handed());
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    host.must(&["shutdown"]);
    assert!(host.wait_for_end().success());
    assert!(path.exists(), "the socket is systemd's to remove");
    // What the host does when it is dropped starts a daemon of its own.
    drop(control);
}
