//! Sleeping until one of many bells rings.
//!
//! A thread waits for at most [`WORDS_MAX`] words at once. The server's own thread waits for its
//! control word and the bells of the first edges; for each further lot of edges a watcher thread
//! waits, and passes every ring on to the control word. A ring is never lost between the two: a
//! watcher remembers how each bell stood when it looked at it last, beginning with how it stood
//! before any client could ring it, and the kernel compares that before it lets the thread sleep.
//! Such an edge pays one more change of threads when the server sleeps, and nothing else.
//!
//! A server with one edge sleeps on that edge's bell alone, which costs the kernel a quarter of a
//! microsecond less than two words, and whoever wakes the server rings that bell. Its consumer can
//! write to the bell, so one that sets it back in the moment between the server's last look and
//! its sleep can hide such a wake-up until it, or anybody, rings again.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use insula_contract::id::{Attempt, EdgeId};

use super::edges::OpenEdge;
use super::{Dispatch, Journal, Server};
use crate::clock;
use crate::memory::PageMap;
use crate::sync::{WORDS_MAX, Watched, wait_any, wake_all};
use crate::wake::{self, Last};

/// Edges whose bells one thread waits for, beside its own word.
pub(super) const PER_THREAD: usize = WORDS_MAX - 1;
/// A watcher calls nothing deep.
const STACK: usize = 128 * 1024;

/// What wakes a server beside requests.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Counted up when there is something to do; a futex word.
    word: AtomicU32,
    /// The bell that the server sleeps on, where that is the only word. Changed by the server
    /// alone, and never while it sleeps.
    bell: Mutex<Option<(Arc<PageMap>, usize)>>,
}

impl Control {
    #[inline]
    pub(super) fn now(&self) -> u32 {
        self.word.load(Ordering::SeqCst)
    }

    fn bell(&self) -> MutexGuard<'_, Option<(Arc<PageMap>, usize)>> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the server, or keeps it from sleeping.
    ///
    /// A server that chose another word after the look at `bell` sees in its last look that `word`
    /// was counted up before.
    pub(super) fn tell(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
        match &*self.bell() {
            Some((page, slot)) => wake::ring_always(&page.page().servers[*slot]),
            None => wake_all(&self.word),
        }
    }
}

/// The bell of one edge's server.
#[derive(Debug)]
pub(super) struct Bell {
    pub(super) id: (EdgeId, Attempt),
    pub(super) page: Arc<PageMap>,
    pub(super) slot: usize,
    /// How it stood when it was looked at last.
    pub(super) seen: u32,
}

impl Bell {
    fn word(&self) -> &AtomicU32 {
        &self.page.page().servers[self.slot].bell
    }

    /// Whether it was rung since it was looked at last.
    fn has_rung(&mut self) -> bool {
        let now = self.word().load(Ordering::SeqCst);
        std::mem::replace(&mut self.seen, now) != now
    }
}

#[derive(Debug)]
enum Order {
    Watch(Bell),
    Forget((EdgeId, Attempt)),
    End,
}

/// What a watcher's thread shares with its server.
#[derive(Debug, Default)]
struct Desk {
    /// Counted up after an order was given; a futex word.
    word: AtomicU32,
    orders: Mutex<Vec<Order>>,
}

impl Desk {
    fn orders(&self) -> MutexGuard<'_, Vec<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, order: Order) {
        self.orders().push(order);
        self.word.fetch_add(1, Ordering::SeqCst);
        wake_all(&self.word);
    }
}

/// A thread that waits for bells.
#[derive(Debug)]
struct Watcher {
    desk: Arc<Desk>,
    watched: Vec<(EdgeId, Attempt)>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(control: Arc<Control>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let theirs = desk.clone();
        let thread = std::thread::Builder::new()
            .name("insula-bells".to_owned())
            .stack_size(STACK)
            .spawn(move || watch(&theirs, &control))?;
        Ok(Self {
            desk,
            watched: Vec::new(),
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.desk.give(Order::End);
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}

fn watch(desk: &Desk, control: &Control) {
    let mut bells: Vec<Bell> = Vec::new();
    loop {
        // Loaded before the orders are read: one given after that changes it.
        let seen = desk.word.load(Ordering::SeqCst);
        for order in desk.orders().drain(..) {
            match order {
                Order::Watch(bell) => bells.push(bell),
                Order::Forget(id) => bells.retain(|bell| bell.id != id),
                Order::End => return,
            }
        }
        let own = Watched {
            word: &desk.word,
            seen,
        };
        let words = bells.iter().map(|bell| Watched {
            word: bell.word(),
            seen: bell.seen,
        });
        wait_any(words.chain([own]), None);
        // All of them are looked at, or the next wait would end at once.
        let rung = bells
            .iter_mut()
            .filter_map(|bell| bell.has_rung().then_some(()));
        if rung.count() > 0 {
            control.tell();
        }
    }
}

/// The watchers of one server; none with few edges.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Vec<Watcher>,
}

impl Watchers {
    /// Has a bell watched, which nobody has been told of yet.
    pub(super) fn watch(&mut self, control: &Arc<Control>, bell: Bell) -> io::Result<()> {
        let free = self
            .list
            .iter()
            .position(|watcher| watcher.watched.len() < PER_THREAD);
        let index = match free {
            Some(index) => index,
            None => {
                self.list.push(Watcher::start(control.clone())?);
                self.list.len() - 1
            }
        };
        let watcher = &mut self.list[index];
        watcher.watched.push(bell.id);
        watcher.desk.give(Order::Watch(bell));
        Ok(())
    }

    /// Watches a bell no more.
    pub(super) fn forget(&mut self, id: (EdgeId, Attempt)) {
        for watcher in &mut self.list {
            let before = watcher.watched.len();
            watcher.watched.retain(|watched| *watched != id);
            if watcher.watched.len() < before {
                watcher.desk.give(Order::Forget(id));
            }
        }
    }
}

impl<D: Dispatch, J: Journal> Server<D, J> {
    /// Chooses what the next park sleeps on, after the edges changed.
    pub(super) fn choose_bell(&mut self) {
        let sole = match self.edges.as_slice() {
            [edge] if !edge.is_watched() => Some(edge.place()),
            _ => None,
        };
        self.sleeps_on_bell = sole.is_some();
        *self.control.bell() = sole;
    }

    /// Sleeps until a request arrives or its [`super::Waker`] is used.
    ///
    /// May also return for no reason; the caller alternates it with [`Server::turn`], and does what
    /// the waker was used for in between.
    pub fn park(&mut self) {
        let control = Watched {
            word: &self.control.word,
            seen: self.control_seen,
        };
        let other = (!self.sleeps_on_bell).then_some(control);
        let watched = |edge: &&OpenEdge| edge.is_watched();
        for edge in self.edges.iter().filter(watched) {
            wake::lie_down(edge.waiter());
        }
        let own = self.edges.iter().filter(|edge| !edge.is_watched());
        wake::park(own.map(OpenEdge::waiter), other, || {
            let takes = !self.desk.is_full();
            let requested = takes && self.edges.iter().any(OpenEdge::has_requests);
            let told = self.desk.has_given()
                || self.has_wishes()
                || self.control.now() != self.control_seen;
            if !requested && !told {
                let deadline = self.sources.next_deadline();
                Last::Nothing(deadline.map(|at| at.saturating_sub(clock::now_ns())))
            } else {
                Last::Work
            }
        });
        for edge in self.edges.iter().filter(watched) {
            wake::get_up(edge.waiter());
        }
        self.control_seen = self.control.now();
    }
}
