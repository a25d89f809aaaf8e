//! The messaging layer of Insula.

pub mod contract;

pub use insula_contract as protocol;
pub use insula_macros::{Message, contract};
