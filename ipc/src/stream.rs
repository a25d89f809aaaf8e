//! Streams: values that a provider publishes to everybody who subscribes.
//!
//! A contract declares them, and the type that `#[contract]` makes of each says by its
//! [`Stream::DELIVERY`] what becomes of a value:
//!
//! | | latest | lossless |
//! |---|---|---|
//! | a subscriber gets | the newest value | every value, in order |
//! | room | for one value, replaced by the next | for `buffer` values |
//! | no room | cannot be | [`Publisher::publish`] gives [`PublishError::Full`], or the subscriber is disconnected, as declared |
//! | one who joins gets first | the value that was published last | the last `history` values |
//!
//! The provider's [`Publisher`] belongs to its server's thread. A value is encoded into shared
//! memory of each subscription, which is private to the two ends of its edge, as calls are: the
//! server makes it when it sees the wish, and the consumer only ever opens. Nobody is rung who is
//! awake.
//!
//! The consumer's [`Subscription`] follows the route of its edge by itself. Streams are not resumed:
//! what is published while it changes from one provider to the next is lost to it, and it is told
//! so by [`Event::Gap`] before the first value of the next one. With several instances behind a
//! contract it is subscribed to one of them.

mod event;
mod outlet;
mod port;
mod publisher;
mod subscription;

use crate::contract::{Contract, Message};

pub use event::{Event, Gap, NextError, Sample, SubscribeError};
pub use outlet::PublishError;
pub(crate) use outlet::Seat;
pub use publisher::{Outlets, Publisher};
pub(crate) use subscription::FIRST_SLOT;
pub use subscription::Subscription;

/// One stream of a contract; the macro makes a type per stream.
pub trait Stream: 'static {
    /// Where it belongs.
    type Contract: Contract;
    /// What its values are.
    type Item: Message;
    /// Its number on the wire, never reused within a major version.
    const ID: u16;
    /// Its name.
    const NAME: &'static str;
    /// What becomes of its values.
    const DELIVERY: Delivery;
}

/// What becomes of a stream's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// A subscriber gets the newest one.
    Latest {
        /// Whether one who joins gets the value that was published last.
        history: bool,
    },
    /// A subscriber gets each of them.
    Lossless {
        /// Values that may wait for a subscriber.
        buffer: usize,
        /// The last values, that one who joins gets.
        history: usize,
        /// What becomes of a subscriber that has no room.
        slow: Slow,
    },
}

/// What becomes of a subscriber that has no room for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// The publisher is told, and waits for it if it likes.
    Wait,
    /// It is disconnected and told so; it joins again by itself.
    Disconnect,
}

impl Delivery {
    /// Values that may wait for a subscriber.
    const fn buffer(self) -> usize {
        match self {
            Self::Latest { .. } => 1,
            Self::Lossless { buffer, .. } => buffer,
        }
    }

    /// Values that are kept for who joins.
    const fn history(self) -> usize {
        match self {
            Self::Latest { history } => history as usize,
            Self::Lossless { history, .. } => history,
        }
    }

    const fn is_lossless(self) -> bool {
        matches!(self, Self::Lossless { .. })
    }
}
