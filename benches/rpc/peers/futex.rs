//! A bare futex: one word there, one back, no payload; what waking costs on this host.

#![expect(
    unsafe_code,
    reason = "futexes have no wrapper, shared memory is mapped"
)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use insula_benches::process::{Role, Server, ready};
use insula_ipc::testing::{inheritable, inherited};
use memmap2::MmapRaw;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Client;
use crate::cases::Case;
use crate::meter::Meter;

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

pub(crate) struct Futex {
    words: Words,
    server: Server,
}

impl Futex {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let fd = memfd_create("words", MFdFlags::MFD_CLOEXEC).expect("a memfd");
        nix::unistd::ftruncate(&fd, 4096).expect("the memfd's size");
        let server = Server::start(&case.role(), core, &[inheritable(&fd).to_string()]);
        Self {
            words: Words::new(&fd),
            server,
        }
    }
}

impl Client for Futex {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, _: &[u8], meter: &mut Meter) {
        let mut number = self.words.word(1).load(Ordering::Acquire);
        while let Some(began) = meter.begin() {
            set(self.words.word(0), number.wrapping_add(1));
            number = wait(self.words.word(1), number);
            meter.end(began);
        }
    }
}

pub(crate) fn serve(role: &Role) {
    let words = Words::new(&inherited(role.number(0)));
    ready();
    let mut number = 0;
    loop {
        number = wait(words.word(0), number);
        set(words.word(1), number);
    }
}
