//! `cargo xtask demo`: one host, real services, one of them upgraded, killed and rolled back under
//! load; it prints what that cost its clients, and cleans up.

mod gateway;
mod host;
mod load;
mod table;

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway::Visitor;
use host::Host;
use load::Load;

/// Set by Ctrl-C; every wait looks at it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How much the demo does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Records that are loaded.
    pub(crate) records: u64,
    /// Clients that run the workload.
    pub(crate) clients: u64,
    /// Between two events.
    pub(crate) pause: Duration,
}

/// Why the demo did not come to its end.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl Failed {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Runs it.
pub(crate) fn run(extent: Extent) -> ExitCode {
    let handler = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst));
    if let Err(error) = handler {
        eprintln!("error: cannot listen for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    match demonstrate(extent) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: the demo did not show what it should");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends early after Ctrl-C.
pub(crate) fn look_up() -> Result<(), Failed> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        Err(Failed::new("interrupted; everything is cleaned up"))
    } else {
        Ok(())
    }
}

/// Waits, unless Ctrl-C comes first.
pub(crate) fn pause(time: Duration) -> Result<(), Failed> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        look_up()?;
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
    look_up()
}

fn say(text: &str) {
    println!("-- {text}");
}

fn demonstrate(extent: Extent) -> Result<bool, Failed> {
    say("building (the first time takes some minutes)");
    host::build()?;
    let mut host = Host::start()?;
    say(&format!("insulad runs on {}", host.root().display()));
    host.install_kv("1.0.0")?;
    host.install_kv("1.1.0")?;
    let port = host.install_gateway()?;
    host.must(&["start", "kv", "gateway"])?;
    print!("{}", host.must(&["status"])?);

    say(&format!(
        "loading {} records of 1,000 bytes",
        extent.records
    ));
    load::load(&host, extent)?;
    say(&format!(
        "YCSB B from {} clients, and a visitor at the gateway, http://127.0.0.1:{port}",
        extent.clients
    ));
    let before = host.pids()?;
    let mut load = Load::start(&host, extent)?;
    let visitor = Visitor::start(port);
    pause(extent.pause)?;

    let mut events = Vec::new();
    load.mark("upgrade")?;
    events.push(("upgrade", host.timed(&["upgrade", "kv"])?));
    pause(extent.pause)?;
    load.mark("kill -9")?;
    events.push(("kill -9", host.kill("kv")?));
    pause(extent.pause)?;
    load.mark("rollback")?;
    events.push(("rollback", host.timed(&["rollback", "kv"])?));
    pause(extent.pause)?;

    say("stopping the load, and reading every record");
    let report = load.finish()?;
    let visits = visitor.finish();
    let after = host.pids()?;
    print!("{}", host.must(&["status"])?);
    let passed = table::print(&report, &events, &visits, &before, &after)?;
    host.stop()?;
    Ok(passed)
}
