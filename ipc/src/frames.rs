//! Frames with descriptors over a seqpacket socket, blocking.
//!
//! One frame is one packet, as [`insula_contract::line`] encodes it. Descriptors travel beside it
//! and arrive close-on-exec. A packet or a set of descriptors that was cut is an error: half a
//! message is never acted upon.

#![expect(
    unsafe_code,
    reason = "received descriptor numbers become owned descriptors"
)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use insula_contract::line::{self, FRAME_MAX, FrameError};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

/// Descriptors that one frame may carry.
pub const DESCRIPTORS_MAX: usize = 4;

/// Descriptors that the kernel passes with one packet at most (`SCM_MAX_FD`): with room for all of
/// them none is lost sight of, however many a peer sends.
const PASSED_MAX: usize = 253;

/// Why a frame was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[source] std::io::Error),
    /// The bytes are no frame.
    #[error("not a frame")]
    Frame(#[source] FrameError),
    /// The packet or its descriptors did not fit.
    #[error("a packet was cut")]
    Cut,
    /// More than [`DESCRIPTORS_MAX`] descriptors.
    #[error("{0} descriptors, at most {DESCRIPTORS_MAX} allowed")]
    TooManyDescriptors(usize),
}

fn failed(errno: Errno) -> FramesError {
    FramesError::Socket(errno.into())
}

/// Sends `message` as one frame, with `descriptors` beside it.
pub fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    descriptors: &[&dyn AsRawFd],
) -> Result<(), FramesError> {
    send_with(socket, message, descriptors, MsgFlags::MSG_NOSIGNAL)
}

/// Sends `message` as one frame, or not at all where that would have to wait.
pub fn offer<M: Serialize>(socket: impl AsFd, message: &M) -> Result<(), FramesError> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    send_with(socket, message, &[], flags)
}

fn send_with<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    descriptors: &[&dyn AsRawFd],
    flags: MsgFlags,
) -> Result<(), FramesError> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(FramesError::TooManyDescriptors(descriptors.len()));
    }
    let bytes = line::encode(message).map_err(FramesError::Frame)?;
    let numbers: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match sendmsg::<UnixAddr>(socket, &[IoSlice::new(&bytes)], control, flags, None) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(FramesError::Cut),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Receives one frame with its descriptors; `None` once the other side has closed.
pub fn receive<M: for<'a> Deserialize<'a>>(
    socket: impl AsFd,
) -> Result<Option<(M, Vec<OwnedFd>)>, FramesError> {
    let mut bytes = vec![0; FRAME_MAX];
    let mut control = nix::cmsg_space!([RawFd; PASSED_MAX]);
    let socket = socket.as_fd().as_raw_fd();
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed(errno)),
        };
        let cut = message
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        let length = message.bytes;
        let mut descriptors = Vec::new();
        if let Ok(parts) = message.cmsgs() {
            for part in parts {
                if let ControlMessageOwned::ScmRights(numbers) = part {
                    // SAFETY: the kernel has just installed these descriptors for this message;
                    // nobody else knows their numbers.
                    descriptors.extend(
                        numbers
                            .into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
            }
        }
        // Only now: the descriptors above are closed on the way out.
        if cut || descriptors.len() > DESCRIPTORS_MAX {
            return Err(FramesError::Cut);
        }
        if length == 0 {
            return Ok(None);
        }
        let message = line::decode(&bytes[..length]).map_err(FramesError::Frame)?;
        return Ok(Some((message, descriptors)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_contract::line::{FromService, ToService};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::{Read, Write};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap()
    }

    #[test]
    fn a_frame_arrives_with_its_descriptors_and_the_end_is_told() {
        let (ours, theirs) = pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&ours, &ToService::Ping { ping: 7 }, &[&writer]).unwrap();
        drop((ours, writer));
        let (message, mut descriptors) = receive::<ToService>(&theirs).unwrap().unwrap();
        assert_eq!(message, ToService::Ping { ping: 7 });
        let arrived = descriptors.pop().unwrap();
        assert!(descriptors.is_empty());
        let flags = nix::fcntl::fcntl(&arrived, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        std::fs::File::from(arrived).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(receive::<ToService>(&theirs).unwrap().is_none());
    }

    #[test]
    fn a_cut_packet_and_cut_descriptors_are_refused() {
        let (ours, theirs) = pair();
        let long = vec![0_u8; FRAME_MAX + 1];
        nix::sys::socket::send(ours.as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        assert!(matches!(
            receive::<FromService>(&theirs),
            Err(FramesError::Cut)
        ));

        let many = [ours.as_raw_fd(); DESCRIPTORS_MAX + 3];
        let rights = [ControlMessage::ScmRights(&many)];
        let bytes = line::encode(&FromService::Ready).unwrap();
        let part = [IoSlice::new(&bytes)];
        let raw = ours.as_raw_fd();
        sendmsg::<UnixAddr>(raw, &part, &rights, MsgFlags::empty(), None).unwrap();
        assert!(matches!(
            receive::<FromService>(&theirs),
            Err(FramesError::Cut)
        ));

        let none: [&dyn AsRawFd; DESCRIPTORS_MAX + 1] = [&ours, &ours, &ours, &ours, &ours];
        assert!(matches!(
            send(&ours, &FromService::Ready, &none),
            Err(FramesError::TooManyDescriptors(5))
        ));
    }

    /// Every descriptor that is sent is of one pipe: it tells its end once none is left.
    #[test]
    fn packets_of_anything_with_any_descriptors_leave_none_behind() {
        let (ours, theirs) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        let valid = line::encode(&ToService::Ping { ping: 7 }).unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound) as usize
        };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = valid.clone();
            match below(4) {
                0 => {}
                1 => bytes = (0..below(300)).map(|_| below(256) as u8).collect(),
                2 => bytes.truncate(below(valid.len() as u64)),
                _ => bytes[below(valid.len() as u64)] = below(256) as u8,
            }
            let numbers = vec![writer.as_raw_fd(); below(DESCRIPTORS_MAX as u64 * 3)];
            let rights = [ControlMessage::ScmRights(&numbers)];
            let control = &rights[..usize::from(!numbers.is_empty())];
            let part = [IoSlice::new(&bytes)];
            let flags = MsgFlags::empty();
            sendmsg::<UnixAddr>(ours.as_raw_fd(), &part, control, flags, None).unwrap();
            match receive::<ToService>(&theirs) {
                Ok(Some((_, descriptors))) => {
                    assert_eq!(descriptors.len(), numbers.len());
                    taken += 1;
                }
                Ok(None) => assert!(bytes.is_empty()),
                Err(FramesError::Cut | FramesError::Frame(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} and {refused}");
        drop(writer);
        let mut ended = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        // A child that another test is starting may hold a copy until it executes.
        let told = poll(&mut ended, PollTimeout::from(60_000_u16)).unwrap();
        assert_eq!(told, 1, "a descriptor was kept");
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        let (ours, theirs) = pair();
        nix::sys::socket::send(ours.as_raw_fd(), &[9, 9], MsgFlags::empty()).unwrap();
        assert!(matches!(
            receive::<FromService>(&theirs),
            Err(FramesError::Frame(_))
        ));
    }
}
