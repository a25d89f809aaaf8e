//! `misbehave`: a service that tries what it should not be able to do, for the tests.
//!
//! It prints a line per attempt, `PATH VERB: done` or `PATH VERB: refused (reason)`, and then
//! waits to be stopped like any other service.

mod attack;
mod calls;
mod ends;
mod forms;
mod guest;
mod hungry;
mod stuck;
mod vandal;

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use insula::Service;

/// Tries what a service should not be able to do.
#[derive(Debug, Parser)]
#[command(name = "misbehave", version)]
struct Args {
    /// Do it as an ordinary program, not as a service, and end.
    #[arg(long)]
    alone: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read, write and list other people's files and directories, and connect to their sockets.
    Look {
        /// What to try.
        paths: Vec<PathBuf>,
    },
    /// Attack the neighbours and the host, and leave a table of what came of it in the file `attacks`
    /// of the working directory.
    Attack {
        /// Only this one, in this process, and print what came of it.
        #[arg(long)]
        only: Option<String>,
        #[command(flatten)]
        target: attack::Target,
    },
    /// Compare what the attacks came to behind the walls and without, and print a table of it; fails
    /// if one succeeded behind the walls, or fails without them.
    Judge {
        #[command(flatten)]
        tables: attack::judge::Tables,
    },
    /// End with this code.
    Exit {
        /// The exit code.
        code: u8,
        /// After so long.
        #[arg(long, default_value_t = 0)]
        after_ms: u64,
        /// Say that it is ready before that.
        #[arg(long)]
        ready: bool,
    },
    /// Know nothing of Insula: ignore SIGTERM, once there is a file `stubborn` in the working directory.
    Stubborn,
    /// Know nothing of Insula: end, and leave a child behind, whose number the file `child` holds.
    Fork {
        /// Let it begin a session of its own.
        #[arg(long)]
        session: bool,
    },
    /// Know nothing of Insula: note the signals that come in the file `signals`.
    Signals,
    /// Live and never say ready.
    Mute,
    /// Serve `form@1` in one of its forms.
    Serve {
        /// Which: 1, 2 (fits users of 1) or 3 (does not).
        form: u8,
    },
    /// Know nothing of Insula: answer connections on the first socket of `LISTEN_FDS` with the process
    /// id and these words.
    Guest {
        /// Say that it is ready on `$NOTIFY_SOCKET`.
        #[arg(long)]
        notify: bool,
        /// What to say.
        words: String,
    },
    /// Serve `trouble@1`, whose methods get the service stuck.
    Trouble {
        /// On as many threads beside the main one; 0 is the main one.
        #[arg(long, default_value_t = 0)]
        workers: usize,
    },
    /// Know nothing of Insula: say on `$NOTIFY_SOCKET` what the file `say` in the working directory
    /// holds, and that it lives unless there is a file `mute`.
    Notify,
    /// Know nothing of Insula: once there is a file `eat` in the working directory, take all of this.
    Hungry {
        /// Of what.
        of: hungry::Of,
    },
    /// Use `form@1`, and break what can be reached of its channel, as the file `deed` in the working
    /// directory says.
    Vandal,
    /// Use `form@1` in one of its forms, and print every change between `called` and an error.
    Use {
        /// Which, as for `serve`.
        form: u8,
        /// Milliseconds that each call may take; as the contract says unless told.
        #[arg(long)]
        deadline_ms: Option<u64>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.what {
        What::Exit {
            code,
            after_ms,
            ready,
        } => return ends::exit(*code, Duration::from_millis(*after_ms), *ready),
        What::Stubborn => return ends::stubborn(),
        What::Fork { session } => return ends::fork_away(*session),
        What::Signals => return ends::signals(),
        What::Mute => loop {
            std::thread::park();
        },
        What::Look { paths } if args.alone => {
            look(paths);
            return ExitCode::SUCCESS;
        }
        What::Serve { form } => return forms::serve(*form),
        What::Trouble { workers } => return stuck::serve(*workers),
        What::Vandal => return vandal::run(),
        What::Notify => return guest::notify(),
        What::Hungry { of } => return hungry::run(*of),
        What::Use { form, deadline_ms } => {
            return forms::consume(*form, deadline_ms.map(Duration::from_millis));
        }
        What::Judge { tables } => {
            return match attack::judge::judge(tables) {
                Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
                Ok(problems) => {
                    eprintln!("error: {}", problems.join("\n"));
                    ExitCode::FAILURE
                }
                Err(error) => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            };
        }
        What::Guest { notify, words } => return guest::run(*notify, words),
        What::Attack { only, target } if args.alone => {
            let done = match only {
                Some(name) => attack::one(name, target),
                None => attack::every(target).map(|table| print!("{table}")),
            };
            return match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            };
        }
        What::Look { .. } | What::Attack { .. } => {}
    }
    Service::new().run(|context| {
        if let What::Look { paths } = &args.what {
            look(paths);
        }
        if let What::Attack { target, .. } = &args.what {
            let table = attack::every(target)?;
            fs::write("attacks.new", table)?;
            fs::rename("attacks.new", "attacks")?;
        }
        context.runtime().ready();
        context.runtime().wait_for_stop();
        Ok(())
    })
}

fn look(paths: &[PathBuf]) {
    for path in paths {
        tell(path, "stat", fs::metadata(path).map(drop));
        tell(path, "list", fs::read_dir(path).map(drop));
        tell(path, "read", File::open(path).map(drop));
        tell(
            path,
            "write",
            File::options().write(true).open(path).map(drop),
        );
        tell(path, "connect", UnixStream::connect(path).map(drop));
    }
}

fn tell(path: &Path, verb: &str, result: io::Result<()>) {
    match result {
        Ok(()) => println!("{} {verb}: done", path.display()),
        Err(error) => println!("{} {verb}: refused ({error})", path.display()),
    }
}
