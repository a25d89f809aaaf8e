//! Shared memory that the supervisor makes: the route table and the pages of edges.
//!
//! Both are memfds sealed against shrinking and growing, so that whoever maps one cannot be made
//! to fault by another. The route table is written by the supervisor alone: services get a
//! descriptor that was opened for reading, and neither its mode nor its owner lets another user
//! open it again for writing. A service holds it as long as it lives, so it outlives the daemon:
//! the next one recovers it through any service. Without root there is only one user, and nothing
//! keeps a service from opening the table for writing.

#![expect(
    unsafe_code,
    reason = "maps the route table and edge pages, and wakes their waiters by futex"
)]

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use insula_contract::edge::{self, PAGE_SIZE};
use insula_contract::id::Attempt;
use insula_contract::route::{self, CAPACITY, TABLE_SIZE, Target};
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::geteuid;
use thiserror::Error;

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// A memfd of a fixed size, with its head written if it has one, then sealed.
pub(crate) fn sealed(
    name: &str,
    size: usize,
    mode: u32,
    head: Option<(u64, u32)>,
) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    file.set_len(size as u64)?;
    if let Some((magic, layout)) = head {
        file.write_all_at(&magic.to_ne_bytes(), 0)?;
        file.write_all_at(&layout.to_ne_bytes(), 8)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file)
}

/// Opens a descriptor's file once more.
fn reopen(file: impl AsFd, options: &OpenOptions) -> io::Result<File> {
    options.open(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Why a route table was not recovered.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The process is gone, or has no such descriptor, or we may not look.
    #[error("cannot open descriptor {number} of process {pid}")]
    Open {
        /// Whose.
        pid: i32,
        /// Which.
        number: i32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is something else, as its text says.
    #[error("descriptor {number} of process {pid} is no route table of this host: {wrong}")]
    Other {
        /// Whose.
        pid: i32,
        /// Which.
        number: i32,
        /// In what it differs.
        wrong: &'static str,
    },
}

/// The host's route table, open for writing.
#[derive(Debug)]
pub struct RouteTable {
    file: File,
    map: MmapRaw,
}

impl RouteTable {
    /// Makes an empty table.
    pub fn create() -> io::Result<Self> {
        let mode = Self::mode();
        let file = sealed(
            "insula-routes",
            TABLE_SIZE,
            mode,
            Some((route::MAGIC, route::LAYOUT)),
        )?;
        let table = Self::map(file)?;
        let capacity = u32::try_from(CAPACITY).expect("a small constant");
        table
            .get()
            .header
            .capacity
            .store(capacity, Ordering::SeqCst);
        Ok(table)
    }

    /// Takes the table of an earlier daemon from a service that holds it.
    ///
    /// A service can have any file under any number, so nothing is opened before it is known to be
    /// of our making, and it is taken for a table only by its seals and its head. `pid` must be
    /// held by its pidfd, lest it be another process's by now.
    pub fn recover(pid: i32, number: i32) -> Result<Self, RecoverError> {
        let open = |source| RecoverError::Open {
            pid,
            number,
            source,
        };
        let other = |wrong| RecoverError::Other { pid, number, wrong };
        let file = recover_file(pid, number, TABLE_SIZE, Self::mode())?;
        let table = Self::map(file).map_err(open)?;
        let header = &table.get().header;
        if header.magic.load(Ordering::SeqCst) != route::MAGIC
            || header.layout.load(Ordering::SeqCst) != route::LAYOUT
            || header.capacity.load(Ordering::SeqCst) as usize != CAPACITY
        {
            return Err(other("its head"));
        }
        // The earlier daemon may have died between a change and its announcement.
        for entry in table.get().entries.iter().filter(|entry| entry.is_used()) {
            entry.change.fetch_add(1, Ordering::SeqCst);
            wake(&entry.change);
        }
        Ok(table)
    }

    /// Root may write what nobody may; without root the owner must be let in again.
    fn mode() -> u32 {
        if geteuid().is_root() { 0o444 } else { 0o644 }
    }

    fn map(file: File) -> io::Result<Self> {
        let map = MmapOptions::new().len(TABLE_SIZE).map_raw(&file)?;
        Ok(Self { file, map })
    }

    fn get(&self) -> &route::RouteTable {
        // SAFETY: the map is as long as the table, page-aligned, and lives as long as `self`; the
        // file is sealed, so it stays that long. The table consists of atomics, of which any bytes
        // are a value, and which others may read meanwhile.
        unsafe { &*self.map.as_ptr().cast::<route::RouteTable>() }
    }

    /// A descriptor for services: it only reads.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        Ok(reopen(&self.file, File::options().read(true))?.into())
    }

    /// The target that is published for the place `index` of the entry `route`.
    ///
    /// # Panics
    /// Where there is no such entry or place.
    pub fn target(&self, route: u32, index: usize) -> Target {
        self.get().entries[route as usize].target(index)
    }

    /// Publishes a target for the place `index` of the entry `route`, and wakes all who wait for
    /// the entry to change. `drained` names the predecessor if it left owing no answer.
    ///
    /// # Panics
    /// Where there is no such entry or place.
    pub fn publish(&self, route: u32, index: usize, target: Target, drained: Option<Attempt>) {
        let entry = &self.get().entries[route as usize];
        entry.publish(index, target, drained);
        wake(&entry.change);
    }
}

/// Wakes all who wait for the word to change.
fn wake(word: &AtomicU32) {
    // SAFETY: the word lies in a live mapping; FUTEX_WAKE takes two integers beside it and does not
    // follow the other arguments. It is shared between processes, hence not PRIVATE.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}

/// Reopens for writing what a service holds under a number, if it is of our making.
pub(crate) fn recover_file(
    pid: i32,
    number: i32,
    size: usize,
    mode: u32,
) -> Result<File, RecoverError> {
    let open = |source| RecoverError::Open {
        pid,
        number,
        source,
    };
    let other = |wrong| RecoverError::Other { pid, number, wrong };
    let held = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{pid}/fd/{number}"))
        .map_err(open)?;
    let found = held.metadata().map_err(open)?;
    if !found.is_file() || found.len() != size as u64 {
        return Err(other("its type or size"));
    }
    if found.uid() != geteuid().as_raw() || found.mode() & 0o7777 != mode {
        return Err(other("its owner or mode"));
    }
    let file = reopen(&held, File::options().read(true).write(true)).map_err(open)?;
    // Only a memfd, or a file on a tmpfs, has seals at all.
    match fcntl(&file, FcntlArg::F_GET_SEALS) {
        Ok(found) if found == seals().bits() => Ok(file),
        Ok(_) | Err(nix::Error::EINVAL) => Err(other("its seals")),
        Err(error) => Err(open(error.into())),
    }
}

/// What the memfds of edge pages are called, before the route and the consumer's attempt.
const PAGE_NAME: &str = "insula-edge";
const PAGE_MODE: u32 = 0o600;

/// The page of an edge and one attempt of its consumer.
///
/// Its memfd's name says which edge's and whose it is, so that a later daemon finds it among the
/// consumer's descriptors; the name cannot be changed, and the owner shows who gave it.
#[derive(Debug)]
pub struct EdgePage {
    file: File,
}

impl EdgePage {
    /// Makes a page on which nobody waits, for this route and attempt of the consumer.
    pub fn create(route: u32, consumer: Attempt) -> io::Result<Self> {
        let name = format!("{PAGE_NAME}.{route}.{:x}", consumer.0);
        let file = sealed(
            &name,
            PAGE_SIZE,
            PAGE_MODE,
            Some((edge::MAGIC, edge::LAYOUT)),
        )?;
        Ok(Self { file })
    }

    /// Takes the page of an earlier daemon from the consumer that holds it.
    pub fn recover(pid: i32, number: i32) -> Result<Self, RecoverError> {
        let file = recover_file(pid, number, PAGE_SIZE, PAGE_MODE)?;
        Ok(Self { file })
    }

    /// The route and the consumer's attempt of the page behind a link below `/proc/PID/fd`.
    pub fn parse_link(link: &str) -> Option<(u32, Attempt)> {
        let name = link.strip_prefix("/memfd:")?.split(' ').next()?;
        let (route, consumer) = name
            .strip_prefix(PAGE_NAME)?
            .strip_prefix('.')?
            .split_once('.')?;
        let consumer = u64::from_str_radix(consumer, 16).ok()?;
        Some((route.parse().ok()?, Attempt(consumer)))
    }

    /// Wakes the consumer's ends that sleep, after a change of the edge's route.
    ///
    /// They sleep on their bells alone. The page is mapped for as long as this takes: what lies in
    /// it is the ends' own, of any value, and cannot shrink.
    pub fn ring(&self) -> io::Result<()> {
        let map = MmapOptions::new().len(PAGE_SIZE).map_raw(&self.file)?;
        // SAFETY: the map is as long as the page, page-aligned, and outlives this use; the file is
        // sealed, so it stays that long. It consists of atomics, of which any bytes are a value.
        let page = unsafe { &*map.as_ptr().cast::<edge::EdgePage>() };
        // After the change, before the looks at the flags: of a client that goes to sleep and this
        // daemon, one sees the other.
        fence(Ordering::SeqCst);
        for client in &page.clients {
            if client.asleep.load(Ordering::Relaxed) != 0 {
                client.bell.fetch_add(2, Ordering::SeqCst);
                wake(&client.bell);
            }
        }
        Ok(())
    }

    /// Whether its consumer says that it has a subscription, or wishes one.
    pub fn has_subscription(&self) -> io::Result<bool> {
        let map = MmapOptions::new().len(PAGE_SIZE).map_raw(&self.file)?;
        // SAFETY: as in `ring`.
        let page = unsafe { &*map.as_ptr().cast::<edge::EdgePage>() };
        let mut clients = page.clients.iter();
        Ok(clients.any(|client| client.wish.load(Ordering::Relaxed) != 0))
    }

    /// A descriptor for an end of the edge, which maps it for writing.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use insula_contract::route::RouteState;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork, setresgid, setresuid};

    use super::*;

    const STRANGER: u32 = 60_021;
    const TARGET: Target = Target {
        state: RouteState::Serve,
        attempt: Attempt(0xabc),
        slot: 3,
        replica: 0,
    };

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    /// Runs `tries` in a process of another user and tells which of them worked, a bit each.
    fn as_stranger(tries: &[&dyn Fn() -> bool]) -> i32 {
        // SAFETY: the child makes system calls and leaves by `_exit`; formatting a path allocates,
        // which the C library allows after a fork.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let gid = nix::unistd::Gid::from_raw(STRANGER);
                let uid = nix::unistd::Uid::from_raw(STRANGER);
                let mut worked = 1 << 7;
                if setresgid(gid, gid, gid)
                    .and(setresuid(uid, uid, uid))
                    .is_ok()
                {
                    worked = (0..)
                        .zip(tries)
                        .fold(0, |bits, (bit, try_it)| bits | i32::from(try_it()) << bit);
                }
                // SAFETY: ends the process.
                unsafe { libc::_exit(worked) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, worked) => worked,
                other => panic!("{other:?}"),
            },
        }
    }

    fn path(fd: &impl AsRawFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    #[test]
    fn another_user_reads_the_table_and_cannot_write_it() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED (needs root): the route table in the hands of another user");
            return;
        }
        let table = RouteTable::create().unwrap();
        let theirs = table.read_only().unwrap();
        table.publish(7, 0, TARGET, None);
        let map = |writable| {
            let protection = if writable {
                libc::PROT_WRITE
            } else {
                libc::PROT_READ
            };
            // SAFETY: a new mapping at an address of the kernel's choice.
            let map = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    TABLE_SIZE,
                    protection,
                    libc::MAP_SHARED,
                    theirs.as_raw_fd(),
                    0,
                )
            };
            (map != libc::MAP_FAILED).then_some(map)
        };
        let worked = as_stranger(&[
            &|| {
                let Some(map) = map(false) else { return false };
                // SAFETY: the mapping is as long as the table, which consists of atomics.
                let seen = unsafe { &*map.cast::<route::RouteTable>() };
                seen.entries[7].targets[0].load(Ordering::SeqCst) == TARGET.to_word()
            },
            &|| {
                File::options()
                    .read(true)
                    .write(true)
                    .open(path(&theirs))
                    .is_ok()
            },
            &|| File::options().append(true).open(path(&theirs)).is_ok(),
            &|| map(true).is_some(),
            // SAFETY: an integer and a length.
            &|| unsafe { libc::ftruncate(theirs.as_raw_fd(), 0) } == 0,
            // SAFETY: integers.
            &|| unsafe { libc::fchmod(theirs.as_raw_fd(), 0o666) } == 0,
            &|| {
                map(false).is_some_and(|map| {
                    // SAFETY: the mapping was just made.
                    unsafe { libc::mprotect(map, TABLE_SIZE, libc::PROT_WRITE) == 0 }
                })
            },
        ]);
        assert_eq!(worked, 1, "the first and only the first may work");
    }

    #[test]
    fn neither_table_nor_page_changes_its_size() {
        let table = RouteTable::create().unwrap();
        let page = EdgePage::create(1, Attempt(2)).unwrap();
        for file in [&table.file, &page.file] {
            let size = file.metadata().unwrap().len();
            for other in [0, size - 1, size + 1] {
                assert_eq!(
                    file.set_len(other).unwrap_err().raw_os_error(),
                    Some(libc::EPERM)
                );
            }
            let more = fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
            assert_eq!(more, Err(nix::Error::EPERM));
        }
    }

    #[test]
    fn a_table_is_recovered_through_whoever_holds_it() {
        let table = RouteTable::create().unwrap();
        let held = table.read_only().unwrap();
        table.publish(4095, 1, TARGET, Some(Attempt(5)));
        drop(table);
        let table = RouteTable::recover(own_pid(), held.as_raw_fd()).unwrap();
        assert_eq!(table.target(4095, 1), TARGET);
        assert!(table.get().entries[4095].has_drained(Attempt(5)));
        let change = table.get().entries[4095].change.load(Ordering::SeqCst);
        assert_eq!(change, 2, "published, and announced again");
        assert_eq!(table.get().entries[7].change.load(Ordering::SeqCst), 0);
        let later = Target {
            state: RouteState::Hold,
            ..TARGET
        };
        table.publish(4095, 1, later, None);
        let again = RouteTable::recover(own_pid(), held.as_raw_fd()).unwrap();
        assert_eq!(again.target(4095, 1), later);
    }

    #[test]
    fn what_is_not_our_table_is_not_recovered() {
        let wrong = |file: &File| match RouteTable::recover(own_pid(), file.as_raw_fd()) {
            Err(RecoverError::Other { wrong, .. }) => wrong,
            other => panic!("{other:?}"),
        };
        let size = TABLE_SIZE as u64;
        let mode = RouteTable::mode();
        let make =
            |magic, mode| sealed("forged", TABLE_SIZE, mode, Some((magic, route::LAYOUT))).unwrap();
        assert_eq!(
            wrong(&EdgePage::create(1, Attempt(2)).unwrap().file),
            "its type or size"
        );
        assert_eq!(wrong(&File::open("/dev/null").unwrap()), "its type or size");
        assert_eq!(wrong(&make(route::MAGIC, 0o666)), "its owner or mode");
        // Its capacity was never written.
        assert_eq!(wrong(&make(route::MAGIC, mode)), "its head");
        assert_eq!(wrong(&make(7, mode)), "its head");
        let open = File::from(memfd_create("forged", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        open.set_len(size).unwrap();
        open.set_permissions(Permissions::from_mode(mode)).unwrap();
        assert_eq!(wrong(&open), "its seals");
        if geteuid().is_root() {
            let theirs = make(route::MAGIC, mode);
            std::os::unix::fs::fchown(&theirs, Some(STRANGER), None).unwrap();
            assert_eq!(wrong(&theirs), "its owner or mode");
        }
        assert!(matches!(
            RouteTable::recover(own_pid(), 1 << 20),
            Err(RecoverError::Open { .. })
        ));
    }

    #[test]
    fn a_waiter_on_the_read_only_table_is_woken_by_a_change() {
        let table = RouteTable::create().unwrap();
        let theirs = File::from(table.read_only().unwrap());
        let map = MmapOptions::new()
            .len(TABLE_SIZE)
            .map_raw_read_only(&theirs)
            .unwrap();
        let waiter_id = std::sync::atomic::AtomicI32::new(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                waiter_id.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
                // SAFETY: as long as the table, which consists of atomics.
                let seen = unsafe { &*map.as_ptr().cast::<route::RouteTable>() };
                let word = &seen.entries[9].change;
                while word.load(Ordering::SeqCst) == 0 {
                    let limit = libc::timespec {
                        tv_sec: 10,
                        tv_nsec: 0,
                    };
                    // SAFETY: a word of a live mapping, and a live time limit.
                    let waited = unsafe {
                        libc::syscall(
                            libc::SYS_futex,
                            word.as_ptr(),
                            libc::FUTEX_WAIT,
                            0,
                            &raw const limit,
                        )
                    };
                    let error = io::Error::last_os_error().raw_os_error();
                    assert!(
                        waited == 0 || error != Some(libc::ETIMEDOUT),
                        "nobody woke it"
                    );
                }
                Target::from_word(seen.entries[9].targets[0].load(Ordering::SeqCst))
            });
            // Not before the other thread sleeps.
            let futex = format!("{} ", libc::SYS_futex);
            while !std::fs::read_to_string(format!(
                "/proc/self/task/{}/syscall",
                waiter_id.load(Ordering::SeqCst)
            ))
            .is_ok_and(|call| call.starts_with(&futex))
            {
                std::thread::yield_now();
            }
            table.publish(9, 0, TARGET, None);
            assert_eq!(waiter.join().unwrap(), TARGET);
        });
    }

    #[test]
    fn a_page_carries_its_head_and_is_shared() {
        let page = EdgePage::create(1, Attempt(2)).unwrap();
        let theirs = File::from(page.descriptor().unwrap());
        let mut head = [0; 12];
        theirs.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(head[..8], edge::MAGIC.to_ne_bytes());
        assert_eq!(head[8..], edge::LAYOUT.to_ne_bytes());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd())).unwrap();
        let known = EdgePage::parse_link(&link.to_string_lossy());
        assert_eq!(known, Some((1, Attempt(2))));
        let again = EdgePage::recover(own_pid(), theirs.as_raw_fd()).unwrap();
        assert_eq!(
            again.file.metadata().unwrap().ino(),
            theirs.metadata().unwrap().ino()
        );
        theirs.write_all_at(b"x", 100).unwrap();
        let mut byte = [0];
        page.file.read_exact_at(&mut byte, 100).unwrap();
        assert_eq!(&byte, b"x");
    }
}
