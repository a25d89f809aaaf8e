//! The launch of a process behind its walls.
//!
//! ```text
//! spawn:  prepare (allocates, opens, builds the Landlock ruleset)
//!         clone3 --------------------> child: only system calls on what was prepared
//!         wait for the error pipe <--- a step failed: (step, errno), _exit
//!                              EOF <-- execve closed the pipe
//! ```
//!
//! What a launch gives the process is complete: nothing is inherited but what [`Launch`] names. All
//! that a wall needs memory or locks for is made before the clone: between clone and exec the child
//! allocates nothing and calls the kernel only (see `child`).
//!
//! What it deliberately does not do: mounts, PID and network namespaces.

mod calls;
mod child;
mod clone;
mod filter;
mod rules;
#[expect(
    unsafe_code,
    reason = "fcntl gives a copied descriptor as a bare number"
)]
mod seats;
mod walls;

use std::ffi::{CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::resource::Resource;
use thiserror::Error;

pub use calls::Calls;
pub use child::Step;
pub use rules::{Access, Network, RulesError, Rulesets, programs_of_the_host, system_access};
use seats::Seats;
pub use seats::reserve;
pub use walls::{Isolation, Wall, Walls};

/// A process to be: all that it gets.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program, absolute.
    pub executable: PathBuf,
    /// Its arguments after its own name.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub directory: PathBuf,
    /// Where its standard output goes; `None` is `/dev/null`, as its input always is.
    pub output: Option<BorrowedFd<'a>>,
    /// Where its standard error goes; `None` is where its standard output does.
    pub errors: Option<BorrowedFd<'a>>,
    /// Its line's listening socket, as descriptor [`insula_contract::line::LINE_FD`].
    pub line: Option<BorrowedFd<'a>>,
    /// Listening sockets with their names, as `LISTEN_FDS` says them (sd_listen_fds(3)); not with a
    /// line.
    pub sockets: Vec<(&'a str, BorrowedFd<'a>)>,
    /// How often it is to say on `$NOTIFY_SOCKET` that it lives (sd_watchdog_enabled(3)).
    pub watchdog: Option<Duration>,
    /// Whether the kernel kills it when the daemon's thread that launched it ends: for what nobody
    /// would take charge of.
    pub tied: bool,
    /// Its user and group id; `None` keeps the daemon's, still without any capability.
    pub uid: Option<u32>,
    /// The CPUs that it may use; empty leaves all that the daemon may use.
    pub cpus: Vec<usize>,
    /// Whether it runs only where nobody else wants the processor (`SCHED_IDLE`); without
    /// privilege it cannot leave that class.
    pub idle: bool,
    /// Where its memory comes from: how, and from which NUMA nodes; `None` leaves the kernel's way.
    pub memory: Option<(MemoryMode, Vec<u32>)>,
    /// Its nice value, -20 to 19; `None` keeps the daemon's.
    pub nice: Option<i32>,
    /// Hard and soft limits; cores are never dumped unless this says otherwise.
    pub limits: Vec<(Resource, u64)>,
    /// What of the file system it may use; `None` builds no Landlock wall.
    pub access: Option<Access>,
    /// What of TCP it may use; counts only with `access`.
    pub network: Network,
    /// Which system calls it may make; `None` filters none.
    pub calls: Option<Calls>,
    /// The cgroup v2 directory that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process that runs its program.
#[derive(Debug)]
pub struct Launched {
    /// Its number; for people, and for looking into `/proc` while the pidfd is held.
    pub pid: i32,
    /// The process itself.
    pub pidfd: OwnedFd,
}

/// Why there is no process.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A text has a NUL byte in it.
    #[error("a NUL byte in {0}")]
    Nul(&'static str, #[source] NulError),
    /// A number is beyond what the kernel takes.
    #[error("CPU {0} is beyond the kernel's sets")]
    Cpu(usize),
    /// A number is beyond what is taken.
    #[error("NUMA node {0} is beyond the sets of nodes")]
    Node(u32),
    /// Something that it would get could not be made.
    #[error("cannot prepare {0}")]
    Prepare(&'static str, #[source] io::Error),
    /// A directory or file of its Landlock wall could not be opened, or the wall not be built.
    #[error("cannot build its Landlock rules")]
    Rules(#[source] RulesError),
    /// The kernel made no process.
    #[error("cannot clone")]
    Clone(#[source] io::Error),
    /// The new process could not do this, and ended.
    #[error("cannot {step} for `{executable}`")]
    Step {
        /// What it could not do.
        step: Step,
        /// The program that was to run.
        executable: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Starts a process and returns once it runs its program, or could not.
///
/// All signals are unblocked and at their defaults in it, it leads a session of its own, and its
/// umask is 027. The caller reaps it.
///
/// # Errors
/// Whatever keeps it from running its program.
pub fn spawn(launch: &Launch<'_>) -> Result<Launched, LaunchError> {
    spawn_with(launch, &mut Rulesets::default(), "")
}

/// The same with the Landlock rules of the last launch of the same owner, where they still hold.
///
/// # Errors
/// Whatever keeps it from running its program.
pub fn spawn_with(
    launch: &Launch<'_>,
    rulesets: &mut Rulesets,
    owner: &str,
) -> Result<Launched, LaunchError> {
    let (report, reporter) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
        .map_err(|error| LaunchError::Prepare("the error pipe", error.into()))?;
    let ruleset = match &launch.access {
        Some(access) => Some(
            rulesets
                .get(owner, access, &launch.network)
                .map_err(LaunchError::Rules)?,
        ),
        None => None,
    };
    let mut seats = Seats::take();
    let prepared = prepare(launch, ruleset, reporter, &mut seats)?;
    let launched = clone::clone(&prepared).map_err(LaunchError::Clone)?;
    // The writing end of the pipe must be the child's only, or the end of it is never seen.
    drop(seats);
    match child::outcome(report) {
        None => Ok(launched),
        Some((step, source)) => {
            child::reap(&launched.pidfd);
            let executable = launch.executable.display().to_string();
            Err(LaunchError::Step {
                step,
                executable,
                source,
            })
        }
    }
}

fn text(what: &'static str, text: &OsStr) -> Result<CString, LaunchError> {
    CString::new(text.as_bytes()).map_err(|error| LaunchError::Nul(what, error))
}

fn variable((key, value): &(OsString, OsString)) -> Result<CString, LaunchError> {
    let mut pair = key.clone().into_vec();
    pair.push(b'=');
    pair.extend_from_slice(value.as_bytes());
    CString::new(pair).map_err(|error| LaunchError::Nul("the environment", error))
}

fn prepare(
    launch: &Launch<'_>,
    ruleset: Option<BorrowedFd<'_>>,
    reporter: OwnedFd,
    seats: &mut Seats,
) -> Result<child::Prepared, LaunchError> {
    let failed = |what| move |error| LaunchError::Prepare(what, error);
    let executable = text("the program's path", launch.executable.as_os_str())?;
    let arguments = std::iter::once(Ok(executable.clone()))
        .chain(
            launch
                .arguments
                .iter()
                .map(|argument| text("an argument", argument)),
        )
        .collect::<Result<Vec<_>, _>>()?;
    let mut variables = launch.environment.clone();
    let mut numbered = Vec::new();
    if let Some(interval) = launch.watchdog {
        variables.push((
            "WATCHDOG_USEC".into(),
            interval.as_micros().to_string().into(),
        ));
        numbered.push("WATCHDOG_PID");
    }
    if !launch.sockets.is_empty() {
        numbered.push("LISTEN_PID");
        let names: Vec<&str> = launch.sockets.iter().map(|(name, _)| *name).collect();
        variables.push(("LISTEN_FDS".into(), names.len().to_string().into()));
        variables.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
    }
    let environment = variables
        .iter()
        .map(variable)
        .collect::<Result<Vec<_>, _>>()?;
    let input = seats.put_null().map_err(failed("/dev/null"))?;
    let mut put = |what, fd| seats.put(fd).map_err(failed(what));
    let output = launch
        .output
        .map_or(Ok(input), |output| put("its output", output))?;
    let errors = launch
        .errors
        .map_or(Ok(output), |errors| put("its output", errors))?;
    let line = launch.line.map(|line| put("its line", line)).transpose()?;
    let ruleset = ruleset
        .map(|ruleset| put("its Landlock rules", ruleset))
        .transpose()?;
    let reporter = put("the error pipe", reporter.as_fd())?;
    let sockets = launch
        .sockets
        .iter()
        .map(|(_, socket)| put("its sockets", *socket))
        .collect::<Result<Vec<_>, _>>()?;
    let mut limits = vec![(Resource::RLIMIT_CORE as i32, 0)];
    limits.extend(
        launch
            .limits
            .iter()
            .map(|(resource, limit)| (*resource as i32, *limit)),
    );
    Ok(child::Prepared::new(child::Parts {
        executable,
        arguments,
        environment,
        directory: text("its directory", launch.directory.as_os_str())?,
        input,
        output,
        errors,
        line,
        sockets,
        numbered,
        tied: launch.tied,
        ignored: child::ignored(),
        uid: launch.uid,
        cpus: cpu_mask(&launch.cpus)?,
        memory: memory(launch.memory.as_ref())?,
        idle: launch.idle,
        nice: launch.nice,
        limits,
        ruleset,
        filter: launch.calls.and_then(Calls::filter),
        cgroup: launch.cgroup.map(|fd| fd.as_raw_fd()),
        reporter,
        beyond: seats.beyond(),
    }))
}

/// How the nodes of a memory policy are used (set_mempolicy(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMode {
    /// These first, others when they are full; the kernel takes the first of them.
    Preferred,
    /// These alone.
    Bind,
    /// Page by page in turn.
    Interleave,
}

fn memory(
    policy: Option<&(MemoryMode, Vec<u32>)>,
) -> Result<Option<child::MemoryPolicy>, LaunchError> {
    let Some((mode, nodes)) = policy else {
        return Ok(None);
    };
    let mode = match mode {
        MemoryMode::Preferred => libc::MPOL_PREFERRED,
        MemoryMode::Bind => libc::MPOL_BIND,
        MemoryMode::Interleave => libc::MPOL_INTERLEAVE,
    };
    let mut mask = [0_u64; child::NODE_WORDS];
    for node in nodes {
        let word = mask.get_mut(*node as usize / 64);
        *word.ok_or(LaunchError::Node(*node))? |= 1 << (node % 64);
    }
    Ok(Some((mode, mask)))
}

fn cpu_mask(cpus: &[usize]) -> Result<Option<child::CpuMask>, LaunchError> {
    if cpus.is_empty() {
        return Ok(None);
    }
    let mut mask = [0_u64; child::CPU_WORDS];
    for cpu in cpus {
        *mask.get_mut(cpu / 64).ok_or(LaunchError::Cpu(*cpu))? |= 1 << (cpu % 64);
    }
    Ok(Some(mask))
}
