//! What a subscriber is told, and the values that it reads in place.

use std::fmt;
use std::marker::PhantomData;

use insula_contract::edge::CLIENT_SLOTS;

use super::Stream;
use super::port::{HELD_MAX, Received};
use super::subscription::FIRST_SLOT;
use crate::client::Malformed;
use crate::contract::Message;

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The edge is to another contract.
    #[error("the edge is to `{edge}`, the stream is of `{wanted}`")]
    OtherContract {
        /// What the edge is to.
        edge: String,
        /// Whose stream was asked for.
        wanted: String,
    },
    /// Every slot of the edge is taken; drop a subscription first.
    #[error("{} subscriptions of this process use the edge already", CLIENT_SLOTS - FIRST_SLOT)]
    NoSlot,
}

/// Why there is no next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NextError {
    /// Nothing came in time.
    #[error("nothing came before the deadline")]
    DeadlineExceeded,
    /// The provider does not have the stream.
    #[error("the provider does not know the stream")]
    UnknownStream,
    /// As many samples are held as may be; drop one first.
    #[error("{HELD_MAX} samples are held already")]
    TooManyHeld,
    /// The channel or the value in it is not what it should be.
    #[error("broken channel: {0}")]
    Broken(&'static str),
}

/// What a subscriber is told next.
#[derive(Debug)]
pub enum Event<S> {
    /// A value.
    Value(Sample<S>),
    /// Values may be missing between the last one and the next.
    Gap(Gap),
}

/// Why values may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The provider is another one, or its channel was lost; what comes next is of its successor,
    /// beginning with the history.
    Provider,
    /// The subscriber had no room and was disconnected. It joins again, and gets of the history
    /// what it has not seen.
    TooSlow,
}

/// A value, lying in shared memory until dropped.
///
/// At most 4 of a subscription may be held at once.
pub struct Sample<S> {
    pub(super) received: Received,
    pub(super) stream: PhantomData<fn() -> S>,
}

impl<S> fmt::Debug for Sample<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("sequence", &self.received.sequence)
            .finish_non_exhaustive()
    }
}

impl<S: Stream> Sample<S> {
    /// Reads the value in place.
    #[inline]
    pub fn get(&self) -> Result<<S::Item as Message>::View<'_>, Malformed> {
        S::Item::decode(self.bytes()).ok_or(Malformed)
    }

    /// The encoded value.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.received.bytes()
    }

    /// Its number: a provider counts all values of the stream from 0.
    pub fn sequence(&self) -> u64 {
        self.received.sequence
    }
}
