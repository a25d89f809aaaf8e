//! nginx: its listening socket is the supervisor's, so nobody is ever refused.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::debian;
use crate::support::{Host, WATCHDOG, wait_for};

fn install(host: &Host, nginx: &Path, version: &str, address: SocketAddr) {
    // nginx takes the sockets that this variable lists for those that it listens on.
    let manifest = format!(
        "name = \"web\"\nversion = \"{version}\"\n[run]\ntype = \"foreign\"\n\
         command = [\"bin/nginx\", \"-e\", \"stderr\", \"-p\", \"./\", \"-c\", \"{version}.conf\"]\n\
         profile = \"shared\"\nready = \"tcp:{address}\"\nnetwork = \"loopback\"\n\
         stop-signal = \"QUIT\"\n[run.environment]\nNGINX = \"3;\"\n\
         [run.sockets]\nhttp = \"{address}\"\n"
    );
    let configuration = format!(
        "daemon off; worker_processes 2; pid nginx.pid; error_log stderr;\n\
         events {{ }}\n\
         http {{\n\
           access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
           fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
           server {{ listen {address}; location / {{ return 200 \"{version}\"; }} }}\n\
         }}\n"
    );
    let file = host.root.join(format!("{version}.conf"));
    std::fs::write(&file, configuration).unwrap();
    let program = nginx.join("usr/sbin/nginx");
    debian::install(host, "web", &manifest, &program, &[&file]);
}

/// The release that answers a new connection.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WATCHDOG))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(ErrorKind::UnexpectedEof)?;
    if head.starts_with("HTTP/1.1 200 ") {
        Ok(body.to_owned())
    } else {
        Err(std::io::Error::other(head.to_owned()))
    }
}

/// nginx's workers, which it replaces when it reads its configuration anew.
fn workers(master: i32) -> Vec<String> {
    let path = format!("/proc/{master}/task/{master}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn nginx_refuses_no_connection_when_it_is_reloaded_restarted_upgraded_or_killed() {
    let what = "nginx under insulad";
    let Some(nginx) = debian::unpacked(what, "nginx", &["nginx", "nginx-common"]) else {
        return;
    };
    let mut host = Host::start();
    let address = debian::free_address();
    install(&host, &nginx, "1.0.0", address);
    install(&host, &nginx, "2.0.0", address);
    host.must(&["upgrade", "web", "1.0.0"]);
    host.must(&["start", "web"]);
    assert_eq!(ask(address).unwrap(), "1.0.0");
    let (over, asked, cut) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|threads| {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match ask(address) {
                    Ok(_) => drop(asked.fetch_add(1, Ordering::Relaxed)),
                    // A process that is killed takes along what it had accepted.
                    Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let _over = Over(&over);
        let more = || {
            let before = asked.load(Ordering::Relaxed);
            wait_for("more answers", || {
                (asked.load(Ordering::Relaxed) > before + 50).then_some(())
            });
        };
        more();
        let master = host.pid("web");
        let first = workers(master);
        assert_eq!(first.len(), 2);
        kill(Pid::from_raw(master), Signal::SIGHUP).unwrap();
        wait_for("other workers", || {
            let now = workers(master);
            (now.len() == 2 && now.iter().all(|worker| !first.contains(worker))).then_some(())
        });
        more();
        host.must(&["restart", "web"]);
        assert_ne!(host.pid("web"), master);
        more();
        host.must(&["upgrade", "web", "2.0.0"]);
        wait_for("the other release", || {
            ask(address).ok().filter(|version| version == "2.0.0")
        });
        more();
        let killed = host.pid("web");
        kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        wait_for("its replacement", || {
            let row = host.row("web");
            (row["state"] == "READY" && row["pid"] != killed).then_some(())
        });
        more();
        host.kill_daemon();
        more();
        host.start_daemon();
        host.wait_for_state("web", "READY");
        host.must(&["restart", "web"]);
        more();
    });
    println!(
        "{} connections answered, {} cut, none refused",
        asked.load(Ordering::Relaxed),
        cut.load(Ordering::Relaxed)
    );
}
