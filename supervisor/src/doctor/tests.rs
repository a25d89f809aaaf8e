use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::host::Space;
use super::*;
use crate::launch::Wall;
use crate::paths::Paths;

const GIB: u64 = 1 << 30;

/// The files of a host as it should be.
const GOOD: [(&str, &str); 14] = [
    ("proc/sys/kernel/osrelease", "6.18.5-amd64\n"),
    ("proc/sys/kernel/pid_max", "4194304\n"),
    ("proc/sys/kernel/threads-max", "190000\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/fs/mount-max", "100000\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("proc/sys/vm/max_map_count", "1048576\n"),
    (
        "proc/meminfo",
        "MemTotal: 8388608 kB\nSwapTotal: 4194304 kB\n",
    ),
    ("proc/pressure/cpu", "some avg10=0.00\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 1048576              files\n",
    ),
    (
        "proc/self/mounts",
        "/dev/sda1 / ext4 rw,relatime 0 0\n\
         tmpfs /run tmpfs rw,nosuid,nodev,noexec 0 0\n\
         cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
    ),
    ("proc/self/oom_score_adj", "-900\n"),
    (
        "sys/kernel/security/lsm",
        "lockdown,capability,landlock,yama",
    ),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    ),
];

/// What else lies there: units, NUMA nodes and their tool.
const THERE: [&str; 9] = [
    "run/systemd/system/.keep",
    "etc/systemd/system/insulad.service",
    "etc/systemd/system/insulad.socket",
    "etc/systemd/system/insula-payload.service",
    "etc/systemd/system/insula.slice",
    "etc/systemd/system/multi-user.target.wants/insulad.service",
    "etc/systemd/system/sockets.target.wants/insulad.socket",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node1/cpulist",
];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn wall(name: &str, holds: bool) -> Wall {
    Wall {
        name: name.to_owned(),
        holds,
        text: format!("about {name}"),
    }
}

fn walls(hold: bool) -> Vec<Wall> {
    let names = [
        "own-uids",
        "files",
        "tcp-ports",
        "signals",
        "cgroups",
        "system-calls",
        "identity",
        "exits-while-away",
        "limits",
        "data-quotas",
    ];
    names.map(|name| wall(name, hold)).into()
}

/// A host below a directory, all of which is as it should be.
fn good(root: &Path) -> Host {
    for (path, text) in GOOD {
        write(root, path, text);
    }
    for path in THERE {
        write(root, path, "");
    }
    write(root, "usr/bin/numactl", "");
    for of in ["self", "1"] {
        fs::create_dir_all(root.join("proc").join(of).join("ns")).unwrap();
        symlink("mnt:[4026531841]", root.join(format!("proc/{of}/ns/mnt"))).unwrap();
    }
    let group = root.join("sys/fs/cgroup/insula.slice/insula-payload.service");
    for (file, text) in [
        ("pids.max", "max\n"),
        ("memory.max", "max\n"),
        ("memory.oom.group", "0\n"),
    ] {
        write(&group, file, text);
    }
    let paths = Paths::new(Some(root.join("insula")));
    // The payload's unit, as the daemon finds it.
    write(&group, "hold/cgroup.procs", "17\n");
    write(paths.run(), "payload", group.to_str().unwrap());
    // Paths of the daemon are those of the host that runs the test: the mounts name them.
    let mounts = format!(
        "/dev/sda1 / ext4 rw,relatime 0 0\n\
         tmpfs {} tmpfs rw,nosuid,nodev,noexec 0 0\n\
         cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        paths.run().display()
    );
    write(root, "proc/self/mounts", &mounts);
    Host {
        root: root.to_owned(),
        by: By::Insulad,
        uid: 0,
        services: 1_000,
        known: Known {
            walls: walls(true),
            landlock: 7,
            group: Some(group),
            paths,
        },
        data: Some(Space {
            total: 100 * GIB,
            free: 50 * GIB,
        }),
        stranger: None,
        systemd: Some(257),
        notified: true,
    }
}

/// One that lacks everything that a host can lack.
fn bad(root: &Path) -> Host {
    let mut host = good(root);
    for (path, text) in [
        ("proc/sys/kernel/osrelease", "4.18.0\n"),
        ("proc/sys/kernel/pid_max", "1024\n"),
        ("proc/sys/kernel/threads-max", "1024\n"),
        ("proc/sys/fs/file-max", "8192\n"),
        ("proc/sys/fs/mount-max", "100\n"),
        ("proc/sys/vm/overcommit_memory", "2\n"),
        ("proc/sys/vm/max_map_count", "4096\n"),
        ("proc/meminfo", "SwapTotal: 0 kB\n"),
        ("proc/self/limits", "Max open files   1024   4096   files\n"),
        ("proc/self/oom_score_adj", "0\n"),
        ("sys/kernel/security/lsm", "capability,yama"),
        ("etc/passwd", "eve:x:1879048200:1000::/home/eve:/bin/sh\n"),
    ] {
        write(root, path, text);
    }
    let lib = host.known.paths.lib().display().to_string();
    let mounts = format!("/dev/sda1 / ext4 rw 0 0\ntmpfs {lib} tmpfs rw,noexec 0 0\n");
    write(root, "proc/self/mounts", &mounts);
    fs::remove_file(root.join("proc/pressure/cpu")).unwrap();
    fs::remove_file(root.join("usr/bin/numactl")).unwrap();
    for unit in ["insulad.service", "multi-user.target.wants/insulad.service"] {
        fs::remove_file(root.join("etc/systemd/system").join(unit)).unwrap();
    }
    fs::remove_file(host.known.paths.run().join("payload")).unwrap();
    let link = root.join("proc/self/ns/mnt");
    fs::remove_file(&link).unwrap();
    symlink("mnt:[4026532999]", link).unwrap();
    let group = host.known.group.clone().unwrap();
    fs::remove_file(group.join("memory.oom.group")).unwrap();
    fs::write(group.join("pids.max"), "512\n").unwrap();
    host.known.walls = walls(false);
    host.known.landlock = 0;
    host.data = Some(Space {
        total: GIB,
        free: GIB / 100,
    });
    host.systemd = Some(245);
    host.notified = false;
    host
}

fn names(report: &Report, keep: impl Fn(&Finding) -> bool) -> Vec<&str> {
    let kept = report.findings.iter().filter(|finding| keep(finding));
    kept.map(|finding| finding.name.as_str()).collect()
}

fn find<'a>(report: &'a Report, name: &str) -> &'a Finding {
    let found = report.findings.iter().find(|of| of.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#?}"))
}

fn mend<'a>(report: &'a Report, name: &str) -> &'a str {
    match &find(report, name).verdict {
        Verdict::Missing { mend, .. } => mend,
        Verdict::Ok => panic!("{name} is not missing"),
    }
}

#[test]
fn a_good_host_lacks_nothing() {
    let root = tempfile::tempdir().unwrap();
    let report = examine(&good(root.path()));
    assert_eq!(names(&report, Finding::is_missing), Vec::<&str>::new());
    assert_eq!(report.findings.len(), 35, "{:?}", names(&report, |_| true));
}

#[test]
fn a_bad_host_lacks_all_of_it_and_each_can_be_mended() {
    let root = tempfile::tempdir().unwrap();
    let good = examine(&good(&root.path().join("good")));
    let report = examine(&bad(&root.path().join("bad")));
    assert_eq!(names(&report, |_| true), names(&good, |_| true));
    assert_eq!(names(&report, |of| !of.is_missing()), Vec::<&str>::new());
    assert_eq!(
        names(&report, Finding::is_grave),
        [
            "linux",
            "own-uids",
            "files",
            "system-calls",
            "uid-range",
            "mount-namespace",
            "programs"
        ]
    );
    for finding in &report.findings {
        let mend = mend(&report, &finding.name);
        let is_way = [
            "`",
            "boot ",
            "kernel parameter",
            ".service",
            "fstab",
            "space at",
        ]
        .iter()
        .any(|of| mend.contains(of));
        assert!(is_way || mend.starts_with("a distribution"), "{finding:?}");
        assert!(!finding.text.is_empty(), "{finding:?}");
    }
}

#[test]
fn findings_are_in_the_order_of_their_groups_and_their_names_are_one_word_each() {
    let root = tempfile::tempdir().unwrap();
    let report = examine(&good(root.path()));
    assert!(report.findings.is_sorted_by_key(|finding| finding.group));
    let mut names = names(&report, |_| true);
    assert!(names.iter().all(|name| !name.contains(' ')));
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn what_is_mended_by_a_setting_says_its_name_and_a_value_that_is_enough() {
    let root = tempfile::tempdir().unwrap();
    let mut host = bad(root.path());
    host.services = 5_000;
    let report = examine(&host);
    assert_eq!(mend(&report, "processes"), "`sysctl kernel.pid_max=32768`");
    write(root.path(), "proc/sys/kernel/pid_max", "32768");
    assert!(!find(&examine(&host), "processes").is_missing());
    assert_eq!(mend(&report, "mounts"), "`sysctl fs.mount-max=16384`");
    assert_eq!(mend(&report, "pressure"), "kernel parameter `psi=1`");
}

#[test]
fn a_kernel_that_was_not_told_to_use_landlock_is_told_apart_from_an_old_one() {
    let root = tempfile::tempdir().unwrap();
    let mut host = bad(root.path());
    assert_eq!(mend(&examine(&host), "files"), "boot Linux 6.2 or later");
    write(root.path(), "proc/sys/kernel/osrelease", "6.1.0-31-amd64");
    let told = examine(&host);
    assert!(mend(&told, "files").contains("lsm=landlock,capability,yama"));
    assert!(find(&told, "files").is_grave());
    host.known.landlock = 2;
    let older = examine(&host);
    assert_eq!(mend(&older, "files"), "boot Linux 6.2 or later");
    assert!(!find(&older, "files").is_grave());
}

#[test]
fn a_range_of_another_that_reaches_into_that_of_services_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let host = good(root.path());
    write(root.path(), "etc/subuid", "ann:100000:65536\n");
    assert!(!find(&examine(&host), "uid-range").is_missing());
    write(
        root.path(),
        "etc/subgid",
        "ann:100000:65536\nbob:1879048100:100\n",
    );
    assert!(find(&examine(&host), "uid-range").is_grave());
    write(root.path(), "etc/subgid", "bob:1879048100:92\n");
    assert!(!find(&examine(&host), "uid-range").is_missing());
}

#[test]
fn a_host_without_systemd_is_told_so_once() {
    let root = tempfile::tempdir().unwrap();
    let mut host = good(root.path());
    fs::remove_dir_all(root.path().join("run/systemd")).unwrap();
    host.notified = false;
    let report = examine(&host);
    let of_systemd = names(&report, |of| of.group == Group::Systemd);
    assert_eq!(of_systemd, ["systemd"]);
    assert!(!find(&report, "systemd").is_grave());
}

#[test]
fn without_walls_the_daemon_is_to_be_started_with_them() {
    let root = tempfile::tempdir().unwrap();
    let mut host = good(root.path());
    host.known.walls[0] = Wall {
        text: "not built: insulad was started with `--isolation none`".to_owned(),
        ..wall("own-uids", false)
    };
    let report = examine(&host);
    let expected = "start insulad without `--isolation none`";
    assert_eq!(mend(&report, "own-uids"), expected);
}
