//! The table `run` of a manifest: the program, and how it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use insula_core::restart::RestartLimits;
use insula_core::service::INSTANCES_MAX;
use insula_core::spec::{
    Dormancy, HostAccess, HostUser, Kind, Limits, Liveness, Network, OutputSpec, RestartPolicy,
    ServiceSpec,
};
use nix::sys::signal::Signal;

use super::document::{Section, Value};
use super::health::{self, Type};
use super::limits::Whose;
use super::manifest::{Facts, Subject};
use super::{Profiles, units};

/// Longest wait that a manifest may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Sockets that a program is given at most.
const SOCKETS_MAX: usize = 6;
/// The most descriptors of a process, as the kernel's own ceiling (`fs.nr_open`) usually is.
const OPEN_FILES_MAX: i64 = 1 << 20;
const PROCESSES_MAX: i64 = 1 << 22;
/// Smallest and largest limit of a file.
const FILE_SIZE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;

/// What the table `run` says.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) command: Vec<String>,
    pub(super) kind: Kind,
    pub(super) before_start: Vec<Vec<String>>,
    pub(super) liveness: Option<Liveness>,
    pub(super) watchdog: Option<Duration>,
    pub(super) restarts: RestartLimits,
    pub(super) sockets: BTreeMap<String, SocketAddr>,
    pub(super) profile: String,
    pub(super) instances: u16,
    pub(super) ready_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) stop_signal: i32,
    pub(super) autostart: bool,
    pub(super) restart: RestartPolicy,
    pub(super) expected_exit_codes: BTreeSet<i32>,
    pub(super) network: Network,
    pub(super) listen: Vec<u16>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) host: HostAccess,
    pub(super) limits: Limits,
    pub(super) output: OutputSpec,
    pub(super) dormancy: Dormancy,
}

impl Run {
    /// What holds of a program of this type unless its manifest says otherwise.
    fn defaults(of: Type) -> Self {
        let second = Duration::from_secs(1);
        let task = of == Type::Task;
        Self {
            command: Vec::new(),
            kind: health::default_kind(of),
            before_start: Vec::new(),
            liveness: None,
            watchdog: health::default_watchdog(of),
            restarts: RestartLimits::default(),
            sockets: BTreeMap::new(),
            profile: String::new(),
            instances: 1,
            // A task may take its time; what is to serve may not.
            ready_timeout: if task { TIMEOUT_MAX } else { 30 * second },
            drain_timeout: 5 * second,
            stop_timeout: 10 * second,
            stop_signal: Signal::SIGTERM as i32,
            autostart: true,
            restart: if task {
                RestartPolicy::OnFailure
            } else {
                RestartPolicy::Always
            },
            expected_exit_codes: BTreeSet::from([0]),
            network: Network::None,
            listen: Vec::new(),
            environment: BTreeMap::new(),
            host: HostAccess::default(),
            limits: Limits::default(),
            output: OutputSpec::default(),
            dormancy: Dormancy::AsProfile,
        }
    }

    /// What a checked manifest said.
    pub(super) fn of(spec: &ServiceSpec) -> Self {
        let spec = spec.clone();
        Self {
            command: spec.command,
            kind: spec.kind,
            before_start: spec.before_start,
            liveness: spec.liveness,
            watchdog: spec.watchdog,
            restarts: spec.restarts,
            sockets: spec.sockets,
            profile: spec.profile,
            instances: spec.instances,
            ready_timeout: spec.ready_timeout,
            drain_timeout: spec.drain_timeout,
            stop_timeout: spec.stop_timeout,
            stop_signal: spec.stop_signal,
            autostart: spec.autostart,
            restart: spec.restart,
            expected_exit_codes: spec.expected_exit_codes,
            network: spec.network,
            listen: spec.listen,
            environment: spec.environment,
            host: spec.host,
            limits: spec.limits,
            output: spec.output,
            dormancy: spec.dormancy,
        }
    }
}

fn read_type(run: &Section<'_>, subject: Subject<'_>) -> Option<Type> {
    let default = match subject {
        Subject::Release => Type::Native,
        Subject::Defined(_) => Type::Foreign,
        Subject::Override(base) => match base.kind {
            Kind::Native => Type::Native,
            Kind::Foreign(_) => Type::Foreign,
            Kind::Task => Type::Task,
        },
    };
    run.optional("type", default, |value| {
        let of = value.one_of(&[
            ("native", Type::Native),
            ("foreign", Type::Foreign),
            ("task", Type::Task),
        ])?;
        match subject {
            Subject::Override(_) if of != default => {
                value.wrong("whether a release knows Insula is its own to say")
            }
            Subject::Defined(_) if of == Type::Native => value.wrong_but(
                "a native service is delivered as a release",
                "`insulactl install` installs one",
            ),
            Subject::Release | Subject::Defined(_) | Subject::Override(_) => Some(of),
        }
    })
}

/// Reads the table.
pub(super) fn read(run: &Section<'_>, facts: &Facts<'_>) -> Option<Run> {
    let of = read_type(run, facts.subject);
    let base = facts.subject.base();
    let was = match base {
        Some(base) => Run::of(base),
        None => Run::defaults(of.unwrap_or(Type::Native)),
    };
    let command = match base {
        Some(_) => run.optional("command", was.command, |value| command(value, facts)),
        None => run.required("command", |value| command(value, facts)),
    };
    if let (Some(Type::Native), Some(command)) = (of, &command)
        && command[0].starts_with('/')
    {
        return run.find("command")?.wrong_but(
            "the program of a native service lies in its release",
            "write its path below the release, without a slash in front",
        );
    }
    let kind = health::kind(run, of, was.kind, facts);
    let before_start = run.optional("before-start", was.before_start, |value| {
        health::before_start(value, facts)
    });
    let liveness = run.optional("liveness", was.liveness, |value| {
        if of == Some(Type::Task) {
            return value.wrong("a task has its `ready-timeout`");
        }
        health::liveness(value, facts)
    });
    let watchdog = health::watchdog(run, of, was.watchdog);
    let restarts = run.optional("restarts", was.restarts, |value| {
        health::restarts(value, was.restarts)
    });
    let sockets = run.optional("sockets", was.sockets, |value| {
        if of == Some(Type::Native) {
            return value.wrong_but(
                "only foreign programs are given sockets",
                "set `type = \"foreign\"`",
            );
        }
        read_sockets(value)
    });
    let profile = match base {
        Some(_) => run.optional("profile", was.profile, |v| profile(v, facts.profiles)),
        None => run.required("profile", |value| profile(value, facts.profiles)),
    };
    let ready_timeout = run.optional("ready-timeout", was.ready_timeout, |v| timeout(v, false));
    let drain_timeout = run.optional("drain-timeout", was.drain_timeout, |v| timeout(v, true));
    let stop_timeout = run.optional("stop-timeout", was.stop_timeout, |v| timeout(v, true));
    let stop_signal = run.optional("stop-signal", was.stop_signal, signal);
    let autostart = run.optional("autostart", was.autostart, Value::boolean);
    let restart = run.optional("restart", was.restart, |value| {
        let policy = value.one_of(&[
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ])?;
        if of == Some(Type::Task) && policy == RestartPolicy::Always {
            return value.wrong("a task that is done is not started again");
        }
        Some(policy)
    });
    let expected_exit_codes =
        run.optional("expected-exit-codes", was.expected_exit_codes, |value| {
            let codes = value.list(|code| i32::try_from(code.integer(0..=255)?).ok())?;
            Some(codes.into_iter().collect())
        });
    let network = run.optional("network", was.network, |value| {
        value.one_of(&[
            ("none", Network::None),
            ("loopback", Network::Loopback),
            ("any", Network::Any),
        ])
    });
    let listen = run.optional("listen", was.listen, |value| {
        let ports = value.list(|port| u16::try_from(port.integer(1..=65_535)?).ok())?;
        if !ports.is_empty() && network == Some(Network::None) {
            return value.wrong_but(
                "a service without network cannot listen",
                "set `network = \"loopback\"`, or `\"any\"`",
            );
        }
        Some(ports)
    });
    let instances = run.optional("instances", was.instances, |value| {
        let instances = value.integer(1..=i64::from(INSTANCES_MAX))? as u16;
        if instances > 1 && of == Some(Type::Task) {
            return value.wrong("a task is done once");
        }
        if instances > 1 && listen.as_ref().is_some_and(|ports| !ports.is_empty()) {
            return value.wrong_but(
                "only one process can listen on a port",
                "set `instances = 1`, or let the service listen on none",
            );
        }
        Some(instances)
    });
    let environment = run.optional("environment", was.environment.clone(), |value| {
        let mut all = was.environment;
        all.extend(value.entries(variable)?);
        Some(all)
    });
    let host = read_host(run, of, was.host);
    let limits = run.optional("limits", was.limits.clone(), |value| {
        let name = profile.as_deref().unwrap_or_default();
        let given = facts.profiles.get(name).map(|profile| profile.resources);
        let given = given.unwrap_or_default();
        let whose = Whose::Service(name, &given);
        value.section(|limits| read_limits(limits, was.limits, whose))
    });
    let output = run.optional("output", was.output.clone(), |value| {
        value.section(|keys| super::output::read(keys, was.output))
    });
    let dormancy = run.optional("dormant-after", was.dormancy, |value| {
        Some(match super::profiles::idle_time(value)? {
            Some(after) => Dormancy::After(after),
            None => Dormancy::Never,
        })
    });
    Some(Run {
        command: command?,
        kind: kind?,
        before_start: before_start?,
        liveness: liveness?,
        watchdog: watchdog?,
        restarts: restarts?,
        sockets: sockets?,
        profile: profile?,
        instances: instances?,
        ready_timeout: ready_timeout?,
        drain_timeout: drain_timeout?,
        stop_timeout: stop_timeout?,
        stop_signal: stop_signal?,
        autostart: autostart?,
        restart: restart?,
        expected_exit_codes: expected_exit_codes?,
        network: network?,
        listen: listen?,
        environment: environment?,
        host: host?,
        limits: limits?,
        output: output?,
        dormancy: dormancy?,
    })
}

pub(super) fn command(value: &Value<'_>, facts: &Facts<'_>) -> Option<Vec<String>> {
    let mut is_program = true;
    let words = value.list(|word| {
        let text = word.text()?;
        if std::mem::take(&mut is_program)
            && let Some(reason) = why_no_program(&text, facts)
        {
            return word.wrong(reason);
        }
        Some(text)
    })?;
    if words.is_empty() {
        value.wrong("names no program")
    } else {
        Some(words)
    }
}

/// Why a program cannot be run; `None` if it can.
fn why_no_program(program: &str, facts: &Facts<'_>) -> Option<String> {
    if program.starts_with('/') {
        return why_no_program_of_the_host(program);
    }
    match facts.subject {
        Subject::Release | Subject::Override(_) => (facts.program)(program),
        Subject::Defined(_) => Some(format!(
            "`{program}` is not the whole path of a program of this host"
        )),
    }
}

/// A program of the host is run as it lies there, so nobody but root may change it.
fn why_no_program_of_the_host(program: &str) -> Option<String> {
    let found = match std::fs::metadata(program) {
        Ok(found) => found,
        Err(error) => return Some(format!("cannot look at `{program}`: {error}")),
    };
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_file() || found.mode() & 0o111 == 0 {
        Some(format!("`{program}` is no program"))
    } else if found.mode() & 0o022 != 0 || ![0, own].contains(&found.uid()) {
        Some(format!("others than root may change `{program}`"))
    } else {
        None
    }
}

fn profile(value: &Value<'_>, profiles: &Profiles) -> Option<String> {
    let name = value.text()?;
    if profiles.get(&name).is_some() {
        return Some(name);
    }
    let known: Vec<_> = profiles.names().collect();
    value.wrong_but(
        format!("no profile `{name}`; known: {}", known.join(", ")),
        "profiles are defined in the host's profiles.toml",
    )
}

fn read_sockets(value: &Value<'_>) -> Option<BTreeMap<String, SocketAddr>> {
    let sockets = value.entries(|name, address| {
        let fits = |c: char| c.is_ascii_graphic() && c != ':';
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return address.wrong("not the name of a socket: 1 to 64 letters without `:`");
        }
        Some((name.to_owned(), address.parsed::<SocketAddr>()?))
    })?;
    if sockets.len() > SOCKETS_MAX {
        return value.wrong(format!("more than {SOCKETS_MAX} sockets"));
    }
    Some(sockets.into_iter().collect())
}

pub(super) fn timeout(value: &Value<'_>, may_be_zero: bool) -> Option<Duration> {
    let duration = super::profiles::duration(value)?;
    if duration > TIMEOUT_MAX {
        value.wrong(format!("longer than {}", units::duration_text(TIMEOUT_MAX)))
    } else if duration.is_zero() && !may_be_zero {
        value.wrong("leaves no time at all")
    } else {
        Some(duration)
    }
}

fn signal(value: &Value<'_>) -> Option<i32> {
    let name = value.text()?;
    let known = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];
    let short = |signal: &Signal| signal.as_str().trim_start_matches("SIG").to_owned();
    match known
        .iter()
        .find(|signal| name == signal.as_str() || name == short(signal))
    {
        Some(signal) => Some(*signal as i32),
        None => {
            let known: Vec<_> = known.iter().map(short).collect();
            value.wrong(format!(
                "no stop signal `{name}`; known: {}",
                known.join(", ")
            ))
        }
    }
}

fn variable(name: &str, value: &Value<'_>) -> Option<(String, String)> {
    let text = value.text();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(word) || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return value.wrong("not the name of a variable: letters, digits and `_`");
    }
    if name.starts_with("INSULA_") {
        return value.wrong("variables that begin with INSULA_ are set by the supervisor");
    }
    Some((name.to_owned(), text?))
}

/// `reads`, `writes`, `directory` and `user`: only for programs that know nothing of Insula.
fn read_host(run: &Section<'_>, of: Option<Type>, was: HostAccess) -> Option<HostAccess> {
    let foreign = |value: &Value<'_>| -> Option<()> {
        if of == Some(Type::Native) {
            return value.wrong("a native service has its own files and its own user only");
        }
        Some(())
    };
    let path = |value: &Value<'_>| -> Option<String> {
        let path = value.text()?;
        let clean = path.split('/').all(|part| part != ".." && part != ".");
        if !path.starts_with('/') || path.len() < 2 || !clean {
            return value.wrong(format!("`{path}` is no absolute path below `/`"));
        }
        Some(path)
    };
    let paths = |value: &Value<'_>| -> Option<BTreeSet<String>> {
        foreign(value)?;
        Some(value.list(path)?.into_iter().collect())
    };
    let reads = run.optional("reads", was.reads, paths);
    let writes = run.optional("writes", was.writes, paths);
    let directory = run.optional("directory", was.directory, |value| {
        foreign(value)?;
        path(value).map(Some)
    });
    let user = run.optional("user", was.user, |value| {
        foreign(value)?;
        let name = value.text()?;
        match nix::unistd::User::from_name(&name) {
            Ok(Some(user)) if user.uid.is_root() => value.wrong("a service is never run as root"),
            Ok(Some(user)) => Some(Some(HostUser {
                uid: user.uid.as_raw(),
                name,
            })),
            Ok(None) => value.wrong(format!("this host has no user `{name}`")),
            Err(error) => value.wrong(format!("cannot look up user `{name}`: {error}")),
        }
    });
    Some(HostAccess {
        reads: reads?,
        writes: writes?,
        directory: directory?,
        user: user?,
    })
}

fn read_limits(limits: &Section<'_>, default: Limits, whose: Whose<'_>) -> Option<Limits> {
    let open_files = limits.optional("open-files", default.open_files, |value| {
        u64::try_from(value.integer(64..=OPEN_FILES_MAX)?).ok()
    });
    let processes = limits.optional("processes", default.processes, |value| {
        u64::try_from(value.integer(16..=PROCESSES_MAX)?).ok()
    });
    let file_size = limits.optional("file-size", default.file_size, |value| {
        if value.is("off") {
            return Some(None);
        }
        super::output::size(value, FILE_SIZE).map(Some)
    });
    let locked_memory = limits.optional("locked-memory", default.locked_memory, |value| {
        super::output::size(value, 0..=FILE_SIZE.end() - 1)
    });
    let resources = super::limits::read(limits, default.resources, whose);
    Some(Limits {
        open_files: open_files?,
        processes: processes?,
        file_size: file_size?,
        locked_memory: locked_memory?,
        resources: resources?,
    })
}
