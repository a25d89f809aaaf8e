//! The consumer's side: wishing, opening, taking, and changing providers.
//!
//! ```text
//!   apart ── somebody serves ──► wished ── granted, opened ──► joined
//!     ▲                            │                             │
//!     └── route leaves it, unable ─┴── route leaves it, too slow ┘
//! ```
//!
//! What lies in the buffer when the route leaves the provider, or the provider the subscription, is
//! still taken, and the gap told of after it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use insula_contract::edge::{Answer, Waiter, Wish, pair_directory};
use insula_contract::id::Attempt;
use insula_contract::route::{RouteState, Target};

use super::Stream;
use super::event::{Event, Gap, NextError, Sample, SubscribeError};
use super::port::{Look, Place, SubscriberEnd};
use crate::client::Edge;
use crate::clock;
use crate::contract::{CONNECTIONS, Contract};
use crate::spin::Spin;
use crate::sync::Watched;
use crate::wake::{self, Last};

/// The first client slot that subscriptions take; those before are of connections.
pub(crate) const FIRST_SLOT: usize = CONNECTIONS;

/// The pause before a provider that could not grant a subscription is asked again.
const PAUSE_NS: u64 = 20_000_000;
/// Looks between two readings of the clock while spinning.
const LOOKS_PER_CLOCK: u32 = 32;

/// One thread's subscription to a stream, made by [`Edge::subscribe`].
///
/// It joins when it is first asked for an event, and whenever the route of its edge leads to
/// another provider.
pub struct Subscription<S> {
    // Declared first: the end of the channel is dropped before the slot is given back.
    state: State,
    edge: Edge,
    slot: usize,
    /// The route's count of changes that was acted upon last.
    seen: Option<u32>,
    /// Where the route leads.
    target: Option<Target>,
    /// Whether the provider sleeps until it is wanted.
    asleep: bool,
    /// The last value of the provider that was joined last.
    last: Option<(Attempt, u64)>,
    /// Not to ask for a grant before.
    not_before_ns: u64,
    warned: bool,
    spin: Spin,
    stream: PhantomData<fn() -> S>,
}

enum State {
    Apart,
    Wished { target: Target, number: u32 },
    Joined(Joined),
}

struct Joined {
    target: Target,
    number: u32,
    end: SubscriberEnd,
    taken: u64,
    /// The number of the next value; none before the first.
    next: Option<u64>,
    /// No more comes after what lies in the buffer, and why.
    ending: Option<Gap>,
    /// Values to take at most once it is ending.
    left: usize,
}

impl<S> fmt::Debug for Subscription<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Apart => "apart",
            State::Wished { .. } => "wished",
            State::Joined(_) => "joined",
        };
        f.debug_struct("Subscription")
            .field("slot", &self.slot)
            .field("state", &state)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Subscribes the calling thread to a stream of whoever provides the contract.
    ///
    /// Nobody need provide it yet.
    pub fn subscribe<S: Stream>(&self) -> Result<Subscription<S>, SubscribeError> {
        let wanted = S::Contract::id();
        if self.used().contract != wanted {
            return Err(SubscribeError::OtherContract {
                edge: self.used().contract.to_string(),
                wanted: wanted.to_string(),
            });
        }
        let slot = self.claim_subscription().ok_or(SubscribeError::NoSlot)?;
        Ok(Subscription {
            state: State::Apart,
            edge: self.clone(),
            slot,
            seen: None,
            target: None,
            asleep: false,
            last: None,
            not_before_ns: 0,
            warned: false,
            spin: Spin::default(),
            stream: PhantomData,
        })
    }
}

impl<S> Subscription<S> {
    fn waiter(&self) -> &Waiter {
        &self.edge.page().page().clients[self.slot]
    }

    /// The server's waiter; `None` for a slot that no page has.
    fn server(&self, target: &Target) -> Option<&Waiter> {
        let servers = &self.edge.page().page().servers;
        servers.get(usize::from(target.slot))
    }

    /// Writes the wish and lets the server know.
    fn wish(&self, target: &Target, wish: Option<Wish>) {
        let word = wish.map_or(0, Wish::to_word);
        let waiter = self.waiter();
        waiter.wish.store(word, Ordering::SeqCst);
        if let Some(server) = self.server(target) {
            server.wish.fetch_or(1 << self.slot, Ordering::SeqCst);
            wake::published();
            if waiter.awaited.swap(0, Ordering::SeqCst) != 0 {
                wake::ring_always(server);
            } else {
                wake::ring(server);
            }
        }
    }

    /// Lets go of the provider that was wished for or joined.
    fn leave(&mut self) {
        match std::mem::replace(&mut self.state, State::Apart) {
            State::Apart => {}
            State::Wished { target, .. } | State::Joined(Joined { target, .. }) => {
                self.wish(&target, None);
            }
        }
    }
}

impl<S> Drop for Subscription<S> {
    fn drop(&mut self) {
        self.leave();
        self.edge.release_subscription(self.slot);
    }
}

impl<S: Stream> Subscription<S> {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Event<S>>, NextError> {
        self.follow();
        loop {
            match &mut self.state {
                State::Apart => {
                    self.ask();
                    return Ok(None);
                }
                State::Wished { .. } => {
                    if !self.join()? {
                        return Ok(None);
                    }
                }
                State::Joined(_) => return self.take(),
            }
        }
    }

    /// Waits for the next event, at most for `patience`; [`Duration::MAX`] for ever.
    ///
    /// It spins for the edge's time and then sleeps; while it sleeps nothing is done to see whether
    /// anybody still publishes.
    pub fn next(&mut self, patience: Duration) -> Result<Event<S>, NextError> {
        if let Some(event) = self.try_next()? {
            return Ok(event);
        }
        let mut spin_ns = self.spin.begin(self.edge.spin_ns());
        let now = clock::now_ns();
        let until = now.saturating_add(clock::nanos(patience));
        let spin_until = now.saturating_add(spin_ns);
        let mut looks = 0_u32;
        loop {
            if let Some(event) = self.try_next()? {
                if spin_ns > 0 {
                    self.spin.paid();
                }
                return Ok(event);
            }
            looks = looks.wrapping_add(1);
            if spin_ns > 0 && !looks.is_multiple_of(LOOKS_PER_CLOCK) {
                std::hint::spin_loop();
                continue;
            }
            let now = clock::now_ns();
            if now >= until {
                return Err(NextError::DeadlineExceeded);
            }
            if spin_ns > 0 {
                if now < spin_until {
                    continue;
                }
                self.spin.in_vain();
                spin_ns = 0;
            }
            if let Some(event) = self.park(now, until)? {
                return Ok(event);
            }
        }
    }

    /// Sleeps until the bell, a route change, or `until`.
    fn park(&mut self, now: u64, until: u64) -> Result<Option<Event<S>>, NextError> {
        let edge = self.edge.clone();
        let waiter = &edge.page().page().clients[self.slot];
        let change = &edge.routes().entry().change;
        let route = Watched {
            word: change,
            seen: change.load(Ordering::SeqCst),
        };
        let mut looked = Ok(None);
        wake::park(std::iter::once(waiter), Some(route), || {
            looked = self.try_next();
            if !matches!(looked, Ok(None)) || self.seen != Some(route.seen) {
                return Last::Work;
            }
            let asks_again = self.not_before_ns > 0 && matches!(self.state, State::Apart);
            let until = if asks_again {
                until.min(self.not_before_ns)
            } else {
                until
            };
            match (until < u64::MAX).then(|| until.saturating_sub(now)) {
                Some(0) => Last::Work,
                timeout_ns => Last::Nothing(timeout_ns),
            }
        });
        looked
    }

    /// Looks where the route leads, if it has changed.
    #[inline]
    fn follow(&mut self) {
        let change = self.edge.routes().entry().change.load(Ordering::SeqCst);
        if self.seen != Some(change) {
            self.seen = Some(change);
            self.follow_changed();
        }
    }

    #[cold]
    fn follow_changed(&mut self) {
        let targets: Vec<Target> = self
            .edge
            .routes()
            .entry()
            .targets
            .iter()
            .map(|word| Target::from_word(word.load(Ordering::SeqCst)))
            .filter(|target| target.state != RouteState::Gone)
            .collect();
        self.not_before_ns = 0;
        let present = match &self.state {
            State::Apart => None,
            State::Wished { target, .. } | State::Joined(Joined { target, .. }) => Some(*target),
        };
        let stays = |present: Target| {
            targets
                .iter()
                .any(|target| (target.attempt, target.slot) == (present.attempt, present.slot))
        };
        // While the route holds nobody new is asked, but who was joined may still publish.
        self.target = targets
            .iter()
            .copied()
            .find(|target| target.state == RouteState::Serve);
        self.asleep = targets
            .iter()
            .any(|target| target.state == RouteState::Dormant);
        if present.is_none_or(stays) {
            return;
        }
        match &mut self.state {
            State::Joined(joined) => joined.end(Gap::Provider, S::DELIVERY.buffer()),
            State::Apart | State::Wished { .. } => self.leave(),
        }
    }

    /// Asks the provider for a channel, where one serves.
    fn ask(&mut self) {
        let Some(target) = self.target else {
            if self.asleep {
                let now = clock::now_ns();
                self.edge.want(self.seen.unwrap_or_default(), now, now);
            }
            return;
        };
        let Some(server) = self.server(&target) else {
            return;
        };
        if server.open.load(Ordering::SeqCst) != target.attempt.0 {
            return;
        }
        if self.not_before_ns > 0 && clock::now_ns() < self.not_before_ns {
            return;
        }
        self.not_before_ns = 0;
        let number = self.edge.next_wish();
        self.waiter().taken.store(0, Ordering::SeqCst);
        let wish = Wish {
            number,
            stream: S::ID,
            server: target.slot,
            opened: false,
        };
        self.wish(&target, Some(wish));
        self.state = State::Wished { target, number };
    }

    /// Opens the channel where it was granted; whether it was.
    fn join(&mut self) -> Result<bool, NextError> {
        let State::Wished { target, number } = self.state else {
            return Ok(false);
        };
        let answer = self.waiter().answer.load(Ordering::SeqCst);
        match Answer::from_word(answer, number) {
            None => return Ok(false),
            Some(Answer::Granted) => {}
            Some(Answer::UnknownStream) => {
                self.leave();
                return Err(NextError::UnknownStream);
            }
            Some(Answer::Unable | Answer::TooSlow) => {
                self.ask_later();
                return Ok(false);
            }
        }
        let used = self.edge.used();
        let directory = format!(
            "{}/{}",
            used.parent,
            pair_directory(target.attempt, used.consumer)
        );
        let place = Place {
            directory: &directory,
            stream: S::ID,
            slot: self.slot,
            number,
        };
        match SubscriberEnd::open(place) {
            Ok(end) => {
                let wish = Wish {
                    number,
                    stream: S::ID,
                    server: target.slot,
                    opened: true,
                };
                self.wish(&target, Some(wish));
                self.state = State::Joined(Joined {
                    target,
                    number,
                    end,
                    taken: 0,
                    next: None,
                    ending: None,
                    left: 0,
                });
                Ok(true)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(contract = %used.contract, "cannot subscribe: {error}");
                }
                self.ask_later();
                Ok(false)
            }
        }
    }

    fn ask_later(&mut self) {
        self.leave();
        self.not_before_ns = clock::now_ns().saturating_add(PAUSE_NS);
    }

    /// Takes the next value, or ends what has no more.
    #[inline]
    fn take(&mut self) -> Result<Option<Event<S>>, NextError> {
        loop {
            let State::Joined(joined) = &mut self.state else {
                return Ok(None);
            };
            let attempt = joined.target.attempt;
            let look = match joined.ending {
                Some(_) if joined.left == 0 => Look::Nothing,
                _ => joined.end.look(),
            };
            let received = match look {
                Look::Value(received) => received,
                Look::Nothing => return self.no_more(),
                Look::TooManyHeld => return Err(NextError::TooManyHeld),
                Look::Malformed(what) => return Err(NextError::Broken(what)),
            };
            joined.left = joined.left.saturating_sub(1);
            joined.taken += 1;
            let taken = joined.taken;
            let target = joined.target;
            let sequence = received.sequence;
            let expected = joined.next.replace(sequence.wrapping_add(1));
            if S::DELIVERY.is_lossless() {
                self.took(taken, &target);
                if expected.is_some_and(|expected| expected != sequence) {
                    return Err(NextError::Broken("a value of a lossless stream is missing"));
                }
            }
            let before = self
                .last
                .filter(|(of, _)| *of == attempt)
                .map(|(_, sequence)| sequence);
            // The history that one who joins again has seen before.
            if before.is_some_and(|before| sequence <= before) {
                continue;
            }
            self.last = Some((attempt, sequence));
            return Ok(Some(Event::Value(Sample {
                received,
                stream: PhantomData,
            })));
        }
    }

    /// Lets the publisher know that there is room.
    #[inline]
    fn took(&self, taken: u64, target: &Target) {
        let waiter = self.waiter();
        waiter.taken.store(taken, Ordering::Release);
        fence(Ordering::SeqCst);
        if waiter.awaited.load(Ordering::Relaxed) != 0
            && waiter.awaited.swap(0, Ordering::SeqCst) != 0
            && let Some(server) = self.server(target)
        {
            wake::ring_always(server);
        }
    }

    /// What an empty buffer means: the gap, where nothing more comes.
    fn no_more(&mut self) -> Result<Option<Event<S>>, NextError> {
        let answer = self.waiter().answer.load(Ordering::SeqCst);
        let State::Joined(joined) = &mut self.state else {
            return Ok(None);
        };
        match joined.ending {
            Some(gap) => {
                self.leave();
                Ok(Some(Event::Gap(gap)))
            }
            None if Answer::from_word(answer, joined.number) == Some(Answer::TooSlow) => {
                // The last values may have come between the look and the answer.
                joined.end(Gap::TooSlow, S::DELIVERY.buffer());
                self.take()
            }
            None => Ok(None),
        }
    }
}

impl Joined {
    /// Nothing is waited for any more but what lies in the buffer.
    fn end(&mut self, gap: Gap, buffer: usize) {
        if self.ending.is_none() {
            self.ending = Some(gap);
            self.left = buffer;
        }
    }
}
