//! insulad, with all walls that this host gives or with none, driven by insulactl.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{Contestant, Task};
use crate::stamps::{WATCHDOG, now};

/// Where cargo puts the workspace's optimised programs; they are built if they are not there.
pub(crate) fn programs() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own
        .ancestors()
        .nth(2)
        .ok_or("the bench does not lie in target/PROFILE/deps")?
        .to_owned();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "insula-supervisor", "-p", "echo"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    if target.ends_with("release") {
        build.arg("--release");
    }
    eprintln!("building insulad and insulactl");
    crate::process::must(build)?;
    Ok(target)
}

/// A daemon on a directory of its own.
#[derive(Debug)]
pub(crate) struct Insula {
    walls: bool,
    programs: PathBuf,
    root: PathBuf,
    /// What runs on tmpfs, as /run is.
    _run: Mounted,
    names: Vec<String>,
    daemon: Option<Child>,
    /// What the daemon had in use before anything was installed, in bytes.
    base: u64,
}

/// A tmpfs that is unmounted when dropped.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Result<Self, String> {
        let failed = |error: String| format!("cannot mount {}: {error}", path.display());
        fs::create_dir_all(&path).map_err(|error| failed(error.to_string()))?;
        nix::mount::mount(
            Some("insula-bench"),
            &path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("mode=711"),
        )
        .map_err(|error| failed(error.to_string()))?;
        Ok(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What stays mounted is in memory only, and the next boot has it not.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Insula {
    /// Starts a daemon below `root`, which nothing is installed in.
    pub(crate) fn new(programs: &Path, root: PathBuf, walls: bool) -> Result<Self, String> {
        fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let run = Mounted::new(root.join("run"))?;
        let mut insula = Self {
            walls,
            programs: programs.to_owned(),
            root,
            _run: run,
            names: Vec::new(),
            daemon: None,
            base: 0,
        };
        insula.launch()?;
        insula.wait_for_answer()?;
        insula.base = crate::process::memory(&insula.processes());
        Ok(insula)
    }

    /// The same with the task's services installed.
    pub(crate) fn with(
        programs: &Path,
        root: PathBuf,
        walls: bool,
        task: &Task,
    ) -> Result<Self, String> {
        let mut insula = Self::new(programs, root, walls)?;
        for index in 0..task.count {
            insula.install(&task.name(index), &task.payload, &task.argument(index), "")?;
        }
        Ok(insula)
    }

    /// Installs one service that runs this program.
    pub(crate) fn install(
        &mut self,
        name: &str,
        program: &Path,
        argument: &str,
        more: &str,
    ) -> Result<(), String> {
        let release = self.root.join("release");
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\ntype = \"foreign\"\n\
             command = [\"bin/payload\", \"{argument}\"]\nprofile = \"dense\"\n\
             autostart = false\n{more}"
        );
        fs::create_dir_all(release.join("bin"))
            .and_then(|()| fs::write(release.join("service.toml"), manifest))
            .and_then(|()| fs::copy(program, release.join("bin/payload")))
            .map_err(|error| format!("cannot lay out a release: {error}"))?;
        let mut install = self.control(&["install"]);
        install.arg(release);
        crate::process::must(install)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// A command of insulactl for this daemon.
    pub(crate) fn control(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("insulactl"));
        command.arg("--root").arg(&self.root).args(words);
        command
    }

    /// Starts the daemon's process.
    pub(crate) fn launch(&mut self) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("insulad.log"))
            .map_err(|error| error.to_string())?;
        let mut command = Command::new(self.programs.join("insulad"));
        command.arg("--root").arg(&self.root);
        if !self.walls {
            command.args(["--isolation", "none"]);
        }
        let daemon = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start insulad: {error}"))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Waits until `status` is answered.
    pub(crate) fn wait_for_answer(&mut self) -> Result<(), String> {
        let began = Instant::now();
        // 3: there is something that does not run.
        while !matches!(crate::process::run(self.control(&["status"]))?, Some(0 | 3)) {
            let daemon = self.daemon.as_mut().ok_or("insulad was not started")?;
            if daemon.try_wait().ok().flatten().is_some() || began.elapsed() > WATCHDOG {
                let log = fs::read_to_string(self.root.join("insulad.log")).unwrap_or_default();
                return Err(format!("insulad does not answer:\n{log}"));
            }
        }
        Ok(())
    }

    /// Ends the daemon as `kill -9` does.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let mut daemon = self.daemon.take().ok_or("insulad does not run")?;
        crate::process::signal(daemon.id() as i32, Signal::SIGKILL)?;
        daemon.wait().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Stops one service.
    pub(crate) fn stop_one(&self, index: usize) -> Result<(), String> {
        crate::process::must(self.control(&["stop", &self.names[index]])).map(drop)
    }

    /// What the empty daemon had in use, in bytes.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// What the daemon says of the host, line by line.
    pub(crate) fn doctor(&self) -> String {
        let output = self.control(&["doctor"]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

impl Contestant for Insula {
    fn name(&self) -> String {
        match self.walls {
            true => "insulad, all walls".to_owned(),
            false => "insulad, no walls".to_owned(),
        }
    }

    fn start(&mut self) -> Result<i64, String> {
        let ordered = now();
        crate::process::must(self.control(&["start", "all"]))?;
        Ok(ordered)
    }

    fn stop(&mut self) -> Result<(), String> {
        crate::process::must(self.control(&["stop", "all"])).map(drop)
    }

    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        self.daemon.iter().map(|d| d.id() as i32).collect()
    }

    fn status(&self) -> Vec<(&'static str, Command)> {
        vec![
            ("status", self.control(&["status"])),
            ("status --json", self.control(&["status", "--json"])),
        ]
    }

    fn restart(&self, index: usize) -> Option<Command> {
        Some(self.control(&["restart", &self.names[index]]))
    }

    fn pauses(&self) -> bool {
        false
    }
}

impl Drop for Insula {
    fn drop(&mut self) {
        if self.daemon.is_none() && self.launch().and_then(|()| self.wait_for_answer()).is_err() {
            eprintln!("services of {} may be left", self.root.display());
            return;
        }
        let _ = crate::process::run(self.control(&["shutdown"]));
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
    }
}
