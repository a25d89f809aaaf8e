//! The provider's side: which streams it has, and what it publishes on them.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use insula_contract::edge::{Answer, CLIENT_SLOTS, Waiter, Wish};
use insula_contract::id::{Attempt, EdgeId};

use super::outlet::{Outlet, PublishError, Seat};
use super::{Delivery, Stream};
use crate::clock;
use crate::contract::Message;
use crate::payload::WriteInPlace;
use crate::wake;

/// All streams of one provider; the struct that `#[contract]` makes of them holds one.
///
/// Belongs to one server and its thread; clones are the same.
#[derive(Clone, Default)]
pub struct Outlets {
    all: Rc<RefCell<Vec<Rc<RefCell<Outlet>>>>>,
}

impl fmt::Debug for Outlets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.all.borrow()).finish()
    }
}

impl Outlets {
    /// No streams yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The publisher of `S`; of the same stream always the same.
    pub fn publisher<S: Stream>(&self) -> Publisher<S> {
        let mut all = self.all.borrow_mut();
        let known = all
            .iter()
            .find(|outlet| outlet.borrow().stream == S::ID)
            .cloned();
        let outlet = known.unwrap_or_else(|| {
            let outlet = Rc::new(RefCell::new(Outlet::of::<S>()));
            all.push(outlet.clone());
            outlet
        });
        Publisher {
            outlet,
            stream: PhantomData,
        }
    }

    /// Whether a wish of this edge waits to be looked at.
    #[inline]
    pub(crate) fn is_wanted(server: &Waiter) -> bool {
        server.wish.load(Ordering::Relaxed) != 0
    }

    /// Grants and ends what the consumer of this edge wishes.
    #[cold]
    pub(crate) fn look(&self, seat: &Seat<'_>) {
        let page = seat.page.page();
        let mut changed = page.servers[seat.slot].wish.swap(0, Ordering::SeqCst);
        changed &= (1 << CLIENT_SLOTS) - 1;
        while changed != 0 {
            let slot = changed.trailing_zeros() as usize;
            changed &= changed - 1;
            self.look_at(seat, slot);
        }
    }

    fn look_at(&self, seat: &Seat<'_>, slot: usize) {
        let client = &seat.page.page().clients[slot];
        // A wish for another attempt's server is none here.
        let wish = Wish::from_word(client.wish.load(Ordering::SeqCst))
            .filter(|wish| usize::from(wish.server) == seat.slot);
        let mut known = false;
        for outlet in self.all.borrow().iter() {
            let outlet = &mut *outlet.borrow_mut();
            outlet.subscribers.retain(|subscriber| {
                !subscriber.is_at(seat.id, slot)
                    || wish.is_some_and(|wish| wish.number == subscriber.number)
            });
            let Some(wish) = wish.filter(|wish| wish.stream == outlet.stream) else {
                continue;
            };
            known = true;
            let present = outlet
                .subscribers
                .iter_mut()
                .find(|subscriber| subscriber.is_at(seat.id, slot));
            match present {
                None if !wish.opened => outlet.grant(seat, slot, wish.number),
                Some(subscriber) if wish.opened && !subscriber.joined => {
                    subscriber.joined = true;
                    outlet.welcome(seat.id, slot);
                }
                None | Some(_) => {}
            }
        }
        if let Some(wish) = wish
            && !known
        {
            let answer = Answer::UnknownStream.to_word(wish.number);
            client.answer.store(answer, Ordering::SeqCst);
            wake::ring_always(client);
        }
    }

    /// Ends all subscriptions of a consumer that is gone.
    pub(crate) fn unserve(&self, edge: EdgeId, consumer: Attempt) {
        for outlet in self.all.borrow().iter() {
            let subscribers = &mut outlet.borrow_mut().subscribers;
            subscribers.retain(|subscriber| subscriber.edge != (edge, consumer));
        }
    }
}

/// Publishes the values of one stream; clones are the same publisher.
///
/// It belongs to the thread of its server, whose turns let subscribers join and leave. What is
/// published in a handler is sent at once, whatever becomes of the handler's answer.
pub struct Publisher<S> {
    outlet: Rc<RefCell<Outlet>>,
    stream: PhantomData<fn() -> S>,
}

impl<S> Clone for Publisher<S> {
    fn clone(&self) -> Self {
        Self {
            outlet: self.outlet.clone(),
            stream: PhantomData,
        }
    }
}

impl<S> fmt::Debug for Publisher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outlet.borrow().fmt(f)
    }
}

impl<S: Stream> Publisher<S> {
    /// Sends a value to all who have joined, without waiting.
    ///
    /// It is encoded once where the stream has a history, and else straight into the shared memory
    /// of each subscription.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; then nobody has got the value, and it is not in the history.
    pub fn publish(&self, value: &<S::Item as Message>::View<'_>) -> Result<(), PublishError> {
        let encode = |place: &mut [u8]| S::Item::encode(value, place);
        self.outlet.borrow_mut().publish(&encode)
    }

    /// Sends a value to all who have joined, waiting until each of them has room, at most for
    /// `patience`.
    ///
    /// It sleeps while it waits, and the server does nothing else: no request is answered and no
    /// end of a subscriber noticed that was killed. So a dead subscriber costs the whole
    /// `patience`, once for each call until the server had a turn.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; then nobody has got the value, and it is not in the history.
    pub fn publish_within(
        &self,
        value: &<S::Item as Message>::View<'_>,
        patience: Duration,
    ) -> Result<(), PublishError> {
        let first = self.publish(value);
        if !matches!(first, Err(PublishError::Full { .. })) {
            return first;
        }
        let until = clock::now_ns().saturating_add(clock::nanos(patience));
        loop {
            self.outlet.borrow_mut().wait_for_room(until);
            let published = self.publish(value);
            let full = matches!(published, Err(PublishError::Full { .. }));
            if !full || clock::now_ns() >= until {
                return published;
            }
        }
    }

    /// Sends a value that `write` writes straight into shared memory, without waiting. It is called
    /// once for each subscriber, or once in all where the stream has a history.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub fn publish_with(
        &self,
        write: impl Fn(&mut <S::Item as WriteInPlace>::Place) -> <S::Item as WriteInPlace>::Written,
    ) -> Result<(), PublishError>
    where
        S::Item: WriteInPlace,
    {
        let encode = |place: &mut [u8]| S::Item::write(place, &write);
        self.outlet.borrow_mut().publish(&encode)
    }

    /// Disconnects the subscribers that have no room; how many. They are told, and join again.
    pub fn disconnect_slow(&self) -> usize {
        let outlet = &mut *self.outlet.borrow_mut();
        let Delivery::Lossless { buffer, .. } = outlet.delivery else {
            return 0;
        };
        let before = outlet.subscribers.len();
        outlet.subscribers.retain_mut(|subscriber| {
            let keep = !subscriber.joined || subscriber.has_room(buffer);
            if !keep {
                subscriber.cut();
            }
            keep
        });
        before - outlet.subscribers.len()
    }

    /// How many have joined and not left, as far as the server's last turn has seen.
    pub fn subscribers(&self) -> usize {
        let outlet = self.outlet.borrow();
        outlet.subscribers.iter().filter(|s| s.joined).count()
    }
}
