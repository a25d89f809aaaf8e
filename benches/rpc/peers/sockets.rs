//! Unix sockets, of streams and of packets, each with buffers that hold a whole message.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use insula_benches::contracts::touch;
use insula_benches::process::{Role, Server, ready};
use insula_ipc::testing::{inheritable, inherited};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};

use super::Client;
use crate::cases::{Case, Pattern, Waiting};
use crate::meter::Meter;

/// Bytes of bookkeeping that the kernel counts against a socket's buffer.
const OVERHEAD: usize = 64 << 10;

/// Lets the socket take a message of `size` at once, as far as the host allows it.
fn enlarge(socket: &impl AsFd, size: usize) {
    let wanted = 2 * size + OVERHEAD;
    // Without privilege the host's own limit stays, as it would for anybody.
    let _ = setsockopt(&socket.as_fd(), sockopt::SndBufForce, &wanted);
    let _ = setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &wanted);
}

/// Reads the whole of `bytes`, blocking or spinning as the socket is set.
fn read_all(socket: &mut UnixStream, mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(socket: &mut UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) struct Stream {
    socket: UnixStream,
    server: Server,
    pattern: Pattern,
}

impl Stream {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let (socket, other) = UnixStream::pair().expect("a pair of sockets");
        enlarge(&socket, case.size);
        enlarge(&other, case.size);
        let spins = case.waiting == Waiting::Spinning;
        socket.set_nonblocking(spins).expect("the socket's mode");
        other.set_nonblocking(spins).expect("the socket's mode");
        let server = Server::start(&case.role(), core, &[inheritable(&other).to_string()]);
        Self {
            socket,
            server,
            pattern: case.pattern,
        }
    }

    /// As many requests in one write, and as many answers in one read, as there are.
    fn burst(&mut self, payload: &[u8], meter: &mut Meter) {
        let size = payload.len();
        let outstanding = self.pattern.outstanding();
        let requests = payload.repeat(outstanding);
        let mut answers = vec![0; size * outstanding];
        let (mut to_send, mut begun) = (outstanding, 0);
        while meter.begin().is_some() {
            write_all(&mut self.socket, &requests[..to_send * size]).expect("sending");
            begun += match self.socket.read(&mut answers[begun..]) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => panic!("receiving: {error}"),
            };
            to_send = begun / size;
            touch(&answers[..to_send * size]);
            answers.copy_within(to_send * size..begun, 0);
            begun -= to_send * size;
            meter.end_of_many(to_send as u64);
        }
    }
}

impl Client for Stream {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        if self.pattern.is_burst() {
            return self.burst(payload, meter);
        }
        let mut answer = vec![0; payload.len()];
        while let Some(began) = meter.begin() {
            write_all(&mut self.socket, payload).expect("sending");
            read_all(&mut self.socket, &mut answer).expect("receiving");
            touch(&answer);
            meter.end(began);
        }
    }
}

pub(crate) fn serve_stream(case: Case, role: &Role) {
    let mut socket = UnixStream::from(inherited(role.number(0)));
    ready();
    match case.pattern {
        Pattern::Burst16 | Pattern::Burst128 => {
            let mut bytes = vec![0; case.size * case.pattern.outstanding()];
            loop {
                match socket.read(&mut bytes) {
                    Ok(0) => return,
                    // A piece of a request is as good as a whole one for giving it back.
                    Ok(read) => write_all(&mut socket, &bytes[..read]).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                    Err(_) => return,
                }
            }
        }
        Pattern::Serial | Pattern::Parts => {
            let mut bytes = vec![0; case.size];
            while read_all(&mut socket, &mut bytes).is_ok() {
                touch(&bytes);
                if write_all(&mut socket, &bytes).is_err() {
                    return;
                }
            }
        }
    }
}

pub(crate) struct Seqpacket {
    socket: OwnedFd,
    server: Server,
}

impl Seqpacket {
    pub(crate) fn connect(case: Case, core: usize) -> Result<Self, String> {
        let (socket, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("a pair of sockets");
        enlarge(&socket, case.size);
        enlarge(&other, case.size);
        // A packet is copied into the kernel as a whole: some hosts have no room for a large one.
        let packet = vec![0; case.size];
        send(socket.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT)
            .map_err(|error| format!("no room for a packet of {} bytes: {error}", case.size))?;
        let mut back = vec![0; case.size];
        recv(other.as_raw_fd(), &mut back, MsgFlags::empty()).expect("the packet");
        let server = Server::start(&case.role(), core, &[inheritable(&other).to_string()]);
        Ok(Self { socket, server })
    }
}

impl Client for Seqpacket {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let mut answer = vec![0; payload.len()];
        let socket = self.socket.as_raw_fd();
        while let Some(began) = meter.begin() {
            send(socket, payload, MsgFlags::empty()).expect("sending");
            recv(socket, &mut answer, MsgFlags::empty()).expect("receiving");
            touch(&answer);
            meter.end(began);
        }
    }
}

pub(crate) fn serve_seqpacket(case: Case, role: &Role) {
    let socket = inherited(role.number(0));
    let socket = socket.as_raw_fd();
    ready();
    let mut bytes = vec![0; case.size];
    while let Ok(1..) = recv(socket, &mut bytes, MsgFlags::empty()) {
        touch(&bytes);
        if send(socket, &bytes, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}
