//! A service under its own user id, and what it gets of its neighbours: nothing.

mod support;

use std::process::Command;

use support::Host;

#[test]
fn another_service_neither_opens_kvs_store_nor_lists_a_channel_that_is_not_its_own() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): services under user ids of their own");
        return;
    }
    let host = Host::start();
    host.install_kv("1.0.0");
    host.install_gateway(18_181);
    host.must(&["start", "kv", "gateway"]);

    let run = host.root.join("run");
    let channels = run.join("channels/kv");
    let edge = channels.join("gateway");
    let channel = std::fs::read_dir(&edge)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let data = host.root.join("lib/data/kv");
    let tries = [
        (data.clone(), "list"),
        (data.join("store/data.mdb"), "read"),
        (data.join("store/data.mdb"), "write"),
        (data.join("store/lock.mdb"), "write"),
        (host.root.join("log/kv-0/current"), "read"),
        (channels, "list"),
        (edge, "list"),
        (channel.clone(), "list"),
        (channel.join("nodes"), "list"),
        (run.join("control.sock"), "connect"),
        (run.join("lines"), "list"),
    ];
    let mut paths: Vec<String> = tries
        .iter()
        .map(|(path, _)| support::path(path).to_owned())
        .collect();
    paths.dedup();

    // Without the walls every one of them works: root itself does it.
    let alone = Command::new(support::program("misbehave"))
        .args(["--alone", "look"])
        .args(&paths)
        .output()
        .unwrap();
    let alone = String::from_utf8(alone.stdout).unwrap();
    for (path, verb) in &tries {
        let done = format!("{} {verb}: done", path.display());
        assert!(alone.contains(&done), "{done} is missing in\n{alone}");
    }

    let quoted: Vec<_> = paths.iter().map(|path| format!("{path:?}")).collect();
    let manifest = format!(
        "name = \"stranger\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
         command = [\"bin/misbehave\", \"look\", {}]\n",
        quoted.join(", ")
    );
    let release = host.release("stranger", &manifest, &["misbehave"]);
    host.must(&["install", support::path(&release)]);
    host.must(&["start", "stranger"]);
    assert_ne!(host.row("stranger")["uid"], host.row("kv")["uid"]);
    let walled = host.must(&["logs", "stranger"]);
    for (path, verb) in &tries {
        let line = format!("{} {verb}: refused", path.display());
        assert!(walled.contains(&line), "{line} is missing in\n{walled}");
    }
    let done: Vec<_> = walled
        .lines()
        .filter(|line| line.ends_with("list: done"))
        .collect();
    assert!(done.is_empty(), "{done:?}");
    assert_eq!(host.row("kv")["state"], "READY");
}

#[test]
fn a_refused_release_names_all_its_problems_and_changes_nothing() {
    let host = Host::start();
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    let before = (host.pid("kv"), host.must(&["releases"]));

    let manifest = "name = \"Shop\"\nversion = \"one\"\ncolour = 3\n\
        [run]\ncommand = [\"bin/none\"]\nprofile = \"warp\"\nready-timeout = \"900h\"\n\
        [requires.\"nonsense\"]\n";
    let release = host.release("bad", manifest, &[]);
    let refused = host.ctl(&["install", support::path(&release)]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    for (line, key) in [
        (1, "name"),
        (2, "version"),
        (3, "colour"),
        (5, "run.command"),
        (6, "run.profile"),
        (7, "run.ready-timeout"),
        (8, "requires.nonsense"),
    ] {
        let place = format!("service.toml:{line}:");
        let told = text
            .lines()
            .any(|told| told.contains(&place) && told.contains(key));
        assert!(told, "line {line}, key {key} are not told in\n{text}");
    }

    // Another content under a version that is installed.
    let manifest = std::fs::read_to_string(support::manifest_of("kv")).unwrap();
    let changed = host.release("changed", &format!("{manifest}\n# changed\n"), &["kv"]);
    let refused = host.ctl(&["install", support::path(&changed)]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("is installed with other content"), "{text}");

    // A contract that nobody provides.
    let manifest = "name = \"shop\"\nversion = \"1.0.0\"\n[run]\ncommand = [\"bin/misbehave\", \
        \"mute\"]\nprofile = \"shared\"\n[requires.\"stock@7\"]\n";
    let lonely = host.release("lonely", manifest, &["misbehave"]);
    let refused = host.ctl(&["install", support::path(&lonely)]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains("no installed service provides stock@7"),
        "{text}"
    );
    assert!(text.contains("provided are kv@1"), "{text}");

    // A program that does not serve what its manifest says.
    let manifest = "name = \"liar\"\nversion = \"1.0.0\"\n[run]\ncommand = [\"bin/misbehave\", \
        \"look\"]\nprofile = \"shared\"\n[provides.\"truth@1\"]\n";
    let liar = host.release("liar", manifest, &["misbehave"]);
    host.must(&["install", support::path(&liar)]);
    let started = host.ctl(&["start", "liar"]);
    assert_eq!(started.status.code(), Some(7));
    let text = String::from_utf8(started.stderr).unwrap();
    assert!(text.contains("does not serve truth@1"), "{text}");

    assert_eq!(host.pid("kv"), before.0);
    let after: String = host
        .must(&["releases"])
        .lines()
        .filter(|line| !line.starts_with("liar"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(after, before.1);
}

#[test]
fn without_root_services_run_under_the_daemons_user_and_the_doctor_says_so() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): starting a daemon as another user");
        return;
    }
    let host = Host::start_as(Some(60_123));
    host.install_kv("1.0.0");
    host.must(&["start", "kv"]);
    assert_eq!(host.row("kv")["state"], "READY");
    assert_eq!(host.row("kv")["uid"], serde_json::Value::Null);
    let doctor = host.ctl(&["doctor"]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    let own = text.lines().skip_while(|line| !line.contains(" own-uids "));
    let told: Vec<_> = own.take(2).collect();
    assert!(told[0].starts_with("missing (required) "), "{told:?}");
    assert!(told[1].contains("mend: run insulad as root"), "{told:?}");
    assert!(host.daemon_log().contains("not enforced here: own-uids"));
}
