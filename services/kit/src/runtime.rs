//! What a process knows of itself, and the edges that it may use.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use insula_ipc::client::{ConnectError, Connection, Edge};
use insula_ipc::contract::Contract;
use insula_ipc::frames;
use insula_ipc::meters::Meters;
use insula_ipc::protocol::id::{Attempt, ContractId, EdgeId, Instance};
use insula_ipc::protocol::line::{ContractView, FromService, Leadership, TRANSPORT};
use insula_ipc::protocol::schema::Schema;
use thiserror::Error;

/// Why there is no connection to a contract.
#[derive(Debug, Error)]
pub enum UseError {
    /// The service's manifest does not require it, or the supervisor has not yet given it.
    #[error("no edge to {0}: does the service.toml require it?")]
    NoEdge(ContractId),
    /// The edge cannot be used.
    #[error("cannot connect to {contract}")]
    Connect {
        /// What was to be used.
        contract: ContractId,
        /// The cause.
        #[source]
        source: ConnectError,
    },
}

/// What the supervisor said in its welcome.
#[derive(Debug, Clone)]
pub(crate) struct Welcomed {
    pub(crate) slot: u8,
    pub(crate) spin: Duration,
}

/// What changes while the process runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) welcomed: Option<Welcomed>,
    pub(crate) routes: Option<Arc<OwnedFd>>,
    /// Where this process counts; none where the supervisor gave none.
    pub(crate) meters: Option<Meters>,
    pub(crate) edges: BTreeMap<ContractId, Edge>,
    /// The pages of these edges, kept open so that a later supervisor finds them here.
    pub(crate) pages: Vec<OwnedFd>,
    pub(crate) serving: Vec<EdgeId>,
    pub(crate) ready: bool,
    pub(crate) leadership: Leadership,
    pub(crate) stopping: bool,
    /// The present line; none while no daemon is connected.
    line: Option<Arc<OwnedFd>>,
}

/// What all threads of a service share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) attempt: Attempt,
    pub(crate) instance: Instance,
    pub(crate) provides: Vec<ContractView>,
    pub(crate) requires: Vec<ContractView>,
    /// The forms that these views name.
    schemas: Vec<Schema>,
    pub(crate) data_schema: u32,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(
        attempt: Attempt,
        instance: Instance,
        provides: Vec<ContractView>,
        requires: Vec<ContractView>,
        schemas: Vec<Schema>,
        data_schema: u32,
        leadership: Leadership,
    ) -> Self {
        Self {
            attempt,
            instance,
            provides,
            requires,
            schemas,
            data_schema,
            state: Mutex::new(State {
                welcomed: None,
                routes: None,
                meters: None,
                edges: BTreeMap::new(),
                pages: Vec::new(),
                serving: Vec::new(),
                ready: false,
                leadership,
                stopping: false,
                line: None,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes who waits for a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Waits until `look` finds something, at most until `deadline`.
    pub(crate) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            state = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes up a new line and says hello on it, before anything else can be said there.
    pub(crate) fn connect(&self, line: Arc<OwnedFd>) -> Result<(), frames::FramesError> {
        let mut state = self.state();
        use std::os::fd::AsRawFd;
        for schema in &self.schemas {
            frames::send(&*line, &FromService::Schema(schema.clone()), &[])?;
        }
        let hello = FromService::Hello {
            attempt: self.attempt,
            transport: TRANSPORT,
            provides: self.provides.clone(),
            requires: self.requires.clone(),
            data_schema: self.data_schema,
            leadership: state.leadership,
            ready: state.ready,
            serving: state.serving.clone(),
            routes_fd: state.routes.as_ref().map(|routes| routes.as_raw_fd()),
        };
        frames::send(&*line, &hello, &[])?;
        state.line = Some(line);
        Ok(())
    }

    pub(crate) fn disconnect(&self) {
        self.state().line = None;
    }

    /// Tells the supervisor that a request waits too long at a contract's provider; not if that
    /// would hold up who waits for the request.
    pub(crate) fn late(&self, contract: &ContractId, waited: Duration) {
        let line = self.state().line.clone();
        let message = FromService::Late {
            contract: contract.clone(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        };
        if let Some(line) = line
            && let Err(error) = frames::offer(&*line, &message)
        {
            tracing::debug!(%error, "the supervisor does not hear of a late request");
        }
    }

    /// Says something to the supervisor; the next hello tells what was said while none was there.
    pub(crate) fn say(&self, message: &FromService) {
        let line = self.state().line.clone();
        if let Some(line) = line
            && let Err(error) = frames::send(&*line, message, &[])
        {
            tracing::debug!(%error, "the supervisor is away");
        }
    }
}

/// A running service's access to the contracts that it requires; share it between threads.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) shared: Arc<Shared>,
}

impl Runtime {
    /// Who this process is: `gateway:0`.
    pub fn instance(&self) -> &Instance {
        &self.shared.instance
    }

    /// The number of this process: no other has it, ever.
    pub fn attempt(&self) -> Attempt {
        self.shared.attempt
    }

    /// The edge to a contract that the service requires; waits up to `wait` for the supervisor to
    /// give it.
    pub fn edge<C: Contract>(&self, wait: Duration) -> Result<Edge, UseError> {
        let contract = C::id();
        self.shared
            .wait(Some(Instant::now() + wait), |state| {
                state.edges.get(&contract).cloned()
            })
            .ok_or(UseError::NoEdge(contract))
    }

    /// A connection for the calling thread.
    pub fn connection<C: Contract>(&self, wait: Duration) -> Result<Connection, UseError> {
        self.edge::<C>(wait)?
            .connect::<C>()
            .map_err(|source| UseError::Connect {
                contract: C::id(),
                source,
            })
    }

    /// Tells the supervisor that the service can do its work.
    pub fn ready(&self) {
        self.shared.change(|state| state.ready = true);
        self.shared.say(&FromService::Ready);
    }

    /// Waits until the supervisor wants the service to finish what it accepted and to end.
    pub fn wait_for_stop(&self) {
        self.shared.wait(None, |state| state.stopping.then_some(()));
    }
}
