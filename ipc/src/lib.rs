//! The messaging layer of Insula: typed calls through shared memory.
//!
//! A consumer's [`client::Connection`] and a provider's [`server::Server`] meet in a channel: a
//! directory of shared memory for one attempt of each, made and removed by the supervisor. Which
//! attempt is called is read from the host's route table before each call. What happens to a
//! request whose server leaves or dies is decided by its method's [`contract::Safety`].
//!
//! A contract consists of methods and streams: [`items`] are replies of many parts, [`stream`] is
//! what a provider publishes to everybody who subscribes. What travels is of one of three classes,
//! chosen by its type: see [`payload`].
//!
//! This crate knows nothing of the supervisor but the shared layouts in [`protocol`].

mod channel;
pub mod client;
mod clock;
pub mod contract;
pub mod dynamic;
pub mod frames;
mod header;
pub mod items;
pub mod local;
mod memory;
pub mod meters;
pub mod payload;
#[doc(hidden)]
pub mod raw;
pub mod server;
mod spin;
pub mod stream;
mod sync;
#[doc(hidden)]
pub mod testing;
pub mod trace;
mod wake;

pub use insula_contract as protocol;
pub use insula_macros::{Message, contract};
pub use memory::MapError;
