//! The supervisor's daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use insula_supervisor::launch::Isolation;
use insula_supervisor::paths::Paths;

/// Supervises the services of one host.
#[derive(Debug, Parser)]
#[command(name = "insulad", version)]
struct Args {
    /// Keep everything below this directory: DIR/etc, DIR/lib, DIR/run, DIR/log; else in
    /// /etc/insula, /var/lib/insula, /run/insula, /var/log/insula.
    #[arg(long, env = "INSULA_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Which walls services get: all that the host gives, or none, for trials only.
    #[arg(long, value_enum, default_value_t)]
    isolation: Isolation,
    /// Only hold the cgroup that services are born in, as insula-payload.service does.
    #[arg(long)]
    hold_payload: bool,
    /// Only say, as JSON, whether this program could take over from the daemon that runs; changes
    /// nothing.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let paths = Paths::new(args.root);
    if args.hold_payload {
        return insula_supervisor::daemon::hold_payload(&paths);
    }
    if args.check {
        return insula_supervisor::daemon::check(&paths);
    }
    insula_supervisor::daemon::main(paths, args.isolation)
}
