//! The socket on which a program says that it is ready, as sd_notify(3) does.
//!
//! Each process has one of its own, which only its user can write to; who sent a message is told
//! by the kernel and checked all the same.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use insula_contract::id::Attempt;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::paths::Paths;

/// The longest message that is read; the rest of it is lost.
const MESSAGE_MAX: usize = 4096;

/// Where a program's words arrive.
#[derive(Debug)]
pub struct NotifySocket {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    user: u32,
}

impl NotifySocket {
    /// Makes the socket of an attempt, for the user that it runs under.
    pub fn bind(paths: &Paths, attempt: Attempt, uid: Option<u32>) -> io::Result<Self> {
        let directory = paths.run().join("notify");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)?;
        let path = directory.join(format!("{:x}", attempt.0));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some(uid) = uid {
            std::os::unix::fs::chown(&path, Some(uid), Some(uid))?;
        }
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: crate::watch::readiness(socket.into())?,
            path,
            user: uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
        })
    }

    /// For `$NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when the program has said that it is ready.
    pub(super) async fn ready(&self, attempt: Attempt) {
        loop {
            let message = self.socket.async_io(Interest::READABLE, receive).await;
            match message {
                Ok((sender, text)) if sender == Some(self.user) => {
                    if take(attempt, &text) {
                        return;
                    }
                }
                Ok((sender, _)) => {
                    tracing::warn!(%attempt, ?sender, "a stranger's notification is ignored");
                }
                Err(error) => {
                    tracing::warn!(%attempt, %error, "notifications cannot be read");
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // It may be gone already, with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// The sender's user, by the kernel's word, and what it says.
fn receive(socket: &OwnedFd) -> io::Result<(Option<u32>, String)> {
    let mut buffer = [0; MESSAGE_MAX];
    let mut space = nix::cmsg_space!(nix::libc::ucred);
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let sender = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
        _ => None,
    });
    let length = message.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok((sender, text))
}

/// Takes in a message; whether it says that the program is ready.
fn take(attempt: Attempt, text: &str) -> bool {
    let mut ready = false;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => ready = true,
            Some(("STATUS", status)) => tracing::info!(%attempt, status, "says"),
            _ => {}
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_makes_ready() {
        assert!(take(Attempt(1), "READY=1"));
        assert!(take(Attempt(1), "STATUS=loading\nREADY=1\nMAINPID=3\n"));
        for other in [
            "",
            "READY=0",
            "READY",
            "STOPPING=1",
            "XREADY=1",
            "STATUS=READY=1",
        ] {
            assert!(!take(Attempt(1), other), "{other}");
        }
    }
}
