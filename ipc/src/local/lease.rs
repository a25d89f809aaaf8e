//! The connection to the supervisor, and its renewal with the next one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use insula_contract::id::{ContractId, ServiceName};
use insula_contract::line::TRANSPORT;
use insula_contract::local::{Answer, Ask, Described, Resolve, Resolved};
use insula_contract::schema::Schema;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::LocalError;
use crate::client::Edge;
use crate::frames;
use crate::meters::{Meters, has_steady_tsc};

/// The pause before the supervisor's socket is tried again; doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_secs(1);
/// Seconds that an answer of the supervisor may take.
const ANSWER_MAX_S: i64 = 10;

/// The edges that were granted, and the connection that keeps them.
#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    state: Mutex<State>,
    /// The number of the present connection, from 1.
    turn: AtomicU64,
    /// Closed when the lease is dropped, which ends the thread.
    _life: UnixStream,
}

#[derive(Debug)]
struct State {
    /// `None` from a supervisor's death until the next one answers.
    socket: Option<Arc<OwnedFd>>,
    granted: BTreeMap<ContractId, Granted>,
}

#[derive(Debug)]
struct Granted {
    schema: Schema,
    /// Why the present supervisor does not grant it any more.
    edge: Result<Edge, String>,
}

impl Lease {
    pub(super) fn take(path: &Path) -> Result<Arc<Self>, LocalError> {
        let socket = Arc::new(reach(path)?);
        let failed = |source: std::io::Error| LocalError::Reach {
            path: path.to_owned(),
            source,
        };
        let (life, end) = UnixStream::pair().map_err(failed)?;
        let lease = Arc::new(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                socket: Some(socket.clone()),
                granted: BTreeMap::new(),
            }),
            turn: AtomicU64::new(1),
            _life: life,
        });
        let weak = Arc::downgrade(&lease);
        std::thread::Builder::new()
            .name("insula-lease".to_owned())
            .spawn(move || keep(&weak, socket, &end))
            .map_err(failed)?;
        Ok(lease)
    }

    /// The number of the present connection.
    #[inline]
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The edge to a contract, asked for where it is not there.
    pub(super) fn edge(
        &self,
        contract: &ContractId,
        schema: impl FnOnce() -> Schema,
    ) -> Result<Edge, LocalError> {
        let mut state = self.state();
        if let Some(Granted { edge: Ok(edge), .. }) = state.granted.get(contract) {
            return Ok(edge.clone());
        }
        let schema = match state.granted.remove(contract) {
            Some(refused) => refused.schema,
            None => schema(),
        };
        let socket = self.connected(&state)?;
        let edge = resolve(&socket, contract, &schema)?;
        let granted = Granted {
            schema,
            edge: Ok(edge.clone()),
        };
        state.granted.insert(contract.clone(), granted);
        Ok(edge)
    }

    pub(super) fn contracts(&self) -> Result<Vec<ContractId>, LocalError> {
        let state = self.state();
        let what = || "which contracts there are".to_owned();
        match ask(&*self.connected(&state)?, &Ask::List, what)?.0 {
            Answer::Listed(contracts) => Ok(contracts),
            Answer::Resolved(_) | Answer::Described(_) => Err(LocalError::Answer(what())),
        }
    }

    pub(super) fn describe(
        &self,
        contract: &ContractId,
    ) -> Result<(ServiceName, Schema), LocalError> {
        let state = self.state();
        let what = || format!("what `{contract}` is");
        let question = Ask::Describe(contract.clone());
        match ask(&*self.connected(&state)?, &question, what)?.0 {
            Answer::Described(Described::Served { provider, schema }) => Ok((provider, schema)),
            Answer::Described(Described::Refused { why, reason }) => {
                Err(LocalError::NotDescribed { why, reason })
            }
            Answer::Resolved(_) | Answer::Listed(_) => Err(LocalError::Answer(what())),
        }
    }

    fn connected(&self, state: &State) -> Result<Arc<OwnedFd>, LocalError> {
        state.socket.clone().ok_or_else(|| LocalError::Reach {
            path: self.path.clone(),
            source: Errno::ENOTCONN.into(),
        })
    }

    /// The supervisor is gone: edges stay as they are.
    fn lost(&self) {
        self.state().socket = None;
    }

    /// Asks the next supervisor for what the last one had granted.
    fn renew(&self, socket: &Arc<OwnedFd>) -> Result<(), LocalError> {
        let mut state = self.state();
        for (contract, granted) in &mut state.granted {
            let edge = match resolve(socket, contract, &granted.schema) {
                Ok(edge) => Ok(edge),
                Err(LocalError::Refused { reason, .. }) => {
                    tracing::warn!(%contract, reason, "an edge is not granted any more");
                    Err(reason)
                }
                Err(error) => return Err(error),
            };
            let next = edge.as_ref().ok().cloned();
            if let Ok(old) = std::mem::replace(&mut granted.edge, edge) {
                old.orphan(next);
            }
        }
        state.socket = Some(socket.clone());
        // After the edges: who sees the number finds them.
        self.turn.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Waits for the end of each connection and makes the next one, until the lease is dropped.
fn keep(lease: &Weak<Lease>, mut socket: Arc<OwnedFd>, life: &UnixStream) {
    while waits_for_end(&socket, life) {
        match lease.upgrade() {
            Some(lease) => lease.lost(),
            None => return,
        }
        let mut pause = PAUSE_FIRST;
        socket = loop {
            if !is_alive_after(life, pause) {
                return;
            }
            let Some(lease) = lease.upgrade() else {
                return;
            };
            let renewed = reach(&lease.path).and_then(|socket| {
                let socket = Arc::new(socket);
                lease.renew(&socket).map(|()| socket)
            });
            match renewed {
                Ok(socket) => break socket,
                Err(error) => tracing::debug!(%error, "no supervisor yet"),
            }
            pause = (pause * 2).min(PAUSE_LAST);
        };
    }
}

/// Waits until the connection is closed; false where the lease was dropped.
fn waits_for_end(socket: &OwnedFd, life: &UnixStream) -> bool {
    loop {
        // No events: the end of a connection is always told.
        let mut waits = [
            PollFd::new(socket.as_fd(), PollFlags::empty()),
            PollFd::new(life.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for the supervisor");
                return false;
            }
        }
        let happened = |wait: &PollFd<'_>| wait.revents().is_some_and(|events| !events.is_empty());
        if happened(&waits[1]) {
            return false;
        }
        if happened(&waits[0]) {
            return true;
        }
    }
}

/// Waits for `pause`; false where the lease was dropped meanwhile.
fn is_alive_after(life: &UnixStream, pause: Duration) -> bool {
    let mut waits = [PollFd::new(life.as_fd(), PollFlags::POLLIN)];
    let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
    !matches!(poll(&mut waits, pause), Ok(1..))
}

fn reach(path: &Path) -> Result<OwnedFd, LocalError> {
    let failed = |errno: Errno| LocalError::Reach {
        path: path.to_owned(),
        source: errno.into(),
    };
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    connect(socket.as_raw_fd(), &address).map_err(failed)?;
    let wait = TimeVal::seconds(ANSWER_MAX_S);
    setsockopt(&socket, sockopt::ReceiveTimeout, &wait).map_err(failed)?;
    Ok(socket)
}

fn ask(
    socket: &OwnedFd,
    question: &Ask,
    what: impl Fn() -> String,
) -> Result<(Answer, Vec<OwnedFd>), LocalError> {
    let failed = |source| LocalError::Ask {
        what: what(),
        source,
    };
    frames::send(socket, question, &[]).map_err(failed)?;
    frames::receive::<Answer>(socket)
        .map_err(failed)?
        .ok_or_else(|| LocalError::Closed(what()))
}

fn resolve(
    socket: &Arc<OwnedFd>,
    contract: &ContractId,
    schema: &Schema,
) -> Result<Edge, LocalError> {
    let what = || format!("for `{contract}`");
    let question = Ask::Resolve(Resolve {
        contract: contract.clone(),
        schema: schema.clone(),
        transport: TRANSPORT,
    });
    let (answer, descriptors) = ask(socket, &question, what)?;
    let (used, spin_ns) = match answer {
        Answer::Resolved(Resolved::Granted { edge, spin_ns }) => (edge, spin_ns),
        Answer::Resolved(Resolved::Refused { reason }) => {
            return Err(LocalError::Refused {
                contract: contract.clone(),
                reason,
            });
        }
        Answer::Listed(_) | Answer::Described(_) => return Err(LocalError::Answer(what())),
    };
    let [routes, page, meters] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|_| LocalError::Descriptors(contract.clone()))?;
    let edge = Edge::new(used, routes, page, Duration::from_nanos(spin_ns)).map_err(|source| {
        LocalError::Connect {
            contract: contract.clone(),
            source,
        }
    })?;
    let (late, told) = (contract.clone(), Arc::downgrade(socket));
    edge.on_late(move |waited| {
        let Some(socket) = told.upgrade() else {
            return;
        };
        let late = Ask::Late {
            contract: late.clone(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        };
        if let Err(error) = frames::offer(&*socket, &late) {
            tracing::debug!(%error, "the supervisor does not hear of a late request");
        }
    });
    match Meters::new(meters, has_steady_tsc()) {
        Ok(meters) => edge.meter(&meters),
        Err(error) => tracing::warn!(%error, "calls are not counted"),
    }
    Ok(edge)
}
