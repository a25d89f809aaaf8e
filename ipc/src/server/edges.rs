//! One edge that is served: its channel, its page and whom to ring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use insula_contract::edge::{CLIENT_SLOTS, Waiter, pair_directory};
use insula_contract::id::{Attempt, EdgeId};
use insula_contract::line::ServedEdge;
use insula_contract::meters::Role;

use super::ServeError;
use super::admission::Admission;
use super::bells::Bell;
use crate::channel::{Loaned, ServerEnd, Sizes, Taken};
use crate::memory::PageMap;
use crate::meters::{Meter, Meters};
use crate::stream::Seat;
use crate::wake;

/// Requests of an edge that may have only so many waiting.
#[derive(Debug)]
struct Waiting {
    limit: usize,
    queue: RefCell<VecDeque<Taken>>,
}

/// A request that was taken.
pub(super) enum Next {
    /// To be executed.
    Request(Taken),
    /// More than may wait.
    Surplus(Taken),
}

/// An edge whose channel is open.
#[derive(Debug)]
pub(super) struct OpenEdge {
    edge: ServedEdge,
    end: ServerEnd,
    page: Arc<PageMap>,
    directory: String,
    slot: usize,
    /// Its bell is waited for by another thread than the server's.
    watched: bool,
    admission: Admission,
    /// What waits here instead of in the channel, where their number is limited.
    waiting: Option<Waiting>,
    /// Client slots that were answered and not yet rung, a bit each.
    answered: Cell<u32>,
    pub(super) meter: Meter,
    /// The last look failed; not to be repeated before the bell rings again.
    unreadable: Cell<bool>,
}

const _: () = assert!(CLIENT_SLOTS <= 32, "a bit per client slot");

impl OpenEdge {
    pub(super) fn open(
        edge: ServedEdge,
        page: OwnedFd,
        attempt: Attempt,
        slot: u8,
        sizes: Sizes,
        meters: Option<&Meters>,
    ) -> Result<Self, ServeError> {
        let page = Arc::new(PageMap::new(page).map_err(ServeError::Page)?);
        let index = usize::from(slot);
        if index >= page.page().servers.len() {
            return Err(ServeError::NoSlot(slot));
        }
        let directory = format!("{}/{}", edge.parent, pair_directory(attempt, edge.consumer));
        let end = ServerEnd::create(&directory, sizes).map_err(ServeError::Channel)?;
        let waiting = edge.limits.waiting.map(|limit| Waiting {
            limit: limit as usize,
            queue: RefCell::default(),
        });
        Ok(Self {
            admission: Admission::new(&edge.limits),
            meter: meters.map_or_else(Meter::default, |meters| {
                meters.claim(Role::Provider, &edge.contract, edge.consumer)
            }),
            waiting,
            edge,
            end,
            page,
            directory,
            slot: index,
            watched: false,
            answered: Cell::new(0),
            unreadable: Cell::new(false),
        })
    }

    /// Says that the server can be connected to.
    pub(super) fn announce(&self, attempt: Attempt) {
        self.waiter().open.store(attempt.0, Ordering::SeqCst);
        for client in &self.page.page().clients {
            wake::ring_always(client);
        }
    }

    pub(super) fn id(&self) -> (EdgeId, Attempt) {
        (self.edge.edge, self.edge.consumer)
    }

    pub(super) fn is(&self, edge: EdgeId, consumer: Attempt) -> bool {
        self.id() == (edge, consumer)
    }

    pub(super) fn waiter(&self) -> &Waiter {
        &self.page.page().servers[self.slot]
    }

    /// Where its bell lies.
    pub(super) fn place(&self) -> (Arc<PageMap>, usize) {
        (self.page.clone(), self.slot)
    }

    /// Whether its bell is waited for by another thread than the server's.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Its bell, to be waited for by another thread; before it is announced.
    pub(super) fn bell(&mut self) -> Bell {
        self.watched = true;
        Bell {
            id: self.id(),
            page: self.page.clone(),
            slot: self.slot,
            seen: self.waiter().bell.load(Ordering::SeqCst),
        }
    }

    /// What its streams need.
    pub(super) fn seat(&self) -> Seat<'_> {
        Seat {
            id: self.id(),
            page: &self.page,
            slot: self.slot,
            directory: &self.directory,
        }
    }

    /// Whether a request waits, as far as can be seen.
    #[inline]
    pub(super) fn has_requests(&self) -> bool {
        let waits_here = self
            .waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.queue.borrow().is_empty());
        waits_here || !self.unreadable.get() && self.end.has_requests().unwrap_or(false)
    }

    #[inline]
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The next request.
    #[inline]
    pub(super) fn receive(&self) -> Option<Next> {
        match &self.waiting {
            None => self.take().map(Next::Request),
            Some(waiting) => self.receive_limited(waiting),
        }
    }

    /// Takes all that wait in the channel, so that their number is known: between two requests
    /// nothing was answered, so all of them wait at once.
    fn receive_limited(&self, waiting: &Waiting) -> Option<Next> {
        let mut queue = waiting.queue.borrow_mut();
        // Whose client gave them up waits no more.
        queue.retain(Taken::is_wanted);
        while let Some(taken) = self.take() {
            if queue.len() >= waiting.limit {
                return Some(Next::Surplus(taken));
            }
            queue.push_back(taken);
        }
        queue.pop_front().map(Next::Request)
    }

    #[inline]
    fn take(&self) -> Option<Taken> {
        match self.end.receive() {
            Ok(taken) => {
                self.unreadable.set(false);
                taken
            }
            Err(()) => {
                if !self.unreadable.replace(true) {
                    let (edge, consumer) = self.id();
                    tracing::warn!(%edge, %consumer, "cannot read the channel now");
                }
                None
            }
        }
    }

    #[inline]
    pub(super) fn loan(&self, taken: &Taken) -> Option<Loaned> {
        self.end.loan(taken)
    }

    /// Notes that a client slot is to be rung.
    #[inline]
    pub(super) fn note(&self, slot: u8) {
        self.answered
            .set(self.answered.get() | 1 << (slot as usize % CLIENT_SLOTS));
    }

    /// Whether a client is to be rung.
    #[inline]
    pub(super) fn has_answered(&self) -> bool {
        self.answered.get() != 0
    }

    /// Rings every client slot that was answered; the caller has published.
    #[inline]
    pub(super) fn ring(&self) {
        let mut answered = self.answered.take();
        while answered != 0 {
            let client = &self.page.page().clients[answered.trailing_zeros() as usize];
            if wake::ring(client) {
                self.meter.woke();
            }
            answered &= answered - 1;
        }
    }
}
