//! Making a process: `clone3`, in the daemon's own memory where that is known how.
//!
//! A child that gets a copy of the daemon's memory costs a copy of its page tables, and a fault for
//! each page that either of them writes afterwards: for a daemon of 6 MiB five times what
//! `posix_spawn` costs, and more as it grows. So the child borrows the memory (CLONE_VM) while the
//! thread that made it waits for its exec or end (CLONE_VFORK), on a stack of its own, as in
//! `posix_spawn`. A child on another stack cannot return from a function that the C library's
//! `syscall` is, hence the few instructions here. Where they are not written, it gets a copy.
//!
//! One thing of the memory changes for good: once the child changes its user, the kernel lets
//! nobody but root trace or inspect who uses that memory (`PR_GET_DUMPABLE` tells 0): the child
//! before its exec, hence the daemon through it, and from then on the daemon itself. Where a host
//! says otherwise (`fs.suid_dumpable` of 1), the memory is not lent.

#![expect(unsafe_code, reason = "clone3")]

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::Launched;
use super::child::{self, Prepared};

/// Of `linux/sched.h`; the constant of `libc` is 0, since the flag does not fit into an int.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The same.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

fn arguments(pidfd: &mut RawFd, cgroup: Option<RawFd>) -> libc::clone_args {
    // SAFETY: a `clone_args` of zeros asks for nothing.
    let mut arguments: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    // The child shares the table of descriptors until its first step (see `seats`), and this thread
    // waits for its exec or end.
    arguments.flags = (libc::CLONE_PIDFD | libc::CLONE_FILES | libc::CLONE_VFORK) as u64;
    arguments.flags |= CLONE_CLEAR_SIGHAND;
    arguments.pidfd = &raw mut *pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup as u64;
    }
    arguments
}

/// Calls `clone3` by `call`, which gives the child's number or a negative error, with every signal
/// blocked: a handler of the daemon that ran in the child would act in the daemon's name.
fn with_signals_blocked(
    cgroup: Option<RawFd>,
    call: impl FnOnce(&mut libc::clone_args) -> i64,
) -> io::Result<Launched> {
    let mut pidfd: RawFd = -1;
    let mut arguments = arguments(&mut pidfd, cgroup);
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let pid = call(&mut arguments);
    before.thread_set_mask()?;
    let pid = i32::try_from(pid).expect("a process id or an error is an int");
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid));
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Launched { pid, pidfd })
}

/// Clones with a copy of the memory; the child does `then`.
fn copied(cgroup: Option<RawFd>, then: impl FnOnce() -> Infallible) -> io::Result<Launched> {
    with_signals_blocked(cgroup, |arguments| {
        // SAFETY: the structure is as long as said and its pointer is writable. The child has
        // memory of its own, so it may go on in a copy of this frame; `then` never returns.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut *arguments,
                size_of::<libc::clone_args>(),
            )
        };
        if pid == 0 {
            then();
        }
        if pid < 0 {
            return -i64::from(
                io::Error::last_os_error()
                    .raw_os_error()
                    .unwrap_or(libc::EIO),
            );
        }
        pid
    })
}

/// Makes the process; only the parent returns.
pub(super) fn clone(prepared: &Prepared) -> io::Result<Launched> {
    #[cfg(target_arch = "x86_64")]
    if is_lent_memory_guarded() {
        return lent(prepared);
    }
    copied(prepared.cgroup(), || child::run(prepared))
}

/// Whether a process that changed its user cannot be traced by that user.
#[cfg(target_arch = "x86_64")]
fn is_lent_memory_guarded() -> bool {
    static GUARDED: LazyLock<bool> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/fs/suid_dumpable").is_ok_and(|text| text.trim() != "1")
    });
    *GUARDED
}

/// Clones with the daemon's memory; returns once the child ran its program or ended.
#[cfg(target_arch = "x86_64")]
fn lent(prepared: &Prepared) -> io::Result<Launched> {
    /// Bytes of the child's stack; its frames are a few hundred, some thousand unoptimised.
    const STACK: usize = 64 * 1024;

    #[repr(C, align(16))]
    struct Aligned([u8; 16]);

    extern "C" fn enter(prepared: *const Prepared) -> ! {
        // SAFETY: the parent waits, and keeps it alive meanwhile.
        child::run(unsafe { &*prepared })
    }

    // Reserved and not touched: only the pages that the child uses are ever there.
    let mut stack = Vec::<Aligned>::with_capacity(STACK / size_of::<Aligned>());
    with_signals_blocked(prepared.cgroup(), |arguments| {
        arguments.flags |= libc::CLONE_VM as u64;
        arguments.stack = stack.as_mut_ptr() as u64;
        arguments.stack_size = STACK as u64;
        let pid: i64;
        // SAFETY: the structure is as long as said. The parent finds its registers as the kernel
        // leaves them: the result in rax, rcx and r11 lost. The child has copies of them and an
        // empty stack of its own, aligned to 16 bytes as a call wants it; it calls `enter` there,
        // which does not return. Of the memory they share it writes to that stack and to `errno`
        // of this thread only, which does not run meanwhile.
        unsafe {
            std::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, {prepared}",
                "call {enter}",
                "ud2",
                "2:",
                prepared = in(reg) std::ptr::from_ref(prepared),
                enter = sym enter,
                inlateout("rax") libc::SYS_clone3 => pid,
                in("rdi") &raw mut *arguments,
                in("rsi") size_of::<libc::clone_args>(),
                out("rcx") _,
                out("r11") _,
            );
        }
        pid
    })
}

/// Makes a process that ends at once, to see what the kernel says of it.
pub(super) fn trial() -> io::Result<Launched> {
    copied(None, || {
        loop {
            // SAFETY: ends this process, which has one thread.
            unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        }
    })
}
