//! The sources that a server has open.

use std::fmt;

use insula_contract::id::{Attempt, EdgeId};

use super::Streaming;
use super::layout::{self, After, Ask, PREFIX};
use super::source::{Given, ReplyItems};
use crate::contract::{Contract, Message};
use crate::header::Status;
use crate::server::{Answer, CallContext};

/// Items of one answer at most: what others wait for.
const ITEMS_MAX: usize = 64;
/// No item is added to an answer that is this long.
const LONG: usize = 16 * 1024;

/// Whose source it is, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    edge: EdgeId,
    consumer: Attempt,
    slot: u8,
    method: u16,
    number: u64,
}

impl Key {
    fn is_of_the_connection(&self, other: &Self) -> bool {
        (self.edge, self.consumer, self.slot) == (other.edge, other.consumer, other.slot)
    }
}

type Pull = Box<dyn FnMut(&mut [u8], &mut Vec<u8>) -> Given>;

/// One source.
pub(super) struct Open {
    key: Key,
    deadline_ns: u64,
    pull: Pull,
    /// What did not fit or cannot be said yet.
    beside: Vec<u8>,
    /// What that is, if it is anything.
    waiting: Option<Given>,
}

impl Open {
    pub(super) fn new(key: Key, deadline_ns: u64, pull: Pull) -> Self {
        Self {
            key,
            deadline_ns,
            pull,
            beside: Vec::new(),
            waiting: None,
        }
    }

    /// Fills an answer with the next items; whether more follow.
    fn fill(&mut self, chunk: &mut [u8]) -> (Answer, bool) {
        let (mut at, mut count) = (PREFIX, 0);
        let after = loop {
            let begin = at + PREFIX;
            if count == ITEMS_MAX || at >= LONG || begin > chunk.len() {
                break After::More;
            }
            let given = match self.waiting.take() {
                Some(Given::Beside) => match chunk.get_mut(begin..begin + self.beside.len()) {
                    Some(place) => {
                        place.copy_from_slice(&self.beside);
                        Given::Item(self.beside.len())
                    }
                    None => Given::TooLong,
                },
                Some(given) => given,
                None => (self.pull)(&mut chunk[begin..], &mut self.beside),
            };
            match given {
                Given::Item(length) => {
                    layout::write_length(&mut chunk[at..], length).expect("its place begins here");
                    at = layout::next(begin + length);
                    count += 1;
                }
                Given::End => break After::End,
                // Items go before what ends them, and the chunk is theirs.
                Given::Beside | Given::Error | Given::TooLong if count > 0 => {
                    self.waiting = Some(given);
                    break After::More;
                }
                Given::Error => {
                    return match chunk.get_mut(..self.beside.len()) {
                        Some(place) => {
                            place.copy_from_slice(&self.beside);
                            (answer(Status::Error, self.beside.len()), false)
                        }
                        None => (answer(Status::AnswerTooLong, 0), false),
                    };
                }
                // The first item has the whole chunk, which holds the longest.
                Given::Beside | Given::TooLong => {
                    return (answer(Status::AnswerTooLong, 0), false);
                }
            }
        };
        // The padding behind the last item may reach beyond the chunk.
        let length = at.min(chunk.len());
        match layout::write_after(chunk, after) {
            Some(()) => (answer(Status::Response, length), after == After::More),
            None => (answer(Status::AnswerTooLong, 0), false),
        }
    }
}

fn answer(status: Status, length: usize) -> Answer {
    Answer::new(status, length)
}

/// All sources of a server.
#[derive(Default)]
pub(crate) struct Sources {
    open: Vec<Open>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.open.iter().map(|open| &open.key))
            .finish()
    }
}

impl Sources {
    /// Executes a request of the streaming method `M`; `open` is its handler.
    pub(crate) fn execute<M: Streaming>(
        &mut self,
        call: &CallContext,
        body: &[u8],
        chunk: &mut [u8],
        open: impl FnOnce(<M::Request as Message>::View<'_>, ReplyItems<'_, M>) -> Answer,
    ) -> Answer {
        let Some((ask, number, request)) = layout::read_ask(body) else {
            return answer(Status::MalformedRequest, 0);
        };
        let key = Key {
            edge: call.edge,
            consumer: call.key.consumer,
            slot: call.key.slot,
            method: M::ID,
            number,
        };
        let present = self.open.iter().position(|open| open.key == key);
        match (ask, present) {
            (Ask::Open, present) => {
                // An opening that comes again takes the place of the first.
                if let Some(index) = present {
                    self.open.swap_remove(index);
                }
                let connection = self.open.iter().map(|open| &open.key);
                let others = connection.filter(|other| other.is_of_the_connection(&key));
                if others.count() >= M::Contract::IN_FLIGHT {
                    return answer(Status::QuotaExceeded, 0);
                }
                match M::Request::decode(request) {
                    Some(request) => open(request, ReplyItems::new(chunk, self, key, call)),
                    None => answer(Status::MalformedRequest, 0),
                }
            }
            (Ask::Pull, Some(index)) => {
                let (filled, more) = self.open[index].fill(chunk);
                if !more {
                    self.open.swap_remove(index);
                }
                filled
            }
            (Ask::Close, Some(index)) => {
                self.open.swap_remove(index);
                no_source(chunk)
            }
            (Ask::Pull | Ask::Close, None) => no_source(chunk),
        }
    }

    /// Fills the first answer of a source, and keeps the source where more follows.
    pub(super) fn open(&mut self, mut open: Open, chunk: &mut [u8]) -> Answer {
        let (filled, more) = open.fill(chunk);
        if more {
            self.open.push(open);
        }
        filled
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// Gives up those whose callers do not wait any more.
    #[cold]
    pub(crate) fn expire(&mut self, now_ns: u64) {
        self.open.retain(|open| open.deadline_ns > now_ns);
    }

    /// When the next one is to be given up.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.open.iter().map(|open| open.deadline_ns).min()
    }

    /// Gives up those of a consumer that is gone.
    pub(crate) fn forget(&mut self, edge: EdgeId, consumer: Attempt) {
        self.open
            .retain(|open| (open.key.edge, open.key.consumer) != (edge, consumer));
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}

fn no_source(chunk: &mut [u8]) -> Answer {
    match layout::write_after(chunk, After::NoSource) {
        Some(()) => answer(Status::Response, PREFIX),
        None => answer(Status::AnswerTooLong, 0),
    }
}
