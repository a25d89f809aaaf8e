//! A daemon on a directory of its own, and the releases that it gets.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Failed, look_up};

/// How long the daemon may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where cargo puts the programs.
fn programs() -> PathBuf {
    crate::target().join("release")
}

/// Builds all that the demo runs.
pub(crate) fn build() -> Result<(), Failed> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(crate::root())
        .args(["build", "--release", "--locked"]);
    for package in ["insula-supervisor", "kv", "gateway", "kv-load"] {
        command.args(["-p", package]);
    }
    let built = command.status()?;
    look_up()?;
    if built.success() {
        Ok(())
    } else {
        Err(Failed::new("the programs do not build"))
    }
}

/// A running daemon; it is ended, and its directory removed, when this is dropped.
pub(crate) struct Host {
    root: PathBuf,
    daemon: Option<Child>,
}

impl Host {
    pub(crate) fn start() -> Result<Self, Failed> {
        let root = std::env::temp_dir().join(format!("insula-demo-{}", std::process::id()));
        fs::create_dir(&root)?;
        let mut host = Self { root, daemon: None };
        // Services of other users pass through it.
        fs::set_permissions(&host.root, fs::Permissions::from_mode(0o755))?;
        let log = fs::File::create(host.root.join("insulad.log"))?;
        let mut command = Command::new(programs().join("insulad"));
        command
            .arg("--root")
            .arg(&host.root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which ends it in order.
            .process_group(0);
        host.daemon = Some(command.spawn()?);
        let started = Instant::now();
        while !host.ctl(&["status"])?.success() {
            look_up()?;
            if started.elapsed() > PATIENCE {
                return Err(Failed::new(format!(
                    "insulad does not start:\n{}",
                    host.log()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(host)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.join("insulad.log")).unwrap_or_default()
    }

    /// A program of ours that works on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.arg("--root").arg(&self.root).process_group(0);
        command
    }

    fn ctl(&self, args: &[&str]) -> Result<std::process::ExitStatus, Failed> {
        let mut command = self.command("insulactl");
        Ok(command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?)
    }

    /// Runs a verb that must work, and gives what it printed.
    pub(crate) fn must(&self, args: &[&str]) -> Result<String, Failed> {
        look_up()?;
        let mut command = self.command("insulactl");
        let output = command.args(args).stderr(Stdio::inherit()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failed::new(format!(
            "`insulactl {}` ended with {}\n{}",
            args.join(" "),
            output.status,
            self.log()
        )))
    }

    /// The same, with what it printed shown, and how long it took.
    pub(crate) fn timed(&self, args: &[&str]) -> Result<Duration, Failed> {
        let started = Instant::now();
        let text = self.must(args)?;
        let took = started.elapsed();
        super::say(&format!(
            "insulactl {}: {} ({:.0} ms)",
            args.join(" "),
            text.trim_end(),
            took.as_secs_f64() * 1000.0
        ));
        Ok(took)
    }

    fn rows(&self) -> Result<Vec<Value>, Failed> {
        let mut command = self.command("insulactl");
        let output = command.args(["status", "--json"]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| Failed::new(format!("status is no JSON: {error}")))?;
        Ok(report["services"].as_array().cloned().unwrap_or_default())
    }

    /// The process ids of the services.
    pub(crate) fn pids(&self) -> Result<BTreeMap<String, i64>, Failed> {
        let rows = self.rows()?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((row["name"].as_str()?.to_owned(), row["pid"].as_i64()?)))
            .collect())
    }

    /// Kills a service's process, and gives how long it took until another one was ready.
    pub(crate) fn kill(&self, name: &str) -> Result<Duration, Failed> {
        let pid = *self
            .pids()?
            .get(name)
            .ok_or_else(|| Failed::new("nothing to kill"))?;
        let started = Instant::now();
        let process = i32::try_from(pid).map_err(|_| Failed::new("no process id"))?;
        kill(Pid::from_raw(process), Signal::SIGKILL).map_err(std::io::Error::from)?;
        loop {
            look_up()?;
            let ready = self
                .rows()?
                .iter()
                .any(|row| row["name"] == name && row["state"] == "READY" && row["pid"] != pid);
            if ready {
                let took = started.elapsed();
                super::say(&format!(
                    "kill -9 {pid}: another {name} is ready ({:.0} ms)",
                    took.as_secs_f64() * 1000.0
                ));
                return Ok(took);
            }
            if started.elapsed() > PATIENCE {
                return Err(Failed::new(format!(
                    "{name} does not come back\n{}",
                    self.log()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn release(&self, name: &str, manifest: &str) -> Result<(), Failed> {
        let version = line_of(manifest, "version").unwrap_or_default();
        let release = self.root.join("releases").join(format!("{name}-{version}"));
        fs::create_dir_all(release.join("bin"))?;
        fs::write(release.join("service.toml"), manifest)?;
        fs::copy(programs().join(name), release.join("bin").join(name))?;
        let text = self.must(&["install", &release.to_string_lossy()])?;
        print!("{text}");
        Ok(())
    }

    fn manifest(&self, name: &str) -> Result<String, Failed> {
        let path = crate::root()
            .join("services")
            .join(name)
            .join("service.toml");
        Ok(fs::read_to_string(path)?)
    }

    /// Installs a version of kv: the same program, another manifest.
    pub(crate) fn install_kv(&self, version: &str) -> Result<(), Failed> {
        let own = fs::metadata(&self.root)?.uid();
        let manifest = replace_line(&self.manifest("kv")?, "version", &format!("{version:?}"));
        let manifest = replace_line(&manifest, "allow", &format!("[\"uid:{own}\"]"));
        self.release("kv", &manifest)
    }

    /// Installs the gateway on a port that is free now, and gives the port.
    pub(crate) fn install_gateway(&self) -> Result<u16, Failed> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let manifest = self
            .manifest("gateway")?
            .replace("18080", &port.to_string());
        self.release("gateway", &manifest)?;
        Ok(port)
    }

    /// Stops everything and removes the directory.
    pub(crate) fn stop(&mut self) -> Result<(), Failed> {
        if self.daemon.is_some() {
            self.ctl(&["shutdown"])?;
        }
        if let Some(mut daemon) = self.daemon.take() {
            let started = Instant::now();
            while daemon.try_wait()?.is_none() {
                if started.elapsed() > PATIENCE {
                    daemon.kill()?;
                    daemon.wait()?;
                    return Err(Failed::new("insulad did not end"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if self.root.exists() {
            fs::remove_dir_all(&self.root)?;
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("error: cannot clean up {}: {error}", self.root.display());
        }
    }
}

fn line_of<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    let value = manifest
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(value.trim_matches('"'))
}

fn replace_line(manifest: &str, key: &str, value: &str) -> String {
    let start = format!("{key} = ");
    let lines = manifest.lines().map(|line| {
        if line.starts_with(&start) {
            format!("{key} = {value}")
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}
