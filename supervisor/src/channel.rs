//! Where two ends of an edge meet: directories of shared memory on a tmpfs.
//!
//! ```text
//! channels/                     a small tmpfs: nosuid, nodev, noexec, as all below
//!   kv/                         its provider may pass; its Landlock rule names this
//!     gateway/                  the edge, a tmpfs of its own: its two ends may pass; the
//!                               consumer's rule names this
//!       4000001.4000002/        the channel of two attempts, mode 2770, an ACL entry for each uid
//! ```
//!
//! A tmpfs for each edge, because who fills one takes the memory of everybody on it: pages that
//! were promised and not touched yet end a process with SIGBUS when there is no room for them. It
//! costs 14 us and 6 KiB to mount one, and 76 us to unmount it (1,000 of them, medians).
//!
//! A channel dies with either of its attempts: it is unlinked, as a tree and without following
//! links, and never opened again. The supervisor opens no file in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_contract::edge::pair_directory;
use insula_contract::id::{Attempt, ServiceName};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::launch::MemoryMode;
use crate::paths::Paths;
use crate::removal::remove_tree;

/// What an edge's channels may fill: an eighth of the host's memory, in so many files.
const EDGE_OPTIONS: &str = "mode=0700,size=12%,nr_inodes=16384";
/// What the directories above them may.
const ROOT_OPTIONS: &str = "mode=0755,size=64m";

/// How they are mounted.
const FLAGS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// The channels of a host.
#[derive(Debug)]
pub struct Channels {
    root: PathBuf,
    mounted: bool,
    /// Channels of local clients of an earlier daemon, by the attempt that provides.
    old: BTreeMap<Attempt, Vec<PathBuf>>,
    /// Which nodes the memory of new channels comes from, by the edge, where that was said.
    nodes: BTreeMap<PathBuf, String>,
}

impl Channels {
    /// Mounts the tmpfs, or finds the one of an earlier daemon. Without root a directory on the
    /// host's own tmpfs serves.
    pub fn open(paths: &Paths) -> io::Result<Self> {
        let place = paths.run().join("channels");
        if nix::unistd::geteuid().is_root() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&place)?;
            mount_tmpfs(&place, ROOT_OPTIONS)?;
            return Ok(Self {
                root: place,
                mounted: true,
                old: BTreeMap::new(),
                nodes: BTreeMap::new(),
            });
        }
        let root = own_place(paths, &place);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        let metadata = fs::symlink_metadata(&root)?;
        if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            let text = format!("{} belongs to somebody else", root.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Self {
            root,
            mounted: false,
            old: BTreeMap::new(),
            nodes: BTreeMap::new(),
        })
    }

    /// The directory below which all channels of a provider lie.
    pub fn of_provider(&self, provider: &ServiceName) -> PathBuf {
        self.root.join(provider.as_str())
    }

    /// The directory below which the channels of an edge lie.
    pub fn parent(&self, provider: &ServiceName, consumer: &str) -> PathBuf {
        self.of_provider(provider).join(consumer)
    }

    /// Makes the directory of a provider, before its processes are walled in.
    pub fn open_provider(&self, provider: &ServiceName, uid: Option<u32>) -> io::Result<()> {
        let directory = self.of_provider(provider);
        make(&directory)?;
        // Consumers pass through it and cannot list it.
        share(&directory, uid.is_some(), 0o711, &[])
    }

    /// Makes the directory of an edge; `uids` are the provider's and the consumer's.
    pub fn open_edge(
        &self,
        provider: &ServiceName,
        consumer: &str,
        uids: Option<(u32, u32)>,
    ) -> io::Result<()> {
        self.open_provider(provider, uids.map(|(provider, _)| provider))?;
        let directory = self.parent(provider, consumer);
        make(&directory)?;
        if self.mounted {
            mount_tmpfs(&directory, EDGE_OPTIONS)?;
        }
        let entries = uids
            .map(|(p, c)| vec![(p, 0o1), (c, 0o1)])
            .unwrap_or_default();
        share(&directory, uids.is_some(), 0o710, &entries)
    }

    /// Says which NUMA nodes the memory of an edge's channels comes from, whoever touches it first;
    /// those that are there already keep what they have.
    pub fn place(
        &mut self,
        provider: &ServiceName,
        consumer: &str,
        memory: Option<&(MemoryMode, Vec<u32>)>,
    ) -> io::Result<()> {
        let directory = self.parent(provider, consumer);
        let policy = policy_text(memory);
        if !self.mounted || self.nodes.get(&directory) == Some(&policy) {
            return Ok(());
        }
        let options = format!("mpol={policy}");
        let flags = FLAGS | MsFlags::MS_REMOUNT;
        mount(
            None::<&str>,
            &directory,
            None::<&str>,
            flags,
            Some(&*options),
        )?;
        self.nodes.insert(directory, policy);
        Ok(())
    }

    /// Removes it with all that is in it.
    pub fn close_edge(&mut self, provider: &ServiceName, consumer: &str) -> io::Result<()> {
        let directory = self.parent(provider, consumer);
        self.nodes.remove(&directory);
        self.unmount_edge(&directory)?;
        remove_tree(&directory)
    }

    /// Takes an edge's tmpfs away; who still maps something of it keeps what he maps.
    fn unmount_edge(&self, directory: &Path) -> io::Result<()> {
        if self.mounted && directory.exists() && is_mount(directory)? {
            umount2(directory, MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }

    /// Where the channel of two attempts lies: the provider's and the consumer's.
    pub fn pair(
        &self,
        provider: &ServiceName,
        consumer: &str,
        pair: (Attempt, Attempt),
    ) -> PathBuf {
        self.parent(provider, consumer)
            .join(pair_directory(pair.0, pair.1))
    }

    /// Makes the channel of two attempts: the provider's and the consumer's.
    pub fn open_pair(
        &self,
        provider: &ServiceName,
        consumer: &str,
        pair: (Attempt, Attempt),
        uids: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let directory = self.pair(provider, consumer, pair);
        make(&directory)?;
        let entries = uids
            .map(|(p, c)| vec![(p, 0o7), (c, 0o7)])
            .unwrap_or_default();
        share(&directory, uids.is_some(), 0o2770, &entries)
    }

    /// Removes it with all that is in it; who still maps it keeps what he maps.
    pub fn close_pair(
        &self,
        provider: &ServiceName,
        consumer: &str,
        pair: (Attempt, Attempt),
    ) -> io::Result<()> {
        remove_tree(&self.pair(provider, consumer, pair))
    }

    /// Removes all channels of an earlier daemon but those of living attempts.
    ///
    /// Local clients are not known to a later daemon: theirs stay as long as the provider's attempt
    /// lives, until [`Channels::forget`].
    pub fn clear_but(&mut self, living: impl Fn(Attempt) -> bool) -> io::Result<()> {
        for provider in entries(&self.root)? {
            for edge in entries(&provider)? {
                let of_client = edge
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"_"));
                for channel in entries(&edge)? {
                    match ends(&channel) {
                        Some((p, _)) if living(p) && of_client => {
                            self.old.entry(p).or_default().push(channel);
                        }
                        Some((p, c)) if living(p) && living(c) => {}
                        Some(_) | None => remove_tree(&channel)?,
                    }
                }
                if of_client {
                    self.close_if_empty(&edge)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what local clients of an earlier daemon had with a provider's attempt that is gone.
    pub fn forget(&mut self, attempt: Attempt) -> io::Result<()> {
        for channel in self.old.remove(&attempt).unwrap_or_default() {
            remove_tree(&channel)?;
            if let Some(edge) = channel.parent() {
                self.close_if_empty(edge)?;
            }
        }
        Ok(())
    }

    /// Takes away the edge of a local client of an earlier daemon once it has no channel.
    fn close_if_empty(&self, edge: &Path) -> io::Result<()> {
        if entries(edge)?.is_empty() {
            self.unmount_edge(edge)?;
            remove_tree(edge)?;
        }
        Ok(())
    }

    /// Takes the tmpfs away once nothing runs.
    pub fn close(&self) -> io::Result<()> {
        if !self.mounted {
            return remove_tree(&self.root);
        }
        for provider in entries(&self.root)? {
            for edge in entries(&provider)? {
                self.unmount_edge(&edge)?;
            }
        }
        Ok(umount2(&self.root, MntFlags::empty())?)
    }
}

/// The provider's and the consumer's attempt, by the name of their channel.
fn ends(channel: &Path) -> Option<(Attempt, Attempt)> {
    let attempt = |text| u64::from_str_radix(text, 16).ok().map(Attempt);
    let (provider, consumer) = channel.file_name()?.to_str()?.split_once('.')?;
    Some((attempt(provider)?, attempt(consumer)?))
}

/// Mounts a tmpfs over a directory, unless there is one.
fn mount_tmpfs(place: &Path, options: &str) -> io::Result<()> {
    if is_mount(place)? {
        return Ok(());
    }
    mount(Some("insula"), place, Some("tmpfs"), FLAGS, Some(options))?;
    Ok(())
}

/// As tmpfs(5) has it. A policy that was set cannot be taken back: the node of whoever touches a page
/// first is what the kernel does without one, too.
fn policy_text(memory: Option<&(MemoryMode, Vec<u32>)>) -> String {
    let Some((mode, nodes)) = memory else {
        return "local".to_owned();
    };
    let mode = match mode {
        MemoryMode::Preferred => "prefer",
        MemoryMode::Bind => "bind",
        MemoryMode::Interleave => "interleave",
    };
    let nodes: Vec<_> = nodes.iter().map(u32::to_string).collect();
    format!("{mode}:{}", nodes.join(","))
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Ok(Vec::new());
    }
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// Where an ordinary user's channels lie: `place` itself on a tmpfs, else the host's tmpfs, since
/// shared memory in files of a disk would be written back to it.
fn own_place(paths: &Paths, place: &Path) -> PathBuf {
    let on_tmpfs = place
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    if on_tmpfs {
        return place.to_owned();
    }
    PathBuf::from(format!(
        "/dev/shm/insula-{}-{}",
        nix::unistd::geteuid(),
        paths.tag()
    ))
}

fn is_mount(directory: &Path) -> io::Result<bool> {
    let parent = directory.parent().unwrap_or(directory);
    Ok(
        fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev()
            && statfs(directory)?.filesystem_type() == TMPFS_MAGIC,
    )
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Sets the mode of a directory, and lets these users in where services have uids of their own.
fn share(directory: &Path, walled: bool, mode: u32, users: &[(u32, u16)]) -> io::Result<()> {
    if !walled {
        // One user for all: what the directory's owner may is what everybody may.
        return fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))?;
    if users.is_empty() {
        return Ok(());
    }
    set_acl(directory, mode, users)
}

/// Writes a POSIX access list: the owner's and others' permissions of `mode`, none for the owning
/// group, and an entry for each user.
///
/// The attribute `system.posix_acl_access` is a version word (2) and entries of tag, permissions
/// and id in little endian, by tag and then id (`linux/posix_acl_xattr.h`).
fn set_acl(path: &Path, mode: u32, users: &[(u32, u16)]) -> io::Result<()> {
    const USER_OBJ: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    const NO_ID: u32 = u32::MAX;
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup_by_key(|(uid, _)| *uid);
    let mask = users
        .iter()
        .fold(0, |mask, (_, permissions)| mask | permissions);
    let bits = |shift: u32| u16::try_from(mode >> shift & 7).expect("three bits");
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, permissions: u16, id: u32| {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    };
    entry(USER_OBJ, bits(6), NO_ID);
    for (uid, permissions) in users {
        entry(USER, permissions, uid);
    }
    entry(GROUP_OBJ, 0, NO_ID);
    entry(MASK, mask, NO_ID);
    entry(OTHER, bits(0), NO_ID);
    set_attribute(path, c"system.posix_acl_access", &acl)
}

#[expect(unsafe_code, reason = "neither std nor nix has setxattr")]
fn set_attribute(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: both names are terminated strings, and the value's length is its slice's.
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Channels) {
        let directory = tempfile::tempdir().unwrap();
        let channels = Channels {
            root: directory.path().to_owned(),
            mounted: false,
            old: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        (directory, channels)
    }

    const PAIR: (Attempt, Attempt) = (Attempt(0xa1), Attempt(0xb2));

    /// Whether a process of `uid` can list a directory.
    fn can_list(uid: u32, directory: &Path) -> bool {
        use std::os::unix::process::CommandExt;
        std::process::Command::new("ls")
            .arg(directory)
            .uid(uid)
            .gid(uid)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn only_the_two_ends_enter_a_channel() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED (needs root): channels of several users");
            return;
        }
        let (directory, channels) = host();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let kv: ServiceName = "kv".parse().unwrap();
        let uids = Some((60_001, 60_002));
        channels.open_edge(&kv, "gateway", uids).unwrap();
        channels.open_pair(&kv, "gateway", PAIR, uids).unwrap();
        let channel = channels.parent(&kv, "gateway").join("a1.b2");
        assert!(can_list(60_001, &channel));
        assert!(can_list(60_002, &channel));
        assert!(!can_list(60_003, &channel));
        assert!(!can_list(60_003, &channels.parent(&kv, "gateway")));
        assert!(!can_list(60_002, &channels.of_provider(&kv)));
        assert_eq!(fs::metadata(&channel).unwrap().mode() & 0o7777, 0o2770);
    }

    #[test]
    fn who_fills_an_edge_fills_no_other() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED (needs root): a tmpfs for each edge");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        mount_tmpfs(directory.path(), "mode=0755,size=1m").unwrap();
        let mut channels = Channels {
            root: directory.path().to_owned(),
            mounted: true,
            old: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        let kv: ServiceName = "kv".parse().unwrap();
        for consumer in ["gateway", "hostile"] {
            channels.open_edge(&kv, consumer, None).unwrap();
            // An earlier daemon's stays.
            channels.open_edge(&kv, consumer, None).unwrap();
        }
        let hostile = channels.parent(&kv, "hostile");
        // The kernel gives no more than this, which no test can afford to fill.
        let has = nix::sys::statvfs::statvfs(&hostile).unwrap();
        let memory = fs::read_to_string("/proc/meminfo").unwrap();
        let memory = memory.split_whitespace().nth(1).unwrap();
        let memory = memory.parse::<u64>().unwrap() << 10;
        let size = has.blocks() * has.fragment_size();
        assert!(
            size > memory / 10 && size < memory / 7,
            "{size} of {memory}"
        );
        assert_eq!(has.files(), 16_384);
        let files = (0..)
            .take_while(|number| fs::File::create(hostile.join(number.to_string())).is_ok())
            .count();
        assert!(files > 1000, "only {files}");
        // More than the tmpfs above has, and what the other edge could not give were it the same.
        let gateway = channels.parent(&kv, "gateway");
        fs::write(gateway.join("data"), vec![1; 4 << 20]).unwrap();
        channels.close_edge(&kv, "hostile").unwrap();
        assert!(!hostile.exists());
        channels.close().unwrap();
        assert!(!is_mount(directory.path()).unwrap());
    }

    #[test]
    fn new_channels_lie_on_the_nodes_that_their_edge_was_placed_on() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED (needs root): a tmpfs for each edge");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        mount_tmpfs(directory.path(), "mode=0755,size=1m").unwrap();
        let mut channels = Channels {
            root: directory.path().to_owned(),
            mounted: true,
            old: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        let kv: ServiceName = "kv".parse().unwrap();
        channels.open_edge(&kv, "gateway", None).unwrap();
        let options = |channels: &Channels| {
            let edge = channels.parent(&kv, "gateway");
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let line = mounts.lines().find(|line| line.contains(path(&edge)));
            line.unwrap().to_owned()
        };
        fn path(path: &Path) -> &str {
            path.to_str().unwrap()
        }
        assert!(!options(&channels).contains("mpol"));
        for (memory, text) in [
            (Some((MemoryMode::Bind, vec![0])), "mpol=bind:0"),
            (Some((MemoryMode::Interleave, vec![0])), "mpol=interleave:0"),
            (None, "mpol=local"),
        ] {
            channels.place(&kv, "gateway", memory.as_ref()).unwrap();
            let now = options(&channels);
            assert!(now.contains(text), "{now}");
            for kept in ["nosuid", "nodev", "noexec", "nr_inodes=16"] {
                assert!(now.contains(kept), "{now}");
            }
        }
        let two = Some((MemoryMode::Interleave, vec![0, 2]));
        assert_eq!(policy_text(two.as_ref()), "interleave:0,2");
        channels.close_edge(&kv, "gateway").unwrap();
        channels.close().unwrap();
    }

    #[test]
    fn a_channel_is_removed_without_following_links_out_of_it() {
        let (directory, channels) = host();
        let kv: ServiceName = "kv".parse().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        channels.open_edge(&kv, "gateway", None).unwrap();
        channels.open_pair(&kv, "gateway", PAIR, None).unwrap();
        let channel = channels.parent(&kv, "gateway").join("a1.b2");
        fs::create_dir_all(channel.join("nodes/deep")).unwrap();
        std::os::unix::fs::symlink(&outside, channel.join("nodes/link")).unwrap();
        fs::set_permissions(channel.join("nodes"), fs::Permissions::from_mode(0o755)).unwrap();
        channels.close_pair(&kv, "gateway", PAIR).unwrap();
        assert!(!channel.exists());
        assert!(outside.join("kept").exists());
        channels.close_pair(&kv, "gateway", PAIR).unwrap();
    }

    #[test]
    fn a_successor_removes_the_channels_of_the_dead() {
        let (_directory, mut channels) = host();
        let kv: ServiceName = "kv".parse().unwrap();
        channels.open_edge(&kv, "gateway", None).unwrap();
        for consumer in [0xb2, 0xb3] {
            let pair = (Attempt(0xa1), Attempt(consumer));
            channels.open_pair(&kv, "gateway", pair, None).unwrap();
        }
        channels
            .clear_but(|attempt| attempt != Attempt(0xb3))
            .unwrap();
        let parent = channels.parent(&kv, "gateway");
        assert!(parent.join("a1.b2").exists());
        assert!(!parent.join("a1.b3").exists());
    }

    #[test]
    fn what_an_earlier_daemons_client_had_goes_with_its_provider() {
        let (_directory, mut channels) = host();
        let kv: ServiceName = "kv".parse().unwrap();
        for (client, provider) in [("_1", 0xa1), ("_2", 0xa2)] {
            channels.open_edge(&kv, client, None).unwrap();
            let pair = (Attempt(provider), Attempt(0xc0));
            channels.open_pair(&kv, client, pair, None).unwrap();
        }
        channels
            .clear_but(|attempt| attempt == Attempt(0xa1))
            .unwrap();
        assert!(channels.parent(&kv, "_1").join("a1.c0").exists());
        assert!(!channels.parent(&kv, "_2").exists(), "its provider is dead");
        channels.forget(Attempt(0xa2)).unwrap();
        assert!(channels.parent(&kv, "_1").exists());
        channels.forget(Attempt(0xa1)).unwrap();
        assert!(!channels.parent(&kv, "_1").exists());
    }
}
