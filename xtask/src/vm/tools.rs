//! QEMU and mmdebstrap: the host's own, or unpacked from the host's package mirror below the target
//! directory.
//!
//! Unpacked and not installed, since installing may remove other packages (QEMU's parts conflict
//! across versions) and needs root.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::scratch::Scratch;
use super::{Failed, directory};
use crate::process;

/// What is unpacked where it is not installed.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "mmdebstrap"];

/// How long apt may take for them.
const LIMIT: Duration = Duration::from_secs(300);

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Tools {
    /// The root of what was unpacked, if the host lacks anything.
    unpacked: Option<PathBuf>,
}

impl Tools {
    /// Finds the programs, and unpacks them if need be.
    pub(super) fn get() -> Result<Self, Failed> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(Failed::Unavailable(format!(
                "the guests are x86_64, this host is {}",
                std::env::consts::ARCH
            )));
        }
        for (program, package) in [
            ("mkfs.ext4", "e2fsprogs"),
            ("setpriv", "util-linux"),
            ("unshare", "util-linux"),
        ] {
            if find(program).is_none() {
                return Err(Failed::Unavailable(format!(
                    "{program} is not installed (package {package})"
                )));
            }
        }
        let own = ["qemu-system-x86_64", "mmdebstrap"];
        if own.iter().all(|program| find(program).is_some()) {
            return Ok(Self { unpacked: None });
        }
        let unpacked = directory().join("tools");
        if !unpacked.exists() {
            unpack(&unpacked)?;
        }
        Ok(Self {
            unpacked: Some(unpacked),
        })
    }

    /// A command that the kernel ends when the thread that started it ends.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        if let Some(root) = &self.unpacked {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            command
                .env("PATH", self.path(root))
                .env("LD_LIBRARY_PATH", join(root, &libraries));
        } else {
            command.env("PATH", path());
        }
        command
    }

    /// QEMU, told where its data lie.
    pub(super) fn qemu(&self) -> Command {
        let mut command = self.command("qemu-system-x86_64");
        if let Some(root) = &self.unpacked {
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }

    /// mmdebstrap in namespaces of its own, so that no mount and no process of it is left behind.
    pub(super) fn mmdebstrap(&self) -> Command {
        let mut command = self.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        // Its library path is QEMU's, not for the programs in the new tree.
        command.env_remove("LD_LIBRARY_PATH");
        command.arg("mmdebstrap");
        command
    }

    /// Where mmdebstrap's hooks lie.
    pub(super) fn hooks(&self) -> PathBuf {
        let root = self.unpacked.as_deref().unwrap_or(Path::new("/"));
        root.join("usr/share/mmdebstrap/hooks")
    }

    fn path(&self, root: &Path) -> OsString {
        let mut own = join(root, &["usr/bin"]);
        own.push(":");
        own.push(path());
        own
    }
}

/// The search path, with the directories of what only root is expected to use.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn join(root: &Path, parts: &[&str]) -> OsString {
    std::env::join_paths(parts.iter().map(|part| root.join(part)))
        .expect("the target directory has no colon in its name")
}

/// Where a program is.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path())
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Downloads the packages with all that they need and the host lacks, and unpacks them.
fn unpack(target: &Path) -> Result<(), Failed> {
    eprintln!(
        "unpacking {} into {}",
        PACKAGES.join(" and "),
        target.display()
    );
    if find("apt-get").is_none() || find("dpkg-deb").is_none() {
        return Err(Failed::Unavailable(format!(
            "install {}",
            PACKAGES.join(" and ")
        )));
    }
    let scratch = Scratch::new(&directory(), "tools")?;
    let archives = scratch.path().join("archives");
    let lists = scratch.path().join("lists");
    let tree = scratch.path().join("tree");
    for path in [&archives.join("partial"), &lists.join("partial"), &tree] {
        fs::create_dir_all(path).map_err(Failed::file("create", path))?;
    }
    // The host's lists may be older than its mirror: then with lists of our own.
    let mut own = apt(&archives);
    own.arg(option("Dir::State::lists", &lists)).arg("update");
    let mut again = download(&archives);
    again.arg(option("Dir::State::lists", &lists));
    let downloaded = quiet(&mut download(&archives))? || (quiet(&mut own)? && quiet(&mut again)?);
    if !downloaded {
        return Err(Failed::Unavailable(format!(
            "{} could not be downloaded",
            PACKAGES.join(" and ")
        )));
    }
    let entries = fs::read_dir(&archives).map_err(Failed::file("read", &archives))?;
    for file in entries.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut command = Command::new("dpkg-deb");
            command.arg("--extract").arg(&file).arg(&tree);
            if !quiet(&mut command)? {
                return Err(Failed::Broken(format!("cannot unpack {}", file.display())));
            }
        }
    }
    match fs::rename(&tree, target) {
        // Another process was as fast.
        Err(_) if target.exists() => Ok(()),
        renamed => renamed.map_err(Failed::file("create", target)),
    }
}

fn download(archives: &Path) -> Command {
    let mut command = apt(archives);
    command
        .args(["install", "--yes", "--download-only"])
        .arg("--no-install-recommends")
        .args(PACKAGES);
    command
}

fn apt(archives: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg(option("Dir::Cache::archives", archives))
        // Nothing of the host's is written.
        .args(["-q", "-o", "Debug::NoLocking=1"])
        .env("LC_ALL", "C");
    command
}

fn option(name: &str, value: &Path) -> String {
    format!("-o{name}={}", value.display())
}

/// Runs a command that has little to say; what it said is shown if it failed.
pub(super) fn quiet(command: &mut Command) -> Result<bool, Failed> {
    command.stdin(Stdio::null());
    let mut said = Vec::new();
    let status = process::run_until(command, LIMIT, |line| said.push(line.to_owned()))
        .map_err(|error| Failed::Broken(format!("cannot run {command:?}: {error}")))?;
    let passed = status.is_some_and(|status| status.success());
    if !passed {
        for line in said {
            eprintln!("{line}");
        }
        match status {
            Some(status) => eprintln!("{:?}: {status}", command.get_program()),
            None => eprintln!("{:?} took too long", command.get_program()),
        }
    }
    Ok(passed)
}
