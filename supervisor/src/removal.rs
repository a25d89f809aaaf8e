//! Removing a directory tree that others filled, and may be filling.
//!
//! A tree can be deeper than a process may have descriptors or stack, so nothing here goes down it:
//! what lies two levels down is moved up beside its parent, until the tree is flat. Names are
//! resolved one at a time below a descriptor and never through a link, so what lies outside is
//! out of reach. The top is closed to others first, but who holds a directory in it open can put in
//! more than is taken out: after [`ENTRIES_MAX`] it is an error, and the rest stays.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How much is removed or moved in one go.
const ENTRIES_MAX: u64 = 1 << 20;

/// Removes what is at `path`, a directory with all below it or anything else; nothing there is no
/// error. Links are removed and not followed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match open(parent, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        parent => parent?,
    };
    let mut seen = 0;
    while !remove_one(&parent, name)? {
        if let Some(directory) = enter(&parent, name)? {
            // Also masks out whoever an access list lets in.
            fs::set_permissions(path_of(&directory), fs::Permissions::from_mode(0o700))?;
            flatten(&directory, &mut seen)?;
        }
        count(&mut seen)?;
    }
    Ok(())
}

fn count(seen: &mut u64) -> io::Result<()> {
    *seen += 1;
    if *seen > ENTRIES_MAX {
        Err(Errno::ENOTEMPTY.into())
    } else {
        Ok(())
    }
}

/// Removes a file, a link or an empty directory; tells whether it is gone.
fn remove_one(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        // Somebody put a file in the directory's place: that is for the next round.
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory itself, never what a link of that name leads to; `None` if it is none.
fn enter(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags | OFlag::O_RDONLY, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(Errno::EACCES) => {
            // Ours, and closed even to us: without root its mode counts.
            let held = openat(parent, name, flags | OFlag::O_PATH, Mode::empty())?;
            fs::set_permissions(path_of(&held), fs::Permissions::from_mode(0o700))?;
            Ok(Some(openat(
                parent,
                name,
                flags | OFlag::O_RDONLY,
                Mode::empty(),
            )?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what is in `top`, moving up what lies deeper; what is added meanwhile may stay.
fn flatten(top: &OwnedFd, seen: &mut u64) -> io::Result<()> {
    loop {
        let mut was_empty = true;
        for entry in fs::read_dir(path_of(top))? {
            was_empty = false;
            count(seen)?;
            let name = entry?.file_name();
            if remove_one(top, &name)? {
                continue;
            }
            let Some(directory) = enter(top, &name)? else {
                continue;
            };
            for inner in fs::read_dir(path_of(&directory))? {
                count(seen)?;
                let inner = inner?.file_name();
                if !remove_one(&directory, &inner)? {
                    move_up(&directory, &inner, top, seen)?;
                }
            }
            remove_one(top, &name)?;
        }
        if was_empty {
            return Ok(());
        }
    }
}

/// Moves a directory to the top under a name that nobody has there.
fn move_up(from: &OwnedFd, name: &OsStr, top: &OwnedFd, seen: &mut u64) -> io::Result<()> {
    loop {
        count(seen)?;
        let free = format!(".moved-{seen}");
        match renameat(from, name, top, free.as_str()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // The name is taken after all, by a file or a directory that is not empty.
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EISDIR) => {}
            // A closed directory cannot be moved, since its `..` changes.
            Err(Errno::EACCES) => drop(enter(from, name)?),
            Err(error) => return Err(error.into()),
        }
    }
}

fn path_of(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn a_tree_deeper_than_descriptors_and_stack_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut below = open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            mkdirat(&below, "a", Mode::S_IRWXU).unwrap();
            mkdirat(&below, ".moved-7", Mode::S_IRWXU).unwrap();
            below = openat(&below, "a", flags, Mode::empty()).unwrap();
        }
        drop(below);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
        remove_tree(&place.path().join("none/top")).unwrap();
    }

    #[test]
    fn links_are_removed_and_what_they_lead_to_stays() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let top = place.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        symlink(&outside, top.join("link")).unwrap();
        symlink(&outside, top.join("a/link")).unwrap();
        symlink(&outside, top.join("a/b/link")).unwrap();
        symlink("..", top.join("a/b/c/up")).unwrap();
        fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        symlink(&outside, &top).unwrap();
        remove_tree(&top).unwrap();
        assert!(fs::symlink_metadata(&top).is_err());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_directory_that_turns_into_a_link_meanwhile_leads_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let top = place.path().join("top");
            fs::create_dir_all(top.join("a")).unwrap();
            let held = open(&top, OFlag::O_PATH, Mode::empty()).unwrap();
            let (stop, outside) = (&stop, &outside);
            scope.spawn(move || {
                let inside = PathBuf::from(path_of(&held));
                while !stop.load(Ordering::SeqCst) {
                    // Each may fail: the other side is at work.
                    let _ = fs::create_dir_all(inside.join("a/b"));
                    let _ = fs::rename(inside.join("a"), inside.join("b"));
                    let _ = symlink(outside, inside.join("a"));
                    let _ = fs::remove_file(inside.join("a"));
                }
            });
            for _ in 0..200 {
                // It may be an error while another one writes, but no way out.
                let _ = remove_tree(&top);
                let _ = fs::create_dir_all(top.join("a/b"));
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert!(outside.join("kept").exists());
    }
}
