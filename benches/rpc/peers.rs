//! The peers: a Unix stream socket and a bare futex.

#![expect(
    unsafe_code,
    reason = "futexes have no wrapper, shared memory is mapped"
)]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use insula_ipc::testing::{inheritable, inherited};
use memmap2::MmapRaw;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cases::Case;
use crate::{Server, ready};

/// Round trips over a stream socket: 64 bytes there, 64 back.
pub(crate) fn unix(core: usize, count: usize) -> Vec<u64> {
    let (mut own, other) = UnixStream::pair().expect("a pair of sockets");
    let number = inheritable(&other);
    let _server = Server::start(Case::Unix, core, &[number.to_string()]);
    drop(other);
    let request = [7_u8; 64];
    let mut answer = [0_u8; 64];
    (0..count)
        .map(|_| {
            let begin = Instant::now();
            own.write_all(&request).expect("sending");
            own.read_exact(&mut answer).expect("receiving");
            begin.elapsed().as_nanos() as u64
        })
        .collect()
}

/// The socket's server.
pub(crate) fn serve_unix(words: &[&str]) {
    let number = words[0].parse().expect("a descriptor's number");
    let mut socket = UnixStream::from(inherited(number));
    ready();
    let mut bytes = [0_u8; 64];
    while socket.read_exact(&mut bytes).is_ok() && socket.write_all(&bytes).is_ok() {}
}

/// Two words on lines of their own, in shared memory.
struct Words {
    map: MmapRaw,
}

impl Words {
    fn new(fd: &OwnedFd) -> Self {
        let map = MmapRaw::map_raw(fd.as_raw_fd()).expect("a mapping");
        assert!(map.len() >= 128, "two lines");
        Self { map }
    }

    fn word(&self, line: usize) -> &AtomicU32 {
        assert!(line < 2, "two lines");
        // SAFETY: inside of a writable mapping that lives as long as self, aligned, an atomic.
        unsafe { &*self.map.as_ptr().add(line * 64).cast::<AtomicU32>() }
    }
}

/// Waits until the word differs from what it was; its new value.
fn wait(word: &AtomicU32, was: u32) -> u32 {
    loop {
        let now = word.load(Ordering::Acquire);
        if now != was {
            return now;
        }
        // SAFETY: the word outlives the call; no timeout is given.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                was,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    // SAFETY: the word outlives the call.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// Round trips of one word through futexes, with a wait and a wake on each side.
pub(crate) fn futex(core: usize, count: usize) -> Vec<u64> {
    let fd = memfd_create("words", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    nix::unistd::ftruncate(&fd, 4096).expect("the memfd's size");
    let words = Words::new(&fd);
    let _server = Server::start(Case::Futex, core, &[inheritable(&fd).to_string()]);
    (1..=count as u32)
        .map(|number| {
            let begin = Instant::now();
            set(words.word(0), number);
            wait(words.word(1), number - 1);
            begin.elapsed().as_nanos() as u64
        })
        .collect()
}

/// The futex's server.
pub(crate) fn serve_futex(words: &[&str]) {
    let number = words[0].parse().expect("a descriptor's number");
    let words = Words::new(&inherited(number));
    ready();
    let mut number = 0;
    loop {
        number = wait(words.word(0), number);
        set(words.word(1), number);
    }
}
