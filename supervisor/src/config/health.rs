//! What a manifest says about starting, being ready, staying alive and being started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use insula_core::restart::RestartLimits;
use insula_core::spec::{Kind, Liveness, Probe, Readiness};

use super::document::{Section, Value};
use super::manifest::Facts;
use super::run::{command, timeout};

/// Commands before a start at most.
const STEPS_MAX: usize = 16;
/// How long a native service may leave a request unanswered and give no sign of life.
const WATCHDOG: Duration = Duration::from_secs(10);
/// Tries and restarts that can be asked for at most.
const TRIES_MAX: i64 = 1_000_000;

/// What kind of program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Native,
    Foreign,
    Task,
}

/// The kind of a program whose manifest does not say how it is known to be ready.
pub(super) fn default_kind(of: Type) -> Kind {
    match of {
        Type::Native => Kind::Native,
        Type::Foreign => Kind::Foreign(Readiness::Started),
        Type::Task => Kind::Task,
    }
}

/// The kind of a program, by its `type` and `ready`.
pub(super) fn kind(
    run: &Section<'_>,
    of: Option<Type>,
    was: Kind,
    facts: &Facts<'_>,
) -> Option<Kind> {
    run.optional("ready", was, |value| match of {
        Some(Type::Native) => value.wrong_but(
            "a native service says by itself when it is ready",
            "set `type = \"foreign\"` for a program that knows nothing of Insula",
        ),
        Some(Type::Task) => value.wrong("a task is ready when it has exited as expected"),
        Some(Type::Foreign) | None => Some(Kind::Foreign(readiness(value, facts)?)),
    })
}

fn readiness(value: &Value<'_>, facts: &Facts<'_>) -> Option<Readiness> {
    if !value.is_text() {
        return value
            .section(|keys| keys.required("command", |value| command(value, facts)))
            .map(|command| Readiness::Probe(Probe::Command(command)));
    }
    let text = value.text()?;
    match text.split_once(':').unwrap_or((&text, "")) {
        ("started", "") => return Some(Readiness::Started),
        ("notify", "") => return Some(Readiness::Notify),
        ("line", line) if !line.trim().is_empty() => {
            return Some(Readiness::Line(line.trim().to_owned()));
        }
        _ => {}
    }
    match probe(&text) {
        Some(probe) => Some(Readiness::Probe(probe)),
        None => value.wrong_but(
            format!("`{text}` is no way to be ready"),
            "write `started`, `notify`, `tcp:PORT`, `tcp:ADDRESS:PORT`, \
             `http://ADDRESS:PORT/PATH`, `line:TEXT` or { command = [...] }",
        ),
    }
}

/// A probe that is written as a text.
fn probe(text: &str) -> Option<Probe> {
    if let Some(rest) = text.strip_prefix("http://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = format!("/{path}");
        let plain = path.chars().all(|c| c.is_ascii_graphic());
        return Some(Probe::Http {
            address: address(host).filter(|_| plain)?,
            path,
            status: (200, 299),
        });
    }
    address(text.strip_prefix("tcp:")?).map(Probe::Tcp)
}

fn address(text: &str) -> Option<SocketAddr> {
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let text = text.strip_prefix("localhost:").unwrap_or(text);
    let address = text.parse::<u16>().map(here).or_else(|_| text.parse());
    address.ok().filter(|address| address.port() != 0)
}

/// `[run.liveness]`.
pub(super) fn liveness(value: &Value<'_>, facts: &Facts<'_>) -> Option<Option<Liveness>> {
    value.section(|keys| {
        let asked = keys.optional("probe", None, |value| {
            let text = value.text()?;
            match probe(&text) {
                Some(probe) => Some(Some(probe)),
                None => value.wrong_but(
                    format!("`{text}` is no probe"),
                    "write `tcp:PORT`, `tcp:ADDRESS:PORT` or `http://ADDRESS:PORT/PATH`, or use \
                     `command`",
                ),
            }
        });
        let run = keys.optional("command", None, |value| command(value, facts).map(Some));
        let every = keys.optional("every", Duration::from_secs(10), |v| timeout(v, false));
        let within = keys.optional("timeout", Duration::from_secs(5), |v| timeout(v, false));
        let failures = keys.optional("failures", 3, |value| {
            u32::try_from(value.integer(1..=TRIES_MAX)?).ok()
        });
        let probe = match (asked?, run?) {
            (Some(probe), None) => probe,
            (None, Some(command)) => Probe::Command(command),
            (None, None) | (Some(_), Some(_)) => {
                return value.wrong("needs one of `probe` and `command`");
            }
        };
        Some(Some(Liveness {
            probe,
            every: every?,
            timeout: within?,
            failures: failures?,
        }))
    })
}

/// The watchdog time of a program whose manifest does not say it.
pub(super) fn default_watchdog(of: Type) -> Option<Duration> {
    (of == Type::Native).then_some(WATCHDOG)
}

/// `watchdog`.
pub(super) fn watchdog(
    run: &Section<'_>,
    of: Option<Type>,
    was: Option<Duration>,
) -> Option<Option<Duration>> {
    run.optional("watchdog", was, |value| {
        if value.is("off") {
            return Some(None);
        }
        if of == Some(Type::Task) {
            return value.wrong("a task has its `ready-timeout`");
        }
        timeout(value, false).map(Some)
    })
}

/// `before-start`.
pub(super) fn before_start(value: &Value<'_>, facts: &Facts<'_>) -> Option<Vec<Vec<String>>> {
    let steps = value.list(|value| command(value, facts))?;
    if steps.len() > STEPS_MAX {
        return value.wrong(format!("more than {STEPS_MAX} commands"));
    }
    Some(steps)
}

/// `[run.restarts]`.
pub(super) fn restarts(value: &Value<'_>, default: RestartLimits) -> Option<RestartLimits> {
    value.section(|keys| {
        let base = keys.optional("wait", default.base, |v| timeout(v, false));
        let cap = keys.optional("longest-wait", default.cap, |v| timeout(v, false));
        let stable = keys.optional("stable-after", default.stable, |v| timeout(v, false));
        let start_tries = keys.optional("start-tries", default.start_tries, |value| {
            u32::try_from(value.integer(1..=TRIES_MAX)?).ok()
        });
        let intensity = keys.optional("most", default.intensity, |value| {
            usize::try_from(value.integer(0..=1_000)?).ok()
        });
        let window = keys.optional("within", default.window, |v| timeout(v, false));
        Some(RestartLimits {
            base: base?,
            cap: cap?,
            stable: stable?,
            start_tries: start_tries?,
            intensity: intensity?,
            window: window?,
        })
    })
}
