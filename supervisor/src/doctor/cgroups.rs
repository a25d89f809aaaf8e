//! What bounds what services use.

use super::host::Host;
use super::{Finding, Group, Weight, judge};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![pressure(host)];
    findings.extend(oom_group(host));
    findings.extend(tasks(host));
    findings
}

/// How services get cgroups of their own.
pub(super) fn delegate(host: &Host) -> String {
    let mounts = host.text("proc/self/mounts").unwrap_or_default();
    let mut kinds = mounts.lines().filter_map(|line| line.split(' ').nth(2));
    // Controllers are in one hierarchy only: with any of the old ones mounted they are there.
    if !host.has("run/systemd/system") {
        "run insulad under its systemd units (`insulactl systemd install`), with cgroup v2 alone"
            .to_owned()
    } else if kinds.any(|kind| kind == "cgroup") {
        "kernel parameters `systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all`".to_owned()
    } else {
        "`systemctl enable --now insulad`, which brings its insula-payload.service".to_owned()
    }
}

fn pressure(host: &Host) -> Finding {
    judge(
        (Group::Cgroups, "pressure", Weight::Recommended),
        host.text("proc/pressure/cpu").is_some(),
        "the kernel tells who waits for processors (PSI): best-effort services step aside by it",
        (
            "the kernel does not tell who waits for processors (PSI): best-effort services step \
             aside only for requests that lie too long",
            "kernel parameter `psi=1`",
        ),
    )
}

/// Looked for only where memory is limited at all.
fn oom_group(host: &Host) -> Option<Finding> {
    let group = host.known.group.as_ref()?;
    group.join("memory.max").exists().then(|| {
        judge(
            (Group::Cgroups, "oom-group", Weight::Recommended),
            group.join("memory.oom.group").exists(),
            "an instance that has no more memory is killed as a whole (memory.oom.group)",
            (
                "an instance that has no more memory may lose one of its processes only \
                 (memory.oom.group)",
                "boot Linux 4.19 or later",
            ),
        )
    })
}

/// The number of processes that the cgroup of all services may have.
fn tasks(host: &Host) -> Option<Finding> {
    let group = host.known.group.as_ref()?;
    let (most, of) = group
        .ancestors()
        .filter_map(|group| {
            let text = std::fs::read_to_string(group.join("pids.max")).ok()?;
            Some((text.trim().parse::<u64>().ok()?, group))
        })
        .min_by_key(|(most, _)| *most)
        .map_or((u64::MAX, None), |(most, of)| (most, Some(of)));
    let needed = host.services * super::limits::TASKS;
    let unit = of.and_then(|of| of.file_name()?.to_str()).unwrap_or("");
    Some(judge(
        (Group::Cgroups, "tasks", Weight::Recommended),
        most >= needed,
        format!("{} services have room for their threads", host.services),
        (
            format!(
                "{} services need about {needed} processes and threads, and the cgroup {unit} may \
                 have {most}",
                host.services
            ),
            format!("`systemctl set-property {unit} TasksMax=infinity`"),
        ),
    ))
}
