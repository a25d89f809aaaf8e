//! The messaging layer of Insula: typed calls through shared memory.
//!
//! A consumer's [`client::Connection`] and a provider's [`server::Server`] meet in a channel: a
//! directory of shared memory for one attempt of each, made and removed by the supervisor. Which
//! attempt is called is read from the host's route table before each call. What happens to a
//! request whose server leaves or dies is decided by its method's [`contract::Safety`].
//!
//! This crate knows nothing of the supervisor but the shared layouts in [`protocol`].

pub mod client;
pub mod contract;
pub mod server;

pub use insula_contract as protocol;
pub use insula_macros::{Message, contract};
