//! `tracing` to standard error: the supervisor keeps it in the service's log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets it up, and lets a panic of any thread end the process; the level is in `INSULA_LOG`, `info` unless it is there.
pub(crate) fn set_up() {
    let filter = EnvFilter::try_from_env("INSULA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A program that has set up its own keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    // A thread that is gone would leave a process that seems to live: a restart is better.
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!("{panic}\n{trace}");
        std::process::abort();
    }));
}
