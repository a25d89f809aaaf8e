//! The service's own line to the supervisor.
//!
//! Each native service inherits a listening `SOCK_SEQPACKET` socket as descriptor [`LINE_FD`];
//! `insulad` connects to it, and a later `insulad` connects again. One frame is one packet: a
//! postcard [`Frame`] of at most [`FRAME_MAX`] bytes, with descriptors by `SCM_RIGHTS` where a
//! message says so. The order on every connection: the service says a [`FromService::Schema`] for
//! each form of a contract in its hello, then [`FromService::Hello`], the supervisor
//! [`ToService::Welcome`], then whatever is due.
//!
//! Messages are only ever added at the end of an enum, and fields never: a frame says the
//! [`PROTOCOL`] it was written in, and a receiver refuses one that it does not know.

use serde::{Deserialize, Serialize};

use crate::id::{Attempt, ContractId, EdgeId, Epoch, Instance, ServiceName};
use crate::policy::{EdgeLimits, EdgePolicy};
use crate::schema::Schema;

/// Version of these messages.
pub const PROTOCOL: u16 = 2;
/// Version of the transport in the channels: iceoryx2 0.10.0 with Insula's header version 1.
pub const TRANSPORT: u16 = 1;
/// The longest frame in bytes.
pub const FRAME_MAX: usize = 64 * 1024;
/// The longest schema in bytes, encoded: with its frame it is far below [`FRAME_MAX`].
///
/// A longer one does not travel; then only ends of equal hashes go together.
pub const SCHEMA_MAX: usize = 32 * 1024;
/// Schemas that an end sends at most; a connection with more ends.
pub const SCHEMAS_MAX: usize = 256;
/// The descriptor number of the listening socket in a native service.
pub const LINE_FD: i32 = 3;
/// Environment variable that is set for native services: the attempt's number.
pub const ENV_ATTEMPT: &str = "INSULA_ATTEMPT";
/// Environment variable: the directory that is the service's own.
pub const ENV_DATA: &str = "INSULA_DATA";
/// Environment variable of a service with a store: the most bytes that it may hold.
pub const ENV_DATA_SIZE: &str = "INSULA_DATA_SIZE";
/// Environment variable: the instance, like `kv:0`.
pub const ENV_INSTANCE: &str = "INSULA_INSTANCE";

/// A message with the version that it was written in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<M> {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u16,
    /// What it says.
    pub message: M,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// More than [`FRAME_MAX`] bytes.
    TooLong(usize),
    /// The sender speaks another version.
    Protocol(u16),
    /// Not a frame of this protocol.
    Malformed,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(bytes) => {
                write!(f, "frame of {bytes} bytes, at most {FRAME_MAX} allowed")
            }
            Self::Protocol(v) => write!(f, "frame in protocol {v}, this side speaks {PROTOCOL}"),
            Self::Malformed => f.write_str("malformed frame"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Encodes `message` as one frame.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    #[derive(Serialize)]
    struct Borrowed<'a, M> {
        protocol: u16,
        message: &'a M,
    }
    let bytes = postcard::to_stdvec(&Borrowed {
        protocol: PROTOCOL,
        message,
    })
    .map_err(|_| FrameError::Malformed)?;
    if bytes.len() > FRAME_MAX {
        Err(FrameError::TooLong(bytes.len()))
    } else {
        Ok(bytes)
    }
}

/// Decodes one frame; every byte must belong to it.
pub fn decode<M: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<M, FrameError> {
    if bytes.len() > FRAME_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    let (protocol, rest): (u16, _) =
        postcard::take_from_bytes(bytes).map_err(|_| FrameError::Malformed)?;
    if protocol != PROTOCOL {
        return Err(FrameError::Protocol(protocol));
    }
    let (message, rest) = postcard::take_from_bytes(rest).map_err(|_| FrameError::Malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(FrameError::Malformed)
    }
}

/// A contract that a service offers or uses, with the hash of its view of the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractView {
    /// Which contract.
    pub contract: ContractId,
    /// [`crate::schema::Schema::hash`] of the sender's view.
    pub schema: u64,
}

/// Whether an attempt may write its store, as the attempt itself sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leadership {
    /// The service has no store that needs one writer.
    NotNeeded,
    /// It has one and waits for its turn.
    Following,
    /// It writes under this epoch.
    Leading(Epoch),
}

/// What a service says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromService {
    /// The first word on every connection, but for the schemas that it names.
    Hello {
        /// The number from [`ENV_ATTEMPT`].
        attempt: Attempt,
        /// [`TRANSPORT`] of the kit it was built with.
        transport: u16,
        /// What it offers.
        provides: Vec<ContractView>,
        /// What it uses.
        requires: Vec<ContractView>,
        /// Version of its data's schema; 0 without a store.
        data_schema: u32,
        /// Whether it may write.
        leadership: Leadership,
        /// Whether [`FromService::Ready`] was said before, on an earlier connection.
        ready: bool,
        /// Edges that it serves already, from an earlier connection.
        serving: Vec<EdgeId>,
        /// The number of its read-only descriptor of the route table, once it has one; a later
        /// supervisor recovers the table through it.
        routes_fd: Option<i32>,
    },
    /// It can do its work: as a leader at once, as a follower once it leads.
    Ready,
    /// It writes no more under this epoch: what it had accepted is answered and committed.
    Yielded {
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// It writes under this epoch from now on.
    Leading {
        /// The epoch that began.
        epoch: Epoch,
    },
    /// All that it had accepted is answered, and what arrives is refused.
    Drained,
    /// An edge's server can be connected to.
    Serving {
        /// Which edge.
        edge: EdgeId,
    },
    /// A request waits too long at this contract's provider.
    Late {
        /// At whose contract.
        contract: ContractId,
        /// For how long, in milliseconds.
        waited_ms: u64,
    },
    /// Answer to [`ToService::Ping`].
    Pong {
        /// The number of the ping.
        ping: u64,
    },
    /// It cannot go on and will exit; the reason is for people.
    Failing {
        /// What failed.
        reason: String,
    },
    /// A form of a contract that the hello after it names by its hash.
    Schema(Schema),
}

/// What the supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToService {
    /// Answer to a hello. Carries two descriptors: the route table, read-only, and the process's
    /// meters.
    Welcome {
        /// Who the process is.
        instance: Instance,
        /// Its number.
        attempt: Attempt,
        /// Its server slot in every edge page.
        slot: u8,
        /// How long a waiter spins before it parks, in nanoseconds; `u64::MAX` for ever.
        spin_ns: u64,
        /// Whether time can be told by the processor's time stamp counter.
        steady_tsc: bool,
    },
    /// An edge to serve. Carries one descriptor: the edge's page.
    Serve(ServedEdge),
    /// An edge's consumer is gone: its server can be closed.
    Unserve {
        /// Which edge.
        edge: EdgeId,
        /// Which consumer attempt left; the edge may be served again for another.
        consumer: Attempt,
    },
    /// An edge to use. Carries one descriptor: the edge's page.
    Use(UsedEdge),
    /// Write the store from now on, under this epoch.
    Lead {
        /// The epoch that begins.
        epoch: Epoch,
    },
    /// Finish and commit what was accepted, refuse the rest, write no more, say yielded.
    Yield {
        /// The epoch to end.
        epoch: Epoch,
    },
    /// Finish what was accepted, refuse the rest, say drained.
    Drain,
    /// Say pong.
    Ping {
        /// To be repeated in the answer.
        ping: u64,
    },
}

/// An edge as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedEdge {
    /// Its number.
    pub edge: EdgeId,
    /// The contract to serve on it.
    pub contract: ContractId,
    /// The directory that holds its channels; see [`crate::edge::pair_directory`].
    pub parent: String,
    /// Who uses it, for people: `gateway`, or `uid 1000` for a local client.
    pub consumer_name: String,
    /// The consumer's attempt: names the channel and identifies requests.
    pub consumer: Attempt,
    /// What to take from it.
    pub limits: EdgeLimits,
}

/// An edge as its consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedEdge {
    /// Its number.
    pub edge: EdgeId,
    /// The contract.
    pub contract: ContractId,
    /// Who provides it.
    pub provider: ServiceName,
    /// The directory that holds its channels.
    pub parent: String,
    /// The index of the provider's entry in the route table.
    pub route: u32,
    /// The consumer's own attempt.
    pub consumer: Attempt,
    /// What to do about refusals and bad instances.
    pub policy: EdgePolicy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_what_it_wrote_and_nothing_else() {
        let message = FromService::Late {
            contract: "kv@1".parse().unwrap(),
            waited_ms: 7,
        };
        let bytes = encode(&message).unwrap();
        assert_eq!(decode::<FromService>(&bytes), Ok(message));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<FromService>(&longer), Err(FrameError::Malformed));
        assert_eq!(
            decode::<FromService>(&bytes[..bytes.len() - 1]),
            Err(FrameError::Malformed)
        );
        let mut other = bytes;
        other[0] = 9;
        assert_eq!(decode::<FromService>(&other), Err(FrameError::Protocol(9)));
        let long = vec![1; FRAME_MAX + 1];
        assert_eq!(
            decode::<FromService>(&long),
            Err(FrameError::TooLong(FRAME_MAX + 1))
        );
    }

    #[test]
    fn stored_bytes_of_a_hello_stay_readable() {
        let hello = FromService::Hello {
            attempt: Attempt(300),
            transport: 1,
            provides: vec![ContractView {
                contract: "kv@1".parse().unwrap(),
                schema: 5,
            }],
            requires: vec![],
            data_schema: 2,
            leadership: Leadership::Leading(Epoch(4)),
            ready: true,
            serving: vec![EdgeId(9)],
            routes_fd: Some(7),
        };
        let kept = [
            2, 0, 172, 2, 1, 1, 4, b'k', b'v', b'@', b'1', 5, 0, 2, 2, 4, 1, 1, 9, 1, 14,
        ];
        assert_eq!(encode(&hello).unwrap(), kept);
        assert_eq!(decode::<FromService>(&kept), Ok(hello));
    }
}
