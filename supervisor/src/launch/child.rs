//! What the new process does between clone and exec.
//!
//! The child has the one thread that called clone, and runs in the daemon's own memory while that
//! thread waits (see `clone`); the daemon's other threads go on. Whatever lock one of them holds it
//! may hold for long, and what the child changes stays changed. So [`run`] and what it calls
//! allocate nothing, take no lock, panic nowhere, write to their own frames only, and call no
//! function of the C library but `syscall`, which is a bare system call that sets the waiting
//! thread's `errno`. Everything that the calls point to was made before and lives in [`Prepared`].
//! The library's `setuid` and its kin are avoided for one more reason: they make every thread of
//! the daemon follow.

#![expect(unsafe_code, reason = "clone3, and bare system calls in the child")]

use std::ffi::{CString, c_char, c_long};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

use super::calls::Filter;

/// Descriptors from here on are never the goal of a `dup3` in the child.
pub(super) const FIRST_FREE: RawFd = 10;
/// Words of 64 CPUs in a set: as many as the kernel can be built for.
pub(super) const CPU_WORDS: usize = 8192 / 64;
/// A set of CPUs, a bit each.
pub(super) type CpuMask = [u64; CPU_WORDS];
/// Words of 64 NUMA nodes in a set: as many as the kernel can be built for.
pub(super) const NODE_WORDS: usize = 1024 / 64;
/// A mode of set_mempolicy(2) and its nodes, a bit each.
pub(super) type MemoryPolicy = (libc::c_int, [u64; NODE_WORDS]);

const UMASK: c_long = 0o027;
const SIGNALS: c_long = 64;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Bytes of a set of signals, for the kernel.
const SIGSET_SIZE: usize = 8;

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident => $text:literal,)*) => {
        /// What a new process does before it runs its program, in this order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            const ALL: &[Self] = &[$(Self::$step),*];
        }

        impl std::fmt::Display for Step {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$step => $text,)*
                })
            }
        }
    };
}

steps! {
    /// What it does with its descriptors is not done to the daemon's.
    Table => "take descriptors of its own",
    /// Signals the daemon ignores are not ignored.
    Signals => "reset the signals",
    /// A session of its own, so that the whole group can be signalled.
    Session => "begin a session",
    /// Input, output, line or sockets.
    Descriptors => "set up the descriptors",
    /// Nothing else stays open.
    Closing => "close what it is not to inherit",
    /// Which CPUs.
    Cpus => "set the CPUs",
    /// From which NUMA nodes memory comes.
    Memory => "set the memory policy",
    /// Only where nobody else wants the processor.
    Policy => "enter the idle class",
    /// How nice.
    Nice => "set the nice value",
    /// Hard and soft limits.
    Limits => "set the limits",
    /// No program it ever runs can have a capability.
    Bounding => "drop the capability bounding set",
    /// No group but its own.
    Groups => "drop the groups",
    /// Group id.
    Gid => "set the group id",
    /// User id.
    Uid => "set the user id",
    /// No capability is left.
    Capabilities => "drop the capabilities",
    /// Where it starts, as the user that it is.
    Directory => "enter its directory",
    /// No program it ever runs can give it more.
    Privileges => "give up new privileges",
    /// It ends with the daemon.
    Tie => "tie it to the daemon",
    /// The Landlock wall.
    Landlock => "enforce its Landlock rules",
    /// No signal is blocked.
    Mask => "unblock the signals",
    /// The system call wall.
    Filter => "filter its system calls",
    /// The program.
    Exec => "run the program",
}

/// What a process is made of, in the forms that the kernel takes.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) executable: CString,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) directory: CString,
    pub(super) input: RawFd,
    pub(super) output: RawFd,
    pub(super) errors: RawFd,
    pub(super) line: Option<RawFd>,
    /// Listening sockets, for the numbers from 3 where there is no line.
    pub(super) sockets: Vec<RawFd>,
    /// Names of variables whose value is the process's own number.
    pub(super) numbered: Vec<&'static str>,
    /// Whether it is killed when the daemon ends.
    pub(super) tied: bool,
    /// The signals that the daemon ignores, a bit each from the first on.
    pub(super) ignored: u64,
    pub(super) uid: Option<u32>,
    pub(super) cpus: Option<CpuMask>,
    pub(super) memory: Option<MemoryPolicy>,
    pub(super) idle: bool,
    pub(super) nice: Option<i32>,
    /// Resource and limit; the soft and the hard one are the same.
    pub(super) limits: Vec<(libc::c_int, u64)>,
    pub(super) ruleset: Option<RawFd>,
    pub(super) filter: Option<Filter>,
    pub(super) cgroup: Option<RawFd>,
    pub(super) reporter: RawFd,
    /// The first number from which on it needs no descriptor.
    pub(super) beyond: RawFd,
}

/// Everything that the child needs, ready to be pointed to.
#[derive(Debug)]
pub(super) struct Prepared {
    parts: Parts,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Variables with room for the process's number, which only the child knows.
    numbered: Vec<Numbered>,
}

/// A variable whose value is the process's own number.
#[derive(Debug)]
struct Numbered {
    /// `NAME=`, room for ten digits, and the end.
    text: Box<[AtomicU8]>,
    /// Where the number begins.
    at: usize,
}

impl Numbered {
    fn new(name: &str) -> Self {
        let text = name.bytes().chain(*b"=").chain([0; DIGITS + 1]);
        Self {
            text: text.map(AtomicU8::new).collect(),
            at: name.len() + 1,
        }
    }
}

/// Of a process id at most.
const DIGITS: usize = 10;

/// Writes a process id behind the name of a variable; touches nothing else.
fn write_pid(variable: &Numbered, pid: c_long) {
    let place = &variable.text;
    let mut digits = [0_u8; DIGITS];
    let mut rest = pid;
    let mut count = 0;
    while rest > 0 && count < digits.len() {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    let mut at = variable.at;
    while count > 0 && at < place.len() - 1 {
        count -= 1;
        place[at].store(digits[count], Ordering::Relaxed);
        at += 1;
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

impl Prepared {
    /// Lays out the arrays of pointers; the texts are not touched afterwards.
    pub(super) fn new(parts: Parts) -> Self {
        let (argv, mut envp) = (pointers(&parts.arguments), pointers(&parts.environment));
        let numbered: Vec<_> = parts
            .numbered
            .iter()
            .map(|name| Numbered::new(name))
            .collect();
        for variable in &numbered {
            envp.insert(0, variable.text.as_ptr().cast());
        }
        Self {
            parts,
            argv,
            envp,
            numbered,
        }
    }

    /// The cgroup v2 directory to be born in.
    pub(super) fn cgroup(&self) -> Option<RawFd> {
        self.parts.cgroup
    }
}

/// Ends the child after telling the parent what it could not do.
fn fail(reporter: RawFd, step: Step) -> ! {
    // SAFETY: `errno` is this thread's; the address is always valid.
    let errno = unsafe { *libc::__errno_location() };
    let report = [step as u32, errno as u32];
    // SAFETY: the buffer is as long as said; a pipe takes 8 bytes at once or not at all. If the
    // parent is gone there is nobody to tell.
    unsafe {
        libc::syscall(
            libc::SYS_write,
            reporter,
            report.as_ptr(),
            size_of_val(&report),
        );
    }
    loop {
        // SAFETY: ends this process, which has one thread.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// The child: every step, then the program.
pub(super) fn run(prepared: &Prepared) -> ! {
    let parts = &prepared.parts;
    let reporter = parts.reporter;
    // Every step is a bare system call, hence safe here; a negative result is its
    // failure. What a call reads lies in `prepared` or in this frame and outlives the call.
    macro_rules! step {
        ($step:ident: $($argument:expr),+) => {
            // SAFETY: see above; the arguments are integers, or pointers to live values of the
            // type and size that this call reads.
            if unsafe { libc::syscall($($argument),+) } < 0 {
                fail(reporter, Step::$step)
            }
        };
    }

    // Until here the table is the daemon's, too: nothing may be done to it before. Only as much of
    // it is copied as is needed.
    step!(Table: libc::SYS_close_range, parts.beyond, u32::MAX, libc::CLOSE_RANGE_UNSHARE);
    // What the daemon handles is at its default by the way of cloning. A `sigaction` of zeros is
    // the default action; 40 bytes hold the kernel's form everywhere.
    let default = [0_u64; 5];
    let mut signal = 1;
    while signal <= SIGNALS {
        if parts.ignored >> (signal - 1) & 1 != 0 {
            step!(Signals: libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, SIGSET_SIZE);
        }
        signal += 1;
    }
    step!(Session: libc::SYS_setsid);

    // The sources are all above the goals, so no goal destroys a source; copies stay open at exec.
    step!(Descriptors: libc::SYS_dup3, parts.input, 0, 0);
    step!(Descriptors: libc::SYS_dup3, parts.output, 1, 0);
    step!(Descriptors: libc::SYS_dup3, parts.errors, 2, 0);
    let mut beyond = 3;
    if let Some(line) = parts.line {
        step!(Descriptors: libc::SYS_dup3, line, insula_contract::line::LINE_FD, 0);
        beyond = insula_contract::line::LINE_FD + 1;
    }
    let mut socket = 0;
    while socket < parts.sockets.len() {
        let source = parts.sockets[socket];
        step!(Descriptors: libc::SYS_dup3, source, beyond, 0);
        beyond += 1;
        socket += 1;
    }
    let mut variable = 0;
    while variable < prepared.numbered.len() {
        // SAFETY: no arguments; it cannot fail.
        let pid = unsafe { libc::syscall(libc::SYS_getpid) };
        write_pid(&prepared.numbered[variable], pid);
        variable += 1;
    }
    // Marked, not closed: the ruleset and the error pipe are still needed.
    step!(Closing: libc::SYS_close_range, beyond, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);

    // What needs privilege comes before it is given up.
    if let Some(cpus) = &parts.cpus {
        step!(Cpus: libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr());
    }
    if let Some((mode, nodes)) = &parts.memory {
        // The kernel takes one bit less than it is told.
        let bits = NODE_WORDS * 64 + 1;
        step!(Memory: libc::SYS_set_mempolicy, *mode, nodes.as_ptr(), bits);
    }
    if parts.idle {
        let parameters: libc::c_int = 0;
        step!(Policy: libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const parameters);
    }
    if let Some(nice) = parts.nice {
        step!(Nice: libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice);
    }
    for (resource, limit) in &parts.limits {
        let both = [*limit, *limit];
        step!(Limits: libc::SYS_prlimit64, 0, *resource, both.as_ptr(), 0);
    }
    // SAFETY: an integer argument; it cannot fail.
    unsafe { libc::syscall(libc::SYS_umask, UMASK) };

    if let Some(uid) = parts.uid {
        let mut capability = 0;
        // SAFETY: integer arguments. It fails at the first number that is no capability, or where
        // the caller may not, which the next call tells apart.
        while unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }
            == 0
        {
            capability += 1;
        }
        // SAFETY: the address of this thread's `errno` is always valid.
        if unsafe { *libc::__errno_location() } != libc::EINVAL {
            fail(reporter, Step::Bounding);
        }
        step!(Groups: libc::SYS_setgroups, 0, 0);
        step!(Gid: libc::SYS_setresgid, uid, uid, uid);
        step!(Uid: libc::SYS_setresuid, uid, uid, uid);
    }
    // Ambient capabilities go with the permitted ones.
    let head = [CAPABILITY_VERSION, 0];
    let none = [0_u32; 6];
    step!(Capabilities: libc::SYS_capset, head.as_ptr(), none.as_ptr());
    step!(Directory: libc::SYS_chdir, parts.directory.as_ptr());
    step!(Privileges: libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if parts.tied {
        // After the change of user, which would undo it.
        step!(Tie: libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
    if let Some(ruleset) = parts.ruleset {
        step!(Landlock: libc::SYS_landlock_restrict_self, ruleset, 0);
    }
    let unblocked = 0_u64;
    step!(
        Mask: libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const unblocked, 0, SIGSET_SIZE
    );
    if let Some(filter) = parts.filter {
        // The last but one: every filter lets a program be run, and a failure be told.
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        step!(Filter: libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program);
    }
    let (argv, envp) = (prepared.argv.as_ptr(), prepared.envp.as_ptr());
    step!(Exec: libc::SYS_execve, parts.executable.as_ptr(), argv, envp);
    // A successful exec does not return.
    fail(reporter, Step::Exec)
}

/// The signals that this process ignores: asked once, since a program decides that when it begins.
///
/// All of them where the system cannot be asked: to reset one that needs it not does no harm.
pub(super) fn ignored() -> u64 {
    static IGNORED: LazyLock<u64> = LazyLock::new(|| {
        const UNCHANGEABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(u64::MAX)
            & !UNCHANGEABLE
    });
    *IGNORED
}

/// Waits until the child runs its program (`None`), or tells which step failed.
pub(super) fn outcome(report: OwnedFd) -> Option<(Step, io::Error)> {
    let mut bytes = [0; 8];
    match File::from(report).read_exact(&mut bytes) {
        Ok(()) => {
            let (step, errno) = bytes.split_at(4);
            let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
            let step = Step::ALL
                .get(number(step) as usize)
                .copied()
                .unwrap_or(Step::Exec);
            Some((step, io::Error::from_raw_os_error(number(errno) as i32)))
        }
        // The end: exec closed the pipe. A child that was killed before it looks the same, and its
        // pidfd tells.
        Err(_) => None,
    }
}

/// Takes leave of a child that could not run its program.
pub(super) fn reap(pidfd: &OwnedFd) {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = pidfd.as_raw_fd() as libc::id_t;
        // SAFETY: `info` is valid for writing.
        let waited = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) };
        // Only an interruption is worth another try: else there is no such child any more.
        if waited == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}
