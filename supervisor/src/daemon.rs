//! `insulad` from its start to its exit code.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::control::{self, Api};
use crate::driver::{Driver, DriverError, End, Wish, setup};
use crate::launch::Isolation;
use crate::paths::Paths;
use crate::successor;
use crate::systemd::handed::{CONTROL, Handed, LOCK, OWN_CONTROL};
use crate::systemd::job::{self, Job};
use crate::systemd::{payload, store};

/// Questions that wait for the driver at most; who asks more waits.
const ASKS_MAX: usize = 1024;
/// How long a killed daemon's launch may hold the lock.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// How often the lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// Descriptors that the daemon asks for: a service takes three or four, an edge some more.
const DESCRIPTORS: u64 = 1 << 20;

/// Runs the daemon.
pub fn main(paths: Paths, isolation: Isolation) -> ExitCode {
    let handed = Handed::take();
    let filter = EnvFilter::try_from_env("INSULA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Err(error) = raise_descriptors() {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot set up the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(paths, isolation, handed));
    // No task and no thread of it is left, and nothing that they had open.
    drop(runtime);
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(Handover { program, handed })) => fail(&successor::exec(&program, handed)),
        Err(error) => fail(&error),
    }
}

/// Says whether this program could take over from the daemon that runs.
pub fn check(paths: &Paths) -> ExitCode {
    let checked = successor::check(paths);
    println!("{}", serde_json::to_string(&checked).unwrap_or_default());
    if checked.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Who takes over, with what.
struct Handover {
    program: PathBuf,
    handed: Vec<(&'static str, OwnedFd)>,
}

/// Holds the cgroup of the services until it is told to end.
pub fn hold_payload(paths: &Paths) -> ExitCode {
    match payload::hold(paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Raises the daemon's limit of descriptors: whoever starts it by hand has 1,024 of them, or
/// 20,000, which is too few for thousands of services. Services get their own limit.
fn raise_descriptors() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Beyond the hard limit only root can go, and not beyond `fs.nr_open`.
    if hard < DESCRIPTORS && setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_ok() {
        return Ok(());
    }
    let most = hard.min(DESCRIPTORS).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}

async fn run(
    paths: Paths,
    isolation: Isolation,
    mut handed: Handed,
) -> Result<Option<Handover>, DriverError> {
    paths
        .create()
        .map_err(setup("make the daemon's directories"))?;
    let earlier = handed.next(LOCK);
    let succeeds = earlier.is_some();
    let lock = match earlier {
        // An earlier program of this process had it.
        Some(lock) => lock,
        None => {
            let lock = only_one(&paths).map_err(setup("lock the run directory"))?;
            let copy = lock.as_fd().try_clone_to_owned();
            // Its drop would unlock all copies; now the end of the last one does.
            std::mem::forget(lock);
            copy.map_err(setup("keep the lock"))?
        }
    };
    crate::launch::reserve(lock.as_fd()).map_err(setup("reserve descriptors"))?;
    let logs = paths.log().to_owned();
    let socket = paths.run().join(control::SOCKET);
    let (listener, own) = match (handed.next(CONTROL), handed.next(OWN_CONTROL)) {
        (Some(listener), _) => (control::take_over(listener), false),
        (None, Some(listener)) => (control::take_over(listener), true),
        (None, None) => (control::bind(paths.run()), true),
    };
    let listener = listener.map_err(setup("open the control socket"))?;
    let kept = listener.as_fd().try_clone_to_owned();
    let kept = kept.map_err(setup("keep the control socket"))?;
    // After an upgrade in place systemd has handed nothing over, whatever it keeps.
    let pidfds = (!succeeds).then(|| std::iter::from_fn(|| handed.next(store::NAME)).collect());
    let driver = Driver::open(paths, isolation, pidfds)?;
    for wall in driver.walls().report().iter().filter(|wall| !wall.holds) {
        tracing::warn!("not enforced here: {}: {}", wall.name, wall.text);
    }
    let (asks, questions) = mpsc::channel(ASKS_MAX);
    let (wish, wishes) = mpsc::channel(1);
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind).map_err(setup("listen for signals"))?;
        let wish = wish.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // The driver may be on its way out already.
                let _ = wish.send(meaning(kind).await).await;
            }
        });
    }
    let lines = driver.lines().clone();
    let api = tokio::spawn(control::serve(
        listener,
        Api::new(asks, logs, lines.clone()),
    ));
    tracing::info!("insulad {} is ready", env!("CARGO_PKG_VERSION"));
    let ended = driver.run(questions, wishes).await;
    lines.settle().await;
    // Whoever waited for the shutdown hears of it before the socket closes.
    tokio::time::sleep(Duration::from_millis(50)).await;
    api.abort();
    lines.close().await;
    match ended? {
        End::Stopped => {
            if own {
                // Nobody answers there any more.
                let _ = std::fs::remove_file(socket);
            }
            Ok(None)
        }
        End::Left => Ok(None),
        End::Succeeded(program) => {
            tracing::info!("{} takes over", program.display());
            let name = if own { OWN_CONTROL } else { CONTROL };
            Ok(Some(Handover {
                program,
                handed: vec![(name, kept), (LOCK, lock)],
            }))
        }
    }
}

/// What a signal asks for.
async fn meaning(kind: SignalKind) -> Wish {
    if kind == SignalKind::hangup() {
        return Wish::Reload;
    }
    if kind != SignalKind::terminate() {
        return Wish::Stop;
    }
    match tokio::task::spawn_blocking(job::under_way).await {
        Ok(Job::Restart) => Wish::Leave,
        Ok(Job::Stop) | Err(_) => Wish::Stop,
    }
}

/// Two daemons on one directory would start everything twice.
///
/// A process that a killed daemon was launching holds the lock until it runs its program, which it
/// does without its daemon. It is waited for: before that its environment does not tell yet which
/// attempt it is, so its attempt would be taken for one that never ran.
fn only_one(paths: &Paths) -> std::io::Result<Flock<File>> {
    let path = paths.run().join("insulad.lock");
    let mut file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)?;
    let started = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((file, nix::Error::EWOULDBLOCK)) if started.elapsed() < LOCK_WITHIN => file,
            Err((_, nix::Error::EWOULDBLOCK)) => {
                let text = format!("another insulad holds {}", path.display());
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, text));
            }
            Err((_, error)) => return Err(error.into()),
        };
        std::thread::sleep(LOCK_RETRY);
    }
}
