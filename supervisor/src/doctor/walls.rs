//! The kernel, and what keeps services apart.

use std::fs;

use super::host::{Host, UIDS};
use super::{Finding, Group, Verdict, Weight, judge};
use crate::launch::Wall;
use crate::ledger::FIRST_UID;

/// The least Linux that everything is there of that nothing can do without: `futex_waitv`.
const LEAST: (u32, u32) = (5, 16);

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![linux(host)];
    findings.extend(host.known.walls.iter().map(|wall| of_wall(host, wall)));
    findings.extend([uid_range(host), mount_namespace(host)]);
    findings
}

fn linux(host: &Host) -> Finding {
    let text = host.text("proc/sys/kernel/osrelease").unwrap_or_default();
    let release = text.trim();
    let (major, minor) = LEAST;
    judge(
        (Group::Kernel, "linux", Weight::Required),
        host.linux().is_some_and(|version| version >= LEAST),
        format!("Linux {release}"),
        (
            format!("Linux {release}: services wait for several words at once (futex_waitv)"),
            boot(&format!("{major}.{minor}")),
        ),
    )
}

fn boot(version: &str) -> String {
    format!("boot Linux {version} or later")
}

/// A wall that was tried, with its weight and the way to mend it.
fn of_wall(host: &Host, wall: &Wall) -> Finding {
    let required = |required| {
        if required {
            Weight::Required
        } else {
            Weight::Recommended
        }
    };
    let (group, weight, mend) = match wall.name.as_str() {
        "own-uids" => (
            Group::Walls,
            Weight::Required,
            "run insulad as root: `systemctl enable --now insulad`".to_owned(),
        ),
        // An older ABI keeps services from opening files, not from truncating them.
        "files" => (
            Group::Walls,
            required(host.known.landlock == 0),
            landlock(host, "6.2"),
        ),
        "tcp-ports" => (Group::Walls, Weight::Recommended, landlock(host, "6.7")),
        "signals" => (Group::Walls, Weight::Recommended, landlock(host, "6.12")),
        "system-calls" => (
            Group::Walls,
            Weight::Required,
            "boot a kernel with CONFIG_SECCOMP_FILTER=y, on x86_64 or aarch64".to_owned(),
        ),
        "identity" => (Group::Kernel, Weight::Recommended, boot("6.9")),
        "exits-while-away" => (Group::Kernel, Weight::Recommended, boot("6.15")),
        "cgroups" | "limits" => (
            Group::Cgroups,
            Weight::Recommended,
            super::cgroups::delegate(host),
        ),
        "data-quotas" => (
            Group::FileSystems,
            Weight::Recommended,
            "for ext4: unmount it, `tune2fs -O quota DEVICE`, and mount it with `usrquota`; for XFS: \
             mount it with `uquota`; on Linux 5.14 or later"
                .to_owned(),
        ),
        // A wall of which nothing is known here is shown all the same.
        _ => (
            Group::Walls,
            Weight::Recommended,
            "see ARCHITECTURE.md".to_owned(),
        ),
    };
    let mend = if wall.text.contains("--isolation none") {
        "start insulad without `--isolation none`".to_owned()
    } else {
        mend
    };
    Finding {
        group,
        name: wall.name.clone(),
        verdict: if wall.holds {
            Verdict::Ok
        } else {
            Verdict::Missing {
                required: weight == Weight::Required,
                mend,
            }
        },
        text: wall.text.clone(),
    }
}

/// A kernel that has Landlock may not have been told to use it.
fn landlock(host: &Host, version: &str) -> String {
    let active = host
        .text("sys/kernel/security/lsm")
        .map(|text| text.trim().to_owned())
        .filter(|active| !active.is_empty());
    match active {
        Some(active) if host.known.landlock == 0 && host.linux() >= Some((5, 13)) => format!(
            "kernel parameter `lsm=landlock,{active}`, of a kernel with CONFIG_SECURITY_LANDLOCK=y"
        ),
        _ => boot(version),
    }
}

/// Nobody else may have a user id of the services' range.
fn uid_range(host: &Host) -> Finding {
    let last = FIRST_UID + UIDS - 1;
    let users = host.text("etc/passwd").unwrap_or_default();
    let of_file = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        (FIRST_UID..=last).contains(&uid).then(|| {
            (
                format!("user `{name}` has {uid}"),
                format!("`usermod --uid N {name}`, with N below {FIRST_UID}"),
            )
        })
    });
    let of_service = host.stranger.as_ref().map(|name| {
        (
            format!("the name service knows user `{name}` there"),
            format!("give `{name}` a user id below {FIRST_UID}"),
        )
    });
    let of_ranges = ["etc/subuid", "etc/subgid"].into_iter().find_map(|file| {
        host.text(file)?.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let first: u64 = fields.next()?.trim().parse().ok()?;
            let count: u64 = fields.next()?.trim().parse().ok()?;
            let overlaps =
                first <= u64::from(last) && first.saturating_add(count) > u64::from(FIRST_UID);
            overlaps.then(|| {
                (
                    format!("`{name}` has {line} in /{file}"),
                    format!("end the range of `{name}` in /{file} below {FIRST_UID}"),
                )
            })
        })
    });
    let taken = of_file.or(of_service).or(of_ranges);
    let holds = taken.is_none();
    let (who, mend) = taken.unwrap_or_default();
    judge(
        (Group::Walls, "uid-range", Weight::Required),
        holds,
        format!("user ids from {FIRST_UID} to {last} are free for services"),
        (
            format!("{who}: it would open a service's data, one user id being both"),
            mend,
        ),
    )
}

/// What the daemon mounts must be seen by the host and by the next daemon.
fn mount_namespace(host: &Host) -> Finding {
    let namespace = |of: &str| fs::read_link(host.root.join(format!("proc/{of}/ns/mnt"))).ok();
    let (own, first) = (namespace("self"), namespace("1"));
    // Without root's rights that of the first process cannot be read.
    let apart = own.is_some() && first.is_some() && own != first;
    judge(
        (Group::Walls, "mount-namespace", Weight::Required),
        !apart,
        "the daemon sees the host's mounts, and the next one will see its channels",
        (
            "the daemon has a mount namespace of its own: the next one would not see the channels \
             of living services",
            "take PrivateTmp=, ProtectSystem= and the like out of the unit: `systemctl revert \
             insulad`",
        ),
    )
}
