//! The client's side: asking for items and reading them.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;

use insula_contract::id::Attempt;

use super::layout::{self, After, Ask, PREFIX};
use super::{Streaming, request_max};
use crate::client::{CallError, CallOptions, Connection, Malformed, Response, Ticket};
use crate::contract::{ErrorOf, Message};

/// Requests for items that are outstanding at once, where the connection has room for them: one
/// is answered while the items of the other are read.
const AHEAD: usize = 2;

/// The items of a reply, asked for as they are read.
///
/// It takes up to three of the connection's outstanding requests. Dropping it tells the provider
/// that no more are wanted.
#[must_use = "items come as they are read"]
pub struct Items<M: Streaming> {
    connection: Connection,
    number: u64,
    options: CallOptions,
    deadline_ns: u64,
    /// Requests whose answers have not been read, the oldest first.
    asked: VecDeque<Ticket<M>>,
    /// Who has the source, once it has answered.
    provider: Option<Attempt>,
    /// The answer that is being read, and where its next item lies.
    batch: Option<(Response<M>, usize)>,
    /// No more answers are wanted.
    over: bool,
}

impl<M: Streaming> fmt::Debug for Items<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("number", &self.number)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// An item, lying in shared memory until the next one is asked for.
pub struct Item<'a, M> {
    bytes: &'a [u8],
    method: PhantomData<fn() -> M>,
}

impl<M> fmt::Debug for Item<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({} bytes)", self.bytes.len())
    }
}

impl<'a, M: Streaming> Item<'a, M> {
    /// Reads the item in place.
    #[inline]
    pub fn get(&self) -> Result<<M::Response as Message>::View<'a>, Malformed> {
        M::Response::decode(self.bytes).ok_or(Malformed)
    }

    /// The encoded item.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Connection {
    /// Sends a request whose reply consists of items.
    ///
    /// Its deadline is that of the whole reply.
    pub fn items<M: Streaming>(
        &self,
        request: &<M::Request as Message>::View<'_>,
        options: CallOptions,
    ) -> Result<Items<M>, CallError<ErrorOf<M>>> {
        let options = CallOptions {
            key: options.key.or_else(|| M::key(request)),
            ..options
        };
        let mut spec = self.spec::<M>(&options);
        let (number, deadline_ns) = (spec.begun_ns, spec.deadline_ns);
        spec.safety = M::SAFETY;
        let opening =
            self.submit_spec::<M>(spec, request_max(M::Request::ENCODED_MAX), |chunk| {
                layout::write_ask(chunk, Ask::Open, number)?;
                let length = M::Request::encode(request, chunk.get_mut(PREFIX..)?)?;
                Some(PREFIX + length)
            })?;
        Ok(Items {
            connection: self.clone(),
            number,
            options,
            deadline_ns,
            asked: VecDeque::from([opening]),
            provider: None,
            batch: None,
            over: false,
        })
    }
}

impl<M: Streaming> Items<M> {
    /// Waits for the next item; `None` after the last.
    ///
    /// # Errors
    ///
    /// After the items before it: the contract's own error, by which the provider ended the reply;
    /// [`CallError::OutcomeUnknown`] where the provider left or died before the end; and all
    /// others of a call. After an error there is no more item.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the chunk that the next one may replace"
    )]
    pub fn next(&mut self) -> Result<Option<Item<'_, M>>, CallError<ErrorOf<M>>> {
        let (begin, end) = loop {
            if let Some((answer, at)) = &mut self.batch {
                if *at < answer.bytes().len() {
                    let Some((begin, end)) = layout::read_item(answer.bytes(), *at) else {
                        self.give_up();
                        return Err(CallError::Broken("an item is longer than its answer"));
                    };
                    *at = layout::next(end);
                    break (begin, end);
                }
                self.batch = None;
            }
            if self.over {
                return Ok(None);
            }
            if let Err(error) = self.next_batch() {
                self.give_up();
                return Err(error);
            }
        };
        let bytes = self
            .batch
            .as_ref()
            .map_or(&[][..], |(answer, _)| answer.bytes());
        // The answer was looked at just now, and its length does not change.
        let bytes = bytes.get(begin..end).unwrap_or_default();
        Ok(Some(Item {
            bytes,
            method: PhantomData,
        }))
    }

    /// Waits for the next answer, and asks for those after it.
    fn next_batch(&mut self) -> Result<(), CallError<ErrorOf<M>>> {
        let ticket = match self.asked.pop_front() {
            Some(ticket) => ticket,
            None => self.ask(Ask::Pull)?,
        };
        let (answer, provider) = ticket.wait_from()?;
        if self.provider.is_none() {
            self.provider = provider;
        }
        match layout::read_after(answer.bytes()) {
            Some(After::More) => {
                while self.asked.len() < AHEAD {
                    match self.ask(Ask::Pull) {
                        Ok(ticket) => self.asked.push_back(ticket),
                        // There will be room when this answer has been read.
                        Err(CallError::TooManyInFlight { .. }) => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            Some(After::End) => {
                self.over = true;
                self.asked.clear();
            }
            Some(After::NoSource) => return Err(CallError::OutcomeUnknown),
            None => {
                return Err(CallError::Broken(
                    "an answer says nothing about what follows",
                ));
            }
        }
        self.batch = Some((answer, PREFIX));
        Ok(())
    }

    fn ask(&self, ask: Ask) -> Result<Ticket<M>, CallError<ErrorOf<M>>> {
        let mut spec = self.connection.spec::<M>(&self.options);
        spec.deadline_ns = self.deadline_ns;
        spec.provider_until_ns = self.deadline_ns;
        // Asked twice, it would give other items.
        spec.safety = crate::contract::Safety::AtMostOnce;
        spec.only = self.provider;
        self.connection.submit_spec::<M>(spec, PREFIX, |chunk| {
            layout::write_ask(chunk, ask, self.number)?;
            Some(PREFIX)
        })
    }

    /// Ends it, and lets the provider know that nobody reads any more.
    fn give_up(&mut self) {
        self.batch = None;
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if self.provider.is_none() {
            self.provider = self.asked.front().and_then(Ticket::lies_at);
        }
        self.asked.clear();
        if self.provider.is_some() {
            // What cannot be sent now leaves the source to its deadline.
            if let Ok(close) = self.ask(Ask::Close) {
                close.abandon();
            }
        }
    }
}

impl<M: Streaming> Drop for Items<M> {
    fn drop(&mut self) {
        self.give_up();
    }
}
