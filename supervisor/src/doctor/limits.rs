//! How many there can be of something, held against a number of services.
//!
//! The needs are round numbers above what was measured: a service with two edges has 30
//! descriptors, the daemon four for it, and two threads.

use super::host::Host;
use super::{By, Finding, Group, Weight, judge};

/// Processes and threads of a service.
pub(super) const TASKS: u64 = 4;
/// The daemon's descriptors for a service.
const DAEMONS: u64 = 8;
/// Descriptors of a service and of the daemon for it.
const OPEN: u64 = 40;
/// Edges of a service: each is a mount.
const EDGES: u64 = 2;
/// What the rest of the host needs.
const REST: u64 = 1_024;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings: Vec<_> = descriptors(host).into_iter().collect();
    let kernel = [
        ("open-files", "fs.file-max", OPEN, "open files of the host"),
        ("processes", "kernel.pid_max", TASKS, "process numbers"),
        ("threads", "kernel.threads-max", TASKS, "threads"),
        (
            "mounts",
            "fs.mount-max",
            EDGES,
            "mounts, of which each edge takes one",
        ),
    ];
    for (name, setting, each, what) in kernel {
        let path = format!("proc/sys/{}", setting.replace('.', "/"));
        let Some(most) = host.number(&path) else {
            continue;
        };
        let needed = host.services * each + REST;
        findings.push(judge(
            (Group::Limits, name, Weight::Recommended),
            most >= needed,
            format!("{setting} is {most}: {} services fit", host.services),
            (
                format!(
                    "{setting} is {most}, and {} services need about {needed} {what}",
                    host.services
                ),
                format!("`sysctl {setting}={}`", needed.next_power_of_two()),
            ),
        ));
    }
    findings
}

/// What who looks may open; the daemon says it of itself.
fn descriptors(host: &Host) -> Option<Finding> {
    let limits = host.text("proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    // `unlimited`
    let most = hard.parse().unwrap_or(u64::MAX);
    let needed = host.services * DAEMONS + REST;
    let whose = match host.by {
        By::Insulad => "the daemon",
        By::Insulactl => "what is started from here",
    };
    Some(judge(
        (Group::Limits, "descriptors", Weight::Recommended),
        most >= needed,
        format!(
            "{whose} may open {hard} files: {} services fit",
            host.services
        ),
        (
            format!(
                "{whose} may open {hard} files, and needs about {needed} for {} services",
                host.services
            ),
            "LimitNOFILE=1048576 in insulad.service, as `insulactl systemd install` writes it; \
             without systemd `ulimit -Hn 1048576`",
        ),
    ))
}
