//! How an ordinary local program gets an edge of its own.
//!
//! It connects to the seqpacket socket `run/local.sock` and asks, one thing at a time; each
//! [`Ask`] gets one [`Answer`] ([`Ask::Late`] none). With [`Resolved::Granted`] come three descriptors: the route
//! table (read-only), the edge's page, and meters for this edge. The supervisor knows its uid from the socket. Frames are as in
//! [`mod@crate::line`]. When the connection closes, its edges end: the connection is the lease.

use serde::{Deserialize, Serialize};

use crate::id::{ContractId, ServiceName};
use crate::line::UsedEdge;
use crate::schema::Schema;

/// The socket's name in the run directory.
pub const SOCKET: &str = "local.sock";

/// What a local program asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// For an edge.
    Resolve(Resolve),
    /// Which contracts it may use.
    List,
    /// What one of them consists of, as its provider serves it now.
    Describe(ContractId),
    /// A request on the edge to this contract waits too long. The only word that is not answered.
    Late {
        /// At whose contract.
        contract: ContractId,
        /// For how long, in milliseconds.
        waited_ms: u64,
    },
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Resolve`].
    Resolved(Resolved),
    /// To [`Ask::List`]: contracts by name, as many as fit into one frame.
    Listed(Vec<ContractId>),
    /// To [`Ask::Describe`].
    Described(Described),
}

/// Asks for an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// To the provider of this contract.
    pub contract: ContractId,
    /// The client's view of it.
    pub schema: Schema,
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

/// What is known of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Described {
    /// It is served.
    Served {
        /// By whom.
        provider: ServiceName,
        /// In this form.
        schema: Schema,
    },
    /// It is not, or not for this caller.
    Refused {
        /// The sort of reason.
        why: WhyNot,
        /// For people.
        reason: String,
    },
}

/// Why a contract is not described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyNot {
    /// No installed service provides it.
    Unknown,
    /// Its provider does not allow the caller.
    NotAllowed,
    /// Its provider does not run, so that its form is not known.
    NotRunning,
}
