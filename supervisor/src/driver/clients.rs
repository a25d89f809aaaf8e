//! Ordinary local programs that ask for an edge of their own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use insula_contract::line::{TRANSPORT, UsedEdge};
use insula_contract::local::{Resolve, Resolved};
use insula_core::event::{Caller, ClientId, Consumer, Event};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::execute::spin_ns;
use super::{Driver, DriverError, News};
use crate::line::{Line, LineError};
use crate::paths::Paths;

/// Local clients at most: each costs descriptors and directories.
const CLIENTS_MAX: usize = 1024;

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
    let mut gids: std::collections::BTreeSet<u32> =
        peer_groups(line.socket())?.into_iter().collect();
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
                match reader.receive::<Resolve>().await {
                    Ok(resolve) => {
                        let _ = news.send(News::Resolve(client, resolve));
                    }
                    Err(error) => {
                        if !matches!(error, LineError::Closed) {
                            let error = super::because("client", &error);
                            tracing::warn!(client = client.0, error, "a local client is dropped");
                        }
                        let _ = news.send(News::Event(Event::ClientLeft { client }));
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
                task,
            },
        );
    }

    pub(super) fn resolve(
        &mut self,
        client: ClientId,
        resolve: Resolve,
    ) -> Result<(), DriverError> {
        let Some(line) = self.clients.get(&client) else {
            return Ok(());
        };
        let caller = line.caller.clone();
        if resolve.transport != TRANSPORT {
            let text = format!(
                "this client speaks transport {}, this host {TRANSPORT}",
                resolve.transport
            );
            self.answer_client(client, Err(text), None);
            return Ok(());
        }
        self.turn(Event::ClientAsked {
            client,
            caller,
            contract: resolve.contract,
            schema: resolve.schema,
        })
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
        let (line, uid) = (line.line.clone(), line.caller.uid);
        let (resolved, descriptors) = match answer {
            Ok(used) => {
                let consumer = Consumer::Client { client, uid };
                let edge = self.locate(used, &consumer);
                let spin_ns = profile.map_or(0, |profile| spin_ns(self.profile(&profile).spin));
                let descriptors = self
                    .routes
                    .read_only()
                    .and_then(|routes| Ok(vec![routes, self.page(edge.edge, edge.consumer)?]));
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
        tokio::spawn(async move {
            if let Err(error) = line.send(&resolved, &descriptors).await {
                tracing::debug!(%error, "a local client left before its answer");
            }
        });
    }
}
