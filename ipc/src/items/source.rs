//! What a handler answers a streaming request with.

use std::fmt;
use std::marker::PhantomData;

use super::Streaming;
use super::table::{Key, Open, Sources};
use crate::contract::{ErrorOf, Message};
use crate::header::Status;
use crate::payload::WriteInPlace;
use crate::server::{Answer, CallContext};

/// Gives the items of one reply, one after the other.
///
/// It is asked on the server's thread while its client has room, always has an answer at once, and
/// is dropped after the end, when the client does not want more, or when the call's deadline has
/// passed. Closures that take a [`Sink`] are sources.
pub trait Source<M: Streaming>: 'static {
    /// Gives the next item, or says that there is none.
    fn pull(&mut self, sink: Sink<'_, M>) -> Pulled;
}

impl<M: Streaming, F: FnMut(Sink<'_, M>) -> Pulled + 'static> Source<M> for F {
    fn pull(&mut self, sink: Sink<'_, M>) -> Pulled {
        self(sink)
    }
}

/// Proof that a source gave something; only a [`Sink`] makes it.
#[must_use]
#[derive(Debug)]
pub struct Pulled(pub(super) Given);

/// What a source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// An item of this length, in its place.
    Item(usize),
    /// An item that did not fit there and lies beside.
    Beside,
    /// An item or error that is longer than the contract says.
    TooLong,
    /// No more items.
    End,
    /// The contract's error, which lies beside.
    Error,
}

/// The place for one item.
#[derive(Debug)]
pub struct Sink<'a, M> {
    place: &'a mut [u8],
    beside: &'a mut Vec<u8>,
    method: PhantomData<fn() -> M>,
}

impl<'a, M: Streaming> Sink<'a, M> {
    fn new(place: &'a mut [u8], beside: &'a mut Vec<u8>) -> Self {
        Self {
            place,
            beside,
            method: PhantomData,
        }
    }

    /// Gives an item, encoded straight into the chunk that the client will read.
    #[inline]
    pub fn item(self, item: &<M::Response as Message>::View<'_>) -> Pulled {
        if let Some(length) = M::Response::encode(item, self.place) {
            return Pulled(Given::Item(length));
        }
        let encode = |place: &mut [u8]| M::Response::encode(item, place);
        lay_beside(self.beside, M::Response::ENCODED_MAX, Given::Beside, encode)
    }

    /// Gives an item that `write` writes straight into the chunk.
    #[inline]
    pub fn item_with(
        self,
        write: impl FnOnce(
            &mut <M::Response as WriteInPlace>::Place,
        ) -> <M::Response as WriteInPlace>::Written,
    ) -> Pulled
    where
        M::Response: WriteInPlace,
    {
        let max = M::Response::ENCODED_MAX;
        if self.place.len() >= max {
            let written = M::Response::write(self.place, write);
            return Pulled(written.map_or(Given::TooLong, Given::Item));
        }
        let write = |place: &mut [u8]| M::Response::write(place, write);
        lay_beside(self.beside, max, Given::Beside, write)
    }

    /// Says that there are no more.
    pub fn end(self) -> Pulled {
        Pulled(Given::End)
    }

    /// Ends with the contract's error; the items before it arrive.
    pub fn fail(self, error: &ErrorOf<M>) -> Pulled {
        let encode = |place: &mut [u8]| ErrorOf::<M>::encode(error, place);
        let max = <ErrorOf<M> as Message>::ENCODED_MAX;
        lay_beside(self.beside, max, Given::Error, encode)
    }
}

fn lay_beside(
    beside: &mut Vec<u8>,
    max: usize,
    given: Given,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Pulled {
    beside.clear();
    beside.resize(max, 0);
    match encode(beside) {
        Some(length) => {
            beside.truncate(length);
            Pulled(given)
        }
        None => {
            beside.clear();
            Pulled(Given::TooLong)
        }
    }
}

/// The place for the answer to one streaming request.
#[must_use = "a request that is not answered leaves its caller waiting"]
pub struct ReplyItems<'a, M> {
    chunk: &'a mut [u8],
    sources: &'a mut Sources,
    key: Key,
    deadline_ns: u64,
    method: PhantomData<fn() -> M>,
}

impl<M> fmt::Debug for ReplyItems<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyItems").finish_non_exhaustive()
    }
}

impl<'a, M: Streaming> ReplyItems<'a, M> {
    pub(super) fn new(
        chunk: &'a mut [u8],
        sources: &'a mut Sources,
        key: Key,
        call: &CallContext,
    ) -> Self {
        Self {
            chunk,
            sources,
            key,
            deadline_ns: call.deadline_ns,
            method: PhantomData,
        }
    }

    /// Answers with the items of `source`, from now until it ends.
    pub fn send(self, mut source: impl Source<M>) -> Answer {
        let pull = move |place: &mut [u8], beside: &mut Vec<u8>| {
            source.pull(Sink::<M>::new(place, beside)).0
        };
        let open = Open::new(self.key, self.deadline_ns, Box::new(pull));
        self.sources.open(open, self.chunk)
    }

    /// Answers with items that are there already.
    pub fn send_all<I>(self, items: I) -> Answer
    where
        I: IntoIterator<Item = <M::Response as Message>::View<'static>>,
        I::IntoIter: 'static,
    {
        let mut items = items.into_iter();
        self.send(move |sink: Sink<'_, M>| match items.next() {
            Some(item) => sink.item(&item),
            None => sink.end(),
        })
    }

    /// Answers with the contract's error and no item.
    pub fn fail(self, error: &ErrorOf<M>) -> Answer {
        match ErrorOf::<M>::encode(error, self.chunk) {
            Some(length) => Answer::new(Status::Error, length),
            None => Answer::of(Status::AnswerTooLong),
        }
    }
}
