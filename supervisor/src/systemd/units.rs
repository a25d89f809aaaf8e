//! The unit files, and where they go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file that systemd reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitFile {
    /// Where it goes, below the root of a host.
    pub path: &'static str,
    /// What it says, for programs in `/usr/bin`.
    pub text: &'static str,
}

/// All of them.
pub const FILES: [UnitFile; 6] = [
    UnitFile {
        path: "etc/systemd/system/insulad.service",
        text: include_str!("../../../systemd/insulad.service"),
    },
    UnitFile {
        path: "etc/systemd/system/insulad.socket",
        text: include_str!("../../../systemd/insulad.socket"),
    },
    UnitFile {
        path: "etc/systemd/system/insula-payload.service",
        text: include_str!("../../../systemd/insula-payload.service"),
    },
    UnitFile {
        path: "etc/systemd/system/insula.slice",
        text: include_str!("../../../systemd/insula.slice"),
    },
    UnitFile {
        path: "etc/sysusers.d/insula.conf",
        text: include_str!("../../../systemd/insula.sysusers"),
    },
    UnitFile {
        path: "etc/tmpfiles.d/insula.conf",
        text: include_str!("../../../systemd/insula.tmpfiles"),
    },
];

impl UnitFile {
    /// What it says, for programs in this directory.
    pub fn text_for(&self, programs: &Path) -> String {
        let programs = format!("={}/", programs.display());
        self.text.replace("=/usr/bin/", &programs)
    }
}

/// Writes all files below `root`, for programs in `programs`; gives what it wrote.
pub fn install(root: &Path, programs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for file in FILES {
        let path = root.join(file.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, file.text_for(programs))?;
        written.push(path);
    }
    Ok(written)
}

/// Removes them; gives what there was.
pub fn uninstall(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for file in FILES {
        let path = root.join(file.path);
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_names_the_programs_and_is_removed_again() {
        let root = tempfile::tempdir().unwrap();
        let written = install(root.path(), Path::new("/opt/insula/bin")).unwrap();
        assert_eq!(written.len(), FILES.len());
        let service = fs::read_to_string(root.path().join(FILES[0].path)).unwrap();
        assert!(service.contains("\nExecStart=/opt/insula/bin/insulad\n"));
        assert_eq!(uninstall(root.path()).unwrap(), written);
        assert!(uninstall(root.path()).unwrap().is_empty());
    }

    #[test]
    fn no_unit_makes_a_mount_namespace_and_every_setting_is_one_line() {
        for file in FILES {
            for line in file.text.lines().filter(|line| !line.starts_with('#')) {
                let key = line.split('=').next().unwrap_or_default();
                for namespace in [
                    "Private",
                    "Protect",
                    "ReadOnly",
                    "ReadWrite",
                    "Bind",
                    "Temporary",
                ] {
                    assert!(!key.starts_with(namespace), "{}: {line}", file.path);
                }
                assert!(!line.ends_with('\\'), "{}: {line}", file.path);
            }
        }
    }
}
