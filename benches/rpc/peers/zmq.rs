//! ZeroMQ (libzmq) over `ipc://`: two sockets of type PAIR, the one with the least envelope, each
//! with the one I/O thread that it has by default.

use insula_benches::contracts::touch;
use insula_benches::process::{Role, Server, ready};

use super::Client;
use crate::cases::{Case, Pattern};
use crate::meter::Meter;

pub(crate) struct Zmq {
    socket: zmq::Socket,
    server: Server,
    pattern: Pattern,
    _directory: tempfile::TempDir,
}

impl Zmq {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = format!("ipc://{}/socket", directory.path().display());
        let server = Server::start(&case.role(), core, std::slice::from_ref(&address));
        let socket = zmq::Context::new().socket(zmq::PAIR).expect("a socket");
        socket.set_linger(0).expect("the socket's mode");
        socket.connect(&address).expect("connecting");
        Self {
            socket,
            server,
            pattern: case.pattern,
            _directory: directory,
        }
    }
}

impl Client for Zmq {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let mut answer = zmq::Message::new();
        if self.pattern.is_burst() {
            for _ in 0..self.pattern.outstanding() {
                self.socket.send(payload, 0).expect("sending");
            }
            while meter.begin().is_some() {
                self.socket.recv(&mut answer, 0).expect("receiving");
                touch(&answer);
                self.socket.send(payload, 0).expect("sending");
                meter.end_of_many(1);
            }
            return;
        }
        while let Some(began) = meter.begin() {
            self.socket.send(payload, 0).expect("sending");
            self.socket.recv(&mut answer, 0).expect("receiving");
            touch(&answer);
            meter.end(began);
        }
    }
}

pub(crate) fn serve(role: &Role) {
    let socket = zmq::Context::new().socket(zmq::PAIR).expect("a socket");
    socket.bind(&role.words[0]).expect("binding");
    ready();
    let mut request = zmq::Message::new();
    while socket.recv(&mut request, 0).is_ok() {
        touch(&request);
        // Given back as it is: libzmq copies nothing.
        if socket
            .send(std::mem::replace(&mut request, zmq::Message::new()), 0)
            .is_err()
        {
            return;
        }
    }
}
