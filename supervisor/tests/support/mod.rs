//! A host for real-process tests: a daemon on a directory of its own, and releases to install.

#![allow(dead_code, reason = "each test program uses its part")]
#![expect(unsafe_code, reason = "descriptors are closed between fork and exec")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// Where cargo puts the workspace's programs.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its program");
    test.ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST")
        .to_owned()
}

/// A program of another package of the workspace; built once if it is not there.
pub(crate) fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build", "--quiet", "-p", "kv", "-p", "gateway", "-p", "kv-load",
        ]);
        build.args(["-p", "misbehave", "-p", "echo"]);
        if target().ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().expect("cargo runs").success(),
            "the services do not build"
        );
    });
    target().join(name)
}

/// Waits for `ready` to give something.
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(
            started.elapsed() < WATCHDOG,
            "{what} did not come within {WATCHDOG:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon with a directory of its own; ended, and the directory removed, when dropped.
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    user: Option<u32>,
    daemon: Option<Child>,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_as(None)
    }

    /// Starts the daemon as another user, without root's rights.
    pub(crate) fn start_as(user: Option<u32>) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("insula-{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("a fresh directory");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("our directory");
        if user.is_some() {
            std::os::unix::fs::chown(&root, user, user).expect("we are root");
        }
        let mut host = Self {
            root,
            user,
            daemon: None,
        };
        host.start_daemon();
        host
    }

    pub(crate) fn start_daemon(&mut self) {
        self.start_daemon_by(Command::new(env!("CARGO_BIN_EXE_insulad")), Stdio::null());
    }

    /// Starts the daemon by a command that takes its arguments.
    pub(crate) fn start_daemon_by(&mut self, mut command: Command, input: Stdio) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join("insulad.log"))
            .expect("our directory");
        command
            .arg("--root")
            .arg(&self.root)
            .stdin(input)
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log);
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        // iceoryx2 opens files that exec does not close: a test that is a client has some.
        let close = || {
            // SAFETY: one system call with integers; it marks descriptors and touches no memory.
            let closed = unsafe {
                libc::syscall(
                    libc::SYS_close_range,
                    3,
                    u32::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                )
            };
            nix::errno::Errno::result(closed)
                .map(drop)
                .map_err(Into::into)
        };
        // SAFETY: `close` allocates nothing and takes no lock.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, close) };
        let child = command.spawn().expect("insulad starts");
        self.daemon = Some(child);
        wait_for("the control socket", || {
            let daemon = self.daemon.as_mut().expect("it was just started");
            if let Some(status) = daemon.try_wait().expect("our child") {
                panic!("insulad ended with {status}:\n{}", self.daemon_log());
            }
            self.ctl(&["status", "--json"])
                .status
                .code()
                .filter(|code| matches!(code, 0 | 3))
        });
    }

    /// The daemon's process.
    pub(crate) fn daemon_pid(&self) -> i32 {
        let daemon = self.daemon.as_ref().expect("a daemon runs");
        i32::try_from(daemon.id()).expect("a process id")
    }

    /// Waits for the daemon to end by itself.
    pub(crate) fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        wait_for("the daemon's end", || daemon.try_wait().expect("our child"))
    }

    pub(crate) fn daemon_log(&self) -> String {
        fs::read_to_string(self.root.join("insulad.log")).unwrap_or_default()
    }

    /// Ends the daemon as `kill -9` does.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().expect("our child");
        daemon.wait().expect("our child");
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_insulactl"))
            .arg("--root")
            .arg(&self.root)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("insulactl runs")
    }

    /// Runs a verb that must work, and gives what it printed.
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "insulactl {args:?} failed with {}: {text}{}\ndaemon:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.daemon_log()
        );
        text
    }

    /// The row of a service in `status --json`.
    pub(crate) fn row(&self, name: &str) -> Value {
        let output = self.ctl(&["status", "--json", name]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "status is no JSON ({error}): {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        report["services"][0].clone()
    }

    pub(crate) fn pid(&self, name: &str) -> i32 {
        let row = self.row(name);
        let pid = row["pid"]
            .as_i64()
            .unwrap_or_else(|| panic!("{name} has no process: {row}"));
        i32::try_from(pid).expect("a process id")
    }

    pub(crate) fn wait_for_state(&self, name: &str, state: &str) -> Value {
        wait_for(&format!("{name} {state}"), || {
            Some(self.row(name)).filter(|row| row["state"] == state)
        })
    }

    /// Lays out a release: its manifest, and its programs below `bin/`.
    pub(crate) fn release(&self, directory: &str, manifest: &str, programs: &[&str]) -> PathBuf {
        let release = self.root.join("releases").join(directory);
        fs::create_dir_all(release.join("bin")).expect("our directory");
        fs::write(release.join("service.toml"), manifest).expect("our directory");
        for name in programs {
            fs::copy(program(name), release.join("bin").join(name)).expect("it was built");
        }
        release
    }

    /// Installs a release of kv.
    pub(crate) fn install_kv(&self, version: &str) {
        let manifest = fs::read_to_string(manifest_of("kv")).expect("kv has a manifest");
        let manifest = with_version(&manifest, version);
        let release = self.release(&format!("kv-{version}"), &manifest, &["kv"]);
        self.must(&["install", path(&release)]);
    }
}

impl Host {
    /// Installs the gateway, to listen on this port.
    pub(crate) fn install_gateway(&self, port: u16) {
        let manifest = fs::read_to_string(manifest_of("gateway")).expect("it has a manifest");
        let manifest = manifest.replace("18080", &port.to_string());
        let release = self.release("gateway", &manifest, &["gateway"]);
        self.must(&["install", path(&release)]);
    }
}

impl Host {
    /// Installs a release of echo.
    pub(crate) fn install_echo(&self, version: &str) {
        let manifest = fs::read_to_string(manifest_of("echo")).expect("echo has a manifest");
        let manifest = with_version(&manifest, version);
        let release = self.release(&format!("echo-{version}"), &manifest, &["echo"]);
        self.must(&["install", path(&release)]);
    }

    /// The rows of a service's instances in `status --json`.
    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        let output = self.ctl(&["status", "--json", name]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("status is JSON");
        report["services"].as_array().cloned().unwrap_or_default()
    }

    /// The socket of local clients.
    pub(crate) fn local(&self) -> insula_ipc::local::LocalClient {
        let socket = self.root.join("run").join(insula_contract::local::SOCKET);
        insula_ipc::local::LocalClient::connect(&socket).expect("a local client")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.daemon_log());
        }
        if self.daemon.is_none() {
            // Its services still run: another daemon takes them down.
            self.start_daemon();
        }
        let _ = self.ctl(&["shutdown"]);
        if let Some(mut daemon) = self.daemon.take() {
            let started = Instant::now();
            while daemon.try_wait().ok().flatten().is_none() {
                if started.elapsed() > WATCHDOG {
                    let _ = daemon.kill();
                    let _ = daemon.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Whether a process runs; one that is dead and not reaped does not.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The manifest in a service's own directory.
pub(crate) fn manifest_of(service: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../services")
        .join(service)
        .join("service.toml")
}

/// The same manifest for another version.
pub(crate) fn with_version(manifest: &str, version: &str) -> String {
    manifest
        .lines()
        .map(|line| {
            if line.starts_with("version = ") {
                format!("version = \"{version}\"")
            } else {
                line.to_owned()
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("our paths are text")
}
