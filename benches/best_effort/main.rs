//! What best-effort services gain, and what they cost others: a service that answers calls, alone,
//! beside programs that use every processor as ordinary services, and beside the same ones as
//! best-effort services.
//!
//! A call is timed by its client, from before it is made until its answer is there; one is made
//! every 0.5 ms. Busy is what the host's processors were (`/proc/stat`), whoever used them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use echo::{Echo, Text, echo as methods};
use insula_ipc::client::CallOptions;
use insula_ipc::local::LocalClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long each case lasts in a round.
const LASTS: Duration = Duration::from_secs(5);
/// How often all take turns.
const ROUNDS: usize = 5;
/// Between two calls.
const PACE: Duration = Duration::from_micros(500);
/// What is waited for comes within this.
const WATCHDOG: Duration = Duration::from_secs(60);
/// Programs that use a processor each, for each processor.
const BURNERS: usize = 2;

/// Whether the kernel shares processors among sessions before it looks at classes.
const AUTOGROUP: &str = "/proc/sys/kernel/sched_autogroup_enabled";

/// Sessions are no groups of the scheduler's while this is there.
///
/// Where no cgroup has the controller `cpu`, the kernel may share the processors among sessions,
/// and each service is one: then one in the idle class has as much of them as any other. Under
/// systemd with cgroup v2 this is never so.
struct Ungrouped;

impl Ungrouped {
    fn now() -> Option<Self> {
        let grouped = fs::read_to_string(AUTOGROUP).is_ok_and(|text| text.trim() == "1");
        (grouped && fs::write(AUTOGROUP, "0").is_ok()).then_some(Self)
    }
}

impl Drop for Ungrouped {
    fn drop(&mut self) {
        if let Err(error) = fs::write(AUTOGROUP, "1") {
            eprintln!("{AUTOGROUP} stays 0: {error}");
        }
    }
}

/// A daemon on a directory of its own, which ends and goes when dropped.
struct Host {
    programs: PathBuf,
    root: PathBuf,
    daemon: Child,
}

impl Host {
    fn start(programs: PathBuf) -> Result<Self, String> {
        let root = std::env::temp_dir().join(format!("insula-best-effort-{}", std::process::id()));
        fs::create_dir(&root).map_err(|error| error.to_string())?;
        let log = fs::File::create(root.join("insulad.log")).map_err(|error| error.to_string())?;
        let daemon = Command::new(programs.join("insulad"))
            .arg("--root")
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start insulad: {error}"))?;
        let host = Self {
            programs,
            root,
            daemon,
        };
        let asked = Instant::now();
        while host.must(&["status"]).is_err() {
            if asked.elapsed() > WATCHDOG {
                return Err("insulad does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(host)
    }

    fn must(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(self.programs.join("insulactl"))
            .arg("--root")
            .arg(&self.root)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run insulactl: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("insulactl {words:?}: {said}"))
    }

    fn install(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot lay out a release: {error}");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../services/echo/service.toml");
        let manifest = fs::read_to_string(manifest).map_err(failed)?;
        let profile = manifest
            .lines()
            .find(|line| line.starts_with("profile = "))
            .ok_or("echo's manifest names no profile")?;
        let manifest = manifest.replace(profile, "profile = \"latency\"");
        let release = self.root.join("echo");
        fs::create_dir_all(release.join("bin")).map_err(failed)?;
        fs::write(release.join("service.toml"), manifest).map_err(failed)?;
        fs::copy(self.programs.join("echo"), release.join("bin/echo")).map_err(failed)?;
        self.must(&["install", &release.to_string_lossy()])?;
        let services = self.root.join("etc/services");
        fs::create_dir_all(&services).map_err(failed)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for (name, profile) in [("ordinary", "shared"), ("background", "background")] {
            let text = format!(
                "[run]\nprofile = \"{profile}\"\ninstances = {}\nautostart = false\n\
                 command = [\"/bin/sh\", \"-c\", \"while :; do :; done\"]\n",
                (BURNERS * cpus).min(12)
            );
            fs::write(services.join(format!("{name}.toml")), text).map_err(failed)?;
        }
        self.must(&["update"])?;
        self.must(&["stop", "ordinary", "background"])?;
        self.must(&["start", "echo"]).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.daemon.id().cast_signed());
        // It stops its services in order; whoever is left is told below.
        if kill(pid, Signal::SIGINT).is_ok() {
            let _ = self.daemon.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("{} is left: {error}", self.root.display());
        }
    }
}

/// What one case was like.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Of a call, in nanoseconds.
    p50: u64,
    /// The same.
    p99: u64,
    /// Part of all processors.
    busy: f64,
    /// How often best effort was stopped, and for which part of the time.
    stops: (u64, f64),
}

/// Busy and whole time of all processors, in ticks.
fn processors() -> Result<(u64, u64), String> {
    let text = fs::read_to_string("/proc/stat").map_err(|error| error.to_string())?;
    let line = text.lines().next().ok_or("/proc/stat is empty")?;
    let times: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|word| word.parse().ok())
        .collect();
    let all = times.iter().sum();
    // Idle and waiting for a disk.
    Ok((all - times[3] - times[4], all))
}

/// How often best effort was stopped since the daemon began, and for how many nanoseconds.
fn stops(host: &Host) -> Result<(u64, u64), String> {
    use std::io::{Read, Write};
    let socket = host.root.join("run/control.sock");
    let failed = |error: std::io::Error| format!("cannot ask insulad: {error}");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).map_err(failed)?;
    write!(stream, "GET /v1/utilisation HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(failed)?;
    let body = said.split_once("\r\n\r\n").ok_or("no answer")?.1;
    let body: serde_json::Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let number = |name: &str| body["stops"][name].as_u64().unwrap_or(0);
    Ok((number("count"), number("total-ns")))
}

fn measure(host: &Host, client: &LocalClient) -> Result<Figures, String> {
    let connection = client
        .connection::<Echo>()
        .map_err(|error| format!("cannot connect: {error}"))?;
    let text = Text {
        text: "the same".into(),
    };
    let options = CallOptions {
        deadline: Some(WATCHDOG),
        ..CallOptions::default()
    };
    let before = (processors()?, stops(host)?);
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < LASTS {
        let called = Instant::now();
        connection
            .call::<methods::Echo>(&text, options)
            .map_err(|error| format!("a call failed: {error}"))?;
        took.push(u64::try_from(called.elapsed().as_nanos()).unwrap_or(u64::MAX));
        std::thread::sleep(PACE);
    }
    let lasted = began.elapsed();
    let after = (processors()?, stops(host)?);
    took.sort_unstable();
    let stopped = (after.1.1 - before.1.1) as f64 / lasted.as_nanos() as f64;
    Ok(Figures {
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        busy: (after.0.0 - before.0.0) as f64 / (after.0.1 - before.0.1).max(1) as f64,
        stops: (after.1.0 - before.1.0, stopped),
    })
}

const CASES: [(&str, Option<&str>); 3] = [
    ("alone", None),
    ("beside ordinary services", Some("ordinary")),
    ("beside best-effort services", Some("background")),
];

fn run() -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target: &Path = own.ancestors().nth(2).ok_or("no target directory")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "insula-supervisor", "-p", "echo"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    if target.ends_with("release") {
        build.arg("--release");
    }
    eprintln!("building insulad and echo");
    match build.status() {
        Ok(status) if status.success() => {}
        other => return Err(format!("cargo build ended with {other:?}")),
    }
    let ungrouped = Ungrouped::now();
    if ungrouped.is_some() {
        println!("kernel.sched_autogroup_enabled is 0 meanwhile");
    }
    let host = Host::start(target.to_owned())?;
    host.install()?;
    let socket = host.root.join("run").join(insula_contract::local::SOCKET);
    let client =
        LocalClient::connect(&socket).map_err(|error| format!("cannot connect: {error}"))?;
    let mut found: [Vec<Figures>; 3] = Default::default();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for ((_, burners), figures) in CASES.iter().zip(&mut found) {
            if let Some(burners) = burners {
                host.must(&["start", burners])?;
            }
            figures.push(measure(&host, &client)?);
            if let Some(burners) = burners {
                host.must(&["stop", burners])?;
            }
        }
    }
    let median = |figures: &[Figures], of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "| echo on `latency` | p50 | p99 | p99 to alone | processors busy | stops | stopped |"
    );
    println!("|---|---|---|---|---|---|---|");
    let alone = median(&found[0], |f| f.p99 as f64);
    for ((name, _), figures) in CASES.iter().zip(&found) {
        let p99 = median(figures, |f| f.p99 as f64);
        println!(
            "| {name} | {:.1} us | {:.1} us | {:.2}x | {:.0} % | {:.0} | {:.1} % |",
            median(figures, |f| f.p50 as f64) / 1e3,
            p99 / 1e3,
            p99 / alone,
            median(figures, |f| f.busy) * 100.0,
            median(figures, |f| f.stops.0 as f64),
            median(figures, |f| f.stops.1) * 100.0,
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): all of it; cgroups are root's to make");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
