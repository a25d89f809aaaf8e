//! How an ordinary local program gets an edge of its own.
//!
//! It connects to the seqpacket socket `run/local.sock`, sends one [`Resolve`] per contract and
//! gets one [`Resolved`] each; with [`Resolved::Granted`] come two descriptors: the route table
//! (read-only) and the edge's page. The supervisor knows its uid from the socket. Frames are as in
//! [`crate::line`]. When the connection closes, its edges end: the connection is the lease.

use serde::{Deserialize, Serialize};

use crate::id::ContractId;
use crate::line::UsedEdge;

/// The socket's name in the run directory.
pub const SOCKET: &str = "local.sock";

/// Asks for an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// To the provider of this contract.
    pub contract: ContractId,
    /// Hash of the client's view of the schema.
    pub schema: u64,
    /// The transport that it speaks.
    pub transport: u16,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolved {
    /// An edge, and how long to spin before parking, in nanoseconds.
    Granted {
        /// The edge.
        edge: UsedEdge,
        /// Spin time in nanoseconds; `u64::MAX` for ever.
        spin_ns: u64,
    },
    /// No edge, and why.
    Refused {
        /// For people.
        reason: String,
    },
}
