//! Where the daemon keeps things.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_contract::id::ServiceName;

/// The daemon's four directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    etc: PathBuf,
    lib: PathBuf,
    run: PathBuf,
    log: PathBuf,
}

impl Paths {
    /// Everything below `root`, or the usual places.
    pub fn new(root: Option<PathBuf>) -> Self {
        match root {
            Some(root) => {
                let root = std::path::absolute(&root).unwrap_or(root);
                Self {
                    etc: root.join("etc"),
                    lib: root.join("lib"),
                    run: root.join("run"),
                    log: root.join("log"),
                }
            }
            None => Self {
                etc: "/etc/insula".into(),
                lib: "/var/lib/insula".into(),
                run: "/run/insula".into(),
                log: "/var/log/insula".into(),
            },
        }
    }

    /// Configuration: `profiles.toml` and `services/NAME.toml`.
    pub fn etc(&self) -> &Path {
        &self.etc
    }

    /// The depot, the services' data, the durable ledger.
    pub fn lib(&self) -> &Path {
        &self.lib
    }

    /// Sockets, channels, the run state.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The services' output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The directory that is a service's own.
    pub fn data(&self, service: &ServiceName) -> PathBuf {
        self.data_root().join(service.as_str())
    }

    /// Where the services' directories lie.
    pub fn data_root(&self) -> PathBuf {
        self.lib.join("data")
    }

    /// A short name of this daemon's own, told apart from those with other directories.
    ///
    /// The run directory's path, hashed with FNV-1a (Fowler, Noll, Vo).
    pub fn tag(&self) -> String {
        let hash = self
            .run
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    }

    /// Makes what is not there. Services pass through to what is theirs and list nothing.
    pub fn create(&self) -> io::Result<()> {
        for (directory, mode) in [
            (self.etc.clone(), 0o755),
            (self.lib.clone(), 0o711),
            (self.data_root(), 0o711),
            (self.run.clone(), 0o711),
            (self.log.clone(), 0o750),
        ] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&directory)?;
            let owner = fs::metadata(&directory)?.uid();
            if owner != nix::unistd::geteuid().as_raw() {
                let text = format!("{} belongs to uid {owner}", directory.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Makes a service's own directory, for its user only.
    pub fn create_data(&self, service: &ServiceName, uid: Option<u32>) -> io::Result<PathBuf> {
        let directory = self.data(service);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(uid) = uid {
            std::os::unix::fs::lchown(&directory, Some(uid), Some(uid))?;
        }
        Ok(directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_below_the_root_or_in_the_usual_places() {
        let own = Paths::new(Some("/x".into()));
        assert_eq!(own.run(), Path::new("/x/run"));
        assert_eq!(
            own.data(&"kv".parse().unwrap()),
            Path::new("/x/lib/data/kv")
        );
        assert_eq!(Paths::new(None).run(), Path::new("/run/insula"));
    }
}
