//! The disk image of a guest: built once for each recipe, never written to afterwards.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::scratch::Scratch;
use super::suite::Suite;
use super::tools::{Tools, quiet};
use super::{Failed, directory, guest};
use crate::process;

/// What is in a guest beside Debian's minimal set.
const PACKAGES: [&str; 8] = [
    "dbus",
    "initramfs-tools",
    "linux-image-cloud-amd64",
    "numactl",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// What of the packages is left out.
const LEFT_OUT: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Files that are written into the tree.
const FILES: [(&str, &str); 7] = [
    ("etc/hostname", "insula-guest\n"),
    ("etc/hosts", "127.0.0.1 localhost insula-guest\n"),
    ("etc/fstab", "LABEL=insula-root / ext4 noatime 0 1\n"),
    // A first boot would set up what presets say.
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    // An emulated machine on a busy host is slow: starts get long, stops keep their limit.
    (
        "etc/systemd/system.conf.d/guest.conf",
        "[Manager]\nDefaultTimeoutStartSec=600\nDefaultDeviceTimeoutSec=600\n",
    ),
    // What was written before a power cut is worth reading.
    (
        "etc/systemd/journald.conf.d/guest.conf",
        "[Journal]\nStorage=persistent\nSyncIntervalSec=1s\nRateLimitBurst=0\n",
    ),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/guest.conf",
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n",
    ),
];

/// Units that would do nothing for a guest but take time.
const MASKED: [&str; 8] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@.service",
    // Seconds each where modules are read by an emulated CPU.
    "modprobe@.service",
    "systemd-pstore.service",
];

/// The unit that runs the scripts.
const UNIT: &str = "insula-guest.service";

/// The size of a guest's root file system, of which the host gives what is used.
const SIZE: &str = "4G";

/// How long the packages may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// An image with its kernel.
#[derive(Debug)]
pub(super) struct Image {
    suite: Suite,
    directory: PathBuf,
}

impl Image {
    /// Finds the image, and builds it if need be.
    pub(super) fn get(suite: Suite, tools: &Tools) -> Result<Self, Failed> {
        let unit = guest().join(UNIT);
        let unit = fs::read_to_string(&unit).map_err(Failed::file("read", &unit))?;
        let image = Self {
            suite,
            directory: directory().join(format!("{suite}-{:016x}", recipe(&unit))),
        };
        if image.directory.exists() {
            return Ok(image);
        }
        // One builds, others wait for it.
        let lock = directory().join(format!("{suite}.lock"));
        let lock = File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(Failed::file("lock", &lock))?;
        if !image.directory.exists() {
            image.build(tools, &unit)?;
        }
        drop(lock);
        Ok(image)
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("root.ext4")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.directory.join("initrd.img")
    }

    fn build(&self, tools: &Tools, unit: &str) -> Result<(), Failed> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Failed::Unavailable(
                "only root can build the image (cargo xtask vm build)".into(),
            ));
        }
        let started = Instant::now();
        let mirror = mirror()?;
        let scratch = Scratch::new(&directory(), "image")?;
        let tree = scratch.path().join("tree");
        eprintln!(
            "building a tree of Debian {}, once; this takes minutes",
            self.suite
        );
        self.install(tools, &tree, &mirror)?;
        configure(&tree, unit)?;

        eprintln!("building the disk image");
        let done = scratch.path().join("done");
        fs::create_dir(&done).map_err(Failed::file("create", &done))?;
        for name in ["vmlinuz", "initrd.img"] {
            let (from, to) = (tree.join(name), done.join(name));
            fs::copy(&from, &to).map_err(Failed::file("copy", &from))?;
        }
        let mut mkfs = tools.command("mkfs.ext4");
        mkfs.args(["-q", "-F", "-L", "insula-root", "-d"])
            .arg(&tree)
            .arg(done.join("root.ext4"))
            .arg(SIZE);
        if !quiet(&mut mkfs)? {
            return Err(Failed::Broken("cannot build the disk image".into()));
        }
        fs::rename(&done, &self.directory).map_err(Failed::file("create", &self.directory))?;
        self.remove_others();
        eprintln!("built in {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Installs the packages into a tree.
    fn install(&self, tools: &Tools, tree: &Path, mirror: &str) -> Result<(), Failed> {
        let mut command = tools.mmdebstrap();
        command
            .args(["--mode=root", "--variant=minbase"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg("--hook-dir")
            .arg(tools.hooks().join("merged-usr"))
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--dpkgopt=force-unsafe-io");
        for path in LEFT_OUT {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command
            .arg(self.suite.to_string())
            .arg(tree)
            .arg(mirror)
            .env("LC_ALL", "C");
        let mut said = Vec::new();
        let status = process::run_until(&mut command, LIMIT, |line| {
            if line.starts_with("I: ") {
                eprintln!("{line}");
            }
            said.push(line.to_owned());
        })
        .map_err(|error| Failed::Broken(format!("cannot run {command:?}: {error}")))?;
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        for line in &said[said.len().saturating_sub(40)..] {
            eprintln!("{line}");
        }
        let Some(status) = status else {
            return Err(Failed::Broken(format!(
                "the tree took longer than {} s",
                LIMIT.as_secs()
            )));
        };
        if said.iter().any(|line| is_network_trouble(line)) {
            return Err(Failed::Unavailable(format!(
                "the packages of {} cannot be fetched from {mirror}",
                self.suite
            )));
        }
        Err(Failed::Broken(format!("mmdebstrap: {status}")))
    }

    /// Removes what earlier recipes of this suite made.
    fn remove_others(&self) {
        let start = format!("{}-", self.suite);
        for entry in fs::read_dir(directory()).into_iter().flatten().flatten() {
            let is_one = entry.file_name().to_string_lossy().starts_with(&start);
            if is_one
                && entry.path() != self.directory
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                eprintln!("warning: cannot remove {}: {error}", entry.path().display());
            }
        }
    }
}

/// Whether apt says with this that it could not reach its mirror.
fn is_network_trouble(line: &str) -> bool {
    [
        "Could not resolve",
        "Could not connect",
        "Unable to connect",
        "Failed to fetch",
        "Cannot initiate the connection",
        "Temporary failure",
    ]
    .iter()
    .any(|trouble| line.contains(trouble))
}

/// What tells images apart.
fn recipe(unit: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (PACKAGES, LEFT_OUT, FILES, MASKED, SIZE, unit).hash(&mut hasher);
    hasher.finish()
}

/// The mirror of Debian's main archive that this host's own packages come from.
fn mirror() -> Result<String, Failed> {
    let format = "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()
        .map_err(|error| Failed::Unavailable(format!("apt-get cannot be run: {error}")))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian main "))
        .map(str::to_owned)
        .ok_or_else(|| Failed::Unavailable("this host has no mirror of Debian's packages".into()))
}

/// Makes a tree bootable as a guest.
fn configure(tree: &Path, unit: &str) -> Result<(), Failed> {
    let units = tree.join("etc/systemd/system");
    for (name, text) in FILES {
        write(&tree.join(name), text)?;
    }
    write(&units.join(UNIT), unit)?;
    let wanted = units.join("multi-user.target.wants").join(UNIT);
    link(Path::new("..").join(UNIT).as_path(), &wanted)?;
    for name in MASKED {
        link(Path::new("/dev/null"), &units.join(name))?;
    }
    // Where the second disk is mounted.
    let payload = tree.join("insula");
    fs::create_dir(&payload).map_err(Failed::file("create", &payload))
}

fn write(path: &Path, text: &str) -> Result<(), Failed> {
    parent(path)?;
    fs::write(path, text).map_err(Failed::file("write", path))
}

fn link(to: &Path, path: &Path) -> Result<(), Failed> {
    parent(path)?;
    symlink(to, path).map_err(Failed::file("create", path))
}

fn parent(path: &Path) -> Result<(), Failed> {
    let parent = path.parent().expect("files in the tree have a directory");
    fs::create_dir_all(parent).map_err(Failed::file("create", parent))
}
