//! Programs out of Debian packages, unpacked below the target directory: nothing is installed.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Host, path};

/// What a set of packages holds, unpacked; loaded when it is not there yet.
///
/// `None`, with a skip told for `what`, where the packages cannot be had.
pub(crate) fn unpacked(what: &str, name: &str, packages: &[&str]) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let place = tools.join(name);
    if place.join("usr").exists() {
        return Some(place);
    }
    let fresh = tools.join(format!("{name}.{}", std::process::id()));
    let loaded = load(&fresh, packages).and_then(|()| match fs::rename(&fresh, &place) {
        // Somebody else was quicker.
        Err(_) if place.join("usr").exists() => Ok(()),
        moved => moved,
    });
    let _ = fs::remove_dir_all(&fresh);
    match loaded {
        Ok(()) => Some(place),
        Err(error) => {
            println!("SKIPPED (needs Debian packages): {what}: {error}");
            None
        }
    }
}

fn load(place: &Path, packages: &[&str]) -> io::Result<()> {
    let archives = place.join("archives");
    fs::create_dir_all(&archives)?;
    let download = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "download"])
            .args(packages)
            .current_dir(&archives);
        run(&mut command)
    };
    // The host may never have asked which packages there are.
    if download().is_err() {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        download()?;
    }
    for archive in fs::read_dir(&archives)? {
        run(Command::new("dpkg")
            .arg("-x")
            .arg(archive?.path())
            .arg(place))?;
    }
    fs::remove_dir_all(archives)
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{command:?} ended with {status}")))
    }
}

/// Installs a release with this program, and puts files into its data directory, where it starts.
pub(crate) fn install(host: &Host, service: &str, manifest: &str, program: &Path, files: &[&Path]) {
    let own = |path: &Path| path.file_name().expect("a file").to_owned();
    let installed = host.root.join("releases").read_dir();
    let release = format!("{service}-{}", installed.map_or(0, Iterator::count));
    let release = host.release(&release, manifest, &[]);
    fs::copy(program, release.join("bin").join(own(program))).expect("the package has it");
    host.must(&["install", path(&release)]);
    let data = host.root.join("lib/data").join(service);
    fs::create_dir_all(&data).expect("our directory");
    for file in files {
        fs::copy(file, data.join(own(file))).expect("it is there");
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it listens")
}
