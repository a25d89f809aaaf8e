//! Replies of many items: a request that is answered by a source, pulled as the client reads.
//!
//! A method that is declared `streaming` answers with items one after the other. Its handler gives
//! a [`Source`]; the client gets [`Items`]. The client asks for items by requests of their own, two
//! ahead, and each of them is answered with as many as are there and fit. So the room that the
//! client has is the requests that it has outstanding: the server computes nothing that nobody
//! waits for, and a client that stops reading or dies costs it a source that lies idle until the
//! deadline of the call, or the end of the client.
//!
//! ```text
//! client   open(request) ──►         pull ──► pull ──►        pull ──►      (close)
//! server            source ──► items               ──► items      ──► items and end
//! ```
//!
//! All of it goes to the attempt that opened the source. When that leaves or dies before the end,
//! the call ends in `outcome unknown`: a reply is not resumed elsewhere, since nobody knows what
//! the rest of it would be. A draining server gives its sources up too.
//!
//! The deadline is that of the whole reply. A source is asked on the server's thread, at most for
//! some tens of items at a time, and other requests are answered in between.

pub(crate) mod layout;
mod read;
mod source;
mod table;

pub use read::{Item, Items};
pub use source::{Pulled, ReplyItems, Sink, Source};
pub(crate) use table::Sources;

#[doc(hidden)]
pub use layout::{request_max, response_max};

use crate::contract::Method;

/// A method whose reply consists of items: its response is the type of one.
#[diagnostic::on_unimplemented(
    message = "the reply of `{Self}` does not consist of items",
    note = "declare it so: `#[method(id = 1, streaming, deadline = \"5s\")]`"
)]
pub trait Streaming: Method {}
