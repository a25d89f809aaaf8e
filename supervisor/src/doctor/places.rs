//! Where things lie.

use super::host::Host;
use super::{Finding, Group, Weight, judge};

/// Less than this is too little for any release.
const LEAST_FREE: u64 = 1 << 30;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings: Vec<_> = [run(host), programs(host), data(host)]
        .into_iter()
        .flatten()
        .collect();
    findings.extend(room(host));
    findings
}

/// The run state is written at every start and must not outlive a boot.
fn run(host: &Host) -> Option<Finding> {
    let run = host.known.paths.run();
    let mount = host.mount_of(run)?;
    Some(judge(
        (Group::FileSystems, "run-directory", Weight::Recommended),
        mount.kind == "tmpfs",
        format!("{} is in memory", run.display()),
        (
            format!(
                "{} is on {}: what only this boot must know is written to a disk at each start",
                run.display(),
                mount.kind
            ),
            format!(
                "before insulad starts: `mount -t tmpfs -o mode=0711 insula-run {}`",
                run.display()
            ),
        ),
    ))
}

/// Services are run from the depot.
fn programs(host: &Host) -> Option<Finding> {
    let lib = host.known.paths.lib();
    let mount = host.mount_of(lib)?;
    let against = ["noexec", "ro"]
        .into_iter()
        .find(|option| mount.has(option));
    let place = mount.place.display();
    Some(judge(
        (Group::FileSystems, "programs", Weight::Required),
        against.is_none(),
        format!("releases can be installed and run below {}", lib.display()),
        (
            format!(
                "{place} is mounted {}: no release can be installed and run from it",
                against.unwrap_or_default()
            ),
            match against {
                Some("ro") => format!("`mount -o remount,rw {place}`"),
                _ => format!("`mount -o remount,exec {place}`"),
            },
        ),
    ))
}

/// Acknowledged writes are to outlive a boot.
fn data(host: &Host) -> Option<Finding> {
    let lib = host.known.paths.lib();
    let mount = host.mount_of(lib)?;
    Some(judge(
        (Group::FileSystems, "data", Weight::Recommended),
        !matches!(mount.kind.as_str(), "tmpfs" | "ramfs"),
        format!("{} is on {}", lib.display(), mount.kind),
        (
            format!(
                "{} is on {}: releases and the services' data are gone after a boot",
                lib.display(),
                mount.kind
            ),
            format!("put a disk at {}: a line in /etc/fstab", lib.display()),
        ),
    ))
}

fn room(host: &Host) -> Option<Finding> {
    let lib = host.known.paths.lib();
    let space = host.data?;
    let free = space.free >> 20;
    Some(judge(
        (Group::FileSystems, "room", Weight::Recommended),
        space.free >= LEAST_FREE,
        format!(
            "{free} of {} MiB are free for releases and data",
            space.total >> 20
        ),
        (
            format!("{free} MiB are free for releases and data: services that write will fail"),
            format!("free or add space at {}", lib.display()),
        ),
    ))
}
