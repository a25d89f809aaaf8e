//! `service.toml`: what a release says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use insula_contract::id::ServiceName;
use insula_core::restart::RestartLimits;
use insula_core::service::INSTANCES_MAX;
use insula_core::spec::{DataSpec, Kind, Limits, Liveness, Network, RestartPolicy, ServiceSpec};
use nix::sys::signal::Signal;

use super::document::{self, Section, Value};
use super::edges;
use super::health::{self, Type};
use super::{Problems, Profiles, units};

/// The manifest's name in a release.
pub const MANIFEST: &str = "service.toml";

/// Longest wait that a manifest may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Sockets that a program is given at most.
const SOCKETS_MAX: usize = 6;
/// Smallest and largest store.
const STORE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 44;
/// The most descriptors of a process, as the kernel's own ceiling (`fs.nr_open`) usually is.
const OPEN_FILES_MAX: i64 = 1 << 20;

/// What a manifest is checked against.
pub struct Facts<'a> {
    /// The host's profiles.
    pub profiles: &'a Profiles,
    /// Why the release's file of this name cannot be run; `None` if it can.
    pub program: &'a dyn Fn(&str) -> Option<String>,
}

/// Checks the text of a manifest, which a person knows as `file`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_manifest(file: &str, text: &str, facts: &Facts<'_>) -> Result<ServiceSpec, Problems> {
    document::read(file, text, |root| {
        let name = root.required("name", Value::parsed);
        let version = root.required("version", Value::parsed);
        let description = root.optional("description", String::new(), Value::text);
        let run = root.required("run", |value| value.section(|run| read_run(run, facts)));
        let provides = root.optional("provides", BTreeMap::new(), |value| {
            edges::contracts(value, edges::offer)
        });
        let requires = root.optional("requires", BTreeMap::new(), |value| {
            edges::contracts(value, edges::need)
        });
        let after = root.optional("after", BTreeSet::new(), |value| {
            let names: Vec<ServiceName> = value.list(Value::parsed)?;
            Some(names.into_iter().collect())
        });
        let several = run.as_ref().is_some_and(|run| run.instances > 1);
        let data = root.optional("data", None, |value| {
            if several {
                return value.wrong_but(
                    "a store is written by one process at a time",
                    "set `instances = 1`, or keep the data in a service of its own",
                );
            }
            value.section(read_data)
        });
        let (run, provides, requires) = (run?, provides?, requires?);
        let speaks = !provides.is_empty() || !requires.is_empty() || data != Some(None);
        if run.kind != Kind::Native && speaks {
            return root.find("run")?.wrong_but(
                "a foreign program or a task has no contracts and no store of Insula's",
                "leave out `provides`, `requires` and `data`",
            );
        }
        Some(ServiceSpec {
            name: name?,
            version: version?,
            description: description?,
            command: run.command,
            kind: run.kind,
            before_start: run.before_start,
            liveness: run.liveness,
            watchdog: run.watchdog,
            restarts: run.restarts,
            profile: run.profile,
            sockets: run.sockets,
            instances: run.instances,
            ready_timeout: run.ready_timeout,
            drain_timeout: run.drain_timeout,
            stop_timeout: run.stop_timeout,
            stop_signal: run.stop_signal,
            autostart: run.autostart,
            restart: run.restart,
            expected_exit_codes: run.expected_exit_codes,
            network: run.network,
            listen: run.listen,
            environment: run.environment,
            limits: run.limits,
            provides,
            requires,
            after: after?,
            data: data?,
        })
    })
}

/// What the table `run` says.
struct Run {
    command: Vec<String>,
    kind: Kind,
    before_start: Vec<Vec<String>>,
    liveness: Option<Liveness>,
    watchdog: Option<Duration>,
    restarts: RestartLimits,
    sockets: BTreeMap<String, SocketAddr>,
    profile: String,
    instances: u16,
    ready_timeout: Duration,
    drain_timeout: Duration,
    stop_timeout: Duration,
    stop_signal: i32,
    autostart: bool,
    restart: RestartPolicy,
    expected_exit_codes: BTreeSet<i32>,
    network: Network,
    listen: Vec<u16>,
    environment: BTreeMap<String, String>,
    limits: Limits,
}

fn read_run(run: &Section<'_>, facts: &Facts<'_>) -> Option<Run> {
    let command = run.required("command", |value| command(value, facts));
    let of = run.optional("type", Type::Native, |value| {
        value.one_of(&[
            ("native", Type::Native),
            ("foreign", Type::Foreign),
            ("task", Type::Task),
        ])
    });
    let kind = health::kind(run, of, facts);
    let before_start = run.optional("before-start", Vec::new(), |value| {
        health::before_start(value, facts)
    });
    let liveness = run.optional("liveness", None, |value| {
        if of == Some(Type::Task) {
            return value.wrong("a task has its `ready-timeout`");
        }
        health::liveness(value, facts)
    });
    let watchdog = health::watchdog(run, of);
    let restarts = run.optional("restarts", RestartLimits::default(), health::restarts);
    let sockets = run.optional("sockets", BTreeMap::new(), |value| {
        if of == Some(Type::Native) {
            return value.wrong_but(
                "only foreign programs are given sockets",
                "set `type = \"foreign\"`",
            );
        }
        read_sockets(value)
    });
    let profile = run.required("profile", |value| profile(value, facts.profiles));
    let second = Duration::from_secs(1);
    // A task may take its time; what is to serve may not.
    let ready = if of == Some(Type::Task) {
        TIMEOUT_MAX
    } else {
        30 * second
    };
    let ready_timeout = run.optional("ready-timeout", ready, |v| timeout(v, false));
    let drain_timeout = run.optional("drain-timeout", 5 * second, |v| timeout(v, true));
    let stop_timeout = run.optional("stop-timeout", 10 * second, |v| timeout(v, true));
    let stop_signal = run.optional("stop-signal", Signal::SIGTERM as i32, signal);
    let autostart = run.optional("autostart", true, Value::boolean);
    let restart = if of == Some(Type::Task) {
        RestartPolicy::OnFailure
    } else {
        RestartPolicy::Always
    };
    let restart = run.optional("restart", restart, |value| {
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
    let expected_exit_codes = run.optional("expected-exit-codes", BTreeSet::from([0]), |value| {
        let codes = value.list(|code| i32::try_from(code.integer(0..=255)?).ok())?;
        Some(codes.into_iter().collect())
    });
    let network = run.optional("network", Network::None, |value| {
        value.one_of(&[
            ("none", Network::None),
            ("loopback", Network::Loopback),
            ("any", Network::Any),
        ])
    });
    let listen = run.optional("listen", Vec::new(), |value| {
        let ports = value.list(|port| u16::try_from(port.integer(1..=65_535)?).ok())?;
        if !ports.is_empty() && network == Some(Network::None) {
            return value.wrong_but(
                "a service without network cannot listen",
                "set `network = \"loopback\"`, or `\"any\"`",
            );
        }
        Some(ports)
    });
    let instances = run.optional("instances", 1, |value| {
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
    let environment = run.optional("environment", BTreeMap::new(), |value| {
        Some(value.entries(variable)?.into_iter().collect())
    });
    let limits = run.optional("limits", Limits::default(), |value| {
        value.section(read_limits)
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
        limits: limits?,
    })
}

pub(super) fn command(value: &Value<'_>, facts: &Facts<'_>) -> Option<Vec<String>> {
    let mut is_program = true;
    let words = value.list(|word| {
        let text = word.text()?;
        if std::mem::take(&mut is_program)
            && let Some(reason) = (facts.program)(&text)
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

fn read_limits(limits: &Section<'_>) -> Option<Limits> {
    let default = Limits::default();
    let open_files = limits.optional("open-files", default.open_files, |value| {
        u64::try_from(value.integer(64..=OPEN_FILES_MAX)?).ok()
    });
    Some(Limits {
        open_files: open_files?,
    })
}

fn read_data(data: &Section<'_>) -> Option<Option<DataSpec>> {
    let store = data.required("store", Value::boolean);
    let schema = data.optional("schema", 1, |value| {
        u32::try_from(value.integer(1..=i64::from(u32::MAX))?).ok()
    });
    let size_max = data.optional("size-max", 1 << 30, |value| {
        let text = value.text()?;
        match units::size(&text) {
            Some(bytes) if STORE.contains(&bytes) => Some(bytes),
            Some(_) => {
                let [least, most] =
                    [STORE.start(), STORE.end()].map(|size| units::size_text(*size));
                value.wrong(format!("{text} is not between {least} and {most}"))
            }
            None => value.wrong_but(
                format!("`{text}` is no size"),
                "write a whole number and its unit, like \"512MiB\" or \"4GiB\"",
            ),
        }
    });
    let spec = DataSpec {
        schema: schema?,
        size_max: size_max?,
    };
    Some(store?.then_some(spec))
}
