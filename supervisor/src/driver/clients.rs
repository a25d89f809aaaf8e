//! Ordinary local programs that ask for an edge of their own.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use insula_contract::id::ContractId;
use insula_contract::line::{FRAME_MAX, SCHEMAS_MAX, TRANSPORT, UsedEdge};
use insula_contract::local::{Answer, Ask, Described, Resolve, Resolved, WhyNot};
use insula_core::event::{Caller, ClientId, Consumer, Event};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::execute::spin_ns;
use super::forms::{Owner, Use};
use super::{Driver, DriverError, News};
use crate::line::{Line, LineError};
use crate::meters::Meters;
use crate::paths::Paths;

/// Local clients at most: each costs descriptors and directories.
const CLIENTS_MAX: usize = 1024;

/// Answers that may wait for one client to read them.
const ANSWERS_MAX: usize = 16;

/// A connection that was just made.
#[derive(Debug)]
pub(crate) struct Arrival {
    line: Line,
    caller: Caller,
}

/// A local client's connection.
#[derive(Debug)]
pub(super) struct ClientLine {
    caller: Caller,
    line: Arc<Line>,
    /// The contracts that it asked for.
    asked: BTreeSet<ContractId>,
    task: AbortHandle,
}

impl Drop for ClientLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn listen(paths: &Paths) -> io::Result<AsyncFd<OwnedFd>> {
    crate::line::listen_for_clients(paths)
}

/// Takes clients in for ever.
pub(super) async fn accept(listener: AsyncFd<OwnedFd>, news: mpsc::UnboundedSender<News>) {
    loop {
        match crate::line::accept(&listener).await {
            Ok(line) => match caller(&line) {
                Ok(caller) => {
                    let _ = news.send(News::Client(Box::new(Arrival { line, caller })));
                }
                Err(error) => tracing::warn!(%error, "cannot tell who a local client is"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot take a local client in");
                // Out of descriptors: it does not help to try at once.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

fn caller(line: &Line) -> io::Result<Caller> {
    let credentials = getsockopt(line.socket(), sockopt::PeerCredentials)?;
    let mut gids: BTreeSet<u32> = peer_groups(line.socket())?.into_iter().collect();
    gids.insert(credentials.gid());
    Ok(Caller {
        uid: credentials.uid(),
        gids,
        pid: credentials.pid(),
    })
}

/// The supplementary groups of the process at the other end.
#[expect(unsafe_code, reason = "neither std nor nix has SO_PEERGROUPS")]
fn peer_groups(socket: &OwnedFd) -> io::Result<Vec<u32>> {
    // NGROUPS_MAX of Linux.
    let mut groups = vec![0_u32; 65_536];
    let mut bytes = libc::socklen_t::try_from(groups.len() * 4).expect("it is small");
    // SAFETY: the buffer is as long as is said, and holds integers.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(bytes as usize / 4);
    Ok(groups)
}

impl Driver {
    pub(super) fn welcome_client(&mut self, arrival: Arrival) {
        if self.clients.len() >= CLIENTS_MAX {
            tracing::warn!(
                uid = arrival.caller.uid,
                "too many local clients, one is sent away"
            );
            return;
        }
        self.next_client += 1;
        let client = ClientId(self.next_client);
        let line = Arc::new(arrival.line);
        let (news, reader) = (self.news.clone(), line.clone());
        let task = tokio::spawn(async move {
            loop {
                match reader.receive::<Ask>().await {
                    Ok(ask) => {
                        let _ = news.send(News::Asked(client, Box::new(ask)));
                    }
                    Err(error) => {
                        if !matches!(error, LineError::Closed) {
                            let error = super::because("client", &error);
                            tracing::warn!(client = client.0, error, "a local client is dropped");
                        }
                        let _ = news.send(News::ClientLeft(client));
                        return;
                    }
                }
            }
        });
        let task = task.abort_handle();
        self.clients.insert(
            client,
            ClientLine {
                caller: arrival.caller,
                line,
                asked: BTreeSet::new(),
                task,
            },
        );
    }

    /// Takes in what a local client asks.
    pub(super) fn asked(&mut self, client: ClientId, ask: Ask) -> Result<(), DriverError> {
        match ask {
            Ask::Resolve(resolve) => return self.resolve(client, resolve),
            Ask::Late {
                contract,
                waited_ms,
            } => {
                let asked = self.clients.get(&client);
                if asked.is_some_and(|line| line.asked.contains(&contract)) {
                    return self.late(None, &contract, Duration::from_millis(waited_ms));
                }
            }
            Ask::List => {
                let listed = self.contracts_for(client);
                self.tell_client(client, Answer::Listed(listed), Vec::new());
            }
            Ask::Describe(contract) => {
                return self.describe_soon(client, contract);
            }
        }
        Ok(())
    }

    fn resolve(&mut self, client: ClientId, resolve: Resolve) -> Result<(), DriverError> {
        let Some(line) = self.clients.get_mut(&client) else {
            return Ok(());
        };
        let caller = line.caller.clone();
        let refused = if resolve.transport != TRANSPORT {
            Some(format!(
                "this client speaks transport {}, this host {TRANSPORT}",
                resolve.transport
            ))
        } else if line.asked.len() == SCHEMAS_MAX && !line.asked.contains(&resolve.contract) {
            Some(format!("this client uses {SCHEMAS_MAX} contracts already"))
        } else if (resolve.schema.name.as_str(), resolve.schema.major)
            != (resolve.contract.name(), resolve.contract.major())
        {
            Some("the schema is that of another contract".to_owned())
        } else {
            None
        };
        if let Some(reason) = refused {
            self.answer_client(client, Err(reason), None);
            return Ok(());
        }
        line.asked.insert(resolve.contract.clone());
        let owner = Owner::Client(client);
        self.forms.keep(owner, Use::Requires, &resolve.schema);
        let verdicts = self.forms.judge(owner, Use::Requires, &resolve.contract);
        self.turn(Event::ClientAsked {
            client,
            caller,
            contract: resolve.contract,
            schema: resolve.schema.hash(),
            verdicts,
        })
    }

    /// The contracts that a client may know of, by name, as many as one frame holds.
    fn contracts_for(&self, client: ClientId) -> Vec<ContractId> {
        let Some(line) = self.clients.get(&client) else {
            return Vec::new();
        };
        let mut room = FRAME_MAX - 64;
        let services = self.core.services().values();
        let mut contracts: Vec<_> = services
            .flat_map(|service| service.spec().provides.keys())
            .filter(|contract| self.may_know(&line.caller, contract))
            .cloned()
            .collect();
        contracts.sort();
        contracts
            .into_iter()
            .take_while(|contract| {
                // A name, its separator and version, and a byte for the length.
                let needed = contract.to_string().len() + 1;
                let fits = needed <= room;
                room = room.saturating_sub(needed);
                fits
            })
            .collect()
    }

    /// Who may use a contract may know it, and so may the daemon's own user.
    fn may_know(&self, caller: &Caller, contract: &ContractId) -> bool {
        caller.uid == nix::unistd::geteuid().as_raw()
            || self
                .core
                .provider_of(contract)
                .and_then(|name| self.core.services().get(name))
                .and_then(|service| service.spec().provides.get(contract))
                .is_some_and(|offer| offer.allows(caller))
    }

    pub(super) fn describe(&self, client: ClientId, contract: &ContractId) -> Described {
        let refused = |why, reason| Described::Refused { why, reason };
        let Some(line) = self.clients.get(&client) else {
            return refused(WhyNot::Unknown, "this client is gone".to_owned());
        };
        let Some(provider) = self.core.provider_of(contract) else {
            let known: Vec<_> = self.contracts_for(client);
            let known: Vec<_> = known.iter().map(ToString::to_string).collect();
            let reason = format!(
                "nobody provides {contract}; provided are {}",
                known.join(", ")
            );
            return refused(WhyNot::Unknown, reason);
        };
        if !self.may_know(&line.caller, contract) {
            let reason = format!(
                "uid {} may not use {contract}: `{provider}` does not allow it in its \
                 service.toml",
                line.caller.uid
            );
            return refused(WhyNot::NotAllowed, reason);
        }
        let processes = self.core.services()[provider].processes();
        let schema = processes
            .filter(|process| process.phase == insula_core::process::Phase::Ready)
            .chain(self.core.services()[provider].processes())
            .find_map(|process| self.forms.provided(process.attempt, contract));
        match schema {
            Some(schema) => Described::Served {
                provider: provider.clone(),
                schema,
            },
            None => refused(
                WhyNot::NotRunning,
                format!("`{provider}`, which provides {contract}, does not run"),
            ),
        }
    }

    /// Closes a client's connection; it may come back and ask again.
    pub(super) fn drop_client(&mut self, client: ClientId, reason: &str) {
        if self.clients.contains_key(&client) {
            tracing::warn!(client = client.0, reason, "a local client is sent away");
            self.forget_client(client);
            self.pending.push_back(Event::ClientLeft { client });
        }
    }

    /// A client's connection is closed.
    pub(super) fn client_left(&mut self, client: ClientId) -> Result<(), DriverError> {
        self.forget_client(client);
        self.turn(Event::ClientLeft { client })
    }

    fn forget_client(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.forms.forget(Owner::Client(client));
        for edge in self.core.edges().iter() {
            if let (Consumer::Client { client: own, .. }, Some(attempt)) =
                (&edge.consumer, edge.client_attempt)
                && *own == client
            {
                self.pages.remove(&(edge.route, attempt));
                self.meters.remove(&attempt);
            }
        }
    }

    pub(super) fn tell_client(
        &mut self,
        client: ClientId,
        answer: Answer,
        descriptors: Vec<OwnedFd>,
    ) {
        let Some(line) = self.clients.get(&client) else {
            return;
        };
        // Each answer that is not read yet holds the line, and so does its reader.
        if Arc::strong_count(&line.line) > ANSWERS_MAX {
            return self.drop_client(client, "it asks and does not read the answers");
        }
        let line = line.line.clone();
        tokio::spawn(async move {
            if let Err(error) = line.send(&answer, &descriptors).await {
                tracing::debug!(%error, "a local client left before its answer");
            }
        });
    }

    pub(super) fn answer_client(
        &mut self,
        client: ClientId,
        answer: Result<UsedEdge, String>,
        profile: Option<String>,
    ) {
        let Some(line) = self.clients.get(&client) else {
            return;
        };
        let uid = line.caller.uid;
        let (resolved, descriptors) = match answer {
            Ok(used) => {
                let consumer = Consumer::Client { client, uid };
                let edge = self.locate(used, &consumer);
                let spin_ns = profile.map_or(0, |profile| spin_ns(self.profile(&profile).spin));
                let descriptors = self.routes.read_only().and_then(|routes| {
                    let page = self.page(edge.edge, edge.consumer)?;
                    // New ones for each grant: two in a process would count in the same place.
                    let meters = Meters::create(edge.consumer)?;
                    let descriptor = meters.descriptor()?;
                    self.meters.insert(edge.consumer, meters);
                    Ok(vec![routes, page, descriptor])
                });
                match descriptors {
                    Ok(descriptors) => (Resolved::Granted { edge, spin_ns }, descriptors),
                    Err(error) => {
                        let reason = format!("out of descriptors: {error}");
                        (Resolved::Refused { reason }, Vec::new())
                    }
                }
            }
            Err(reason) => (Resolved::Refused { reason }, Vec::new()),
        };
        self.tell_client(client, Answer::Resolved(resolved), descriptors);
    }
}
