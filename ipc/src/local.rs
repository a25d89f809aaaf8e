//! An ordinary local program as a client: edges by asking the supervisor.
//!
//! The socket stays open as long as the [`LocalClient`]: it is the lease of its edges. The
//! supervisor knows the program's user from the socket and grants or refuses by contract.
//!
//! When the supervisor dies, its edges go on: routes, pages and channels are the ends' own. A
//! thread of the client waits for that, connects to the next supervisor as soon as there is one,
//! and asks again for every edge that was granted. [`LocalClient::connection`] gives connections on
//! the newest edge, and an [`Attached`] moves to it by itself. What was submitted on the old one is
//! answered there, as long as who has it lives: whoever takes his place is not on that edge, so that
//! a call then ends ([`crate::client::CallError::OutcomeUnknown`], or
//! [`crate::client::CallError::Unavailable`] where it was surely not executed).

mod lease;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use insula_contract::id::{ContractId, ServiceName};
use insula_contract::local::WhyNot;
use insula_contract::schema::Schema;

use crate::client::{ConnectError, Connection, Edge};
use crate::contract::Contract;
use crate::frames::FramesError;
use lease::Lease;

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
    #[error("cannot ask {what}")]
    Ask {
        /// For what.
        what: String,
        /// Why.
        #[source]
        source: FramesError,
    },
    /// The supervisor closed the connection.
    #[error("the supervisor closed the connection when asked {0}")]
    Closed(String),
    /// The answer is to another question.
    #[error("the supervisor answered something else when asked {0}")]
    Answer(String),
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
    /// The contract is not described.
    #[error("{reason}")]
    NotDescribed {
        /// The sort of reason.
        why: WhyNot,
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

/// A local program's access to contracts; share it between threads, or clone it.
#[derive(Debug, Clone)]
pub struct LocalClient {
    lease: Arc<Lease>,
}

impl LocalClient {
    /// Connects to the supervisor's socket for local clients.
    ///
    /// `path` is that of [`insula_contract::local::SOCKET`] in the run directory.
    pub fn connect(path: &Path) -> Result<Self, LocalError> {
        let lease = Lease::take(path)?;
        Ok(Self { lease })
    }

    /// A connection for the calling thread to whoever provides `C`.
    pub fn connection<C: Contract>(&self) -> Result<Connection, LocalError> {
        self.edge::<C>()?
            .connect::<C>()
            .map_err(|source| LocalError::Connect {
                contract: C::id(),
                source,
            })
    }

    /// A connection for the calling thread that moves to a new edge where the supervisor gives one.
    pub fn attach<C: Contract>(&self) -> Result<Attached<C>, LocalError> {
        let turn = self.lease.turn();
        Ok(Attached {
            client: self.clone(),
            turn: Cell::new(turn),
            connection: RefCell::new(self.connection::<C>()?),
            contract: PhantomData,
        })
    }

    /// The edge to `C`, asked for once in the life of a supervisor.
    pub fn edge<C: Contract>(&self) -> Result<Edge, LocalError> {
        self.lease.edge(&C::id(), C::schema)
    }

    /// The edge to the contract of a schema that is known only at run time.
    pub fn edge_of(&self, contract: &ContractId, schema: &Schema) -> Result<Edge, LocalError> {
        self.lease.edge(contract, || schema.clone())
    }

    /// The contracts that the program may use, by name.
    pub fn contracts(&self) -> Result<Vec<ContractId>, LocalError> {
        self.lease.contracts()
    }

    /// Who provides a contract now, and its schema.
    pub fn describe(&self, contract: &ContractId) -> Result<(ServiceName, Schema), LocalError> {
        self.lease.describe(contract)
    }

    /// How many supervisors this client has had, the present one with it.
    pub fn supervisors(&self) -> u64 {
        self.lease.turn()
    }
}

/// One thread's use of a contract, on the newest edge.
#[derive(Debug)]
pub struct Attached<C: Contract> {
    client: LocalClient,
    turn: Cell<u64>,
    connection: RefCell<Connection>,
    contract: PhantomData<fn() -> C>,
}

impl<C: Contract> Attached<C> {
    /// The connection to call on now: the last one unless there is a new edge.
    ///
    /// A load and a compare where nothing has changed. Tickets of an older connection stay good.
    /// While the next supervisor refuses the edge, this fails.
    #[inline]
    pub fn connection(&self) -> Result<Connection, LocalError> {
        let turn = self.client.lease.turn();
        if turn != self.turn.get() {
            let connection = self.client.connection::<C>()?;
            self.connection.replace(connection);
            self.turn.set(turn);
        }
        Ok(self.connection.borrow().clone())
    }
}
