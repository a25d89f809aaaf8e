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
