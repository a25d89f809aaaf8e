//! Two pipes, one each way, as large as the host allows up to the message's size.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use insula_benches::contracts::touch;
use insula_benches::process::{Role, Server, ready};
use insula_ipc::testing::{inheritable, inherited};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::Client;
use crate::cases::Case;
use crate::meter::Meter;

/// The largest pipe that needs no privilege.
const PIPE_MAX: usize = 1 << 20;

pub(crate) struct Pipe {
    requests: File,
    answers: File,
    server: Server,
}

fn enlarge(pipe: &impl AsFd, size: usize) {
    // Where the host refuses it stays at what it was, as it would for anybody.
    let _ = fcntl(
        pipe,
        FcntlArg::F_SETPIPE_SZ(size.clamp(1 << 16, PIPE_MAX) as i32),
    );
}

impl Pipe {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let (server_reads, requests) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (answers, server_writes) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        enlarge(&requests, case.size);
        enlarge(&answers, case.size);
        let words = [inheritable(&server_reads), inheritable(&server_writes)];
        let server = Server::start(&case.role(), core, &words.map(|word| word.to_string()));
        Self {
            requests: requests.into(),
            answers: answers.into(),
            server,
        }
    }
}

impl Client for Pipe {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let mut answer = vec![0; payload.len()];
        while let Some(began) = meter.begin() {
            self.requests.write_all(payload).expect("sending");
            self.answers.read_exact(&mut answer).expect("receiving");
            touch(&answer);
            meter.end(began);
        }
    }
}

pub(crate) fn serve(case: Case, role: &Role) {
    let mut requests = File::from(inherited(role.number(0)));
    let mut answers = File::from(inherited(role.number(1)));
    ready();
    let mut bytes = vec![0; case.size];
    while requests.read_exact(&mut bytes).is_ok() {
        touch(&bytes);
        if answers.write_all(&bytes).is_err() {
            return;
        }
    }
}
