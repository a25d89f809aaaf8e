//! The thread that owns the connections of async edges.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use insula_contract::edge::Waiter;

use super::AsyncConnectError;
use crate::channel::Sizes;
use crate::client::bytes::{ByteTicket, MethodNumbers, Outcome};
use crate::client::{CallError, CallOptions, ConnectError, Connection, Edge};
use crate::clock;
use crate::spin::Spin;
use crate::sync::{WORDS_MAX, Watched, wait_any};
use crate::wake;

/// Connections of one thread: each has two words to wait for, and the thread has one.
const CONNECTIONS_MAX: usize = (WORDS_MAX - 1) / 2;

/// Looks without work between two readings of the clock while spinning.
const LOOKS_PER_CLOCK: u32 = 32;

/// Something for the thread to do.
pub(super) enum Order {
    Open {
        connection: u64,
        edge: Edge,
        contract: (&'static str, u16),
        sizes: Sizes,
        tell: mpsc::Sender<Result<(), ConnectError>>,
    },
    Call {
        connection: u64,
        method: MethodNumbers,
        request: Vec<u8>,
        options: CallOptions,
        deadline_ns: u64,
        slot: Arc<Slot>,
    },
    Close(u64),
}

/// Where a call's outcome is put.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Unpolled,
    Polled(Waker),
    Done(Outcome),
    /// Taken, or given up.
    Over,
}

impl Slot {
    /// The outcome, once there is one; else `waker` is woken then.
    pub(super) fn poll(&self, waker: &Waker) -> Option<Outcome> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            SlotState::Polled(known) if known.will_wake(waker) => None,
            SlotState::Unpolled | SlotState::Polled(_) => {
                *state = SlotState::Polled(waker.clone());
                None
            }
            SlotState::Done(_) => match std::mem::replace(state, SlotState::Over) {
                SlotState::Done(outcome) => Some(outcome),
                SlotState::Unpolled | SlotState::Polled(_) | SlotState::Over => None,
            },
            SlotState::Over => Some(Err(CallError::Broken("the outcome was taken before"))),
        }
    }

    /// Nobody wants the outcome any more; whether the thread still works for it.
    pub(super) fn give_up(&self) -> bool {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(state, SlotState::Over) {
            SlotState::Unpolled | SlotState::Polled(_) => true,
            SlotState::Done(_) | SlotState::Over => false,
        }
    }

    fn is_over(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, SlotState::Over)
    }

    fn finish(&self, outcome: Outcome) {
        let before = {
            let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match state {
                SlotState::Over => return,
                SlotState::Unpolled | SlotState::Polled(_) | SlotState::Done(_) => {
                    std::mem::replace(state, SlotState::Done(outcome))
                }
            }
        };
        if let SlotState::Polled(waker) = before {
            waker.wake();
        }
    }
}

/// What other threads have of the thread.
#[derive(Debug, Default)]
struct Reactor {
    waiter: Waiter,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    orders: Vec<Order>,
    /// A call was given up.
    nudged: bool,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open { .. } => "Open",
            Self::Call { .. } => "Call",
            Self::Close(_) => "Close",
        })
    }
}

impl Reactor {
    fn give(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        wake::published();
        wake::ring(&self.waiter);
    }
}

/// A connection at the thread; closed when dropped.
#[derive(Debug)]
pub(super) struct Handle {
    reactor: Arc<Reactor>,
    connection: u64,
}

impl Handle {
    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    pub(super) fn order(&self, order: Order) {
        self.reactor.give(|inbox| inbox.orders.push(order));
    }

    /// Lets the thread see that a call was given up.
    pub(super) fn nudge(&self) {
        self.reactor.give(|inbox| inbox.nudged = true);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.order(Order::Close(self.connection));
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |thread: &&mut Thread| Arc::ptr_eq(&thread.reactor, &self.reactor);
        if let Some(thread) = threads.iter_mut().find(own) {
            thread.connections -= 1;
        }
    }
}

#[derive(Debug)]
struct Thread {
    reactor: Arc<Reactor>,
    connections: usize,
    next: u64,
}

/// One, as long as it has room for all.
static THREADS: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

/// Opens a connection at a thread that has room for it.
pub(super) fn open(
    edge: &Edge,
    contract: (&'static str, u16),
    sizes: Sizes,
) -> Result<Handle, AsyncConnectError> {
    let handle = {
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let roomy = threads.iter().position(|t| t.connections < CONNECTIONS_MAX);
        let at = match roomy {
            Some(at) => at,
            None => {
                let reactor = Arc::new(Reactor::default());
                let own = reactor.clone();
                std::thread::Builder::new()
                    .name("insula-async".to_owned())
                    .spawn(move || Work::default().run(&own))
                    .map_err(AsyncConnectError::Thread)?;
                threads.push(Thread {
                    reactor,
                    connections: 0,
                    next: 0,
                });
                threads.len() - 1
            }
        };
        let thread = &mut threads[at];
        thread.connections += 1;
        thread.next += 1;
        Handle {
            reactor: thread.reactor.clone(),
            connection: thread.next,
        }
    };
    let (tell, told) = mpsc::channel();
    handle.order(Order::Open {
        connection: handle.connection,
        edge: edge.clone(),
        contract,
        sizes,
        tell,
    });
    match told.recv() {
        Ok(opened) => opened?,
        Err(gone) => return Err(AsyncConnectError::Thread(std::io::Error::other(gone))),
    }
    Ok(handle)
}

/// A call that waits for a place.
struct Waiting {
    method: MethodNumbers,
    request: Vec<u8>,
    options: CallOptions,
    deadline_ns: u64,
    slot: Arc<Slot>,
}

struct Connected {
    connection: Connection,
    sent: Vec<(ByteTicket, Arc<Slot>)>,
    waiting: VecDeque<Waiting>,
}

impl Connected {
    /// Sends what waits and has a place; takes what is answered; whether anything happened.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        self.sent.retain_mut(|(ticket, slot)| {
            if slot.is_over() {
                moved = true;
                return false;
            }
            match ticket.poll() {
                Some(outcome) => {
                    slot.finish(outcome);
                    moved = true;
                    false
                }
                None => true,
            }
        });
        while let Some(next) = self.waiting.pop_front() {
            if next.slot.is_over() {
                moved = true;
                continue;
            }
            let now = clock::now_ns();
            if now >= next.deadline_ns {
                next.slot.finish(Err(CallError::DeadlineExceeded));
                moved = true;
                continue;
            }
            let options = CallOptions {
                deadline: Some(Duration::from_nanos(next.deadline_ns - now)),
                ..next.options
            };
            match self
                .connection
                .submit_bytes(next.method, &next.request, options)
            {
                Ok(ticket) => self.sent.push((ticket, next.slot)),
                Err(CallError::TooManyInFlight { .. }) => {
                    self.waiting.push_front(next);
                    break;
                }
                Err(error) => next.slot.finish(Err(error)),
            }
            moved = true;
        }
        moved
    }

    fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    /// The next time at which something is due, at the latest.
    fn look_again_ns(&self, now: u64) -> u64 {
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline_ns);
        waiting.fold(self.connection.calls().look_again_ns(now), u64::min)
    }
}

#[derive(Default)]
struct Work {
    connections: BTreeMap<u64, Connected>,
    /// Kept to be filled again.
    orders: Vec<Order>,
}

impl Work {
    fn run(mut self, reactor: &Reactor) {
        let mut spin = Spin::default();
        // For the wait that goes on: how long, and until when.
        let mut spin_ns = None;
        let mut spin_until = None;
        let mut looks = 0_u32;
        loop {
            if self.turn(reactor) {
                if spin_until.is_some() {
                    spin.paid();
                }
                (spin_ns, spin_until) = (None, None);
                continue;
            }
            let for_ns = *spin_ns.get_or_insert_with(|| {
                let busy = self.connections.values().filter(|c| !c.is_idle());
                let spins = busy.map(|c| c.connection.calls().spin_ns()).max();
                spin.begin(spins.unwrap_or(0))
            });
            looks = looks.wrapping_add(1);
            if for_ns > 0 {
                if !looks.is_multiple_of(LOOKS_PER_CLOCK) {
                    std::hint::spin_loop();
                    continue;
                }
                let now = clock::now_ns();
                if now < *spin_until.get_or_insert(now.saturating_add(for_ns)) {
                    continue;
                }
                spin.in_vain();
                (spin_ns, spin_until) = (Some(0), None);
            }
            self.park(reactor);
        }
    }

    /// Does what there is to do; whether there was anything.
    fn turn(&mut self, reactor: &Reactor) -> bool {
        let mut moved = {
            let mut inbox = reactor.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut inbox.orders, &mut self.orders);
            std::mem::take(&mut inbox.nudged) || !self.orders.is_empty()
        };
        for order in std::mem::take(&mut self.orders) {
            self.obey(order);
        }
        for connected in self.connections.values_mut().filter(|c| !c.is_idle()) {
            moved |= connected.turn();
        }
        moved
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Open {
                connection,
                edge,
                contract,
                sizes,
                tell,
            } => {
                let opened = edge.connect_sized(contract, sizes).map(|opened| {
                    let connected = Connected {
                        connection: opened,
                        sent: Vec::new(),
                        waiting: VecDeque::new(),
                    };
                    self.connections.insert(connection, connected);
                });
                // Who asked waits.
                let _ = tell.send(opened);
            }
            Order::Call {
                connection,
                method,
                request,
                options,
                deadline_ns,
                slot,
            } => match self.connections.get_mut(&connection) {
                Some(connected) => connected.waiting.push_back(Waiting {
                    method,
                    request,
                    options,
                    deadline_ns,
                    slot,
                }),
                None => slot.finish(Err(CallError::Broken("the connection is closed"))),
            },
            Order::Close(connection) => {
                self.connections.remove(&connection);
            }
        }
    }

    /// Sleeps until somebody orders something, or something happens on a connection that waits.
    fn park(&mut self, reactor: &Reactor) {
        let began = clock::now_ns();
        let own = wake::lie_down(&reactor.waiter);
        let mut seen = [0; CONNECTIONS_MAX];
        for (seen, busy) in seen.iter_mut().zip(self.busy()) {
            *seen = busy.connection.calls().lie_down().seen;
        }
        // The last look. Where it finds nothing, the same connections wait as before it.
        if !self.turn(reactor) {
            let now = clock::now_ns();
            let times = self.busy().map(|busy| busy.look_again_ns(now)).min();
            let timeout = times.map(|until| until.saturating_sub(now));
            let bells = self.busy().zip(seen).flat_map(|(busy, seen)| {
                let [bell, route] = busy.connection.calls().words();
                [Watched { seen, ..bell }, route]
            });
            if timeout != Some(0) {
                wait_any(std::iter::once(own).chain(bells), timeout);
            }
            for (busy, seen) in self.busy().zip(seen) {
                busy.connection.calls().slept_since(began, seen);
            }
        }
        for connected in self.connections.values() {
            connected.connection.calls().get_up();
        }
        wake::get_up(&reactor.waiter);
    }

    fn busy(&self) -> impl Iterator<Item = &Connected> {
        self.connections.values().filter(|c| !c.is_idle())
    }
}
