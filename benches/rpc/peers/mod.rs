//! Who is measured: each with a server in a process of its own, and the same bytes there and back.

pub(crate) mod futex;
pub(crate) mod insula;
pub(crate) mod pipe;
pub(crate) mod raw;
pub(crate) mod raw_events;
pub(crate) mod raw_streams;
pub(crate) mod sockets;
#[cfg(feature = "peers")]
pub(crate) mod tonic;
#[cfg(feature = "peers")]
pub(crate) mod zmq;

use insula_benches::contracts::burst::{self, BurstDispatch};
use insula_benches::process::{Role, Server};
use insula_benches::{EchoDispatch, Echoing, echo, edge};

use crate::cases::{Case, Pattern, Peer};
use crate::meter::Meter;

/// A client that is connected to its server.
pub(crate) trait Client {
    /// The server's process.
    fn server(&self) -> &Server;
    /// Calls one after another with `payload` for as long as `meter` says.
    fn run(&mut self, payload: &[u8], meter: &mut Meter);
}

/// Starts the case's server on `core` and connects to it; an error where the host or this build
/// has no such peer.
pub(crate) fn connect(case: Case, core: usize) -> Result<Box<dyn Client>, String> {
    Ok(match (case.peer, case.pattern) {
        (Peer::Insula, Pattern::Burst16) => {
            Box::new(insula::Burst::<echo::Echo>::connect(case, core))
        }
        (Peer::Insula, Pattern::Burst128) => {
            Box::new(insula::Burst::<burst::burst::Echo>::connect(case, core))
        }
        (Peer::Insula, Pattern::Serial | Pattern::Parts) | (Peer::Metered, _) => {
            insula::connect(case, core)
        }
        (Peer::Raw, _) => Box::new(raw::Raw::connect(case, core)),
        (Peer::RawEvents, _) => Box::new(raw_events::RawEvents::connect(case, core)),
        (Peer::RawStreams, _) => Box::new(raw_streams::RawStreams::connect(case, core)),
        (Peer::Futex, _) => Box::new(futex::Futex::connect(case, core)),
        (Peer::Unix, _) => Box::new(sockets::Stream::connect(case, core)),
        (Peer::Seqpacket, _) => Box::new(sockets::Seqpacket::connect(case, core)?),
        (Peer::Pipe, _) => Box::new(pipe::Pipe::connect(case, core)),
        #[cfg(feature = "peers")]
        (Peer::Zmq, _) => Box::new(zmq::Zmq::connect(case, core)),
        #[cfg(feature = "peers")]
        (Peer::Tonic, _) => Box::new(tonic::Tonic::connect(case, core)),
        #[cfg(not(feature = "peers"))]
        (Peer::Zmq | Peer::Tonic, _) => {
            return Err("built without `--features peers`".to_owned());
        }
    })
}

/// Serves until the client's process ends.
pub(crate) fn serve(case: Case, role: &Role) {
    match (case.peer, case.pattern) {
        (Peer::Insula, Pattern::Burst16) => {
            edge::serve(role, case.waiting.spin(), EchoDispatch(Echoing));
        }
        (Peer::Insula, Pattern::Burst128) => {
            edge::serve(role, case.waiting.spin(), BurstDispatch(burst::Echoing));
        }
        (Peer::Insula, Pattern::Serial | Pattern::Parts) | (Peer::Metered, _) => {
            insula::serve(case, role);
        }
        (Peer::Raw, _) => raw::serve(case, role),
        (Peer::RawEvents, _) => raw_events::serve(role),
        (Peer::RawStreams, _) => raw_streams::serve(role),
        (Peer::Futex, _) => futex::serve(role),
        (Peer::Unix, _) => sockets::serve_stream(case, role),
        (Peer::Seqpacket, _) => sockets::serve_seqpacket(case, role),
        (Peer::Pipe, _) => pipe::serve(case, role),
        #[cfg(feature = "peers")]
        (Peer::Zmq, _) => zmq::serve(role),
        #[cfg(feature = "peers")]
        (Peer::Tonic, _) => tonic::serve(role),
        #[cfg(not(feature = "peers"))]
        (Peer::Zmq | Peer::Tonic, _) => unreachable!("its client is not built either"),
    }
}
