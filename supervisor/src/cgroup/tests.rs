//! With plain directories in place of the kernel's.

use super::*;

const LIMITED: Resources = Resources {
    memory_high: None,
    memory_max: Some(64 << 20),
    pids_max: Some(20),
    cpu_max: None,
    cpu_weight: None,
    io_weight: None,
    data_max: None,
    data_files_max: None,
};
const HEAVY: Resources = Resources {
    memory_high: None,
    memory_max: None,
    pids_max: None,
    cpu_max: None,
    cpu_weight: Some(500),
    io_weight: None,
    data_max: None,
    data_files_max: None,
};
const NOTHING: Resources = Resources {
    cpu_weight: None,
    ..HEAVY
};

fn dense(limits: &Resources) -> Given<'_> {
    Given {
        profile: "dense",
        limits,
        best_effort: false,
    }
}

/// A directory that looks as the kernel's would with these controllers.
fn kernel(controllers: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
    fs::write(root.path().join("io.weight"), "default 100\n").unwrap();
    root
}

fn open(root: &tempfile::TempDir) -> Groups {
    Groups::at(root.path().to_owned()).unwrap()
}

fn read(root: &tempfile::TempDir, file: &str) -> Option<String> {
    fs::read_to_string(root.path().join(file)).ok()
}

#[test]
fn a_profile_is_written_once_and_an_instance_below_it() {
    let root = kernel("cpuset cpu io memory pids\n");
    let mut groups = open(&root);
    groups
        .make(Attempt(0x1f), &dense(&HEAVY), &LIMITED)
        .unwrap();
    let weight = "profile-dense/cpu.weight";
    assert_eq!(read(&root, weight).as_deref(), Some("500"));
    assert_eq!(
        read(&root, "profile-dense/io.weight").as_deref(),
        Some("100")
    );
    let own = |file: &str| read(&root, &format!("profile-dense/1f/{file}"));
    assert_eq!(own("memory.max").as_deref(), Some("67108864"));
    assert_eq!(own("memory.oom.group").as_deref(), Some("1"));
    assert_eq!(own("pids.max").as_deref(), Some("20"));
    assert_eq!(own("cpu.max"), None, "nobody asked");

    fs::remove_file(root.path().join(weight)).unwrap();
    groups
        .make(Attempt(0x20), &dense(&HEAVY), &NOTHING)
        .unwrap();
    assert_eq!(
        read(&root, weight),
        None,
        "a second start writes nothing there"
    );
    groups
        .make(Attempt(0x21), &dense(&NOTHING), &NOTHING)
        .unwrap();
    assert_eq!(
        read(&root, weight).as_deref(),
        Some("100"),
        "it weighs nothing any more"
    );
    assert_eq!(
        read(&root, "profile-dense/cpu.idle").as_deref(),
        Some("0"),
        "an ordinary profile"
    );
}

#[test]
fn a_best_effort_profile_is_in_the_idle_class_as_a_whole_and_weighs_nothing() {
    let root = kernel("cpu io\n");
    let mut groups = open(&root);
    let given = Given {
        best_effort: true,
        ..dense(&HEAVY)
    };
    groups.make(Attempt(1), &given, &NOTHING).unwrap();
    let of = |file: &str| read(&root, &format!("profile-dense/{file}"));
    assert_eq!(of("cpu.idle").as_deref(), Some("1"));
    assert_eq!(of("cpu.weight"), None, "the kernel would refuse it");
    // The profile is an ordinary one from now on.
    groups.make(Attempt(2), &dense(&HEAVY), &NOTHING).unwrap();
    assert_eq!(of("cpu.idle").as_deref(), Some("0"));
    assert_eq!(of("cpu.weight").as_deref(), Some("500"));
}

#[test]
fn what_the_host_cannot_enforce_is_named_and_not_written() {
    let root = kernel("cpu pids\n");
    let mut groups = open(&root);
    groups.make(Attempt(1), &dense(&HEAVY), &LIMITED).unwrap();
    assert_eq!(read(&root, "profile-dense/1/memory.max"), None);
    assert_eq!(
        read(&root, "profile-dense/1/pids.max").as_deref(),
        Some("20")
    );
    assert_eq!(lacking(Some(&groups), &HEAVY, &LIMITED), ["memory-max"]);
    assert_eq!(
        lacking(None, &HEAVY, &LIMITED),
        ["cpu-weight", "memory-max", "pids-max"]
    );
    assert_eq!(lacking(None, &NOTHING, &NOTHING), [""; 0]);
    assert!(!report(Some(&groups)).holds);
    assert!(report(Some(&open(&kernel("cpu io memory pids")))).holds);
}

#[test]
fn the_next_daemon_finds_attempts_and_clears_what_is_left() {
    let root = kernel("cpu io memory pids\n");
    for directory in [
        "profile-dense/a",
        "profile-dense/b",
        "profile-gone/c",
        "profile-empty",
    ] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    let living = root.path().join("profile-dense/a");
    fs::write(living.join("cgroup.procs"), "7\n8\n").unwrap();
    let mut groups = open(&root);
    assert_eq!(groups.path(Attempt(0xa)), Some(living.clone()));
    assert_eq!(groups.processes(Attempt(0xa)), [7, 8]);
    assert_eq!(groups.path(Attempt(0xd)), None);
    // The kernel removes a directory with its files in it, the file system here does not: these
    // are killed and wait for that.
    groups
        .clear_but(|attempt| attempt == Attempt(0xa))
        .unwrap_err();
    assert_eq!(
        read(&root, "profile-dense/b/cgroup.kill").as_deref(),
        Some("1")
    );
    assert_eq!(
        read(&root, "profile-gone/c/cgroup.kill").as_deref(),
        Some("1")
    );
    assert_eq!(read(&root, "profile-dense/a/cgroup.kill"), None);
    assert_eq!(groups.path(Attempt(0xb)), None);
    assert!(!root.path().join("profile-empty").exists());
}
