//! The daemon as a service of systemd.

use super::host::Host;
use super::{By, Finding, Group, Weight, judge};
use crate::systemd::payload;

/// What the units are tried with.
const LEAST: u32 = 252;
/// Where units lie, from what administrators write to what packages bring.
const UNITS: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// The links by which a boot starts what is enabled.
const ENABLED: [(&str, &str); 2] = [
    (
        "insulad.service",
        "etc/systemd/system/multi-user.target.wants/insulad.service",
    ),
    (
        "insulad.socket",
        "etc/systemd/system/sockets.target.wants/insulad.socket",
    ),
];
const WRITTEN: [&str; 4] = [
    "insulad.service",
    "insulad.socket",
    "insula-payload.service",
    "insula.slice",
];

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    if !host.has("run/systemd/system") {
        // Nothing else can be asked for where it is not there.
        return vec![judge(
            (Group::Systemd, "systemd", Weight::Recommended),
            false,
            "",
            (
                "systemd is not this host's first process: nobody starts insulad at a boot or \
                 after a crash, or keeps its control socket open meanwhile",
                "boot with systemd; or have another supervisor start insulad, by itself in the \
                 foreground",
            ),
        )];
    }
    let mut findings = vec![
        version(host),
        units(host),
        enabled(host),
        payload_unit(host),
    ];
    if host.by == By::Insulad {
        findings.extend([notified(host), score(host)].into_iter().flatten());
    }
    findings
}

fn version(host: &Host) -> Finding {
    let found = host.systemd;
    let text = found.map_or("of an unknown version".to_owned(), |v| v.to_string());
    judge(
        (Group::Systemd, "systemd", Weight::Recommended),
        found.is_some_and(|version| version >= LEAST),
        format!("systemd {text}"),
        (
            format!("systemd {text}: the units are tried with {LEAST} and later"),
            format!("a distribution with systemd {LEAST} or later, as Debian 12"),
        ),
    )
}

fn units(host: &Host) -> Finding {
    let lacking: Vec<_> = WRITTEN
        .into_iter()
        .filter(|unit| {
            !UNITS
                .iter()
                .any(|directory| host.has(&format!("{directory}/{unit}")))
        })
        .collect();
    judge(
        (Group::Systemd, "units", Weight::Recommended),
        lacking.is_empty(),
        "the units are installed",
        (
            format!(
                "not installed: {}; the daemon is nobody's service",
                lacking.join(", ")
            ),
            "`insulactl systemd install && systemctl daemon-reload`",
        ),
    )
}

fn enabled(host: &Host) -> Finding {
    let lacking: Vec<_> = ENABLED
        .into_iter()
        .filter(|(_, link)| !host.has(link))
        .map(|(unit, _)| unit)
        .collect();
    judge(
        (Group::Systemd, "enabled", Weight::Recommended),
        lacking.is_empty(),
        "a boot starts the daemon",
        (
            format!("a boot does not start {}", lacking.join(", ")),
            "`systemctl enable insulad`",
        ),
    )
}

fn payload_unit(host: &Host) -> Finding {
    judge(
        (Group::Systemd, "payload", Weight::Recommended),
        payload::find(&host.known.paths).is_some(),
        "services have a unit of their own: restarting the daemon's touches none of them",
        (
            "nobody holds the cgroup of the services: they have no cgroups of their own, or are in \
             the daemon's unit",
            "`insulactl shutdown`, then `systemctl enable --now insulad`, which brings its \
             insula-payload.service",
        ),
    )
}

fn notified(host: &Host) -> Option<Finding> {
    Some(judge(
        (Group::Systemd, "fd-store", Weight::Recommended),
        host.notified,
        "systemd watches the daemon, and keeps what tells how a service ended meanwhile",
        (
            "systemd does not watch this daemon: after a crash nobody starts it again or knows how \
             services ended meanwhile",
            "`insulactl shutdown`, then `systemctl start insulad`",
        ),
    ))
}

/// The daemon is to be the last that goes for want of memory.
fn score(host: &Host) -> Option<Finding> {
    let text = host.text("proc/self/oom_score_adj")?;
    let score: i32 = text.trim().parse().ok()?;
    Some(judge(
        (Group::Systemd, "oom-score", Weight::Recommended),
        score < 0,
        "the daemon is not the first to be killed when memory runs out",
        (
            "the daemon is killed for want of memory as soon as any service",
            "OOMScoreAdjust=-900 in insulad.service, as `insulactl systemd install` writes it",
        ),
    ))
}
