//! Everything killed at random moments, under live load, from a seed.
//!
//! After each kill the host has to come to rest again: every service that is to be up is READY,
//! every process of the host is one that `status` shows, and nothing else is left. At the end every
//! acknowledged write is there, and no increment was lost or done twice.
//!
//! It is a run of its own, `cargo xtask chaos`: `INSULA_CHAOS_KILLS` says how many processes are
//! killed, and without it nothing is tried; `INSULA_CHAOS_SEED` repeats a run's choices, while their timing
//! is the machine's.

#[path = "../support/mod.rs"]
mod support;

mod load;
mod rest;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use load::Load;
use support::{Host, path, wait_for};

/// Instances of the service without a store.
const ECHOES: usize = 3;
/// What the host's services are, and how many instances of each are to be ready.
const SERVICES: [(&str, usize); 4] = [("echo", ECHOES), ("gateway", 1), ("guest", 1), ("kv", 1)];
/// A service that is killed this often is still no crash loop.
const RESTARTS: &str = "\n[run.restarts]\nwait = \"10ms\"\nlongest-wait = \"100ms\"\n\
                        start-tries = 1000000\nmost = 1000\n";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Puts the restart policy behind the table `run`, before the next table.
fn patient(manifest: &str) -> String {
    let run = manifest.find("[run]").expect("every manifest has it");
    let next = manifest[run + 5..].find("\n[").map(|at| run + 5 + at);
    let (head, tail) = manifest.split_at(next.unwrap_or(manifest.len()));
    format!("{head}{RESTARTS}{tail}")
}

fn install(host: &Host, name: &str, version: &str, change: impl Fn(String) -> String) {
    let manifest = std::fs::read_to_string(support::manifest_of(name)).expect("it has one");
    let manifest = change(patient(&support::with_version(&manifest, version)));
    let release = host.release(&format!("{name}-{version}"), &manifest, &[name]);
    host.must(&["install", path(&release)]);
}

fn install_guest(host: &Host, version: &str, address: std::net::SocketAddr) {
    let manifest = format!(
        "name = \"guest\"\nversion = \"{version}\"\n[run]\ntype = \"foreign\"\nready = \"notify\"\n\
         command = [\"bin/misbehave\", \"guest\", \"--notify\", \"hello\"]\nprofile = \"shared\"\n\
         {RESTARTS}[run.sockets]\nhttp = \"{address}\"\n"
    );
    let release = host.release(&format!("guest-{version}"), &manifest, &["misbehave"]);
    host.must(&["install", path(&release)]);
}

/// Signals a process that may be gone already.
fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => {}
        Err(error) => panic!("cannot signal {pid}: {error}"),
    }
}

/// What is killed, and when.
struct Chaos {
    host: Host,
    chance: SmallRng,
    kills: u64,
}

impl Chaos {
    fn wait_up_to(&mut self, most: Duration) {
        let most = u64::try_from(most.as_micros()).expect("a short time");
        let wait = self.chance.random_range(0..most);
        // No state to wait for: any moment is as good as another.
        std::thread::sleep(Duration::from_micros(wait));
    }

    fn kill_daemon(&mut self) {
        self.host.kill_daemon();
        self.kills += 1;
    }

    /// One process of a service, whichever it is at the moment; none while there is none.
    fn one_of(&mut self, name: &str) -> Option<i32> {
        let rows = self.host.rows(name);
        let pids: Vec<_> = rows.iter().filter_map(|row| row["pid"].as_i64()).collect();
        if pids.is_empty() {
            return None;
        }
        let chosen = pids[self.chance.random_range(0..pids.len())];
        i32::try_from(chosen).ok()
    }

    fn kill(&mut self, names: &[&str]) {
        let pids: Vec<_> = names.iter().filter_map(|name| self.one_of(name)).collect();
        for pid in pids {
            signal(pid, Signal::SIGKILL);
            self.kills += 1;
        }
    }

    fn any_service(&mut self) -> &'static str {
        SERVICES[self.chance.random_range(0..SERVICES.len())].0
    }

    /// Gives an order and does not wait for its answer.
    fn order(&mut self) -> (Vec<&'static str>, Child) {
        let orders: [&[&str]; 9] = [
            &["upgrade", "kv"],
            &["rollback", "kv"],
            &["restart", "kv"],
            &["upgrade", "echo"],
            &["rollback", "echo"],
            &["restart", "echo"],
            &["scale", "echo", "1"],
            &["scale", "echo", "5"],
            &["restart", "gateway"],
        ];
        let order = orders[self.chance.random_range(0..orders.len())];
        let child = Command::new(env!("CARGO_BIN_EXE_insulactl"))
            .arg("--root")
            .arg(&self.host.root)
            .args(order)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("insulactl runs");
        (order.to_vec(), child)
    }

    /// One stroke; what it was, for a person.
    fn strike(&mut self) -> String {
        match self.chance.random_range(0..9_u32) {
            0 => {
                self.kill_daemon();
                self.host.start_daemon();
                "daemon".to_owned()
            }
            1 => {
                let name = self.any_service();
                self.kill(&[name]);
                name.to_owned()
            }
            2 => {
                self.kill(&["kv", "gateway"]);
                "kv and gateway".to_owned()
            }
            3 => {
                // Dead while nobody looks: the next daemon finds out.
                let pids: Vec<_> = ["kv", "gateway", "echo"]
                    .iter()
                    .filter_map(|name| self.one_of(name))
                    .collect();
                self.kill_daemon();
                for pid in pids {
                    signal(pid, Signal::SIGKILL);
                    self.kills += 1;
                }
                self.host.start_daemon();
                "daemon, then kv, gateway and an echo".to_owned()
            }
            4 => {
                // The daemon is starting the replacement, or about to.
                self.kill(&["kv", "echo"]);
                self.wait_up_to(Duration::from_millis(8));
                self.kill_daemon();
                self.host.start_daemon();
                "kv and an echo, and the daemon at their restart".to_owned()
            }
            5 => {
                let (order, mut child) = self.order();
                self.wait_up_to(Duration::from_millis(60));
                self.kill_daemon();
                self.host.start_daemon();
                child.wait().expect("our child");
                format!("daemon in `{}`", order.join(" "))
            }
            6 => {
                let (order, mut child) = self.order();
                self.wait_up_to(Duration::from_millis(60));
                self.kill(&[order[1]]);
                child.wait().expect("our child");
                format!("a process in `{}`", order.join(" "))
            }
            7 => {
                let name = self.any_service();
                let Some(pid) = self.one_of(name) else {
                    return "nothing".to_owned();
                };
                signal(pid, Signal::SIGSTOP);
                self.wait_up_to(Duration::from_millis(300));
                signal(pid, Signal::SIGCONT);
                format!("{name} stopped for a while")
            }
            _ => {
                // It wakes up to several ends at once, and to pids that are no more.
                let daemon = self.host.daemon_pid();
                let pids: Vec<_> = ["kv", "gateway", "echo"]
                    .iter()
                    .filter_map(|name| self.one_of(name))
                    .collect();
                signal(daemon, Signal::SIGSTOP);
                for pid in pids {
                    signal(pid, Signal::SIGKILL);
                    self.kills += 1;
                }
                self.wait_up_to(Duration::from_millis(100));
                signal(daemon, Signal::SIGCONT);
                "kv, gateway and an echo while the daemon was stopped".to_owned()
            }
        }
    }

    /// The order of a scale may have been cut short: this one is not.
    fn scale_back(&self) {
        let count = ECHOES.to_string();
        wait_for("the scale of echo", || {
            let output = self.host.ctl(&["scale", "echo", &count]);
            (output.status.success() && self.host.rows("echo").len() == ECHOES).then_some(())
        });
    }
}

/// No test of the harness: it takes minutes, and counts only where it is asked for.
fn main() {
    let Some(kills) = number("INSULA_CHAOS_KILLS") else {
        println!("nothing is tried: `cargo xtask chaos` does");
        return;
    };
    let seed = number("INSULA_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let host = Host::start();
    for version in ["1.0.0", "1.1.0"] {
        install(&host, "kv", version, |manifest| manifest);
        install(&host, "echo", version, |manifest| manifest);
    }
    let ports = load::Ports::free();
    install(&host, "gateway", "1.0.0", |manifest| {
        manifest.replace("18080", &ports.gateway.port().to_string())
    });
    install_guest(&host, "1.0.0", ports.guest);
    host.must(&["start", "all"]);
    let mut chaos = Chaos {
        host,
        chance: SmallRng::seed_from_u64(seed),
        kills: 0,
    };
    chaos.scale_back();
    let load = Load::start(&chaos.host, ports);
    let resting = rest::Resting::of(&chaos.host);
    let mut strikes = 0;
    let started = Instant::now();
    while chaos.kills < kills {
        let what = chaos.strike();
        strikes += 1;
        println!(
            "{:.1} s, {strikes}: {what}",
            started.elapsed().as_secs_f64()
        );
        if !chaos.host.rows("echo").len().eq(&ECHOES) {
            chaos.scale_back();
        }
        rest::wait_for_it(&chaos.host, &resting, &what);
        load.wait_for_more(&what);
    }
    println!("{} kills in {strikes} strokes", chaos.kills);
    load.finish(&chaos.host);
    rest::wait_for_it(&chaos.host, &resting, "the end");
}
