//! A program that knows nothing of Insula.

#![expect(unsafe_code, reason = "sockets are inherited by number")]

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
        // Whoever asks may be gone again. In one piece: who is killed in between has said nothing.
        let _ = client.write_all(format!("{own} {words}\n").as_bytes());
    }
}

/// Sends what the file `say` in the working directory says to `$NOTIFY_SOCKET`, once each time that
/// it is made, and says that it lives unless there is a file `mute`.
pub(crate) fn notify() -> ExitCode {
    match say() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn say() -> io::Result<()> {
    let said = |name: &str| env::var(name).unwrap_or_default();
    let number = |name: &str| said(name).parse::<u64>().map_err(io::Error::other);
    let interval = Duration::from_micros(number("WATCHDOG_USEC")?);
    if number("WATCHDOG_PID")? != u64::from(std::process::id()) {
        return Err(io::Error::other("WATCHDOG_PID is somebody else's"));
    }
    let socket = UnixDatagram::unbound()?;
    let address = said("NOTIFY_SOCKET");
    let send = |text: &str| socket.send_to(text.as_bytes(), &address).map(drop);
    send("STATUS=trying")?;
    send("READY=1")?;
    let mut fed = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string("say") {
            fs::remove_file("say")?;
            send(&text)?;
        }
        if fed.elapsed() > interval / 4 && !Path::new("mute").exists() {
            // While no supervisor is there, nobody listens.
            let _ = send("WATCHDOG=1");
            fed = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
