//! What the author of an Insula service depends on.
//!
//! A provider implements the server trait of its contract and hands it to [`Service::serve`],
//! which runs the process's main thread; a program with a main loop of its own, like an HTTP
//! front, uses [`Service::run`] and calls others through a [`Runtime`]. [`Store`] is the service's
//! private LMDB environment.
//!
//! ```no_run
//! # use insula::ipc::server::{Answer, CallContext};
//! # use insula::{Message, contract};
//! # #[derive(Debug, Message)] pub struct Ping { pub number: u64 }
//! # #[derive(Debug, Clone, PartialEq, Message)] pub enum PingError { Never }
//! #[contract(name = "ping", major = 1, error = PingError)]
//! pub trait Ping1 {
//!     /// Says the number again.
//!     #[method(id = 1, idempotent, deadline = "1s")]
//!     fn ping(request: Ping) -> Ping;
//! }
//!
//! struct Echo;
//! # impl Ping1Server for Echo {
//! #     fn ping(&mut self, _: &CallContext, request: Ping,
//! #         reply: insula::ipc::server::Reply<'_, ping1::Ping>) -> Answer { reply.send(&request) }
//! # }
//!
//! fn main() -> std::process::ExitCode {
//!     insula::Service::new().serve(|_| Ok((Ping1Dispatch(Echo), insula::NoStore)))
//! }
//! ```
//!
//! A contract may also have streams, replies of many items, and messages that lie in shared memory
//! as they are ([`mod@ipc::stream`], [`mod@ipc::items`], [`mod@ipc::payload`]):
//!
//! ```
//! # use insula::ipc::server::{Answer, CallContext, ReplyItems, Sink};
//! # use insula::{InPlace, Message, Text, contract};
//! # #[derive(Debug, Clone, PartialEq, Message)] pub enum MarketError { Closed }
//! /// A price, as it lies in memory.
//! #[derive(Debug, Clone, Copy, Message)]
//! #[message(fixed)]
//! #[repr(C)]
//! pub struct Price {
//!     pub bid: f64,
//!     pub ask: f64,
//! }
//!
//! /// Which prices are wanted.
//! #[derive(Debug, Clone, Copy, Message)]
//! pub struct Past<'a> {
//!     /// Of what.
//!     #[message(max = 12)]
//!     pub name: Text<'a>,
//!     /// How many.
//!     pub count: u32,
//! }
//!
//! #[contract(name = "market", major = 1, error = MarketError)]
//! pub trait Market {
//!     /// Earlier prices, the newest first.
//!     #[method(id = 1, streaming, idempotent, deadline = "5s")]
//!     fn past(request: Past<'_>) -> Price;
//!     /// The price, whenever it changes.
//!     #[stream(id = 1, latest)]
//!     fn price() -> InPlace<'_, Price>;
//!     /// Every trade.
//!     #[stream(id = 2, lossless, buffer = 64, history = 8, slow = disconnect)]
//!     fn trades() -> Price;
//! }
//!
//! #[derive(Default)]
//! struct Exchange {
//!     streams: MarketStreams,
//!     now: Option<Price>,
//! }
//!
//! impl MarketServer for Exchange {
//!     fn streams(&self) -> &MarketStreams {
//!         &self.streams
//!     }
//!
//!     fn past(
//!         &mut self,
//!         _: &CallContext,
//!         request: Past<'_>,
//!         reply: ReplyItems<'_, market::Past>,
//!     ) -> Answer {
//!         let Some(price) = self.now else {
//!             return reply.fail(&MarketError::Closed);
//!         };
//!         // Nobody is too slow for a `latest` stream.
//!         let _ = self.streams.price.publish(&InPlace::of(&price));
//!         let mut left = request.count;
//!         reply.send(move |sink: Sink<'_, market::Past>| {
//!             if left == 0 {
//!                 return sink.end();
//!             }
//!             left -= 1;
//!             sink.item(&price)
//!         })
//!     }
//! }
//! ```
//!
//! A consumer of it reads `market_client.past(&request)?` item by item, and gets prices from
//! `edge.subscribe::<market::Price>()?`.

mod line;
mod logging;
mod runtime;
mod service;
pub mod store;

pub use insula_ipc as ipc;
pub use insula_ipc::payload::{Bytes, InPlace, Text};
pub use insula_ipc::{Message, contract};
pub use runtime::Runtime;
pub use service::{Context, Failure, Service, Writes};

/// The journal of a service that keeps no data.
pub use insula_ipc::server::NoJournal as NoStore;
pub use store::{Durability, Store, StoreError, StoreOptions};
