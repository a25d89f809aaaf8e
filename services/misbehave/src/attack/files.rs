//! What lies in files: of neighbours, of the daemon and of the host.

#![expect(unsafe_code, reason = "truncate")]

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Attack, Target};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "read-data",
        text: "reads a neighbour's data",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let bytes = fs::read(secret(target))?;
            Ok(format!("{} bytes", bytes.len()))
        },
    },
    Attack {
        name: "write-data",
        text: "opens a neighbour's data for writing",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| write(&secret(target)),
    },
    Attack {
        name: "truncate-data",
        text: "cuts a neighbour's data to its own length",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let path = secret(target);
            let text = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
            // SAFETY: the path ends with a NUL. Its length is the file's: nothing is lost.
            let cut = unsafe { libc::truncate(text.as_ptr(), SECRET_LEN) };
            nix::Error::result(cut)?;
            Ok("truncate".to_owned())
        },
    },
    Attack {
        name: "list-data",
        text: "lists a neighbour's data",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| list(&target.directory("lib").join("data").join(&target.neighbour)),
    },
    Attack {
        name: "change-release",
        text: "adds a file to an installed release",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let releases = target.directory("lib");
            let program = find(&releases, 8, &|path| path.ends_with("bin/misbehave"))?;
            let path = program.with_file_name("added");
            File::create_new(&path)?;
            fs::remove_file(&path)?;
            Ok(path.display().to_string())
        },
    },
    Attack {
        name: "read-log",
        text: "reads what a neighbour wrote",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let bytes = fs::read(log(target))?;
            Ok(format!("{} bytes", bytes.len()))
        },
    },
    Attack {
        name: "write-log",
        text: "opens a neighbour's log for writing",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| write(&log(target)),
    },
    Attack {
        name: "list-channels",
        text: "lists the channels of a neighbour",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| list(&channels(target)),
    },
    Attack {
        name: "open-shared-memory",
        text: "opens the shared memory of two neighbours for writing",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let data = |path: &Path| path.is_file();
            write(&find(&channels(target), 8, &data)?)
        },
    },
    Attack {
        name: "read-ledger",
        text: "opens the daemon's ledger",
        walls: "own-uids, files",
        ends_all: false,
        run: |target| {
            let ledger = |path: &Path| path.ends_with("data.mdb");
            let path = find(&target.directory("lib").join("ledger"), 4, &ledger)?;
            File::open(&path)?;
            Ok(path.display().to_string())
        },
    },
    Attack {
        name: "control-socket",
        text: "connects to the daemon's control socket",
        walls: "own-uids, system-calls",
        ends_all: false,
        run: |target| {
            UnixStream::connect(target.directory("run").join("control.sock"))?;
            Ok("connected".to_owned())
        },
    },
    Attack {
        name: "read-host",
        text: "reads the host's password hashes",
        walls: "own-uids, files",
        ends_all: false,
        run: |_| {
            let bytes = fs::read("/etc/shadow")?;
            Ok(format!("{} bytes", bytes.len()))
        },
    },
    Attack {
        name: "list-processes",
        text: "reads the command lines of the host's processes",
        walls: "files",
        ends_all: false,
        run: |_| {
            fs::read("/proc/1/cmdline")?;
            list(Path::new("/proc"))
        },
    },
    Attack {
        name: "make-shared-memory",
        text: "makes a file in the host's shared memory",
        walls: "files",
        ends_all: false,
        run: |_| {
            let path = format!("/dev/shm/insula-attack-{}", std::process::id());
            File::create_new(&path)?;
            fs::remove_file(&path)?;
            Ok(path)
        },
    },
    Attack {
        name: "set-user-id",
        text: "runs a program of root that is to run as root",
        walls: "files, no-new-privileges",
        ends_all: false,
        run: |target| {
            let output = Command::new(&target.set_user_id).arg("-u").output()?;
            match String::from_utf8_lossy(&output.stdout).trim() {
                "0" => Ok("ran as root".to_owned()),
                other => Err(io::Error::other(format!("ran as {other}"))),
            }
        },
    },
    Attack {
        name: "cgroups",
        text: "opens a file of cgroupfs that moves processes",
        walls: "own-uids, files",
        ends_all: false,
        run: |_| {
            let procs = |path: &Path| path.ends_with("cgroup.procs");
            write(&find(Path::new("/sys/fs/cgroup"), 3, &procs)?)
        },
    },
];

/// Bytes of the file that is tried.
const SECRET_LEN: i64 = 6;

fn secret(target: &Target) -> PathBuf {
    let data = target.directory("lib").join("data");
    data.join(&target.neighbour).join("secret")
}

fn log(target: &Target) -> PathBuf {
    let directory = format!("{}-0", target.neighbour);
    target.directory("log").join(directory).join("current")
}

fn channels(target: &Target) -> PathBuf {
    target
        .directory("run")
        .join("channels")
        .join(&target.neighbour)
}

fn write(path: &Path) -> io::Result<String> {
    File::options().write(true).open(path)?;
    Ok(format!("{} is open", path.display()))
}

fn list(path: &Path) -> io::Result<String> {
    Ok(format!("{} entries", fs::read_dir(path)?.count()))
}

/// The first path below a directory that is like this; the error is the first that was met.
fn find(below: &Path, depth: usize, like: &dyn Fn(&Path) -> bool) -> io::Result<PathBuf> {
    let mut first = None;
    let mut open = vec![(below.to_owned(), 0)];
    while let Some((directory, level)) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                first.get_or_insert(error);
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if like(&path) {
                return Ok(path);
            }
            if level < depth && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((path, level + 1));
            }
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}
