//! One stream of a provider: who has subscribed, and what they get.
//!
//! A subscriber is *granted* when its channel is made, and *joined* when it has said that it has
//! opened it; only then it is sent the history, and what is published from there on.
//!
//! Room is counted, not tried: the publisher knows what it has sent and the subscriber says what it
//! has taken, so that a value goes to all subscribers or to none. The subscriber's word is read
//! again only where the last one known leaves no room. One that lies about it loses its
//! subscription.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use insula_contract::edge::{Answer, Waiter, Wish};
use insula_contract::id::{Attempt, EdgeId};

use super::port::{Place, PublisherEnd, Sent};
use super::{Delivery, Slow, Stream};
use crate::clock;
use crate::contract::Message;
use crate::memory::PageMap;
use crate::sync::{self, Watched};
use crate::wake;

/// How long a publisher waits for some subscribers before it looks at the rest.
const LOOK_AGAIN_NS: u64 = 1_000_000;

/// Why a value was not published; nobody has got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Some subscribers of a lossless stream have no room, and it is declared to wait for them.
    #[error("{subscribers} subscribers have no room")]
    Full {
        /// How many.
        subscribers: usize,
    },
    /// The value is longer than its contract says. Not looked at where nobody has subscribed and
    /// there is no history.
    #[error("value does not fit into {max} bytes")]
    TooLarge {
        /// The most that fits.
        max: usize,
    },
}

/// What the streams need of an edge that is served.
pub(crate) struct Seat<'a> {
    pub(crate) id: (EdgeId, Attempt),
    pub(crate) page: &'a Arc<PageMap>,
    /// The server's slot.
    pub(crate) slot: usize,
    pub(crate) directory: &'a str,
}

/// One stream of the provider.
pub(super) struct Outlet {
    pub(super) stream: u16,
    pub(super) delivery: Delivery,
    value_max: usize,
    /// The last values, encoded, the oldest first.
    kept: VecDeque<Kept>,
    /// A place that no value is in.
    spare: Option<Box<[u8]>>,
    /// The number of the next value.
    next_sequence: u64,
    pub(super) subscribers: Vec<Subscriber>,
}

impl Outlet {
    pub(super) fn of<S: Stream>() -> Self {
        Self {
            stream: S::ID,
            delivery: S::DELIVERY,
            value_max: S::Item::ENCODED_MAX,
            kept: VecDeque::new(),
            spare: None,
            next_sequence: 0,
            subscribers: Vec::new(),
        }
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("stream", &self.stream)
            .field("published", &self.next_sequence)
            .field("subscribers", &self.subscribers.len())
            .finish_non_exhaustive()
    }
}

/// An encoded value. Its place is as long as the longest one, so that it is never made anew.
struct Kept {
    place: Box<[u8]>,
    length: usize,
}

pub(super) struct Subscriber {
    pub(super) edge: (EdgeId, Attempt),
    page: Arc<PageMap>,
    server_slot: usize,
    slot: usize,
    pub(super) number: u32,
    end: PublisherEnd,
    pub(super) joined: bool,
    /// Values sent.
    sent: u64,
    /// Values taken, as far as was looked.
    taken: u64,
}

impl Subscriber {
    pub(super) fn is_at(&self, edge: (EdgeId, Attempt), slot: usize) -> bool {
        (self.edge, self.slot) == (edge, slot)
    }

    fn client(&self) -> &Waiter {
        &self.page.page().clients[self.slot]
    }

    fn server(&self) -> &Waiter {
        &self.page.page().servers[self.server_slot]
    }

    /// Whether a value more has room, by what the subscriber has said until now.
    #[inline]
    pub(super) fn has_room(&mut self, buffer: usize) -> bool {
        if self.sent.wrapping_sub(self.taken) < buffer as u64 {
            return true;
        }
        self.taken = self.client().taken.load(Ordering::Acquire);
        self.sent.wrapping_sub(self.taken) < buffer as u64
    }

    /// Whether the consumer has ended it, and the server has not looked yet.
    fn has_left(&self) -> bool {
        let wish = Wish::from_word(self.client().wish.load(Ordering::SeqCst));
        wish.is_none_or(|wish| wish.number != self.number)
    }

    /// Tells it that it is disconnected.
    pub(super) fn cut(&self) {
        let answer = Answer::TooSlow.to_word(self.number);
        self.client().answer.store(answer, Ordering::SeqCst);
        wake::ring_always(self.client());
    }
}

impl Outlet {
    /// Makes the channel of a subscription and says so.
    pub(super) fn grant(&mut self, seat: &Seat<'_>, slot: usize, number: u32) {
        let place = Place {
            directory: seat.directory,
            stream: self.stream,
            slot,
            number,
        };
        let client = &seat.page.page().clients[slot];
        let answer = match PublisherEnd::create(place, self.delivery, self.value_max) {
            Ok(end) => {
                self.subscribers.push(Subscriber {
                    edge: seat.id,
                    page: seat.page.clone(),
                    server_slot: seat.slot,
                    slot,
                    number,
                    end,
                    joined: false,
                    sent: 0,
                    taken: 0,
                });
                Answer::Granted
            }
            Err(error) => {
                let (edge, consumer) = seat.id;
                tracing::warn!(%edge, %consumer, "cannot grant a subscription: {error}");
                Answer::Unable
            }
        };
        client
            .answer
            .store(answer.to_word(number), Ordering::SeqCst);
        wake::ring_always(client);
    }

    /// Sends the history to one who has just joined.
    pub(super) fn welcome(&mut self, edge: (EdgeId, Attempt), slot: usize) {
        let first = self.next_sequence - self.kept.len() as u64;
        let values = self.kept.iter().zip(first..);
        let Some(subscriber) = self.subscribers.iter_mut().find(|s| s.is_at(edge, slot)) else {
            return;
        };
        for (kept, sequence) in values {
            let sent = subscriber.end.send(sequence, |chunk| copy(kept, chunk));
            debug_assert_ne!(sent, Sent::TooLong, "a kept value fits every chunk");
            if sent == Sent::Delivered {
                subscriber.sent += 1;
            }
        }
        wake::published();
        wake::ring(subscriber.client());
    }

    /// Makes room where it may: cuts off who is declared to be, and forgets who has left. The
    /// number of subscribers that still have none.
    fn full(&mut self) -> usize {
        let Delivery::Lossless { buffer, slow, .. } = self.delivery else {
            return 0;
        };
        let mut full = 0;
        self.subscribers.retain_mut(|subscriber| {
            if !subscriber.joined || subscriber.has_room(buffer) {
                return true;
            }
            if subscriber.has_left() {
                return false;
            }
            match slow {
                Slow::Wait => {
                    full += 1;
                    true
                }
                Slow::Disconnect => {
                    subscriber.cut();
                    false
                }
            }
        });
        full
    }

    pub(super) fn publish(
        &mut self,
        encode: &dyn Fn(&mut [u8]) -> Option<usize>,
    ) -> Result<(), PublishError> {
        let subscribers = self.full();
        if subscribers > 0 {
            return Err(PublishError::Full { subscribers });
        }
        let too_large = PublishError::TooLarge {
            max: self.value_max,
        };
        let sequence = self.next_sequence;
        if self.delivery.history() > 0 {
            self.keep(encode).ok_or(too_large)?;
        }
        let kept = self.kept.back();
        let mut too_long = false;
        self.subscribers.retain_mut(|subscriber| {
            if !subscriber.joined || too_long {
                return true;
            }
            let sent = subscriber.end.send(sequence, |chunk| match kept {
                Some(kept) => copy(kept, chunk),
                None => encode(chunk),
            });
            match sent {
                Sent::Delivered => subscriber.sent += 1,
                Sent::TooLong => too_long = true,
                Sent::NoRoom => {
                    subscriber.cut();
                    return false;
                }
            }
            true
        });
        if too_long {
            return Err(too_large);
        }
        self.next_sequence += 1;
        wake::published();
        for subscriber in &self.subscribers {
            wake::ring(subscriber.client());
        }
        Ok(())
    }

    /// Encodes a value into the history.
    fn keep(&mut self, encode: &dyn Fn(&mut [u8]) -> Option<usize>) -> Option<()> {
        let spare = self.spare.take();
        let mut place = spare.unwrap_or_else(|| vec![0; self.value_max].into_boxed_slice());
        let Some(length) = encode(&mut place) else {
            self.spare = Some(place);
            return None;
        };
        if self.kept.len() == self.delivery.history() {
            self.spare = self.kept.pop_front().map(|oldest| oldest.place);
        }
        self.kept.push_back(Kept { place, length });
        Some(())
    }

    /// Sleeps until a subscriber that is full says that it took something, or until `until_ns`.
    pub(super) fn wait_for_room(&mut self, until_ns: u64) {
        let Delivery::Lossless { buffer, .. } = self.delivery else {
            return;
        };
        let now = clock::now_ns();
        let mut bells: Vec<Watched<'_>> = Vec::new();
        let mut room = false;
        for subscriber in self.subscribers.iter_mut().filter(|s| s.joined) {
            if subscriber.has_room(buffer) {
                continue;
            }
            // The bell is read before the flag is set, and the flag set before the last look: who
            // takes something after that look sees the flag and counts the bell up.
            let seen = subscriber.server().bell.load(Ordering::SeqCst);
            subscriber.client().awaited.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            room |= subscriber.has_room(buffer) || subscriber.has_left();
            let word = &subscriber.server().bell;
            if !bells.iter().any(|bell| std::ptr::eq(bell.word, word)) {
                bells.push(Watched { word, seen });
            }
        }
        if !room && !bells.is_empty() && now < until_ns {
            let mut timeout = until_ns - now;
            if bells.len() > sync::WORDS_MAX {
                // More than can be waited for at once: the others are looked at in between.
                bells.truncate(sync::WORDS_MAX);
                timeout = timeout.min(LOOK_AGAIN_NS);
            }
            sync::wait_any(bells, Some(timeout));
        }
    }
}

fn copy(kept: &Kept, chunk: &mut [u8]) -> Option<usize> {
    chunk
        .get_mut(..kept.length)?
        .copy_from_slice(&kept.place[..kept.length]);
    Some(kept.length)
}
