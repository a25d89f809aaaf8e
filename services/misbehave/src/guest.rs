//! A program that knows nothing of Insula.

#![expect(unsafe_code, reason = "sockets are inherited by number")]

use std::env;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

pub(crate) fn run(notify: bool, words: &str) -> ExitCode {
    match serve(notify, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(notify: bool, words: &str) -> io::Result<()> {
    let own = std::process::id().to_string();
    let said = |name: &str| env::var(name).unwrap_or_default();
    if said("LISTEN_PID") != own || said("LISTEN_FDS") != "1" || said("LISTEN_FDNAMES") != "http" {
        return Err(io::Error::other("LISTEN_FDS is not as it should be"));
    }
    // SAFETY: the supervisor passed this socket, and nobody else in this process uses it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    if notify {
        let socket = UnixDatagram::unbound()?;
        socket.send_to(b"STATUS=trying\nREADY=1", said("NOTIFY_SOCKET"))?;
    }
    loop {
        let (mut client, _) = listener.accept()?;
        // Whoever asks may be gone again.
        let _ = writeln!(client, "{own} {words}");
    }
}
