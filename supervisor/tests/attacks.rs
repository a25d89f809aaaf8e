//! Attacks of a service on its neighbours and its host, with the walls and without.
//!
//! The attacks are those of `misbehave attack`. Each is tried by a service behind all walls, by one
//! under `insulad --isolation none`, and by an ordinary program of root. It counts only if one of
//! the latter succeeds: else its failure behind the walls shows nothing.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use insula_supervisor::launch::Walls;
use support::{Host, path, program};

/// What came of an attack.
#[derive(Debug)]
struct Outcome {
    walls: String,
    text: String,
    succeeded: bool,
    /// What it got, or why nothing.
    words: String,
}

type Table = BTreeMap<String, Outcome>;

fn table(text: &str) -> Table {
    let row = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [name, walls, text, outcome, words] = <[String; 5]>::try_from(fields)
            .unwrap_or_else(|fields| panic!("no row of five fields: {fields:?}"));
        assert!(["succeeded", "denied"].contains(&&*outcome), "{line}");
        let outcome = Outcome {
            walls,
            text,
            succeeded: outcome == "succeeded",
            words,
        };
        (name, outcome)
    };
    text.lines().map(row).collect()
}

/// Two services that call each other without end, and what attacks them.
struct Scene {
    host: Host,
    port: TcpListener,
    processes: [i32; 2],
}

const PAIR: [&str; 2] = ["former", "user"];

impl Scene {
    fn new(host: Host) -> Self {
        let provider = "name = \"former\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
                        command = [\"bin/misbehave\", \"serve\", \"1\"]\n\
                        [provides.\"form@1\"]\n";
        let consumer = "name = \"user\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
                        command = [\"bin/misbehave\", \"use\", \"1\"]\n[requires.\"form@1\"]\n";
        for (name, manifest) in PAIR.iter().zip([provider, consumer]) {
            let release = host.release(name, manifest, &["misbehave"]);
            host.must(&["install", path(&release)]);
            host.must(&["start", name]);
        }
        support::wait_for("the first call", || {
            Some(host.must(&["logs", "user"])).filter(|said| said.contains("called"))
        });
        let data = host.root.join("lib/data/former");
        let owner = fs::metadata(&data).unwrap();
        let secret = data.join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&secret, Some(owner.uid()), Some(owner.gid())).unwrap();
        let set_user_id = host.root.join("set-user-id");
        fs::copy("/usr/bin/id", &set_user_id).unwrap();
        fs::set_permissions(&set_user_id, fs::Permissions::from_mode(0o4755)).unwrap();
        let processes = PAIR.map(|name| host.pid(name));
        Self {
            host,
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            processes,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.local_addr().unwrap().port().to_string();
        let (pid, daemon) = (self.processes[0].to_string(), self.host.daemon_pid());
        let daemon = daemon.to_string();
        let pairs = [
            ("--root", path(&self.host.root)),
            ("--neighbour", "former"),
            ("--pid", &pid),
            ("--daemon", &daemon),
            ("--port", &port),
        ];
        pairs
            .iter()
            .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
            .collect()
    }

    /// As a service of this host.
    fn attack(&self) -> Table {
        let mut command = vec!["bin/misbehave".to_owned(), "attack".to_owned()];
        command.extend(self.arguments());
        let manifest = format!(
            "name = \"attacker\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
             ready-timeout = \"300s\"\ncommand = {command:?}\n\
             [run.limits]\nprocesses = 64\nopen-files = 256\nfile-size = \"1MiB\"\n"
        );
        let release = self.host.release("attacker", &manifest, &["misbehave"]);
        self.host.must(&["install", path(&release)]);
        self.host.must(&["start", "attacker"]);
        self.host.wait_for_state("attacker", "READY");
        let file = self.host.root.join("lib/data/attacker/attacks");
        table(&fs::read_to_string(file).unwrap())
    }

    /// As an ordinary program of root.
    fn attack_as_root(&self) -> Table {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(program("misbehave"))
            .args(["--alone", "attack"])
            .args(self.arguments())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        table(&String::from_utf8(output.stdout).unwrap())
    }

    /// The two have called each other all the time and never failed.
    fn assert_undisturbed(&self) {
        assert_eq!(PAIR.map(|name| self.host.pid(name)), self.processes);
        for name in PAIR {
            assert_eq!(self.host.row(name)["state"], "READY");
        }
        let said = self.host.must(&["logs", "user"]);
        assert!(!said.contains("error"), "{said}");
    }
}

/// Whether the kernel does not have what the attack is about.
fn is_unknown_here(name: &str, words: &str) -> bool {
    let of = |error: i32| words.ends_with(&format!("(os error {error})"));
    let missing = [
        libc::ENOSYS,
        libc::EAFNOSUPPORT,
        libc::EOPNOTSUPP,
        libc::EPROTONOSUPPORT,
        libc::ENODEV,
    ];
    missing.iter().any(|error| of(*error)) || (name == "cgroups" && of(libc::ENOENT))
}

#[test]
fn every_attack_that_works_without_the_walls_fails_behind_them_and_disturbs_nobody() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): attacks on other users");
        return;
    }
    let lacking = Walls::probe().report();
    let lacks = |name: &str| lacking.iter().any(|wall| wall.name == name && !wall.holds);
    for (wall, reason) in [
        ("signals", "needs Landlock ABI 6"),
        ("system-calls", "needs seccomp"),
    ] {
        if lacks(wall) {
            println!("SKIPPED ({reason}): attacks against all walls");
            return;
        }
    }
    let scene = Scene::new(Host::start());
    let walled = scene.attack();
    scene.assert_undisturbed();
    let as_root = scene.attack_as_root();
    scene.assert_undisturbed();
    drop(scene);

    let mut host = Host::start();
    host.must(&["shutdown"]);
    host.wait_for_end();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_insulad"));
    daemon.args(["--isolation", "none"]);
    host.start_daemon_by(daemon, Stdio::null());
    let scene = Scene::new(host);
    let open = scene.attack();
    scene.assert_undisturbed();
    drop(scene);

    let mut problems = Vec::new();
    println!("attack | what it does | without walls | behind walls | by");
    for (name, behind) in &walled {
        let without = if open[name].succeeded {
            format!("succeeds: {}", open[name].words)
        } else if as_root[name].succeeded {
            format!("succeeds for root: {}", as_root[name].words)
        } else if is_unknown_here(name, &as_root[name].words) {
            format!("not in this kernel: {}", as_root[name].words)
        } else {
            problems.push(format!("{name} proves nothing: {:?}", as_root[name]));
            format!("denied: {}", as_root[name].words)
        };
        let with = if behind.succeeded {
            problems.push(format!("{name} succeeded behind the walls: {behind:?}"));
            "SUCCEEDS"
        } else {
            "denied"
        };
        println!(
            "{name} | {} | {without} | {with}: {} | {}",
            behind.text, behind.words, behind.walls
        );
    }
    println!("{} attacks", walled.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
