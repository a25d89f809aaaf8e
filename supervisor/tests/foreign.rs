//! Programs that know nothing of Insula.

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::{Host, WATCHDOG, path, wait_for};

fn install(host: &Host, version: &str, address: SocketAddr, words: &str) {
    let manifest = format!(
        "name = \"guest\"\nversion = \"{version}\"\n[run]\ntype = \"foreign\"\nready = \"notify\"\n\
         command = [\"bin/misbehave\", \"guest\", \"--notify\", \"{words}\"]\nprofile = \"shared\"\n\
         [run.sockets]\nhttp = \"{address}\"\n"
    );
    let release = host.release(&format!("guest-{version}"), &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
}

/// The process that answers, and its words.
fn ask(address: SocketAddr) -> std::io::Result<(i32, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WATCHDOG))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (pid, words) = text
        .trim()
        .split_once(' ')
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let pid = pid.parse().map_err(std::io::Error::other)?;
    Ok((pid, words.to_owned()))
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn no_connection_is_refused_while_a_guest_is_replaced_killed_and_its_daemon_too() {
    let mut host = Host::start();
    let address = free_address();
    install(&host, "1.0.0", address, "one");
    host.must(&["start", "guest"]);
    assert_eq!(ask(address).unwrap(), (host.pid("guest"), "one".to_owned()));

    let (stop, asked, cut) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match ask(address) {
                    Ok(_) => {
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    // A process that is killed takes along what it had accepted.
                    Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        let more = || {
            let before = asked.load(Ordering::Relaxed);
            wait_for("more answers", || {
                (asked.load(Ordering::Relaxed) > before + 20).then_some(())
            });
        };
        more();
        let first = host.pid("guest");
        host.must(&["restart", "guest"]);
        assert_ne!(host.pid("guest"), first);
        more();
        install(&host, "2.0.0", address, "two");
        host.must(&["upgrade", "guest"]);
        wait_for("the new release", || {
            ask(address).ok().filter(|(_, words)| words == "two")
        });
        let killed = host.pid("guest");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(killed),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        wait_for("its replacement", || {
            let row = host.row("guest");
            (row["state"] == "READY" && row["pid"] != killed).then_some(())
        });
        more();
        // The next daemon takes the socket from the living process.
        host.kill_daemon();
        more();
        host.start_daemon();
        let kept = host.wait_for_state("guest", "READY")["pid"].clone();
        host.must(&["restart", "guest"]);
        assert_ne!(host.row("guest")["pid"], kept);
        more();
        assert!(
            cut.load(Ordering::Relaxed) <= 4,
            "a stop or a kill cuts one each"
        );
    });
    host.must(&["stop", "guest"]);
    assert!(
        ask(address).is_err(),
        "nobody listens for a service that is down"
    );
}

#[test]
fn a_guest_that_never_says_ready_is_not() {
    let host = Host::start();
    let manifest = "name = \"mute\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\n\
                    ready = \"notify\"\nready-timeout = \"300ms\"\nprofile = \"shared\"\n\
                    command = [\"bin/misbehave\", \"mute\"]\n";
    let release = host.release("mute", manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    let refused = host.ctl(&["start", "mute"]);
    assert_eq!(refused.status.code(), Some(7));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("not ready in time"), "{text}");
}

#[test]
fn a_guest_is_ready_when_its_port_accepts() {
    let host = Host::start();
    let address = free_address();
    let manifest = format!(
        "name = \"port\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\nready = \"tcp:{}\"\n\
         profile = \"shared\"\ncommand = [\"bin/misbehave\", \"mute\"]\n",
        address.port()
    );
    let release = host.release("port", &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
    std::thread::scope(|threads| {
        let start = threads.spawn(|| host.must(&["start", "port"]));
        host.wait_for_state("port", "RUNNING");
        assert!(!start.is_finished());
        let _listener = TcpListener::bind(address).unwrap();
        assert_eq!(start.join().unwrap(), "port: started\n");
    });
}
