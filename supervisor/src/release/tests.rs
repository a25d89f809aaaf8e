//! Installing: what is taken, what is refused, and that nothing is left of what is refused.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

const PLAIN: &str = r#"
name = "kv"
version = "1.0.0"
[run]
command = ["bin/kv"]
profile = "shared"
"#;

struct Host {
    directory: tempfile::TempDir,
    depot: Depot,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let depot = Depot::open_at(directory.path().join("depot")).unwrap();
        Self { directory, depot }
    }

    fn reopen(&self) -> Depot {
        Depot::open_at(self.directory.path().join("depot")).unwrap()
    }

    fn release(&self, name: &str, manifest: &str, program: &[u8]) -> PathBuf {
        let release = self.directory.path().join(name);
        fs::create_dir_all(release.join("bin")).unwrap();
        fs::write(release.join(MANIFEST), manifest).unwrap();
        fs::write(release.join("bin/kv"), program).unwrap();
        set_mode(&release.join("bin/kv"), 0o700);
        release
    }

    fn stage(&self, path: &Path) -> Result<Staged, Vec<String>> {
        self.depot.stage(path, &Profiles::shipped(), &mut |_, _| {})
    }

    fn install(&self, path: &Path) -> Installed {
        self.depot.commit(self.stage(path).unwrap()).unwrap()
    }

    /// The problems, with the directory of this test taken out.
    fn refusal(&self, path: &Path) -> String {
        let problems = self
            .stage(path)
            .expect_err("it should be refused")
            .join("\n");
        assert_eq!(
            self.in_depot(),
            ["files", "index", "staging"],
            "something is left"
        );
        assert_eq!(self.staged(), 0, "something is left of a refused release");
        problems.replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.directory.path().join("depot/staging"))
            .unwrap()
            .count()
    }

    fn in_depot(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("depot")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// An archive of these entries, written as bytes so that nothing corrects them.
    fn archive(&self, entries: &[(&str, tar::EntryType, &str)]) -> PathBuf {
        let path = self.directory.path().join("kv.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            let fields = header.as_gnu_mut().unwrap();
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            let linked = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            let content = if linked {
                fields.linkname[..content.len()].copy_from_slice(content.as_bytes());
                ""
            } else {
                content
            };
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_entry_type(*kind);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap().flush().unwrap();
        path
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

#[test]
fn a_release_lies_by_its_content_and_is_found_again() {
    let host = Host::new();
    let source = host.release("kv", PLAIN, b"#!/bin/true");
    symlink("bin/kv", source.join("kv")).unwrap();
    let first = host.install(&source);
    assert!(!first.already);
    assert_eq!(
        host.install(&source),
        Installed {
            already: true,
            ..first.clone()
        }
    );
    let name = "kv".parse().unwrap();
    let place = host.depot.directory(&name, &version("1.0.0")).unwrap();
    assert!(place.ends_with(&first.hash));
    assert_eq!(fs::read(place.join("kv")).unwrap(), b"#!/bin/true");
    let mode = |name: &str| fs::symlink_metadata(place.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("bin/kv"), mode("bin"), mode(""), mode(MANIFEST)),
        (0o755, 0o755, 0o755, 0o644)
    );
    assert_eq!(host.staged(), 0);
    let again = host.reopen();
    assert_eq!(again.releases(), host.depot.releases());
    assert_eq!(again.releases().len(), 1);
    assert_eq!(again.specs()[0].command, ["bin/kv"]);
}

#[test]
fn the_hash_tells_contents_apart_and_nothing_else() {
    let host = Host::new();
    let hash = |path: &Path| host.stage(path).unwrap().hash.clone();
    let one = hash(&host.release("a", PLAIN, b"1"));
    let twin = host.release("b", PLAIN, b"1");
    set_mode(&twin.join("bin/kv"), 0o711);
    set_mode(&twin.join(MANIFEST), 0o600);
    assert_eq!(one, hash(&twin));
    assert_ne!(one, hash(&host.release("c", PLAIN, b"2")));
    fs::write(twin.join("notes"), "").unwrap();
    let noted = hash(&twin);
    assert_ne!(one, noted);
    set_mode(&twin.join("notes"), 0o755);
    assert_ne!(noted, hash(&twin));
}

#[test]
fn a_version_is_not_installed_twice_with_other_content() {
    let host = Host::new();
    let one = host.install(&host.release("a", PLAIN, b"1"));
    let problems = host.stage(&host.release("b", PLAIN, b"2")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("kv 1.0.0 is installed with other content"),
        "{problems:?}"
    );
    assert!(problems[0].contains(&one.hash));
    assert_eq!(host.depot.releases().len(), 1);
    // Two that were staged before either was committed.
    let other = Host::new();
    let staged = [("a", "1"), ("b", "2")].map(|(name, content)| {
        other
            .stage(&other.release(name, PLAIN, content.as_bytes()))
            .unwrap()
    });
    let [first, second] = staged;
    other.depot.commit(first).unwrap();
    assert!(matches!(
        other.depot.commit(second),
        Err(DepotError::OtherContent { .. })
    ));
    assert_eq!(other.staged(), 0);
}

#[test]
fn a_tarball_is_as_good_as_a_directory() {
    let host = Host::new();
    let release = host.release("kv", PLAIN, b"program");
    let expected = host.stage(&release).unwrap().hash.clone();
    for gzip in [false, true] {
        for top in [".", "kv-1.0.0"] {
            let path = host.directory.path().join("kv.tar");
            let file = File::create(&path).unwrap();
            let write: Box<dyn Write> = if gzip {
                Box::new(flate2::write::GzEncoder::new(
                    file,
                    flate2::Compression::fast(),
                ))
            } else {
                Box::new(file)
            };
            let mut builder = tar::Builder::new(write);
            builder.append_dir_all(top, &release).unwrap();
            builder.into_inner().unwrap().flush().unwrap();
            assert_eq!(host.stage(&path).unwrap().hash, expected, "{gzip} {top}");
        }
    }
}

#[test]
fn everything_wrong_with_a_directory_is_told_at_once() {
    let host = Host::new();
    let release = host.release("kv", &PLAIN.replace("bin/kv", "bin/none"), b"1");
    symlink("/etc/passwd", release.join("link")).unwrap();
    fs::write(release.join("setuid"), "").unwrap();
    set_mode(&release.join("setuid"), 0o4755);
    nix::unistd::mkfifo(&release.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let expected = "\
kv/pipe: a device, socket or pipe; a release holds files, directories, links
kv/setuid: a set-user-id or set-group-id file
kv/link: a link that leads out of the release: /etc/passwd
kv/service.toml:5:12: run.command[0]: the release has no file `bin/none`";
    assert_eq!(host.refusal(&release), expected);
}

#[test]
fn an_archive_cannot_write_elsewhere() {
    use tar::EntryType::{Block, Link, Regular, Symlink};
    let host = Host::new();
    let path = host.archive(&[
        ("service.toml", Regular, PLAIN),
        ("../escape", Regular, "x"),
        ("/tmp/insula-escape", Regular, "x"),
        ("out", Symlink, "/tmp"),
        ("out/insula-escape", Regular, "x"),
        ("bin/kv", Regular, "1"),
        ("bin/kv", Regular, "2"),
        ("bin/kv/below", Regular, "2"),
        ("hard", Link, "/etc/passwd"),
        ("disk", Block, ""),
    ]);
    let expected = "\
kv.tar/../escape: a path that leads out of the release
kv.tar//tmp/insula-escape: a path that leads out of the release
kv.tar/out/insula-escape: lies below something that is no directory
kv.tar/bin/kv: there twice
kv.tar/bin/kv/below: lies below something that is no directory
kv.tar/hard: a hard link; a release holds files, directories, links
kv.tar/disk: a device, pipe or unknown entry; a release holds files, directories, links
kv.tar/out: a link that leads out of the release: /tmp";
    assert_eq!(host.refusal(&path), expected);
    assert!(!host.directory.path().join("depot/staging/escape").exists());
    assert!(!Path::new("/tmp/insula-escape").exists());
}

#[test]
fn a_link_is_made_after_everything_that_could_be_written_through_it() {
    use tar::EntryType::{Regular, Symlink};
    let host = Host::new();
    let path = host.archive(&[
        ("service.toml", Regular, PLAIN),
        ("bin/kv", Regular, "1"),
        ("lib", Symlink, "bin"),
    ]);
    let staged = host.stage(&path).unwrap();
    assert_eq!(
        fs::read_link(staged.release.join("lib")).unwrap(),
        Path::new("bin")
    );
}

#[test]
fn what_is_no_release_is_told() {
    let host = Host::new();
    let release = host.release("kv", PLAIN, b"1");
    fs::remove_file(release.join(MANIFEST)).unwrap();
    let expected = "kv/service.toml: missing; a release has it at its top";
    assert_eq!(host.refusal(&release), expected);
    let none = host.refusal(&host.directory.path().join("none"));
    assert!(none.starts_with("none: No such file"), "{none}");
    let garbage = host.directory.path().join("garbage");
    fs::write(&garbage, vec![7; 2_000]).unwrap();
    let garbage = host.refusal(&garbage);
    assert!(
        garbage.starts_with("garbage: neither a directory nor a .tar or .tar.gz"),
        "{garbage}"
    );
    // A cut archive is not a smaller release.
    let whole = host.archive(&[("service.toml", tar::EntryType::Regular, PLAIN)]);
    let bytes = fs::read(&whole).unwrap();
    fs::write(&whole, &bytes[..600]).unwrap();
    let cut = host.refusal(&whole);
    assert!(
        cut.starts_with("kv.tar: neither a directory nor a .tar or .tar.gz"),
        "{cut}"
    );
}

#[test]
fn progress_ends_with_everything_done() {
    let host = Host::new();
    let release = host.release("kv", PLAIN, &[7; 200_000]);
    let mut last = (0, 0);
    let mut told = 0;
    host.depot
        .stage(&release, &Profiles::shipped(), &mut |done, total| {
            assert!(last.0 <= done && done <= total);
            last = (done, total);
            told += 1;
        })
        .unwrap();
    assert_eq!(
        last,
        (200_000 + PLAIN.len() as u64, 200_000 + PLAIN.len() as u64)
    );
    assert!(told > 3);
}

#[test]
fn what_an_interrupted_installation_left_is_removed() {
    let host = Host::new();
    host.install(&host.release("a", PLAIN, b"1"));
    // Ended while it copied; ended between the move and the index entry; ended while that was
    // written.
    let other = host.release("b", &PLAIN.replace("1.0.0", "2.0.0"), b"2");
    std::mem::forget(host.stage(&other).unwrap());
    let orphan = "0".repeat(64);
    fs::create_dir(host.directory.path().join("depot").join(&orphan)).unwrap();
    let unfinished = host.directory.path().join("depot/index/kv/2.0.0.new");
    fs::write(&unfinished, "{").unwrap();
    assert_eq!(host.staged(), 1);
    let again = host.reopen();
    assert_eq!(again.releases(), host.depot.releases());
    assert_eq!(host.staged(), 0);
    assert!(!host.in_depot().contains(&orphan));
    assert!(!unfinished.exists());
    again
        .commit(
            again
                .stage(&other, &Profiles::shipped(), &mut |_, _| {})
                .unwrap(),
        )
        .unwrap();
    assert_eq!(again.releases().len(), 2);
}

#[test]
fn a_removed_release_is_gone_for_good() {
    let host = Host::new();
    let hash = host.install(&host.release("a", PLAIN, b"1")).hash;
    let name: ServiceName = "kv".parse().unwrap();
    assert!(host.depot.remove(&name, &version("1.0.0")).unwrap());
    assert!(!host.depot.remove(&name, &version("1.0.0")).unwrap());
    assert!(!host.in_depot().contains(&hash));
    assert!(host.reopen().releases().is_empty());
}

#[test]
fn an_entry_of_another_form_is_not_guessed_at() {
    let host = Host::new();
    host.install(&host.release("a", PLAIN, b"1"));
    let path = host.directory.path().join("depot/index/kv/1.0.0");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = Depot::open_at(host.directory.path().join("depot")).unwrap_err();
    assert!(matches!(error, DepotError::Entry { .. }), "{error}");
}

#[test]
fn equal_files_of_releases_are_one_file_until_the_last_release_goes() {
    let host = Host::new();
    let program = [7; 10_000];
    let inode = |version: &str| {
        let directory = host
            .depot
            .directory(&"kv".parse().unwrap(), &version.parse().unwrap());
        let found = fs::metadata(directory.unwrap().join("bin/kv")).unwrap();
        (
            found.ino(),
            found.nlink(),
            found.mode() & 0o7777,
            found.size(),
        )
    };
    let manifest = |version: &str| PLAIN.replace("1.0.0", version);
    host.install(&host.release("one", &manifest("1.0.0"), &program));
    host.install(&host.release("two", &manifest("1.1.0"), &program));
    host.install(&host.release("other", &manifest("1.2.0"), &[8; 10_000]));
    let shared = inode("1.0.0");
    assert_eq!(shared, inode("1.1.0"));
    assert_eq!((shared.1, shared.2, shared.3), (3, 0o755, 10_000));
    assert_ne!(shared.0, inode("1.2.0").0);
    let files = || {
        fs::read_dir(host.directory.path().join("depot/files"))
            .unwrap()
            .count()
    };
    assert_eq!(files(), 2);

    let kv = "kv".parse().unwrap();
    host.depot.remove(&kv, &version("1.0.0")).unwrap();
    assert_eq!(inode("1.1.0"), (shared.0, 2, shared.2, shared.3));
    host.depot.remove(&kv, &version("1.1.0")).unwrap();
    assert_eq!(files(), 1, "of the other one");
    let depot = host.reopen();
    assert_eq!(files(), 1);
    depot.remove(&kv, &version("1.2.0")).unwrap();
    assert_eq!(files(), 0);
}

#[test]
fn what_an_interruption_leaves_among_shared_files_is_no_danger() {
    let host = Host::new();
    let program = [7; 10_000];
    // Taken in, and never committed.
    drop(host.stage(&host.release("one", PLAIN, &program)).unwrap());
    let files = host.directory.path().join("depot/files");
    let known = fs::read_dir(&files)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    // A power cut, before what was written reached the disk.
    File::options()
        .write(true)
        .open(&known)
        .unwrap()
        .set_len(0)
        .unwrap();
    host.install(&host.release("two", PLAIN, &program));
    let directory = host
        .depot
        .directory(&"kv".parse().unwrap(), &version("1.0.0"));
    assert_eq!(
        fs::read(directory.unwrap().join("bin/kv")).unwrap(),
        program
    );
    assert_eq!(fs::read(&known).unwrap(), program);

    fs::write(files.join("left"), "of nobody").unwrap();
    let _ = host.reopen();
    assert!(!files.join("left").exists());
    assert!(known.exists());
}
