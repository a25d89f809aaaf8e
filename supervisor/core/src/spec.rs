//! Checked specs: what a release and a profile ask for, after every check.
//!
//! Made by the supervisor's `config` from TOML, stored in its ledger, and the only form of
//! configuration that the core knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use insula_contract::id::{ContractId, ServiceName};
use insula_contract::policy::{EdgeLimits, EdgePolicy};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::event::Caller;
use crate::limits::Resources;
use crate::placement::{Millis, Numa, Smt, Whole};
use crate::restart::RestartLimits;

/// One release of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Whose release it is.
    pub name: ServiceName,
    /// Its version.
    pub version: Version,
    /// For people.
    pub description: String,
    /// The program, relative to the release's directory, and its arguments.
    pub command: Vec<String>,
    /// Whether the program knows Insula.
    pub kind: Kind,
    /// Commands that run one after the other before each start of the program, as `command`; the
    /// program starts when all have exited with 0.
    pub before_start: Vec<Vec<String>>,
    /// The name of the profile it runs under.
    pub profile: String,
    /// How many instances of it run, unless a person asked for another number.
    pub instances: u16,
    /// From its launch to ready.
    pub ready_timeout: Duration,
    /// For finishing what it accepted.
    pub drain_timeout: Duration,
    /// From its stop signal to its end.
    pub stop_timeout: Duration,
    /// The number of its stop signal.
    pub stop_signal: i32,
    /// Whether its goal is restored when the daemon starts.
    pub autostart: bool,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How long it waits between restarts, and how many are too many.
    pub restarts: RestartLimits,
    /// How it is found out that it still works, beside what it says itself.
    pub liveness: Option<Liveness>,
    /// How long it may be stuck before it is killed; `None` for ever. Of a native service what
    /// waits is a request, of a program with sd_notify its next `WATCHDOG=1`.
    pub watchdog: Option<Duration>,
    /// Exit codes that are no failure.
    pub expected_exit_codes: BTreeSet<i32>,
    /// What of the network it may use.
    pub network: Network,
    /// TCP ports that it may listen on.
    pub listen: Vec<u16>,
    /// Sockets that the supervisor listens on for it, by name.
    pub sockets: BTreeMap<String, SocketAddr>,
    /// Its environment beside what the supervisor sets.
    pub environment: BTreeMap<String, String>,
    /// What of the host it uses, beside its own.
    pub host: HostAccess,
    /// Limits of its process.
    pub limits: Limits,
    /// What becomes of what it writes.
    pub output: OutputSpec,
    /// Contracts that it offers.
    pub provides: BTreeMap<ContractId, Offer>,
    /// Contracts that it uses.
    pub requires: BTreeMap<ContractId, Need>,
    /// Services that must be ready before it starts, and that stop after it.
    pub after: BTreeSet<ServiceName>,
    /// Its store, if it has one.
    pub data: Option<DataSpec>,
    /// Whether it is put away while nobody uses it.
    pub dormancy: Dormancy,
}

impl ServiceSpec {
    /// Why it could not be put away: nobody would notice that it is idle, or that it is wanted again.
    pub fn never_wakes(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Task => Some("a task ends by itself"),
            Kind::Native | Kind::Foreign(_) if !self.listen.is_empty() => {
                Some("it listens on ports of its own, where nobody would answer meanwhile")
            }
            Kind::Native if self.provides.is_empty() => {
                Some("it provides no contract, so nobody could ask for it")
            }
            Kind::Foreign(_) if self.sockets.is_empty() => {
                Some("only who connects to one of its `sockets` could wake it, and it has none")
            }
            Kind::Foreign(_) if self.liveness.is_some() => Some("its liveness probe keeps it busy"),
            Kind::Native | Kind::Foreign(_) => None,
        }
    }

    /// How long nobody uses it before it is put away, under a profile that says this; `None` for
    /// never.
    pub fn dormant_after(&self, profile: &IdleSpec) -> Option<Duration> {
        let after = match self.dormancy {
            Dormancy::AsProfile => profile.dormant_after,
            Dormancy::Never => None,
            Dormancy::After(after) => Some(after),
        };
        after.filter(|_| self.never_wakes().is_none())
    }

    /// Whether a process that was started by `self` need not be replaced for `new` to hold.
    pub fn runs_as(&self, new: &Self) -> bool {
        let mut same = Self {
            description: self.description.clone(),
            before_start: self.before_start.clone(),
            instances: self.instances,
            ready_timeout: self.ready_timeout,
            drain_timeout: self.drain_timeout,
            stop_timeout: self.stop_timeout,
            stop_signal: self.stop_signal,
            autostart: self.autostart,
            restart: self.restart,
            restarts: self.restarts,
            liveness: self.liveness.clone(),
            watchdog: self.watchdog,
            expected_exit_codes: self.expected_exit_codes.clone(),
            after: self.after.clone(),
            dormancy: self.dormancy,
            // Holds from the next start on.
            output: self.output.clone(),
            ..new.clone()
        };
        // Who may use a contract is looked at when somebody asks for it.
        for (contract, offer) in &mut same.provides {
            if let Some(was) = self.provides.get(contract) {
                offer.allow = was.allow.clone();
            }
        }
        same == *self
    }
}

/// Whether a program knows Insula.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It has a line to the supervisor and says by itself when it is ready.
    Native,
    /// It knows nothing of Insula; this tells when it is ready.
    Foreign(Readiness),
    /// It does one thing and ends; it counts as ready once it exited with an expected code.
    Task,
}

/// How it is found out that a foreign program is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// As soon as it runs.
    Started,
    /// It says `READY=1` on `$NOTIFY_SOCKET`, as sd_notify(3) does.
    Notify,
    /// This probe succeeds.
    Probe(Probe),
    /// A line of its output contains this text.
    Line(String),
}

/// A question to a program, answered by how it behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// It accepts a TCP connection at this address.
    Tcp(SocketAddr),
    /// It answers a GET over HTTP/1.1 with a status in this range, both ends included.
    Http {
        /// Where it listens.
        address: SocketAddr,
        /// What is asked for, beginning with a slash.
        path: String,
        /// The first and the last good status.
        status: (u16, u16),
    },
    /// This command, run as the program itself is, exits with 0.
    Command(Vec<String>),
}

/// How it is found out that a program still works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// What is asked.
    pub probe: Probe,
    /// How long after an answer it is asked again.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row after which it is killed.
    pub failures: u32,
}

/// When a process that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its end was.
    Always,
    /// Unless it exited with an expected code.
    OnFailure,
    /// Not.
    Never,
}

/// What of the network a service may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Nothing.
    None,
    /// This host.
    Loopback,
    /// Anything.
    Any,
}

/// What a program that knows nothing of Insula uses of the host, beside what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAccess {
    /// Absolute paths that it may read; of directories, all below.
    pub reads: BTreeSet<String>,
    /// Absolute paths that it may read and change; of directories, all below.
    pub writes: BTreeSet<String>,
    /// Where it starts, instead of in its data directory.
    pub directory: Option<String>,
    /// Another user than the service's own.
    pub user: Option<HostUser>,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUser {
    /// Its name, for people.
    pub name: String,
    /// User id, which is also the only group's.
    pub uid: u32,
}

/// Limits of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Descriptors that it may have open.
    pub open_files: u64,
    /// Processes and threads of its user, of all instances together; counts only where each service
    /// has a user of its own.
    pub processes: u64,
    /// Bytes of any one file that it writes.
    pub file_size: Option<u64>,
    /// Bytes of memory that it may keep from being swapped.
    pub locked_memory: u64,
    /// What the kernel lets it use, with all that it starts; at most what its profile gives.
    pub resources: Resources,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_files: 4096,
            processes: 4096,
            file_size: None,
            locked_memory: 8 << 20,
            resources: Resources::default(),
        }
    }
}

/// What becomes of a service's standard output and error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Size of a file, in bytes, at which the next one is begun.
    pub size_max: u64,
    /// Files that are kept of an instance, the current one among them; at least 1.
    pub files_max: u32,
    /// Age at which a file is followed by the next one, and at which an old one is removed when a
    /// next one is begun.
    pub age_max: Option<Duration>,
    /// Whether each line begins with its time, its attempt and its stream.
    pub timestamps: bool,
    /// Bytes that each of the two pipes holds while nobody reads.
    pub pipe_size: u64,
}

impl Default for OutputSpec {
    fn default() -> Self {
        Self {
            size_max: 10 << 20,
            files_max: 5,
            age_max: None,
            timestamps: true,
            pipe_size: 64 << 10,
        }
    }
}

/// A contract that a service offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who may use it without being supervised.
    pub allow: Vec<Principal>,
    /// What each of its users may ask of it.
    pub limits: EdgeLimits,
}

impl Offer {
    /// Whether a program that is not supervised may use it.
    pub fn allows(&self, caller: &Caller) -> bool {
        self.allow.iter().any(|principal| match principal {
            Principal::Anyone => true,
            Principal::Uid(uid) => caller.uid == *uid,
            Principal::Gid(gid) => caller.gids.contains(gid),
        })
    }
}

/// Somebody on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    /// Everybody.
    Anyone,
    /// A user.
    Uid(u32),
    /// The members of a group.
    Gid(u32),
}

/// A contract that a service uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// What its client does about refusals and bad instances.
    pub policy: EdgePolicy,
}

/// A service's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    /// The version of its schema.
    pub schema: u32,
    /// How much it may hold, in bytes.
    pub size_max: u64,
}

/// Whether a service is put away while nobody uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dormancy {
    /// As its profile says, if it could be woken.
    #[default]
    AsProfile,
    /// Not.
    Never,
    /// When nobody has used it for this long.
    After(Duration),
}

/// What becomes of services of a profile that nobody uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleSpec {
    /// After this long their processes are ended until somebody wants them; `None` for never.
    pub dormant_after: Option<Duration>,
    /// After this long the kernel is asked to take back memory of theirs; `None` for never.
    pub reclaim_after: Option<Duration>,
}

/// What a profile gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSpec {
    /// The CPUs that it runs on.
    pub cpus: Cpus,
    /// How long a waiter spins before it parks.
    pub spin: Spin,
    /// Whether it gets only what others leave: processors that are idle, and memory until somebody
    /// lacks it.
    pub best_effort: bool,
    /// How long requests may lie before its services take them: beyond that, those of best-effort
    /// profiles step aside. `None` where nobody has to.
    pub queue_delay: Option<Duration>,
    /// What each of its instances may use at most; the weights are of all of them together.
    pub resources: Resources,
    /// What each of its instances is promised of the host.
    pub place: PlaceSpec,
    /// What becomes of those that nobody uses.
    pub idle: IdleSpec,
}

/// What each instance of a profile is promised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceSpec {
    /// Cores of its own; none where it shares.
    pub cores: u32,
    /// In which units.
    pub whole: Whole,
    /// What becomes of the other threads of its cores.
    pub smt: Smt,
    /// Its share of CPUs that nobody has for himself, where it has no cores of its own.
    pub share: Millis,
    /// Memory, in bytes.
    pub memory: u64,
    /// Where its memory comes from.
    pub numa: Numa,
    /// What the host must be.
    pub needs: BTreeSet<String>,
}

/// A set of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cpus {
    /// All that the supervisor may use.
    All,
    /// These.
    List(Vec<usize>),
}

/// How long a waiter spins before it parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spin {
    /// This long; zero parks at once.
    For(Duration),
    /// It never parks.
    Forever,
}
