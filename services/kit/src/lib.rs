//! What the author of an Insula service depends on.

pub use insula_ipc as ipc;
pub use insula_ipc::{Message, contract};
