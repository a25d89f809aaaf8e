//! Programs that know nothing of Insula: sockets that are held for them, and what they say of
//! themselves.
//!
//! Of sd_notify(3) all is understood but what would put another process in the place of the one that
//! was launched (`MAINPID`), and descriptors to be kept (`FDSTORE`): sockets that are to outlive a
//! process are the supervisor's own from the start.

pub(crate) mod notice;
pub mod notify;
pub mod sockets;
