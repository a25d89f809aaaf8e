//! A virtual machine: an image on a throw-away overlay, a payload, a disk for data, and one for what
//! comes back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Failed;
use super::image::Image;
use super::payload::Payload;
use super::scratch::Scratch;
use super::told::Told;
use super::tools::{Tools, find, quiet};
use crate::process;

/// Room for what scripts leave; the host gives what is used.
const OUT_BYTES: u64 = 1 << 30;
/// Room for data, on a file system whose quotas can be switched on.
const DATA_SIZE: &str = "1G";

/// What the console belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The agent's words come on the standard output, the console goes to a file.
    Scripts,
    /// The console is this terminal.
    Shell,
}

/// A machine that can be booted.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) tools: &'a Tools,
    pub(super) image: &'a Image,
    pub(super) payload: &'a Payload,
    pub(super) scratch: &'a Scratch,
}

impl Machine<'_> {
    /// The call of QEMU.
    pub(super) fn command(&self, how: Use) -> Result<Command, Failed> {
        let out = self.scratch.path().join("out.tar");
        File::create(&out)
            .and_then(|file| file.set_len(OUT_BYTES))
            .map_err(Failed::file("create", &out))?;
        let mut command = self.tools.qemu();
        command
            .current_dir(self.scratch.path())
            // Where QEMU keeps the overlay, which has no name and goes with it.
            .env("TMPDIR", self.scratch.path())
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-machine", "q35"])
            // Emulated always: KVM inside a virtual machine may be there and not work.
            .args(["-accel", "tcg,thread=multi"])
            .args(["-cpu", self.image.suite().cpu()])
            .args(["-smp", "8,sockets=2,cores=4", "-m", "4G"]);
        for (node, cpus) in [(0, "0-3"), (1, "4-7")] {
            command
                .arg("-object")
                .arg(format!("memory-backend-ram,id=memory{node},size=2G"))
                .arg("-numa")
                .arg(format!(
                    "node,nodeid={node},cpus={cpus},memdev=memory{node}"
                ));
        }
        command.arg("-kernel").arg(self.image.kernel());
        command.arg("-initrd").arg(self.image.initrd());
        command.arg("-append").arg(
            // A panic restarts the machine, which the agent notices.
            "root=LABEL=insula-root rw console=ttyS0 panic=5 loglevel=5",
        );
        let root = self.image.root();
        // An overlay over the image, kept over the guest's reboots.
        disk(&mut command, "root", &root, ",snapshot=on,discard=unmap");
        disk(&mut command, "payload", self.payload.disk(), ",readonly=on");
        disk(&mut command, "out", &out, "");
        disk(&mut command, "data", &self.data_disk()?, "");
        match how {
            Use::Scripts => command
                .args(["-serial", "file:console.log", "-serial", "stdio"])
                .stdin(Stdio::null()),
            Use::Shell => command.args(["-serial", "mon:stdio", "-serial", "null"]),
        };
        Ok(command)
    }

    /// An empty ext4 that counts what each user has on it.
    fn data_disk(&self) -> Result<PathBuf, Failed> {
        let disk = self.scratch.path().join("data.ext4");
        let mut mkfs = Command::new(find("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into()));
        mkfs.args(["-q", "-F", "-L", "insula-data"])
            .args(["-O", "quota", "-E", "quotatype=usrquota"])
            .arg(&disk)
            .arg(DATA_SIZE);
        if quiet(&mut mkfs)? {
            Ok(disk)
        } else {
            Err(Failed::Broken("cannot build the disk for data".into()))
        }
    }

    /// Boots the machine, shows what the scripts say, and puts what they left into `kept`.
    pub(super) fn run(&self, limit: Duration, kept: &Path) -> Result<Told, Failed> {
        let mut command = self.command(Use::Scripts)?;
        eprintln!("booting {}", self.image.suite());
        let started = Instant::now();
        let mut told = Told::default();
        let status = process::run_until(&mut command, limit, |line| {
            println!("[{:6.1}] {line}", started.elapsed().as_secs_f64());
            told.read(line);
        })
        .map_err(|error| Failed::Broken(format!("cannot run {command:?}: {error}")))?;
        self.keep(kept)?;
        match status {
            None => told.fail(format!("the guest ran longer than {} s", limit.as_secs())),
            Some(status) if !status.success() => told.fail(format!("QEMU: {status}")),
            Some(_) => {}
        }
        if !told.is_complete() {
            self.show_console();
        }
        eprintln!("what the guest left is in {}", kept.display());
        Ok(told)
    }

    /// Keeps the console's log and what the guest wrote to its third disk.
    fn keep(&self, kept: &Path) -> Result<(), Failed> {
        if kept.exists() {
            fs::remove_dir_all(kept).map_err(Failed::file("remove", kept))?;
        }
        fs::create_dir_all(kept).map_err(Failed::file("create", kept))?;
        let console = self.scratch.path().join("console.log");
        if console.exists() {
            let to = kept.join("console.log");
            fs::copy(&console, &to).map_err(Failed::file("write", &to))?;
        }
        let mut tar = Command::new("tar");
        tar.arg("-xf")
            .arg(self.scratch.path().join("out.tar"))
            .arg("-C")
            .arg(kept);
        quiet(&mut tar).map(|_| ())
    }

    fn show_console(&self) {
        let console = fs::read(self.scratch.path().join("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        eprintln!("the end of the guest's console:");
        for line in &lines[lines.len().saturating_sub(40)..] {
            eprintln!("{}", line.trim_end());
        }
    }
}

fn disk(command: &mut Command, name: &str, file: &Path, options: &str) {
    // A comma in a value is written twice.
    let file = file.display().to_string().replace(',', ",,");
    command
        .arg("-drive")
        .arg(format!(
            "if=none,id={name},format=raw,cache=unsafe,file={file}{options}"
        ))
        .arg("-device")
        .arg(format!("virtio-blk-pci,drive={name},serial={name}"));
}
