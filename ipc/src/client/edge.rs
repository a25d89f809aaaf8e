//! An edge as its consumer holds it, and the slots of its connections.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use insula_contract::edge::CLIENT_SLOTS;
use insula_contract::id::Attempt;
use insula_contract::line::UsedEdge;
use insula_contract::meters::Role;
use insula_contract::route::{RouteState, TARGETS, Target};

use super::Connection;
use super::budget::Budget;
use super::calls::{Calls, Place};
use super::late::Late;
use crate::channel::Sizes;
use crate::clock;
use crate::contract::{CONNECTIONS, Contract};
use crate::memory::{MapError, PageMap, RouteMap};
use crate::meters::{Meter, Meters};
use crate::stream;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The edge is to another contract.
    #[error("the edge is to `{edge}`, not to `{wanted}`")]
    OtherContract {
        /// What the edge is to.
        edge: String,
        /// What was asked for.
        wanted: String,
    },
    /// The route table is unusable.
    #[error("cannot use the route table")]
    Routes(#[source] MapError),
    /// The edge's page is unusable.
    #[error("cannot use the page of the edge")]
    Page(#[source] MapError),
    /// Every slot of the edge has a connection; drop one first.
    #[error("{CONNECTIONS} connections of this process use the edge already")]
    NoSlot,
}

/// An edge that this process may use, to be shared by its threads.
#[derive(Debug, Clone)]
pub struct Edge {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    used: UsedEdge,
    routes: RouteMap,
    page: PageMap,
    spin_ns: u64,
    slots: Mutex<[Slot; CONNECTIONS]>,
    retries: Mutex<Budget>,
    /// A bit for each client slot that a subscription has taken.
    subscriptions: AtomicU32,
    /// The number of the last wish.
    wishes: AtomicU32,
    meters: OnceLock<Meters>,
    late: Late,
    /// Set when its supervisor is gone: what the next one gave in its place, if it did. Nobody who
    /// is started from then on opens his end of this one.
    next: OnceLock<Option<Edge>>,
}

/// A client slot of the edge page. Its sequence outlives its connections: the number of a `once`
/// request must never come twice from one slot.
#[derive(Debug, Clone, Copy)]
struct Slot {
    taken: bool,
    next_sequence: u64,
}

impl Edge {
    /// Maps what the supervisor gave: the read-only route table and the edge's page.
    ///
    /// `spin` is how long a waiting connection spins before it sleeps; [`Duration::MAX`] for ever.
    pub fn new(
        used: UsedEdge,
        routes: impl AsFd,
        page: OwnedFd,
        spin: Duration,
    ) -> Result<Self, ConnectError> {
        let routes = RouteMap::new(routes.as_fd(), used.route).map_err(ConnectError::Routes)?;
        let page = PageMap::new(page).map_err(ConnectError::Page)?;
        let slots = Mutex::new(
            [Slot {
                taken: false,
                next_sequence: 1,
            }; CONNECTIONS],
        );
        let spin_ns = clock::nanos(spin);
        let retries = Mutex::new(Budget::new(used.policy.retries));
        Ok(Self {
            shared: Arc::new(Shared {
                used,
                routes,
                page,
                spin_ns,
                slots,
                retries,
                subscriptions: AtomicU32::new(0),
                wishes: AtomicU32::new(0),
                meters: OnceLock::new(),
                late: Late::default(),
                next: OnceLock::new(),
            }),
        })
    }

    /// Has the calls of connections that are made from now on counted in the process's meters; the
    /// first word counts.
    pub fn meter(&self, meters: &Meters) {
        self.shared.meters.get_or_init(|| meters.clone());
    }

    /// Has `tell` called when a request waits too long for an answer, or for a provider that sleeps
    /// until somebody wants it, with how long that is: at most once a second and change of the route, from a thread that waits for it, which it must not hold up. The first
    /// word counts.
    pub fn on_late(&self, tell: impl Fn(Duration) + Send + Sync + 'static) {
        self.shared.late.set(Box::new(tell));
    }

    /// Notes that the supervisor that gave it is gone, and what the next one gave in its place:
    /// those who are connected go on, and no call waits for anybody else.
    pub(crate) fn orphan(&self, next: Option<Edge>) {
        // Once; an orphan has no supervisor to lose.
        let _ = self.shared.next.set(next);
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.shared.next.get().is_some()
    }

    /// Whether an attempt that was connected to here is over, as the route of the newest edge in
    /// place of this one has it: another one has its instance's place, and it is nowhere.
    ///
    /// An attempt that lives may not be on that route yet: the supervisor's table is a new one if
    /// nobody who held the old one was left.
    pub(super) fn is_over(&self, gone: Target) -> bool {
        let mut newest = self;
        while let Some(Some(next)) = newest.shared.next.get() {
            newest = next;
        }
        let entry = newest.routes().entry();
        let targets = (0..TARGETS).map(|place| entry.target(place));
        let (mut there, mut replaced) = (false, false);
        for target in targets.filter(|target| target.state != RouteState::Gone) {
            there |= target.attempt == gone.attempt;
            replaced |= target.replica == gone.replica && target.attempt != Attempt(0);
        }
        replaced && !there
    }

    pub(super) fn late(&self) -> &Late {
        &self.shared.late
    }

    /// Says that somebody waits since `begun_ns` for a provider that sleeps, as the route says since
    /// this `change` of it.
    pub(crate) fn want(&self, change: u32, begun_ns: u64, now_ns: u64) {
        self.shared.late.wish(change, begun_ns, now_ns);
    }

    /// The meter of a new connection.
    pub(super) fn claim_meter(&self) -> Meter {
        let used = &self.shared.used;
        let meters = self.shared.meters.get();
        meters.map_or_else(Meter::default, |meters| {
            meters.claim(Role::Consumer, &used.contract, used.consumer)
        })
    }

    /// What the supervisor said about it.
    pub fn used(&self) -> &UsedEdge {
        &self.shared.used
    }

    /// A connection for the calling thread, to whoever provides `C`.
    ///
    /// At most [`CONNECTIONS`] exist at once. Nobody need provide the contract yet.
    pub fn connect<C: Contract>(&self) -> Result<Connection, ConnectError> {
        let wanted = C::id();
        if self.shared.used.contract != wanted {
            return Err(ConnectError::OtherContract {
                edge: self.shared.used.contract.to_string(),
                wanted: wanted.to_string(),
            });
        }
        self.connect_sized((C::NAME, C::MAJOR), Sizes::of::<C>())
    }

    /// A connection of these sizes; typed methods are called only under their contract's name.
    pub(crate) fn connect_sized(
        &self,
        contract: (&'static str, u16),
        sizes: Sizes,
    ) -> Result<Connection, ConnectError> {
        let (slot, next_sequence) = self.claim().ok_or(ConnectError::NoSlot)?;
        let place = Place {
            edge: self.clone(),
            slot,
        };
        let calls = Calls::new(place, contract, sizes, next_sequence);
        Ok(Connection {
            calls: Rc::new(calls),
        })
    }

    fn slots(&self) -> MutexGuard<'_, [Slot; CONNECTIONS]> {
        self.shared
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Option<(u16, u64)> {
        let mut slots = self.slots();
        let (index, slot) = slots.iter_mut().enumerate().find(|(_, slot)| !slot.taken)?;
        slot.taken = true;
        Some((index as u16, slot.next_sequence))
    }

    /// Takes a retry from the budget, after `calls` more calls were made, if there is one.
    pub(super) fn take_retry(&self, calls: u64, now_ns: u64) -> bool {
        let mut retries = self
            .shared
            .retries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        retries.take(calls, now_ns)
    }

    /// Gives a slot back, for a connection that goes on with `next_sequence`.
    pub(super) fn release(&self, slot: u16, next_sequence: u64) {
        self.slots()[usize::from(slot)] = Slot {
            taken: false,
            next_sequence,
        };
    }

    /// Takes a client slot for a subscription.
    pub(crate) fn claim_subscription(&self) -> Option<usize> {
        let claimed = &self.shared.subscriptions;
        (stream::FIRST_SLOT..CLIENT_SLOTS).find(|slot| {
            let bit = 1 << slot;
            claimed.fetch_or(bit, Ordering::SeqCst) & bit == 0
        })
    }

    /// Gives it back.
    pub(crate) fn release_subscription(&self, slot: usize) {
        let claimed = &self.shared.subscriptions;
        claimed.fetch_and(!(1 << slot), Ordering::SeqCst);
    }

    /// The number of the next wish, never 0.
    pub(crate) fn next_wish(&self) -> u32 {
        self.shared.wishes.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn routes(&self) -> &RouteMap {
        &self.shared.routes
    }

    pub(crate) fn page(&self) -> &PageMap {
        &self.shared.page
    }

    pub(crate) fn spin_ns(&self) -> u64 {
        self.shared.spin_ns
    }
}
