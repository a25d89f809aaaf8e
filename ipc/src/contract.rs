//! What `#[contract]` and `#[derive(Message)]` implement, and the rest of this crate builds on.

mod key;
mod scalars;

use std::fmt::Debug;
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_contract::schema::{Schema, TypeSchema};
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// A type that travels as a request, a response or a value of a stream.
///
/// `#[derive(Message)]` implements it for `Get<'static>` where the type is `Get<'a>`. The three
/// classes of messages are described in [`crate::payload`].
///
/// What is decoded lies in memory that the other side can still write to. An implementation by
/// hand may show bytes of it, and nothing that has to stay as it was checked: no `&str`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    note = "derive `insula::Message` for a struct or an enum; a text, byte string or sequence is a \
            field with `#[message(max = N)]`"
)]
pub trait Message: 'static {
    /// The same type with the lifetime of the chunk it borrows from.
    type View<'a>: Debug;
    /// The most bytes that a value can take.
    const ENCODED_MAX: usize;
    /// Whether it is only ever a whole request, response or value, and no part of one.
    const IS_WHOLE: bool = false;
    /// [`Self::ENCODED_MAX`] of what is to be a part of something.
    #[doc(hidden)]
    const PART_MAX: usize = {
        assert!(
            !Self::IS_WHOLE,
            "`Bytes` and `InPlace` are whole requests, responses or values, and no parts of them"
        );
        Self::ENCODED_MAX
    };
    /// Its structure.
    fn schema() -> TypeSchema;
    /// Writes a value to the beginning of `place`; its length, `None` where it does not fit into
    /// `place` or [`Self::ENCODED_MAX`].
    fn encode(value: &Self::View<'_>, place: &mut [u8]) -> Option<usize>;
    /// Reads a value; `None` where the bytes are none.
    fn decode(bytes: &[u8]) -> Option<Self::View<'_>>;
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
    /// Whether its reply consists of items, see [`crate::items`].
    const STREAMING: bool = false;

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
