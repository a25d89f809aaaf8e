//! The three classes of messages, chosen by type.
//!
//! | class | declared as | in shared memory | read |
//! |---|---|---|---|
//! | fixed | `#[derive(Message)] #[message(fixed)] #[repr(C)]`, as `T` or [`InPlace<'_, T>`](InPlace) | as `T` lies in memory | `T`: by one copy; [`InPlace`]: field by field, in place |
//! | bytes | [`Bytes<'_, MAX>`](Bytes) | the bytes, without a length of their own | in place |
//! | rich | `#[derive(Message)]` | postcard | decoded, with byte strings and [`Text`]s in place |
//!
//! A fixed message or bytes can be written in place: [`Connection::submit_with`] and
//! [`Reply::send_with`] show the shared memory itself, so that a megabyte is written once by who
//! makes it and read once by who uses it.
//!
//! A fixed message with padding is none, and neither is a part that is only ever a whole:
//!
//! ```compile_fail,E0080
//! # use insula_ipc::Message;
//! #[derive(Debug, Clone, Copy, Message)]
//! #[message(fixed, crate = insula_ipc)]
//! #[repr(C)]
//! struct Gapped {
//!     kind: u8,
//!     // Three bytes without a value.
//!     number: u32,
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use insula_ipc::Message;
//! #[derive(Debug, Clone, Copy, Message)]
//! #[message(fixed, crate = insula_ipc)]
//! #[repr(C)]
//! struct Doubtful {
//!     // Not all bytes are one.
//!     truth: bool,
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use insula_ipc::Message;
//! # use insula_ipc::payload::Bytes;
//! #[derive(Debug, Message)]
//! #[message(crate = insula_ipc)]
//! struct Parted<'a> {
//!     part: Bytes<'a, 8>,
//! }
//! ```
//!
//! # Memory that somebody else can write to
//!
//! A message lies in memory of its sender, who may be hostile and can change it while it is read.
//! So nothing is shown of which Rust would rely on staying as it was:
//!
//! * a fixed message consists of numbers only, any bytes are a value of it, and it is read by
//!   volatile loads: each part exactly once per reading, into memory of the reader's own. A `&T`
//!   would allow the compiler to load a field a second time after it was checked.
//! * a [`Text`] is compared as bytes and copied before it is read as `str`.
//! * [`Bytes`] and `&[u8]` fields are slices: any bytes are valid ones, but what is read twice may
//!   differ. Who decides by their content copies them first. In the terms of Rust's memory model a
//!   slice that another process writes to is a data race, like every slice in shared memory; only
//!   a private copy is outside of that.
//! * everything else is decoded into values of the reader's own.
//!
//! [`Connection::submit_with`]: crate::client::Connection::submit_with
//! [`Reply::send_with`]: crate::server::Reply::send_with

mod bytes;
mod fixed;
mod place;

pub use bytes::Bytes;
pub use fixed::{Fixed, InPlace};
pub use insula_contract::text::Text;
pub use place::WriteInPlace;

#[doc(hidden)]
pub use fixed::{decode_fixed, deserialize_fixed, encode_fixed, serialize_fixed};
