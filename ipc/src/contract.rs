//! What `#[contract]` and `#[derive(Message)]` implement, and the rest of this crate builds on.

mod key;
mod scalars;

use std::fmt::Debug;
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_contract::schema::{Schema, TypeSchema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use key::key_of;

/// What may be done with a request whose fate is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// Doing it again changes nothing: it is sent again freely.
    Idempotent,
    /// The server records the answer in the transaction of the effect, and repeats the recorded
    /// answer to a request that it has executed: it is sent again freely.
    Once,
    /// Neither: the caller gets `outcome unknown` when its server dies with it.
    AtMostOnce,
}

/// A type that travels in a request or a response, as postcard in the shared chunk.
///
/// `#[derive(Message)]` implements it for `Get<'static>` where the struct is `Get<'a>`; borrowed
/// `&str` and `&[u8]` fields are written once into the chunk and read in place. Every text, byte
/// string and sequence declares its greatest length, so that channels are sized from the contract.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    note = "derive `insula::Message` for a struct or an enum; a text, byte string or sequence is a \
            field with `#[message(max = N)]`"
)]
pub trait Message: 'static {
    /// The same type with the lifetime of the chunk it borrows from.
    type View<'a>: Serialize + Deserialize<'a> + Debug;
    /// The most bytes that a value can take.
    const ENCODED_MAX: usize;
    /// Its structure.
    fn schema() -> TypeSchema;

    /// Writes a value to the beginning of `place`; its length, `None` where it does not fit into
    /// `place` or [`Self::ENCODED_MAX`].
    #[inline]
    fn encode(value: &Self::View<'_>, place: &mut [u8]) -> Option<usize> {
        let end = place.len().min(Self::ENCODED_MAX);
        let written = postcard::to_slice(value, &mut place[..end]).ok()?;
        Some(written.len())
    }

    /// Reads a value; `None` where the bytes are none.
    #[inline]
    fn decode(bytes: &[u8]) -> Option<Self::View<'_>> {
        postcard::from_bytes(bytes).ok()
    }
}

/// A typed API with a name and a major version, made by `#[contract]`.
pub trait Contract: 'static {
    /// Its name: `kv`.
    const NAME: &'static str;
    /// Its major version.
    const MAJOR: u16;
    /// Requests that one connection may have outstanding.
    const IN_FLIGHT: usize;
    /// The longest request of all methods in bytes.
    const REQUEST_MAX: usize;
    /// The longest response or error of all methods in bytes.
    const RESPONSE_MAX: usize;
    /// Whether any method is declared `once`, so that a server needs a journal.
    const NEEDS_JOURNAL: bool;
    /// What a method can answer instead of its response.
    /// It borrows nothing, so that it outlives the chunk that it came in.
    type Error: for<'a> Message<View<'a> = Self::Error>
        + Serialize
        + DeserializeOwned
        + Debug
        + Clone
        + PartialEq
        + Send;

    /// The structure of all methods.
    fn schema() -> Schema;

    /// Name and version together.
    fn id() -> ContractId {
        ContractId::new(Self::NAME, Self::MAJOR).expect("#[contract] checks the name")
    }
}

/// One method of a contract; the macro makes a type per method.
pub trait Method: 'static {
    /// Where it belongs.
    type Contract: Contract;
    /// What it is asked.
    type Request: Message;
    /// What it answers.
    type Response: Message;
    /// Its number on the wire, never reused within a major version.
    const ID: u16;
    /// Its name.
    const NAME: &'static str;
    /// What may be done with a request whose fate is not known.
    const SAFETY: Safety;
    /// How long a caller waits unless it says otherwise.
    const DEADLINE: Duration;

    /// What decides which of several instances gets the request; none for the least busy one.
    ///
    /// Requests with the same key go to the same instance while it serves. [`key_of`] makes a key
    /// of a field.
    fn key(request: &<Self::Request as Message>::View<'_>) -> Option<u64> {
        let _ = request;
        None
    }
}

/// The caller's error type of a method.
pub type ErrorOf<M> = <<M as Method>::Contract as Contract>::Error;

/// Connections that one consumer process may have on one edge.
pub const CONNECTIONS: usize = 4;
