//! What a release consists of, and the hash of it.
//!
//! The hash is SHA-256 over all entries, sorted by their paths as bytes. An entry is its kind
//! (`d`, `f`, `x` for an executable file, `l`), the length of its path (8 bytes, little-endian)
//! and the path, then for a file the SHA-256 of its bytes, for a link the length of its target
//! (8 bytes, little-endian) and the target. Owners, times and other mode bits do not count: the
//! depot sets them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

/// Something in a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Directory,
    File {
        executable: bool,
        size: u64,
        digest: [u8; 32],
    },
    Link {
        target: PathBuf,
    },
}

/// Everything in a release, by its path from the release's top.
#[derive(Debug, Default)]
pub(super) struct Contents(pub(super) BTreeMap<PathBuf, Entry>);

impl Contents {
    /// The hash, in hexadecimal.
    pub(super) fn hash(&self) -> String {
        let mut entries: Vec<_> = self.0.iter().collect();
        // Paths compare by component; the hash is defined on their bytes.
        entries.sort_by_key(|(path, _)| path.as_os_str().as_bytes());
        let mut hash = Sha256::new();
        for (path, entry) in entries {
            let kind = match entry {
                Entry::Directory => b"d",
                Entry::File {
                    executable: false, ..
                } => b"f",
                Entry::File {
                    executable: true, ..
                } => b"x",
                Entry::Link { .. } => b"l",
            };
            hash.update(kind);
            update_with_length(&mut hash, path.as_os_str().as_bytes());
            match entry {
                Entry::Directory => {}
                Entry::File { digest, .. } => hash.update(digest),
                Entry::Link { target } => {
                    update_with_length(&mut hash, target.as_os_str().as_bytes());
                }
            }
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let sizes = self.0.values().map(|entry| match entry {
            Entry::File { size, .. } => *size,
            Entry::Directory | Entry::Link { .. } => 0,
        });
        sizes.sum()
    }

    /// Why `name` cannot be run as the release's program; `None` if it can.
    pub(super) fn why_no_program(&self, name: &str) -> Option<String> {
        let path = Path::new(name);
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() {
            return Some(format!("`{name}` is no path from the release's top"));
        }
        match self.0.get(path) {
            Some(Entry::File {
                executable: true, ..
            }) => None,
            Some(Entry::File { .. }) => Some(format!("`{name}` is not executable")),
            Some(Entry::Directory) => Some(format!("`{name}` is a directory")),
            Some(Entry::Link { .. }) => Some(format!("`{name}` is a link: name the file itself")),
            None => Some(format!("the release has no file `{name}`")),
        }
    }
}

fn update_with_length(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Whether a name in the depot is that of a release's content.
pub(super) fn is_hash(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a link in the directory `parent` of the release stays within the release.
///
/// `parent` is a real directory, so leading `..` lead where they say. A `..` after a name might
/// start from wherever that name links to, and is refused; a name that is itself a link was
/// checked on its own.
pub(super) fn stays_within(parent: &Path, target: &Path) -> bool {
    let mut up = 0;
    let mut named = false;
    for part in target.components() {
        match part {
            Component::Normal(_) => named = true,
            Component::ParentDir if !named => up += 1,
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    up <= parent.components().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_may_lead_anywhere_inside_and_nowhere_else() {
        for (parent, target) in [
            ("", "bin/kv"),
            ("bin", "../lib/x"),
            ("a/b", "../../c"),
            ("", "./x"),
            ("a", ".."),
        ] {
            assert!(
                stays_within(Path::new(parent), Path::new(target)),
                "{parent} {target}"
            );
        }
        for (parent, target) in [
            ("", "/bin/sh"),
            ("", ".."),
            ("bin", "../../x"),
            ("", "x/y/z/link/.."),
            ("a", "b/../../../x"),
        ] {
            assert!(
                !stays_within(Path::new(parent), Path::new(target)),
                "{parent} {target}"
            );
        }
    }

    /// The definition above, on a fixed release: an installed base depends on it.
    #[test]
    fn the_hash_of_a_release_never_changes() {
        let file = |executable, byte| Entry::File {
            executable,
            size: 1,
            digest: [byte; 32],
        };
        let contents = Contents(BTreeMap::from([
            ("bin".into(), Entry::Directory),
            ("bin/kv".into(), file(true, 1)),
            ("bin-x".into(), file(false, 2)),
            (
                "kv".into(),
                Entry::Link {
                    target: "bin/kv".into(),
                },
            ),
        ]));
        let mut bytes = Vec::new();
        // `bin-x` is before `bin/kv` as bytes, and after it as a path.
        for (kind, path, rest) in [
            ('d', "bin", vec![]),
            ('f', "bin-x", vec![2; 32]),
            ('x', "bin/kv", vec![1; 32]),
            ('l', "kv", [&6_u64.to_le_bytes()[..], b"bin/kv"].concat()),
        ] {
            bytes.push(kind as u8);
            bytes.extend((path.len() as u64).to_le_bytes());
            bytes.extend(path.as_bytes());
            bytes.extend(rest);
        }
        let expected: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(contents.hash(), expected);
        assert!(is_hash(&expected));
    }
}
