//! The system call wall: what a process may ask of the kernel.
//!
//! A list of what is refused, in four forms. What it refuses: every way to look into or act on
//! another process, to get another view of files, users or the network, to reach the parts of the
//! kernel that most of its holes were found in, to leave the CPUs and memory nodes that the profile
//! gave, sockets beyond those that the manifest names, and every call newer than those that were
//! looked at, which is as if the kernel were as old. It fails with an error: a program that tries
//! something and goes on without is no attacker. Only a call in the form of another architecture
//! kills.
//!
//! What it deliberately leaves to other walls: files (Landlock and the user), signals (Landlock),
//! all that needs a capability, and what memory, processes and time are used up (limits, cgroups).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::filter::{Decision, program};

/// Which system calls a process may make.
///
/// | | native | native, network | foreign | foreign, network |
/// |---|---|---|---|---|
/// | `socket` | no | Unix, TCP, UDP | Unix | Unix, TCP, UDP |
/// | System V IPC, POSIX message queues | no | no | yes | yes |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// A service made for Insula: it talks through its line, which is given to it, and channels.
    Native,
    /// The same with a `network`.
    NativeOnNetwork,
    /// A program that knows nothing of Insula.
    Foreign,
    /// The same with a `network`.
    ForeignOnNetwork,
}

/// A program for the kernel.
pub(super) type Filter = &'static [libc::sock_filter];

impl Calls {
    const ALL: [Self; 4] = [
        Self::Native,
        Self::NativeOnNetwork,
        Self::Foreign,
        Self::ForeignOnNetwork,
    ];

    /// For a service of this kind.
    pub fn of(native: bool, network: bool) -> Self {
        match (native, network) {
            (true, false) => Self::Native,
            (true, true) => Self::NativeOnNetwork,
            (false, false) => Self::Foreign,
            (false, true) => Self::ForeignOnNetwork,
        }
    }

    /// The filter, made once for all launches; `None` on an architecture without one.
    pub(super) fn filter(self) -> Option<Filter> {
        static MADE: LazyLock<[Option<Vec<libc::sock_filter>>; 4]> =
            LazyLock::new(|| Calls::ALL.map(|calls| program(&calls.decisions())));
        MADE[self as usize].as_deref()
    }

    /// The decisions, each from its number on.
    fn decisions(self) -> BTreeMap<u32, Decision> {
        let mut single: BTreeMap<u32, Decision> = BTreeMap::new();
        let mut rule = |call: libc::c_long, decision: Decision| {
            let number = u32::try_from(call).expect("a call's number is small");
            single.insert(number, decision);
        };
        for call in REFUSED {
            rule(*call, Decision::Refuse(libc::EPERM));
        }
        // The flags of `clone3` lie in memory, out of reach; without it the C library takes `clone`.
        rule(libc::SYS_clone3, Decision::Refuse(libc::ENOSYS));
        let no_namespaces =
            |bits: i32| Decision::Allow.if_one_of(0, bits.cast_unsigned(), &[0], libc::EPERM);
        rule(libc::SYS_clone, no_namespaces(NAMESPACES));
        rule(libc::SYS_unshare, no_namespaces(NAMESPACES | NEW_TIME));
        // Asks which it is, or for the usual one.
        let usual = Decision::Allow.if_one_of(0, u32::MAX, &[0, u32::MAX], libc::EPERM);
        rule(libc::SYS_personality, usual);
        let itself = Decision::Allow.if_one_of(0, u32::MAX, &[0], libc::EPERM);
        for call in [
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setattr,
        ] {
            rule(call, itself.clone());
        }
        let unix = [libc::AF_UNIX.cast_unsigned()];
        let pair = Decision::Allow.if_one_of(0, u32::MAX, &unix, libc::EAFNOSUPPORT);
        rule(libc::SYS_socketpair, pair.clone());
        rule(
            libc::SYS_socket,
            match self {
                Self::Native => Decision::Refuse(libc::EPERM),
                Self::Foreign => pair,
                Self::NativeOnNetwork | Self::ForeignOnNetwork => on_network(pair),
            },
        );
        if matches!(self, Self::Native | Self::NativeOnNetwork) {
            for call in SHARED_BY_ALL {
                rule(*call, Decision::Refuse(libc::EPERM));
            }
        }
        let mut from = BTreeMap::from([(0, Decision::Allow)]);
        for (number, decision) in single {
            from.insert(number, decision);
            from.insert(number + 1, Decision::Allow);
        }
        from.insert(NEWEST + 1, Decision::Refuse(libc::ENOSYS));
        if cfg!(target_arch = "x86_64") {
            // The numbers of x32 name the same calls in another form.
            from.insert(X32, Decision::Kill);
            from.insert(2 * X32, Decision::Refuse(libc::ENOSYS));
        }
        from
    }
}

/// TCP and UDP, else what `otherwise` says.
///
/// The protocol is asked for since there are streams that go over TCP and that Landlock does not
/// take for TCP (MPTCP, SMC): with them its ports would mean nothing. No protocol of its own means
/// no raw sockets and no `ping`.
fn on_network(otherwise: Decision) -> Decision {
    let protocols = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP].map(i32::cast_unsigned);
    let kinds = [libc::SOCK_STREAM, libc::SOCK_DGRAM].map(i32::cast_unsigned);
    let families = [libc::AF_INET, libc::AF_INET6].map(i32::cast_unsigned);
    let allowed = Decision::Allow
        .if_one_of(2, u32::MAX, &protocols, libc::EPROTONOSUPPORT)
        .if_one_of(1, KIND_BITS, &kinds, libc::ESOCKTNOSUPPORT);
    Decision::Ask(Box::new(super::filter::Question {
        argument: 0,
        bits: u32::MAX,
        values: families.to_vec(),
        yes: allowed,
        no: otherwise,
    }))
}

/// Of a socket's type; the rest are flags.
const KIND_BITS: u32 = 0xf;
/// The newest call that was looked at: `removexattrat`, of Linux 6.13.
const NEWEST: u32 = 466;
/// From here on, on x86-64, numbers are those of x32.
const X32: u32 = 0x4000_0000;

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// `CLONE_NEWTIME`: for `clone` that bit is of the signal.
const NEW_TIME: i32 = 0x80;

/// What lies in one place for all users of a host, told apart by the mode bits that its maker
/// chose. PostgreSQL needs it; a native service has no use for it.
const SHARED_BY_ALL: &[libc::c_long] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semctl,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// Refused to all, with `EPERM`.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // Other views of files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    // Files by number, past the directories that they lie in; what happens to files of others.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Where it runs: the profile says that.
    libc::SYS_sched_setaffinity,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Parts of the kernel with a record of holes, and without use for a service.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_memfd_secret,
    libc::SYS_vhangup,
    // The host itself.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

#[cfg(test)]
mod tests {
    use super::super::filter::tests::{own, run};
    use super::*;

    fn verdict(calls: Calls, call: libc::c_long, arguments: [i32; 3]) -> Result<(), i32> {
        let [first, second, third] = arguments.map(|value| u64::from(value.cast_unsigned()));
        let filter = calls.filter().expect("tests run where there is a filter");
        let (verdict, steps) = run(filter, own(), call as u32, [first, second, third, 0, 0, 0]);
        assert!(steps < 24, "{steps}");
        match verdict {
            libc::SECCOMP_RET_ALLOW => Ok(()),
            libc::SECCOMP_RET_KILL_PROCESS => Err(0),
            refused => Err((refused ^ libc::SECCOMP_RET_ERRNO) as i32),
        }
    }

    #[test]
    fn a_class_gets_the_sockets_of_its_manifest_and_no_others() {
        use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
        use libc::{SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
        let socket = |calls, family, kind, protocol| {
            verdict(calls, libc::SYS_socket, [family, kind, protocol])
        };
        for calls in Calls::ALL {
            let networked = matches!(calls, Calls::NativeOnNetwork | Calls::ForeignOnNetwork);
            for family in [AF_INET, AF_INET6] {
                let stream = socket(calls, family, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_eq!(stream.is_ok(), networked);
                assert_eq!(socket(calls, family, SOCK_DGRAM, 17).is_ok(), networked);
                assert!(socket(calls, family, SOCK_RAW, libc::IPPROTO_ICMP).is_err());
                assert!(socket(calls, family, SOCK_DGRAM, libc::IPPROTO_ICMP).is_err());
                assert!(socket(calls, family, SOCK_STREAM, libc::IPPROTO_MPTCP).is_err());
            }
            for family in [AF_NETLINK, AF_PACKET, AF_VSOCK, 43, 77] {
                assert!(socket(calls, family, SOCK_DGRAM, 0).is_err());
                assert!(verdict(calls, libc::SYS_socketpair, [family, 1, 0]).is_err());
            }
            let unix = socket(calls, AF_UNIX, SOCK_SEQPACKET, 0);
            assert_eq!(unix.is_ok(), calls != Calls::Native);
            assert_eq!(
                verdict(calls, libc::SYS_socketpair, [AF_UNIX, 1, 0]),
                Ok(())
            );
        }
        // What a library that knows IPv6 but not the wall understands.
        assert_eq!(
            socket(Calls::Foreign, AF_INET6, SOCK_STREAM, 0),
            Err(libc::EAFNOSUPPORT)
        );
    }

    #[test]
    fn a_thread_can_be_made_and_a_namespace_cannot() {
        for calls in Calls::ALL {
            let clone = |flags| verdict(calls, libc::SYS_clone, [flags, 0, 0]);
            let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
            assert_eq!(clone(thread), Ok(()));
            assert_eq!(clone(libc::SIGCHLD), Ok(()));
            for namespace in 0..32 {
                let flag = 1_i32.wrapping_shl(namespace);
                if flag & NAMESPACES != 0 {
                    assert_eq!(clone(thread | flag), Err(libc::EPERM));
                    let unshared = verdict(calls, libc::SYS_unshare, [flag, 0, 0]);
                    assert_eq!(unshared, Err(libc::EPERM));
                }
            }
            assert_eq!(verdict(calls, libc::SYS_clone3, [0; 3]), Err(libc::ENOSYS));
            assert_eq!(verdict(calls, libc::SYS_execve, [0; 3]), Ok(()));
            assert_eq!(verdict(calls, libc::SYS_sched_setparam, [0; 3]), Ok(()));
            assert!(verdict(calls, libc::SYS_sched_setparam, [1, 0, 0]).is_err());
        }
    }

    #[test]
    fn what_is_newer_does_not_exist_and_what_is_shared_by_all_is_for_foreign_programs() {
        for calls in Calls::ALL {
            let newer = libc::c_long::from(NEWEST) + 1;
            assert_eq!(verdict(calls, newer, [0; 3]), Err(libc::ENOSYS));
            assert_eq!(verdict(calls, newer - 1, [0; 3]), Ok(()));
            assert_eq!(verdict(calls, -1, [0; 3]), Err(libc::ENOSYS));
            if cfg!(target_arch = "x86_64") {
                let x32 = libc::c_long::from(X32) + libc::SYS_getpid;
                assert_eq!(verdict(calls, x32, [0; 3]), Err(0));
            }
            let foreign = matches!(calls, Calls::Foreign | Calls::ForeignOnNetwork);
            for call in SHARED_BY_ALL {
                assert_eq!(verdict(calls, *call, [0; 3]).is_ok(), foreign);
            }
            for call in REFUSED {
                assert_eq!(verdict(calls, *call, [0; 3]), Err(libc::EPERM));
            }
        }
    }
}
