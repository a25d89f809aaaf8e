//! Virtual machines in which Insula is tried on a whole host: systemd as its first process, cgroup
//! v2, eight CPUs on two NUMA nodes, reboots.
//!
//! An image is built once from Debian's packages and kept below the target directory ([`image`]).
//! A run boots it on a throw-away overlay ([`machine`]) beside a second disk with the programs of
//! this workspace and the scripts to run ([`payload`]); the scripts say line by line what they
//! found ([`told`]). QEMU and mmdebstrap are unpacked below the target directory where the host
//! has none ([`tools`]): nothing is installed on the host.
//!
//! Whatever runs is ended by the kernel when this program ends, however it ends; what it leaves is
//! removed by the next one ([`scratch`]).

mod image;
mod machine;
mod payload;
mod scratch;
mod suite;
mod told;
mod tools;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use crate::tally::Tally;
use image::Image;
use machine::{Machine, Use};
use payload::Payload;
use scratch::Scratch;
use suite::Suite;
use tools::Tools;

/// How long a guest may take for one run of scripts, from power-on to power-off, unless told
/// otherwise.
const LIMIT_MINUTES: u64 = 45;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Builds the image of a guest, unless it lies below the target directory already.
    Build {
        /// The Debian release.
        #[arg(long, value_enum, default_value_t)]
        suite: Suite,
    },
    /// Boots a guest, runs bash scripts in it in their order, and shows what they print.
    ///
    /// A script that ends with status 100 is run again after a reboot, with 101 after a power cut;
    /// the environment's STAGE counts up from 1. What it writes to the directory $OUT comes back.
    Run {
        /// The Debian release.
        #[arg(long, value_enum, default_value_t)]
        suite: Suite,
        /// Where the files go that the scripts leave in $OUT, and the guest's journal.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Minutes after which the guest is ended.
        #[arg(long, default_value_t = LIMIT_MINUTES, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
        /// What to run: scripts, or directories of them.
        #[arg(required = true, value_name = "SCRIPT")]
        scripts: Vec<PathBuf>,
    },
    /// Boots a guest with a root shell on this terminal; Ctrl-A x ends it.
    Shell {
        /// The Debian release.
        #[arg(long, value_enum, default_value_t)]
        suite: Suite,
    },
    /// Runs the guest tests, as the check `vm` does.
    Test {
        /// The Debian release.
        #[arg(long, value_enum, default_value_t)]
        suite: Suite,
    },
}

/// Why there was no outcome.
#[derive(Debug)]
enum Failed {
    /// This host cannot have the machine, which is nobody's fault.
    Unavailable(String),
    /// Something went wrong that should not.
    Broken(String),
}

impl Display for Failed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "no virtual machine can be had here: {why}"),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl Failed {
    /// What an operation on a file came to.
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Broken(format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Where images, tools and runs lie.
fn directory() -> PathBuf {
    crate::target().join("vm")
}

/// Where the scripts for guests lie.
fn guest() -> PathBuf {
    crate::root().join("xtask/src/vm/guest")
}

/// Runs a subcommand of `cargo xtask vm`.
pub(crate) fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Build { suite } => build(suite).map(|image| {
            println!("{}", image.directory().display());
            ExitCode::SUCCESS
        }),
        Command::Run {
            suite,
            out,
            limit,
            scripts,
        } => {
            let limit = Duration::from_secs(limit * 60);
            boot(suite, &scripts, out.as_deref(), limit).map(|ran| ran.code())
        }
        Command::Shell { suite } => shell(suite),
        Command::Test { suite } => boot(
            suite,
            &[guest().join("tests")],
            None,
            Duration::from_secs(LIMIT_MINUTES * 60),
        )
        .map(|ran| ran.code()),
    };
    outcome.unwrap_or_else(|failed| {
        eprintln!("error: {failed}");
        ExitCode::FAILURE
    })
}

/// Runs the guest tests on the suite that the check is for.
pub(crate) fn check() -> Tally {
    let limit = Duration::from_secs(LIMIT_MINUTES * 60);
    match boot(Suite::default(), &[guest().join("tests")], None, limit) {
        Ok(ran) => ran.tally(),
        Err(Failed::Unavailable(why)) => {
            Tally::skipped("vm", format!("needs a virtual machine: {why}"))
        }
        Err(Failed::Broken(what)) => Tally::failed(format!("vm: {what}")),
    }
}

fn build(suite: Suite) -> Result<Image, Failed> {
    scratch::sweep(&directory());
    let tools = Tools::get()?;
    Image::get(suite, &tools)
}

/// Boots a guest, runs the scripts, and gives what they said.
fn boot(
    suite: Suite,
    scripts: &[PathBuf],
    out: Option<&Path>,
    limit: Duration,
) -> Result<told::Told, Failed> {
    let image = build(suite)?;
    let tools = Tools::get()?;
    let scratch = Scratch::new(&directory(), "run")?;
    let payload = Payload::make(&scratch, scripts)?;
    // Where the run's files stay: the scratch directory goes.
    let kept = out.map_or_else(|| directory().join(format!("last-{suite}")), Path::to_owned);
    let machine = Machine {
        tools: &tools,
        image: &image,
        payload: &payload,
        scratch: &scratch,
    };
    machine.run(limit, &kept)
}

fn shell(suite: Suite) -> Result<ExitCode, Failed> {
    let image = build(suite)?;
    let tools = Tools::get()?;
    let scratch = Scratch::new(&directory(), "run")?;
    let payload = Payload::make(&scratch, &[])?;
    let machine = Machine {
        tools: &tools,
        image: &image,
        payload: &payload,
        scratch: &scratch,
    };
    eprintln!("The programs and units are below /insula. Ctrl-A x ends the machine.");
    let mut qemu = machine.command(Use::Shell)?;
    match qemu.status() {
        Ok(status) if status.success() => Ok(ExitCode::SUCCESS),
        Ok(status) => Err(Failed::Broken(format!("QEMU: {status}"))),
        Err(error) => Err(Failed::Broken(format!("cannot run {qemu:?}: {error}"))),
    }
}
