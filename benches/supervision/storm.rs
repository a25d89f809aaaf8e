//! A storm: 200 services that end as soon as they began, beside one that answers calls.

use std::path::Path;
use std::time::{Duration, Instant};

use echo::{Echo, Text, echo as methods};
use insula_ipc::client::CallOptions;
use insula_ipc::local::LocalClient;

use crate::contestants::{Contestant, Insula};
use crate::process;
use crate::stamps::{Stamps, WATCHDOG};

/// How many services crash.
const CRASHING: usize = 200;
/// How long each weather lasts.
const LASTS: Duration = Duration::from_secs(10);
/// How often it changes.
const ROUNDS: usize = 3;
/// Between two calls.
const PACE: Duration = Duration::from_micros(500);

/// One weather.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Of a call, in nanoseconds.
    pub(crate) p50: u64,
    /// The same.
    pub(crate) p99: u64,
    /// How many calls were made.
    pub(crate) calls: usize,
    /// Part of one core that the daemon used.
    pub(crate) daemon: f64,
    /// Processes that were started.
    pub(crate) starts: u32,
}

/// Calm, the time from the order to start all of them, and the time after it, in turns.
pub(crate) fn run(
    programs: &Path,
    disk: &Path,
    payload: &Path,
) -> Result<Vec<[Weather; 3]>, String> {
    let stamps = Stamps::create(CRASHING).map_err(|error| error.to_string())?;
    let root = disk.join("storm");
    let mut insula = Insula::new(programs, root.clone(), true)?;
    eprintln!("storm: installing");
    let names: Vec<_> = (0..CRASHING).map(|index| format!("x{index:03}")).collect();
    for (index, name) in names.iter().enumerate() {
        let argument = format!("{}:{index}:x", stamps.id());
        insula.install(name, payload, &argument, "")?;
    }
    install_echo(&insula, programs, &root)?;
    let client = LocalClient::connect(&root.join("run").join(insula_contract::local::SOCKET))
        .map_err(|error| format!("cannot connect: {error}"))?;
    let daemon = insula.processes()[0];
    let order = |verb: &str| {
        let mut command = insula.control(&[verb]);
        command.args(&names);
        process::run(command).map(drop)
    };
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        eprintln!("storm: round {}", round + 1);
        let calm = weather(&client, daemon, &stamps, || Ok(()))?;
        let outbreak = weather(&client, daemon, &stamps, || order("start"))?;
        let storm = weather(&client, daemon, &stamps, || Ok(()))?;
        order("stop")?;
        rounds.push([calm, outbreak, storm]);
    }
    Ok(rounds)
}

fn install_echo(insula: &Insula, programs: &Path, root: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/echo/service.toml");
    let release = root.join("echo");
    std::fs::create_dir_all(release.join("bin"))
        .and_then(|()| std::fs::copy(source, release.join("service.toml")))
        .and_then(|_| std::fs::copy(programs.join("echo"), release.join("bin/echo")))
        .map_err(|error| format!("cannot lay out echo: {error}"))?;
    let mut install = insula.control(&["install"]);
    install.arg(release);
    process::must(install)?;
    process::must(insula.control(&["start", "echo"])).map(drop)
}

/// Calls for a while, after `begin`.
fn weather(
    client: &LocalClient,
    daemon: i32,
    stamps: &Stamps,
    begin: impl FnOnce() -> Result<(), String> + Send,
) -> Result<Weather, String> {
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
    let started = |stamps: &Stamps| -> u32 { stamps.all(CRASHING).iter().map(|s| s.count).sum() };
    let before = (process::cpu_time(daemon), started(stamps));
    let began = Instant::now();
    let mut took = Vec::new();
    std::thread::scope(|threads| {
        let order = threads.spawn(begin);
        while began.elapsed() < LASTS {
            let called = Instant::now();
            connection
                .call::<methods::Echo>(&text, options)
                .map_err(|error| format!("a call failed: {error}"))?;
            took.push(u64::try_from(called.elapsed().as_nanos()).unwrap_or(u64::MAX));
            std::thread::sleep(PACE);
        }
        order
            .join()
            .map_err(|_| "the order panicked".to_owned())
            .flatten()
    })?;
    let used = process::cpu_time(daemon).saturating_sub(before.0);
    took.sort_unstable();
    Ok(Weather {
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        calls: took.len(),
        daemon: used.as_secs_f64() / began.elapsed().as_secs_f64(),
        starts: started(stamps) - before.1,
    })
}
