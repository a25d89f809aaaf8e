//! The supervisor's part for tests: route table, edge page, channel directories; and a way to
//! execute a request without a channel.
//!
//! Public for the tests of other crates. Memory is sealed as the supervisor seals it, but writable
//! by everybody who gets the descriptor.

#![expect(
    unsafe_code,
    reason = "shared layouts are written through mapped memory"
)]

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use insula_contract::edge::{self, EdgePage, PAGE_SIZE, pair_directory};
use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::{ServedEdge, UsedEdge};
use insula_contract::meters::METERS_SIZE;
use insula_contract::route::{self, RouteState, RouteTable, TABLE_SIZE, Target};
use memmap2::MmapRaw;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::contract::Contract;
use crate::header::Status;
use crate::server::{Answer, AnswerKind, CallContext, Dispatch, OnceKey, ReplySlot};
use crate::{sync, wake};

/// A route table with one edge to its entry 0, and the directory of its channels.
#[derive(Debug)]
pub struct Host {
    parent: PathBuf,
    routes: OwnedFd,
    page: OwnedFd,
    table: MmapRaw,
}

fn sealed(name: &str, size: usize) -> OwnedFd {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let fd = memfd_create(name, flags).expect("a memfd");
    nix::unistd::ftruncate(&fd, size as i64).expect("the memfd's size");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("the memfd's seals");
    fd
}

/// Memory for the meters of a process, as the supervisor makes it.
pub fn meters() -> OwnedFd {
    sealed("meters", METERS_SIZE)
}

impl Host {
    /// A host whose channels lie below a new directory in `/dev/shm`, removed when dropped.
    pub fn new(name: &str) -> Self {
        let parent = PathBuf::from(format!("/dev/shm/insula-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&parent);
        std::fs::create_dir(&parent).expect("a directory in /dev/shm");
        let routes = sealed("routes", TABLE_SIZE);
        let table = MmapRaw::map_raw(&routes).expect("a mapping of the routes");
        let host = Self {
            parent,
            routes,
            page: sealed("page", PAGE_SIZE),
            table,
        };
        let header = &host.table().header;
        header.magic.store(route::MAGIC, Ordering::SeqCst);
        header.layout.store(route::LAYOUT, Ordering::SeqCst);
        header
            .capacity
            .store(route::CAPACITY as u32, Ordering::SeqCst);
        let map = host.map_page();
        let page = edge_page(&map);
        page.magic.store(edge::MAGIC, Ordering::SeqCst);
        page.layout.store(edge::LAYOUT, Ordering::SeqCst);
        host
    }

    fn map_page(&self) -> MmapRaw {
        MmapRaw::map_raw(&self.page).expect("a mapping of the page")
    }

    fn table(&self) -> &RouteTable {
        // SAFETY: a writable mapping of TABLE_SIZE bytes, of atomics, that lives as long as self.
        unsafe { &*self.table.as_ptr().cast::<RouteTable>() }
    }

    /// Makes the channel's directory for two attempts.
    pub fn open_pair(&self, provider: Attempt, consumer: Attempt) {
        std::fs::create_dir(self.pair(provider, consumer)).expect("the channel's directory");
    }

    /// Removes the channel's directory, also from under a client that is opening it just now.
    pub fn close_pair(&self, provider: Attempt, consumer: Attempt) {
        let pair = self.pair(provider, consumer);
        loop {
            match std::fs::remove_dir_all(&pair) {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // What is gone may be a file that the client removed, or the directory.
                    if !pair.exists() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                Err(error) => panic!("removing a channel: {error}"),
            }
        }
    }

    /// Where the channel of two attempts lies.
    pub fn pair(&self, provider: Attempt, consumer: Attempt) -> PathBuf {
        self.parent.join(pair_directory(provider, consumer))
    }

    /// Publishes the route of the only instance and wakes who waits for it.
    pub fn publish(&self, state: RouteState, attempt: Attempt, slot: u8, drained: Option<Attempt>) {
        self.publish_at(0, state, attempt, slot, drained);
    }

    /// Publishes the route of one of several instances, by its place in the entry.
    pub fn publish_at(
        &self,
        place: usize,
        state: RouteState,
        attempt: Attempt,
        slot: u8,
        drained: Option<Attempt>,
    ) {
        let entry = &self.table().entries[0];
        entry.publish(
            place,
            Target {
                state,
                attempt,
                slot,
                replica: place as u8,
            },
            drained,
        );
        sync::wake_all(&entry.change);
        let map = self.map_page();
        wake::published();
        for client in &edge_page(&map).clients {
            wake::ring(client);
        }
    }

    /// What the supervisor would tell the consumer.
    pub fn used<C: Contract>(&self, consumer: Attempt) -> UsedEdge {
        UsedEdge {
            edge: EdgeId(1),
            contract: C::id(),
            provider: "provider".parse().expect("a service name"),
            parent: path_text(&self.parent),
            route: 0,
            consumer,
            policy: Default::default(),
        }
    }

    /// What the supervisor would tell the provider.
    pub fn served<C: Contract>(&self, consumer: Attempt) -> ServedEdge {
        ServedEdge {
            edge: EdgeId(1),
            contract: C::id(),
            parent: path_text(&self.parent),
            consumer_name: "consumer".to_owned(),
            consumer,
            limits: Default::default(),
        }
    }

    /// A descriptor of the route table.
    pub fn routes(&self) -> OwnedFd {
        self.routes.try_clone().expect("a descriptor")
    }

    /// A descriptor of the edge's page.
    pub fn page(&self) -> OwnedFd {
        self.page.try_clone().expect("a descriptor")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.parent);
    }
}

fn edge_page(map: &MmapRaw) -> &EdgePage {
    assert!(map.len() >= PAGE_SIZE, "a page");
    // SAFETY: a writable mapping of a page at least, of atomics, that lives as long as the result.
    unsafe { &*map.as_ptr().cast::<EdgePage>() }
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("a path of ours is UTF-8").to_owned()
}

/// Lets children inherit a descriptor; its number.
pub fn inheritable(fd: &impl AsFd) -> RawFd {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor's flags");
    fd.as_fd().as_raw_fd()
}

/// Takes over a descriptor that was inherited under this number.
pub fn inherited(number: RawFd) -> OwnedFd {
    assert!(number > 2, "not a standard stream");
    // SAFETY: the parent made it for this process alone, which takes it over once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// A call's context as a server would make it.
pub fn call(consumer: Attempt, sequence: u64) -> CallContext {
    CallContext {
        edge: EdgeId(1),
        key: OnceKey {
            consumer,
            slot: 0,
            sequence,
        },
        trace: Default::default(),
        deadline_ns: u64::MAX,
    }
}

/// Executes one request without a channel; `None` unless it was answered with a response or the
/// contract's error.
pub fn execute<D: Dispatch>(
    dispatch: &mut D,
    call: &CallContext,
    method: u16,
    request: &[u8],
) -> Option<(AnswerKind, Vec<u8>)> {
    let mut chunk = vec![0; D::Contract::RESPONSE_MAX.max(64)];
    let Answer { status, length, .. } =
        dispatch.dispatch(call, method, request, ReplySlot::new(&mut chunk));
    chunk.truncate(length);
    match status {
        Status::Response => Some((AnswerKind::Response, chunk)),
        Status::Error => Some((AnswerKind::Error, chunk)),
        _ => None,
    }
}
