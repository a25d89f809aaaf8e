//! Memory and NUMA nodes.

use super::host::Host;
use super::{Finding, Group, Weight, judge};

/// What Linux gives by itself, and what a service of some hundred edges needs.
const MAPS: u64 = 65_530;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![overcommit(host), swap(host), maps(host)];
    findings.extend(numa(host));
    findings
}

fn overcommit(host: &Host) -> Finding {
    judge(
        (Group::Memory, "overcommit", Weight::Recommended),
        host.number("proc/sys/vm/overcommit_memory") != Some(2),
        "memory that services ask for is given when they touch it",
        (
            "the kernel refuses memory that is asked for and may never be touched, as stacks of \
             threads are (vm.overcommit_memory=2): fewer services fit than their use would let",
            "`sysctl vm.overcommit_memory=0`",
        ),
    )
}

fn swap(host: &Host) -> Finding {
    let meminfo = host.text("proc/meminfo").unwrap_or_default();
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("SwapTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    judge(
        (Group::Memory, "swap", Weight::Recommended),
        total > 0,
        format!(
            "{} MiB of swap: memory that idle services do not use can be put away",
            total / 1024
        ),
        (
            "no swap: memory that idle services do not use stays where it is",
            "`fallocate -l 4G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon \
             /swapfile`, and a line in /etc/fstab; or zram",
        ),
    )
}

fn maps(host: &Host) -> Finding {
    let most = host.number("proc/sys/vm/max_map_count").unwrap_or(MAPS);
    judge(
        (Group::Memory, "maps", Weight::Recommended),
        most >= MAPS,
        format!("a process may have {most} mappings (vm.max_map_count)"),
        (
            format!(
                "a process may have {most} mappings (vm.max_map_count): each edge of a service \
                 takes some"
            ),
            format!("`sysctl vm.max_map_count={MAPS}`"),
        ),
    )
}

/// On a host of several nodes: what a person sees them with.
fn numa(host: &Host) -> Option<Finding> {
    let entries = std::fs::read_dir(host.root.join("sys/devices/system/node")).ok()?;
    let nodes = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node"));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .count();
    let tool = ["usr/bin", "bin", "usr/local/bin"]
        .iter()
        .any(|directory| host.has(&format!("{directory}/numactl")));
    (nodes > 1).then(|| {
        judge(
            (Group::Memory, "numa", Weight::Recommended),
            tool,
            format!("{nodes} NUMA nodes; `numactl --hardware` and numastat show them"),
            (
                format!(
                    "{nodes} NUMA nodes, and no numactl or numastat to see whose memory is where; \
                     placement works without"
                ),
                "`apt install numactl`, or your system's package of that name",
            ),
        )
    })
}
