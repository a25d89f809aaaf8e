//! Programs that know nothing of Insula: sockets that are held for them, and how it is found out
//! that they are ready.
//!
//! Of sd_notify(3), `READY=1` and `STATUS=` are understood; the watchdog, `STOPPING`, `MAINPID`
//! and stored descriptors are not yet.

pub mod notify;
pub mod sockets;

use std::net::SocketAddr;
use std::time::Duration;

use insula_contract::id::Attempt;
use insula_core::spec::{Probe, Readiness};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use notify::NotifySocket;

/// How long a connection may take before it counts as refused.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// The first and the longest wait between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Returns when the program is ready; never, while it is not.
pub(crate) async fn ready(attempt: Attempt, readiness: Readiness, notify: Option<NotifySocket>) {
    match (readiness, notify) {
        (Readiness::Probe(Probe::Tcp(address)), _) => accepts(address).await,
        (Readiness::Notify, Some(socket)) => socket.ready(attempt).await,
        // It counts as ready once it runs, which the core knows.
        (Readiness::Started | Readiness::Notify | Readiness::Line(_) | Readiness::Probe(_), _) => {
            std::future::pending().await
        }
    }
}

async fn accepts(address: SocketAddr) {
    let (mut wait, longest) = RETRY;
    loop {
        let connected = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
        if matches!(connected, Ok(Ok(_))) {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}
