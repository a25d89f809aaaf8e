//! An ordinary local program as a client: edges by asking the supervisor.
//!
//! The socket stays open as long as the [`LocalClient`]: it is the lease of its edges. The
//! supervisor knows the program's user from the socket and grants or refuses by contract.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_contract::line::TRANSPORT;
use insula_contract::local::{Answer, Ask, Resolve, Resolved};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::client::{ConnectError, Connection, Edge};
use crate::contract::Contract;
use crate::frames::{self, FramesError};

/// Why a local client has no connection.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The supervisor's socket cannot be reached.
    #[error("cannot connect to `{path}`")]
    Reach {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Asking failed.
    #[error("cannot ask for `{contract}`")]
    Ask {
        /// For what.
        contract: ContractId,
        /// Why.
        #[source]
        source: FramesError,
    },
    /// The supervisor closed the connection.
    #[error("the supervisor closed the connection when asked for `{0}`")]
    Closed(ContractId),
    /// The answer lacks its two descriptors.
    #[error("the answer about `{0}` came without its descriptors")]
    Descriptors(ContractId),
    /// No edge is granted.
    #[error("`{contract}` is refused: {reason}")]
    Refused {
        /// What was asked for.
        contract: ContractId,
        /// The supervisor's reason.
        reason: String,
    },
    /// The granted edge cannot be used.
    #[error("cannot use the edge to `{contract}`")]
    Connect {
        /// To what.
        contract: ContractId,
        /// Why.
        #[source]
        source: ConnectError,
    },
}

/// A local program's access to contracts; share it between threads.
#[derive(Debug)]
pub struct LocalClient {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    socket: OwnedFd,
    edges: BTreeMap<ContractId, Edge>,
}

impl LocalClient {
    /// Connects to the supervisor's socket for local clients.
    ///
    /// `path` is that of [`insula_contract::local::SOCKET`] in the run directory.
    pub fn connect(path: &Path) -> Result<Self, LocalError> {
        let reach = |errno: nix::Error| LocalError::Reach {
            path: path.to_owned(),
            source: errno.into(),
        };
        let socket = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(reach)?;
        let address = UnixAddr::new(path).map_err(reach)?;
        connect(socket.as_raw_fd(), &address).map_err(reach)?;
        Ok(Self {
            state: Mutex::new(State {
                socket,
                edges: BTreeMap::new(),
            }),
        })
    }

    /// A connection for the calling thread to whoever provides `C`.
    pub fn connection<C: Contract>(&self) -> Result<Connection, LocalError> {
        let contract = C::id();
        self.edge::<C>()?
            .connect::<C>()
            .map_err(|source| LocalError::Connect { contract, source })
    }

    /// The edge to `C`, asked for once.
    fn edge<C: Contract>(&self) -> Result<Edge, LocalError> {
        let contract = C::id();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edge) = state.edges.get(&contract) {
            return Ok(edge.clone());
        }
        let ask = |source| LocalError::Ask {
            contract: contract.clone(),
            source,
        };
        let resolve = Ask::Resolve(Resolve {
            contract: contract.clone(),
            schema: C::schema(),
            transport: TRANSPORT,
        });
        frames::send(&state.socket, &resolve, &[]).map_err(ask)?;
        let (answer, descriptors) = frames::receive::<Answer>(&state.socket)
            .map_err(ask)?
            .ok_or_else(|| LocalError::Closed(contract.clone()))?;
        let (used, spin_ns) = match answer {
            Answer::Resolved(Resolved::Granted { edge, spin_ns }) => (edge, spin_ns),
            Answer::Resolved(Resolved::Refused { reason }) => {
                return Err(LocalError::Refused { contract, reason });
            }
            Answer::Listed(_) | Answer::Described(_) => {
                return Err(LocalError::Closed(contract));
            }
        };
        let [routes, page] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| LocalError::Descriptors(contract.clone()))?;
        let edge =
            Edge::new(used, routes, page, Duration::from_nanos(spin_ns)).map_err(|source| {
                LocalError::Connect {
                    contract: contract.clone(),
                    source,
                }
            })?;
        state.edges.insert(contract, edge.clone());
        Ok(edge)
    }
}
