//! The second disk of a guest: the agent, the scripts, and the programs, units and manifests of
//! this workspace.
//!
//! A small ext4 file system needs no module that a guest may lack, and no copy in the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::scratch::Scratch;
use super::tools::{find, quiet};
use super::{Failed, guest};
use crate::check::cargo;

/// What a guest can run or install, and the scripts it is to run.
#[derive(Debug)]
pub(super) struct Payload {
    disk: PathBuf,
}

impl Payload {
    /// Builds the programs, and the disk with them.
    pub(super) fn make(scratch: &Scratch, scripts: &[PathBuf]) -> Result<Self, Failed> {
        let tree = scratch.path().join("payload");
        let root = crate::root();
        for directory in ["bin", "scripts", "services"] {
            let path = tree.join(directory);
            fs::create_dir_all(&path).map_err(Failed::file("create", &path))?;
        }
        for program in programs(&root)? {
            strip(&program, &tree.join("bin"))?;
        }
        for name in ["agent", "lib.sh"] {
            copy(&guest().join(name), &tree.join(name))?;
        }
        copy(&root.join("profiles.toml"), &tree.join("profiles.toml"))?;
        // The units come with the programs that need them.
        if root.join("systemd").is_dir() {
            copy_tree(&root.join("systemd"), &tree.join("systemd"))?;
        }
        for service in list(&root.join("services"))? {
            let manifest = service.join("service.toml");
            if manifest.is_file() {
                let name = service.file_name().expect("services have a name");
                let name = Path::new(name).with_extension("toml");
                copy(&manifest, &tree.join("services").join(name))?;
            }
        }
        for (number, script) in flat(scripts)?.iter().enumerate() {
            let name = script.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{number:03}.{name}");
            copy(script, &tree.join("scripts").join(name))?;
        }
        let disk = scratch.path().join("payload.ext4");
        make_disk(&tree, &disk)?;
        fs::remove_dir_all(&tree).map_err(Failed::file("remove", &tree))?;
        Ok(Self { disk })
    }

    pub(super) fn disk(&self) -> &Path {
        &self.disk
    }
}

/// Builds the programs of the workspace, and says where they are.
fn programs(root: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut command = cargo(
        root,
        &["build", "--workspace", "--bins", "--exclude", "xtask"],
    );
    command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| Failed::Broken(format!("cannot run {command:?}: {error}")))?;
    if !output.status.success() {
        return Err(Failed::Broken("the programs do not build".into()));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect())
}

/// Copies a program without its symbols, which are most of it.
fn strip(program: &Path, into: &Path) -> Result<(), Failed> {
    let to = into.join(program.file_name().expect("a program has a name"));
    if find("strip").is_none() {
        return copy(program, &to);
    }
    let mut command = Command::new("strip");
    command.arg("-o").arg(&to).arg(program);
    if quiet(&mut command)? {
        Ok(())
    } else {
        Err(Failed::Broken(format!(
            "cannot strip {}",
            program.display()
        )))
    }
}

/// Scripts as they are, directories as the scripts in them.
fn flat(scripts: &[PathBuf]) -> Result<Vec<PathBuf>, Failed> {
    let mut all = Vec::new();
    for script in scripts {
        if script.is_dir() {
            all.extend(list(script)?);
        } else {
            all.push(script.clone());
        }
    }
    Ok(all)
}

/// What is in a directory, by name.
fn list(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let entries = fs::read_dir(directory).map_err(Failed::file("read", directory))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failed::file("read", directory))?;
    paths.sort();
    Ok(paths)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(Failed::file("copy", from))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to).map_err(Failed::file("create", to))?;
    for path in list(from)? {
        let to = to.join(path.file_name().expect("what is listed has a name"));
        if path.is_dir() {
            copy_tree(&path, &to)?;
        } else {
            copy(&path, &to)?;
        }
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64, Failed> {
    if !path.is_dir() {
        return fs::metadata(path)
            .map(|metadata| metadata.len())
            .map_err(Failed::file("read", path));
    }
    list(path)?.iter().map(|path| size(path)).sum()
}

fn make_disk(tree: &Path, disk: &Path) -> Result<(), Failed> {
    // Inodes and tables need some room.
    let mebibytes = size(tree)? / (1 << 20) * 11 / 10 + 16;
    let mut mkfs = Command::new(find("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into()));
    mkfs.args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-d"])
        .arg(tree)
        .arg(disk)
        .arg(format!("{mebibytes}M"));
    if quiet(&mut mkfs)? {
        Ok(())
    } else {
        Err(Failed::Broken("cannot build the payload's disk".into()))
    }
}
