//! The daemon's end of a service's line, and of the local clients' socket.
//!
//! Both are `SOCK_SEQPACKET`: one packet, one frame, with descriptors where the message says so.
//! Paths of sockets are short by the kernel's word (107 bytes), directories are not: sockets are
//! named through a descriptor of their directory.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use insula_contract::id::Attempt;
use insula_contract::line::{FRAME_MAX, FrameError, decode, encode};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, bind, connect, listen, recvmsg, sendmsg, socket,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

use crate::paths::Paths;

/// Why a frame did not pass.
#[derive(Debug, Error)]
pub enum LineError {
    /// The other end closed the line, or is gone.
    #[error("the line is closed")]
    Closed,
    /// The socket failed.
    #[error("the line failed")]
    Socket(#[from] io::Error),
    /// What came is not a frame.
    #[error("the other end does not keep to the protocol")]
    Frame(#[from] FrameError),
    /// It sends more schemas than an end has.
    #[error("the other end sent too many schemas")]
    Schemas,
    /// It came with descriptors that nobody asked for.
    #[error("the other end sent descriptors")]
    Descriptors,
}

impl From<nix::Error> for LineError {
    fn from(error: nix::Error) -> Self {
        match error {
            nix::Error::EPIPE | nix::Error::ECONNRESET => Self::Closed,
            error => Self::Socket(error.into()),
        }
    }
}

fn line_name(attempt: Attempt) -> String {
    format!("{:x}", attempt.0)
}

fn lines(paths: &Paths) -> PathBuf {
    paths.run().join("lines")
}

/// The address of a socket in a directory, and the descriptor that must live as long.
fn address(directory: &Path, name: &str) -> io::Result<(UnixAddr, File)> {
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    Ok((UnixAddr::new(path.as_str())?, directory))
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | flags,
        None,
    )?)
}

fn listen_in(directory: &Path, name: &str, flags: SockFlag) -> io::Result<OwnedFd> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _keep) = address(directory, name)?;
    let listener = seqpacket(flags)?;
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::new(64)?)?;
    Ok(listener)
}

/// Makes an attempt's listening socket, which it inherits.
pub fn listen_for(paths: &Paths, attempt: Attempt) -> io::Result<OwnedFd> {
    let directory = lines(paths);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    listen_in(&directory, &line_name(attempt), SockFlag::empty())
}

/// Connects to an attempt, which need not have accepted yet.
pub fn connect_to(paths: &Paths, attempt: Attempt) -> io::Result<Line> {
    let (address, _keep) = address(&lines(paths), &line_name(attempt))?;
    let socket = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    connect(socket.as_raw_fd(), &address)?;
    Line::new(socket)
}

/// Removes an attempt's socket.
pub fn remove(paths: &Paths, attempt: Attempt) -> io::Result<()> {
    match fs::remove_file(lines(paths).join(line_name(attempt))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The socket on which local clients ask for contracts: everybody may connect, and is told apart
/// by the kernel.
pub fn listen_for_clients(paths: &Paths) -> io::Result<AsyncFd<OwnedFd>> {
    let run = paths.run();
    let name = insula_contract::local::SOCKET;
    let listener = listen_in(run, name, SockFlag::SOCK_NONBLOCK)?;
    fs::set_permissions(run.join(name), fs::Permissions::from_mode(0o666))?;
    crate::watch::readiness(listener)
}

/// Takes the next client.
#[expect(
    unsafe_code,
    reason = "nix gives the accepted descriptor as a bare number"
)]
pub async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<Line> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    loop {
        let mut ready = listener.readable().await?;
        let accepted =
            ready.try_io(|listener| Ok(nix::sys::socket::accept4(listener.as_raw_fd(), flags)?));
        if let Ok(accepted) = accepted {
            // SAFETY: accept4 just made this descriptor, and nobody else owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(accepted?) };
            return Line::new(socket);
        }
    }
}

/// One end of a connected line.
#[derive(Debug)]
pub struct Line {
    socket: AsyncFd<OwnedFd>,
}

impl Line {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: crate::watch::readiness(socket)?,
        })
    }

    /// The connected socket, to ask the kernel who is at its other end.
    pub fn socket(&self) -> &OwnedFd {
        self.socket.get_ref()
    }

    /// Sends one frame with descriptors.
    pub async fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[OwnedFd],
    ) -> Result<(), LineError> {
        let frame = encode(message)?;
        let fds: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                let rights = [ControlMessage::ScmRights(&fds)];
                let control: &[_] = if fds.is_empty() { &[] } else { &rights };
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let frame = [IoSlice::new(&frame)];
                Ok(sendmsg::<()>(
                    socket.as_raw_fd(),
                    &frame,
                    control,
                    flags,
                    None,
                )?)
            });
            match sent {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => return Err(from_io(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Receives one frame; none of the messages to the daemon has descriptors.
    pub async fn receive<M: for<'a> Deserialize<'a>>(&self) -> Result<M, LineError> {
        let mut frame = vec![0; FRAME_MAX + 1];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                // As many as the kernel passes at most (`SCM_MAX_FD`): what had no room would stay
                // open here, unseen.
                let mut control = nix::cmsg_space!([i32; 253]);
                let mut into = [IoSliceMut::new(&mut frame)];
                let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
                let message =
                    recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut control), flags)?;
                let mut strangers = false;
                if let Ok(control) = message.cmsgs() {
                    for message in control {
                        if let ControlMessageOwned::ScmRights(fds) = message {
                            strangers = true;
                            for fd in fds {
                                // Not ours to keep; there is nothing to do if it fails.
                                let _ = nix::unistd::close(fd);
                            }
                        }
                    }
                }
                Ok((message.bytes, strangers))
            });
            match received {
                Ok(Ok((0, _))) => return Err(LineError::Closed),
                Ok(Ok((_, true))) => return Err(LineError::Descriptors),
                Ok(Ok((bytes, false))) => return Ok(decode(&frame[..bytes])?),
                Ok(Err(error)) => return Err(from_io(error)),
                Err(_would_block) => {}
            }
        }
    }
}

fn from_io(error: io::Error) -> LineError {
    match error.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET) => LineError::Closed,
        _ => LineError::Socket(error),
    }
}
