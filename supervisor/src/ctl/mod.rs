//! `insulactl`: the words people know, over the control API.
//!
//! Exit codes (also in `--help`): 0 done; 1 failed, or no such service; 2 wrong usage; 3 `status`
//! found something that is not running; 4 `status` of an unknown name; 7 could not be started;
//! 65 refused because contracts or data do not fit; 69 the daemon cannot be reached; 75 busy, try
//! again; 77 not allowed; 141 nobody read what it printed. `doctor`: 0 all that is required is
//! there; 1 something required is missing; 2 it could not look.

// Before the others: its macros are theirs.
#[macro_use]
mod print;

mod call;
mod capacity;
mod client;
mod complete;
mod daemon;
mod doctor;
mod edges;
mod explain;
mod install;
mod limits;
mod logs;
mod orders;
mod plan;
mod progress;
mod releases;
mod signal;
mod status;
mod systemd;
mod topology;
mod update;
mod utilisation;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};
use semver::Version;

use crate::paths::Paths;
use client::{Client, ClientError};

/// Exit codes, as `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or no such service.
    Failed = 1,
    /// Wrong usage; of `doctor`, that it could not look.
    Usage = 2,
    /// `status` found something that is not running.
    NotRunning = 3,
    /// `status` of an unknown name.
    Unknown = 4,
    /// Could not be started.
    NotStarted = 7,
    /// Refused: contracts or data do not fit.
    DoesNotFit = 65,
    /// The daemon cannot be reached.
    Unreachable = 69,
    /// Busy; try again.
    Busy = 75,
    /// Not allowed.
    NotAllowed = 77,
}

impl Exit {
    /// The worse of two: the first failure that is not just "not running" wins.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Done, other) => other,
            (Self::NotRunning, Self::Unknown) => Self::Unknown,
            (first, _) => first,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed, or no such service; `doctor`: something required is missing
   2  wrong usage; `doctor`: could not look
   3  `status`: something is not running
   4  `status`: unknown name
   7  could not be started
  65  refused: contracts or data do not fit
  69  the daemon cannot be reached
  75  busy, try again
  77  not allowed
 141  nobody read what was printed";

/// Drives insulad: installs, starts, watches and upgrades services.
#[derive(Debug, Parser)]
#[command(name = "insulactl", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Args {
    /// The directory that the daemon keeps everything below; the usual places unless given.
    #[arg(long, global = true, env = "INSULA_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install a release from a directory or a .tar or .tar.gz file.
    Install {
        /// Where it lies.
        path: PathBuf,
    },
    /// List the installed releases.
    Releases {
        /// Only of these services.
        names: Vec<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Start services and wait until they are ready.
    Start {
        /// Their names, or `all`.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stop services: they finish what they accepted.
    Stop {
        /// Their names, or `all`.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Replace the processes of services, beside the old ones where they can.
    Restart {
        /// Their names, or `all`.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Send a signal to the processes of a service, or of one instance of it.
    Signal {
        /// Its name: `kv` or `kv:0`.
        name: String,
        /// Which signal, as `HUP`.
        #[arg(value_name = "SIG", value_parser = PossibleValuesParser::new(
            crate::control::signals::SIGNALS.iter().map(|(name, _)| *name)
        ))]
        signal: String,
    },
    /// Show how services are.
    Status {
        /// Only of these services.
        names: Vec<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell in words why a service is as it is, and what to do next.
    Why {
        /// Its name.
        name: String,
    },
    /// Cut a service over to another release while its clients go on.
    Upgrade {
        /// Its name.
        name: String,
        /// The release; the newest installed unless given.
        version: Option<Version>,
    },
    /// Cut a service over to the release before this one.
    Rollback {
        /// Its name.
        name: String,
    },
    /// Have so many instances of a service, until told otherwise.
    Scale {
        /// Its name.
        name: String,
        /// How many.
        instances: u16,
    },
    /// Show what a service wrote: time, attempt, stream and text of each line.
    Logs {
        /// Its name, or one instance of it: `kv` or `kv:0`.
        name: String,
        /// How many of the last lines; 100, or with --since all.
        #[arg(short = 'n', long)]
        lines: Option<usize>,
        /// Go on with what it writes from now on, through restarts and rotation.
        #[arg(short, long)]
        follow: bool,
        /// Only lines that are no older, as `10m`.
        #[arg(long, value_parser = duration)]
        since: Option<std::time::Duration>,
        /// Only lines of this attempt.
        #[arg(long)]
        attempt: Option<u64>,
        /// Only lines of standard error.
        #[arg(long)]
        stderr: bool,
    },
    /// Show who calls whom: calls per second, errors, durations.
    Edges {
        /// Only edges of these services.
        names: Vec<String>,
        /// As JSON; with --watch a line for each second.
        #[arg(long)]
        json: bool,
        /// Every second anew, until interrupted, about that second.
        #[arg(short, long)]
        watch: bool,
    },
    /// Show what services use of the host's processors and memory, by profile.
    Utilisation {
        /// How long to look.
        #[arg(long, default_value = "1s", value_parser = duration)]
        over: std::time::Duration,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what limits services, whether it is in force, and what they use of it.
    Limits {
        /// Only of this service, or one instance of it: `kv` or `kv:0`.
        name: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the host's processors and memory, and who sits where.
    Topology {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show which place everything that is down would get, or more of something; does nothing.
    Plan {
        /// Plan for so many more instances of a service.
        #[arg(long, value_name = "NAME=N")]
        add: Vec<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell why the instances of a service sit where they do, and where else they could.
    Explain {
        /// Which service.
        name: insula_contract::id::ServiceName,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how many more instances of each profile fit, and what there would be too little of.
    Capacity {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take in what the host's files say: start what is new, restart what must be, remove what is
    /// gone.
    #[command(visible_alias = "reread")]
    Update {
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what is wrong in the host's files, or in a release that is not installed; changes
    /// nothing.
    Check {
        /// The directory of a release, or its service.toml; the host's files unless given.
        path: Option<PathBuf>,
    },
    /// Say what this host gives to services, what it lacks, and how to mend it.
    Doctor {
        /// Hold the limits of the host against so many services.
        #[arg(long, value_name = "N", default_value_t = crate::doctor::SERVICES,
            value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        services: u64,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Install, remove or print the units that run the daemon under systemd.
    Systemd(systemd::SystemdArgs),
    /// What concerns the daemon itself.
    #[command(subcommand)]
    Daemon(daemon::DaemonVerb),
    /// Stop all services in order, then the daemon.
    Shutdown,
    /// Call a method of a contract, as an ordinary program; or list contracts, methods, types.
    Call(call::CallArgs),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

/// Runs the command line and gives its exit code.
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(Args::command).complete();
    let args = Args::parse();
    match &args.verb {
        Verb::Completions { shell } => return print_completions(*shell).into(),
        Verb::Check { path: Some(path) } => {
            return update::check_release(&Paths::new(args.root.clone()), path).into();
        }
        Verb::Systemd(systemd) => return systemd::run(systemd).into(),
        // Before any other thread: it changes its user.
        Verb::Call(call) => return call::run(&Paths::new(args.root.clone()), call).into(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot set up the event loop: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(run(args)) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error).into(),
    }
}

async fn run(args: Args) -> Result<Exit, ClientError> {
    let paths = Paths::new(args.root);
    let client = Client::new(&paths);
    match args.verb {
        Verb::Install { path } => install::run(&client, &path).await,
        Verb::Releases { names, json } => releases::run(&client, &names, json).await,
        Verb::Start { names } => orders::run(&client, orders::Verb::Start, &names).await,
        Verb::Stop { names } => orders::run(&client, orders::Verb::Stop, &names).await,
        Verb::Restart { names } => orders::run(&client, orders::Verb::Restart, &names).await,
        Verb::Signal { name, signal } => signal::run(&client, &name, &signal).await,
        Verb::Status { names, json } => status::run(&client, &names, json).await,
        Verb::Why { name } => why::run(&client, &name).await,
        Verb::Upgrade { name, version } => {
            orders::run(&client, orders::Verb::Upgrade(version), &[name]).await
        }
        Verb::Scale { name, instances } => {
            orders::run(&client, orders::Verb::Scale(instances), &[name]).await
        }
        Verb::Rollback { name } => orders::run(&client, orders::Verb::Rollback, &[name]).await,
        Verb::Logs {
            name,
            lines,
            follow,
            since,
            attempt,
            stderr,
        } => {
            let which = logs::Which {
                lines,
                since,
                attempt,
                stderr,
                follow,
            };
            logs::run(&client, &name, &which).await
        }
        Verb::Edges { names, json, watch } => edges::run(&client, &names, json, watch).await,
        Verb::Utilisation { over, json } => utilisation::run(&client, over, json).await,
        Verb::Limits { name, json } => limits::run(&client, name.as_deref(), json).await,
        Verb::Topology { json } => topology::run(&client, json).await,
        Verb::Plan { add, json } => plan::run(&client, &add, json).await,
        Verb::Explain { name, json } => explain::run(&client, name.as_str(), json).await,
        Verb::Capacity { json } => capacity::run(&client, json).await,
        Verb::Update { dry_run, json } => update::run(&client, dry_run, json).await,
        // With a path: done before.
        Verb::Check { .. } => update::check_host(&client).await,
        Verb::Doctor { services, json } => doctor::run(&client, paths, services, json).await,
        Verb::Daemon(verb) => daemon::run(&client, &verb).await,
        Verb::Shutdown => orders::shutdown(&client).await,
        // Done before.
        Verb::Call(_) | Verb::Systemd(_) | Verb::Completions { .. } => Ok(Exit::Done),
    }
}

/// Prints the script that asks this program for completions.
fn print_completions(shell: Shell) -> Exit {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(&name) else {
        eprintln!("error: cannot complete for {name}");
        return Exit::Failed;
    };
    let program = "insulactl";
    match shell.write_registration(
        "COMPLETE",
        program,
        program,
        program,
        &mut std::io::stdout(),
    ) {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("error: cannot print the script: {error}");
            Exit::Failed
        }
    }
}

/// Reads a time like `200ms`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::config::units::duration(text).ok_or_else(|| "not a time like 200ms, 5s or 1m".to_owned())
}

/// Tells a failure to reach or to understand the daemon.
fn report(error: &ClientError) -> Exit {
    eprintln!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("  {cause}");
        source = cause.source();
    }
    match error {
        ClientError::Connect { .. } => {
            eprintln!("hint: is insulad running, with the same --root?");
            Exit::Unreachable
        }
        ClientError::Forbidden { .. } => {
            eprintln!("hint: use the user that runs insulad, or root");
            Exit::NotAllowed
        }
        ClientError::NoSuch { .. } => Exit::Failed,
        ClientError::Talk { .. } | ClientError::Answer { .. } => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_unknown_name_is_not_hidden_by_one_that_does_not_run() {
        assert_eq!(Exit::NotRunning.and(Exit::Unknown), Exit::Unknown);
        assert_eq!(Exit::Unknown.and(Exit::NotRunning), Exit::Unknown);
        assert_eq!(Exit::Done.and(Exit::NotRunning), Exit::NotRunning);
    }
}
