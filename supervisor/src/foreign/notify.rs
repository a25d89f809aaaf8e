//! The socket on which a program says how it is, as sd_notify(3) does.
//!
//! Each process has one of its own, which only its user can write to. Who sent a message is told by
//! the kernel and checked all the same: it must be the process, or one that belongs to its session
//! or its cgroup. A sender that has ended before its message was read cannot be checked that way;
//! it is believed where its user id belongs to this service alone.
//!
//! All that is sent along is closed once the message was taken in: that is the answer to
//! `BARRIER=1`, and descriptors to be kept are refused.

#![expect(unsafe_code, reason = "nix gives received descriptors as bare numbers")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use insula_contract::id::Attempt;
use insula_core::event::Notice;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::unistd::{Pid, getsid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::notice::{self, Said};
use crate::paths::Paths;

/// The longest message; a longer one is not read.
const MESSAGE_MAX: usize = 4096;
/// `SCM_MAX_FD`: the most descriptors that can be sent with one message.
const DESCRIPTORS_MAX: usize = 253;

/// Where a program's words arrive.
#[derive(Debug)]
pub struct NotifySocket {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    attempt: Attempt,
    user: u32,
    /// Whether that user is this service's alone.
    own_user: bool,
}

/// A message, with what the kernel says of it.
#[derive(Debug)]
struct Message {
    /// The sender's process and user, in the supervisor's terms.
    sender: Option<(i32, u32)>,
    text: Vec<u8>,
    /// Whether there was more than fits.
    truncated: bool,
    descriptors: Vec<OwnedFd>,
}

impl NotifySocket {
    /// Makes the socket of an attempt, for the user that it runs under; that of an earlier daemon
    /// is replaced.
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
            attempt,
            user: uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            own_user: uid.is_some(),
        })
    }

    /// For `$NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells what the process `leader`, or what it started, says; ends only with the socket.
    pub(crate) async fn relay(self, leader: i32, mut tell: impl FnMut(Said)) {
        let attempt = self.attempt;
        let mut status = None;
        loop {
            let message = match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(message) => message,
                Err(error) => {
                    tracing::warn!(%attempt, %error, "notifications cannot be read");
                    return;
                }
            };
            if !self.is_its(leader, message.sender) {
                let sender = message.sender;
                tracing::warn!(%attempt, ?sender, "a stranger's notification is ignored");
            } else if message.truncated {
                tracing::warn!(%attempt, "a notification of more than {MESSAGE_MAX} bytes is ignored");
            } else {
                for said in notice::read(&message.text) {
                    match said {
                        Said::Refused(what) => tracing::warn!(%attempt, "refused: {what}"),
                        Said::Notice(Notice::Status(text)) if status.as_ref() == Some(&text) => {}
                        said => {
                            if let Said::Notice(Notice::Status(text)) = &said {
                                status = Some(text.clone());
                            }
                            tell(said);
                        }
                    }
                }
            }
            drop(message.descriptors);
            // Others have their turn, however much it says.
            tokio::task::yield_now().await;
        }
    }

    /// Whether a sender is the process, or belongs to it.
    fn is_its(&self, leader: i32, sender: Option<(i32, u32)>) -> bool {
        let Some((pid, user)) = sender else {
            return false;
        };
        if user != self.user {
            return false;
        }
        if pid == leader {
            return true;
        }
        match getsid(Some(Pid::from_raw(pid))) {
            Ok(session) if session.as_raw() == leader => true,
            Ok(_) => is_in_group(pid, self.attempt),
            Err(Errno::ESRCH) => self.own_user,
            Err(_) => false,
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // It may be gone already, with the directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a process is in the cgroup of an attempt, which it cannot choose.
fn is_in_group(pid: i32, attempt: Attempt) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let name = format!("{:x}", attempt.0);
    groups
        .lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|path| path.contains("insula") && path.rsplit('/').next() == Some(&name))
}

fn receive(socket: &OwnedFd) -> io::Result<Message> {
    let mut buffer = [0; MESSAGE_MAX];
    // Room for all that can come: what is left out would stay open in this process.
    let mut space = nix::cmsg_space!(nix::libc::ucred, [RawFd; DESCRIPTORS_MAX]);
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let (mut sender, mut descriptors) = (None, Vec::new());
    for control in received.cmsgs()? {
        match control {
            ControlMessageOwned::ScmCredentials(credentials) => {
                sender = Some((credentials.pid(), credentials.uid()));
            }
            ControlMessageOwned::ScmRights(numbers) => {
                descriptors.extend(numbers.into_iter().map(|number| {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else
                    // owns it.
                    unsafe { OwnedFd::from_raw_fd(number) }
                }));
            }
            _ => {}
        }
    }
    let truncated = received.flags.contains(MsgFlags::MSG_TRUNC);
    let length = received.bytes;
    Ok(Message {
        sender,
        text: buffer[..length].to_vec(),
        truncated,
        descriptors,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn host() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(Some(root.path().to_owned()));
        paths.create().unwrap();
        (root, paths)
    }

    fn relay(socket: NotifySocket, leader: i32) -> mpsc::UnboundedReceiver<Said> {
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(socket.relay(leader, move |said| {
            let _ = tell.send(said);
        }));
        told
    }

    async fn next(told: &mut mpsc::UnboundedReceiver<Said>) -> Said {
        timeout(WATCHDOG, told.recv()).await.unwrap().unwrap()
    }

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn send(path: &Path, text: &[u8], descriptors: &[RawFd]) -> nix::Result<usize> {
        let socket = UnixDatagram::unbound().unwrap();
        let address = UnixAddr::new(path).unwrap();
        let rights = [ControlMessage::ScmRights(descriptors)];
        sendmsg(
            socket.as_raw_fd(),
            &[io::IoSlice::new(text)],
            if descriptors.is_empty() { &[] } else { &rights },
            MsgFlags::empty(),
            Some(&address),
        )
    }

    #[tokio::test]
    async fn a_barrier_is_answered_after_what_was_said_before_it() {
        let (_root, paths) = host();
        let socket = NotifySocket::bind(&paths, Attempt(7), None).unwrap();
        let path = socket.path().to_owned();
        let mut told = relay(socket, own());
        let (end, mut answer) = UnixStream::pair().unwrap();
        send(&path, b"STATUS=a", &[]).unwrap();
        send(&path, b"BARRIER=1", &[end.as_raw_fd()]).unwrap();
        drop(end);
        assert_eq!(
            next(&mut told).await,
            Said::Notice(Notice::Status("a".to_owned()))
        );
        assert_eq!(next(&mut told).await, Said::Barrier);
        // The end of it is seen once the other side has closed what it got.
        let closed = tokio::task::spawn_blocking(move || {
            answer.set_read_timeout(Some(WATCHDOG)).unwrap();
            answer.read(&mut [0; 1]).unwrap()
        });
        assert_eq!(closed.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn descriptors_of_any_message_are_closed() {
        let (_root, paths) = host();
        let socket = NotifySocket::bind(&paths, Attempt(7), None).unwrap();
        let path = socket.path().to_owned();
        let mut told = relay(socket, own());
        let (end, mut answer) = UnixStream::pair().unwrap();
        let many = [end.as_raw_fd(); DESCRIPTORS_MAX];
        for text in [&b"FDSTORE=1"[..], &[b'x'; 5_000], b"nothing"] {
            send(&path, text, &many).unwrap();
        }
        send(&path, b"STOPPING=1", &[]).unwrap();
        assert_eq!(next(&mut told).await, Said::Notice(Notice::Stopping));
        drop(end);
        let closed = tokio::task::spawn_blocking(move || {
            answer.set_read_timeout(Some(WATCHDOG)).unwrap();
            answer.read(&mut [0; 1]).unwrap()
        });
        assert_eq!(closed.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_no_message() {
        let (_root, paths) = host();
        let socket = NotifySocket::bind(&paths, Attempt(7), None).unwrap();
        let path = socket.path().to_owned();
        let mut told = relay(socket, own());
        let mut long = b"READY=1\nSTATUS=".to_vec();
        long.resize(MESSAGE_MAX + 1, b'x');
        send(&path, &long, &[]).unwrap();
        send(&path, b"STOPPING=1", &[]).unwrap();
        assert_eq!(next(&mut told).await, Said::Notice(Notice::Stopping));
    }

    #[tokio::test]
    async fn only_the_program_and_what_it_started_are_believed() {
        let (_root, paths) = host();
        let socket = NotifySocket::bind(&paths, Attempt(7), None).unwrap();
        let user = nix::unistd::geteuid().as_raw();
        let session = getsid(None).unwrap().as_raw();
        assert!(socket.is_its(own(), Some((own(), user))));
        assert!(socket.is_its(session, Some((own(), user))));
        assert!(
            !socket.is_its(own(), Some((own(), user + 1))),
            "another user"
        );
        assert!(!socket.is_its(own(), None), "nobody knows who");
        let mut other = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let leader = i32::try_from(other.id()).unwrap();
        assert!(
            !socket.is_its(leader, Some((own(), user))),
            "another session"
        );
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(
            !socket.is_its(own(), Some((leader, user))),
            "gone, and of a shared user"
        );
        let mut apart = NotifySocket::bind(&paths, Attempt(8), None).unwrap();
        apart.own_user = true;
        assert!(
            apart.is_its(own(), Some((leader, user))),
            "gone, and of its own user"
        );
    }
}
