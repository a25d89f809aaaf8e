//! The place for the answer to one method's request.

use std::marker::PhantomData;

use super::{Answer, Later, ReplySlot};
use crate::contract::{ErrorOf, Message, Method, Safety};
use crate::payload::WriteInPlace;

/// A [`ReplySlot`] that takes only what `M` answers.
#[derive(Debug)]
#[must_use = "a request that is not answered leaves its caller waiting"]
pub struct Reply<'a, M> {
    slot: ReplySlot<'a>,
    method: PhantomData<fn() -> M>,
}

impl<'a, M: Method> Reply<'a, M> {
    /// The place `slot`, for an answer of `M`.
    #[inline]
    pub fn new(slot: ReplySlot<'a>) -> Self {
        Self {
            slot,
            method: PhantomData,
        }
    }

    /// Answers with the response, encoded straight into the chunk that the client will read.
    #[inline]
    pub fn send(self, response: &<M::Response as Message>::View<'_>) -> Answer {
        self.slot.send::<M>(response)
    }

    /// Answers with what `write` writes straight into the chunk that the client will read.
    #[inline]
    pub fn send_with(
        self,
        write: impl FnOnce(
            &mut <M::Response as WriteInPlace>::Place,
        ) -> <M::Response as WriteInPlace>::Written,
    ) -> Answer
    where
        M::Response: WriteInPlace,
    {
        self.slot.send_with::<M>(write)
    }

    /// Answers later, from any thread: what to answer now, and the place for the real answer.
    ///
    /// Not for `once` methods, whose answers are recorded with their effects; that does not compile.
    #[inline]
    pub fn later(self) -> (Answer, Later<M>) {
        const {
            assert!(
                !matches!(M::SAFETY, Safety::Once),
                "a `once` method is answered in its transaction"
            );
        }
        let (answer, promise) = self.slot.promise();
        (answer, Later::new(promise))
    }

    /// Answers with the contract's error.
    #[inline]
    pub fn fail(self, error: &ErrorOf<M>) -> Answer {
        self.slot.fail::<M>(error)
    }
}
