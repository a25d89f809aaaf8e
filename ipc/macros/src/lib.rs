//! `#[contract]` and `#[derive(Message)]`: contracts written as Rust.
//!
//! Both check what they can at the place of the mistake, and write code against `insula::ipc`; the
//! option `crate` names another path to that crate. Use them as `insula::{contract, Message}`.

mod contract;
mod message;
mod shape;

use proc_macro::TokenStream;

/// Makes a contract of a trait whose methods take a request and return a response.
///
/// ```text
/// /// Counts things.
/// #[contract(name = "counter", major = 1, error = CounterError, in_flight = 64)]
/// pub trait Counter {
///     /// The present count.
///     #[method(id = 1, idempotent, deadline = "1s")]
///     fn read(request: Read<'_>) -> Count;
///     /// Adds to the count.
///     #[method(id = 2, once, deadline = "5s")]
///     fn add(request: Add<'_>) -> Count;
///     /// Sets the count to nothing.
///     #[method(id = 3, deadline = "5s")]
///     fn reset();
///     /// The count, whenever it changes.
///     #[stream(id = 1, latest)]
///     fn count() -> Count;
///     /// Everything that is added.
///     #[stream(id = 2, lossless, buffer = 64, history = 8, slow = disconnect)]
///     fn additions() -> Addition;
/// }
/// ```
///
/// | option | |
/// |---|---|
/// | `name = "counter"` | lower-case letters, digits and inner hyphens, at most 32 bytes |
/// | `major = 1` | the major version |
/// | `error = CounterError` | what a method can answer instead of its response; borrows nothing |
/// | `in_flight = 64` | requests that one connection may have outstanding, 16 unless given |
/// | `crate = path` | where `insula-ipc` is, `::insula::ipc` unless given |
///
/// Of a method:
///
/// | option | |
/// |---|---|
/// | `id = 1` | its number on the wire, from 1, never reused within a major version |
/// | `deadline = "1s"` | how long a caller waits unless it says otherwise (`us`, `ms`, `s`, `m`) |
/// | `idempotent` | doing it again changes nothing |
/// | `once` | the server recognises a request that it has executed and repeats its answer |
/// | `key = user` | requests of which the field `user` is equal go to the same of several instances |
/// | `streaming` | the reply is any number of the responses, one after the other |
///
/// The handler of a `streaming` method answers with a source of items, and the client reads them
/// one after the other. A method that is neither `idempotent` nor `once` is executed at most once, and its caller may
/// be told that the outcome is not known. A method without a request or response has `()`.
///
/// A stream carries values from the provider to everybody who subscribes. Of a stream:
///
/// | option | |
/// |---|---|
/// | `id = 1` | its number on the wire, from 1, apart from the numbers of methods |
/// | `latest` | a subscriber gets the newest value, and none that it was too slow for |
/// | `lossless` | a subscriber gets every value, in order |
/// | `buffer = 64` | of `lossless`: values that may wait for a subscriber, 16 unless given |
/// | `history = 8` | values that one who joins gets first: of `lossless` as many as fit the buffer, none unless given; of `latest` 1 (unless given) or 0 |
/// | `slow = wait` | of `lossless`: the publisher waits for a subscriber without room (unless given), or with `disconnect` it is cut off and told so |
///
/// For a trait `Counter` this makes the type `Counter` (which implements `Contract`), a module
/// `counter` with a type per method (which implements `Method`), `CounterClient`, the trait
/// `CounterServer` and `CounterDispatch`, which lets a `CounterServer` be served.
/// A contract with streams also gets `CounterStreams`, their publishers, which `CounterServer` has
/// to give by its method `streams`, and a type per stream in the module, for `Edge::subscribe`.
#[proc_macro_attribute]
pub fn contract(options: TokenStream, item: TokenStream) -> TokenStream {
    contract::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a struct or an enum a message: encoding, decoding, greatest length and schema.
///
/// Fields are `bool`, numbers of fixed width, `String`, `Text`, `&[u8]`, `Vec<T>`, `Option<T>`,
/// `[T; N]` and other messages. Each text, byte string and sequence declares its greatest length
/// in bytes or items: `#[message(max = 500)]`; a sequence of such gives one for each level, the
/// outer first: `#[message(max = [16, 500])]`. It is enforced by both sides.
///
/// `#[message(max = N)]` on the type itself says that values are never longer than `N` bytes in
/// all, however long their parts could be: what is set aside in shared memory goes by it, and a
/// longer value is not encoded.
///
/// `#[message(fixed)]` on a `#[repr(C)]` struct lets it travel as it lies in memory. Its fields are
/// numbers, arrays of them and other such structs, it has no padding (both are checked when the
/// program is compiled), and it derives `Clone` and `Copy`. Beside a `Quote` it makes the trait
/// `QuoteInPlace`, by which the fields of an `InPlace<'_, Quote>` are reached where they lie.
///
/// A message may have one lifetime, that of the shared memory it is read from. It is positional:
/// the order of fields and variants is what travels. `Debug` is to be derived beside it.
///
/// ```text
/// #[derive(Debug, Message)]
/// struct Get<'a> {
///     #[message(max = 500)]
///     key: &'a [u8],
/// }
///
/// #[derive(Debug, Clone, Copy, Message)]
/// #[message(fixed)]
/// #[repr(C)]
/// struct Quote {
///     bid: f64,
///     ask: f64,
/// }
/// ```
#[proc_macro_derive(Message, attributes(message))]
pub fn message(item: TokenStream) -> TokenStream {
    message::expand(item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
