//! `tracing` to standard error: the supervisor keeps it in the service's log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets it up; the level is in `INSULA_LOG`, `info` unless it is there.
pub(crate) fn set_up() {
    let filter = EnvFilter::try_from_env("INSULA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A program that has set up its own keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
