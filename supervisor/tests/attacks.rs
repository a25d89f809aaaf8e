//! Attacks of a service on its neighbours and its host, with the walls and without.
//!
//! The attacks are those of `misbehave attack`. Each is tried by a service behind all walls, by one
//! under `insulad --isolation none`, and, if that fails, by an ordinary program of root. It counts
//! only if one of the latter succeeds: else its failure behind the walls shows nothing.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use insula_supervisor::launch::Walls;
use support::{Host, path, program, wait_for};

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
                        command = [\"bin/misbehave\", \"use\", \"1\", \"--deadline-ms=60000\"]\n\
                        [requires.\"form@1\"]\n";
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

    /// The times of the pair's calls since it was last asked, once there are so many.
    fn figures(&self, least: u32) -> String {
        let data = self.host.root.join("lib/data/user");
        fs::write(data.join("mark.new"), least.to_string()).unwrap();
        fs::rename(data.join("mark.new"), data.join("mark")).unwrap();
        let figures = data.join("figures");
        wait_for("the pair's figures", || {
            (!data.join("mark").exists()).then(|| fs::read_to_string(&figures).ok())?
        })
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.local_addr().unwrap().port();
        vec![
            format!("--root={}", self.host.root.display()),
            "--neighbour=former".to_owned(),
            format!("--pid={}", self.processes[0]),
            format!("--daemon={}", self.host.daemon_pid()),
            format!("--port={port}"),
            format!(
                "--set-user-id={}",
                self.host.root.join("set-user-id").display()
            ),
        ]
    }

    /// As a service of this host; its table goes to a file.
    fn attack(&self, table: &Path) {
        let mut command = vec!["bin/misbehave".to_owned(), "attack".to_owned()];
        command.extend(self.arguments());
        let manifest = format!(
            "name = \"attacker\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
             ready-timeout = \"300s\"\ncommand = {command:?}\n\
             [run.limits]\nprocesses = 64\nopen-files = 256\nfile-size = \"1MiB\"\n"
        );
        let release = self.host.release("attacker", &manifest, &["misbehave"]);
        self.host.must(&["install", path(&release)]);
        println!("the pair alone: {}", self.figures(200).trim_end());
        self.host.must(&["start", "attacker"]);
        self.host.wait_for_state("attacker", "READY");
        println!("beside the attacks: {}", self.figures(1).trim_end());
        let left = self.host.root.join("lib/data/attacker/attacks");
        fs::copy(left, table).unwrap();
    }

    /// As an ordinary program of root, what succeeded by another table left out.
    fn attack_as_root(&self, but: &Path, table: &Path) {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(program("misbehave"))
            .args(["--alone", "attack"])
            .arg(format!("--but={}", but.display()))
            .args(self.arguments())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        fs::write(table, output.stdout).unwrap();
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
    let tables = tempfile::tempdir().unwrap();
    let [walled, open, as_root] = ["walled", "open", "root"].map(|name| tables.path().join(name));
    let scene = Scene::new(Host::start());
    scene.attack(&walled);
    scene.assert_undisturbed();
    drop(scene);

    let mut host = Host::start();
    host.must(&["shutdown"]);
    host.wait_for_end();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_insulad"));
    daemon.args(["--isolation", "none"]);
    host.start_daemon_by(daemon, Stdio::null());
    let scene = Scene::new(host);
    scene.attack(&open);
    scene.attack_as_root(&open, &as_root);
    scene.assert_undisturbed();
    drop(scene);

    let argument = |name: &str, table: &PathBuf| format!("--{name}={}", table.display());
    let judged = Command::new(program("misbehave"))
        .arg("judge")
        .arg(argument("walled", &walled))
        .arg(argument("open", &open))
        .arg(argument("root", &as_root))
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&judged.stdout));
    let problems = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success(), "{problems}");
}
