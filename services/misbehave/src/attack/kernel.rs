//! The kernel: sockets, other views of the host, the CPUs, and what it offers to everybody.

#![expect(unsafe_code, reason = "calls that nothing wraps")]

use std::ffi::CString;
use std::io::{self, Write};
use std::net::{TcpStream, UdpSocket};

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "tcp",
        text: "connects to a TCP port of the host",
        walls: "tcp-ports, system-calls",
        ends_all: false,
        run: |target| {
            TcpStream::connect(("127.0.0.1", target.port))?.write_all(b"x")?;
            Ok(format!("port {}", target.port))
        },
    },
    Attack {
        name: "udp",
        text: "sends a UDP datagram",
        walls: "system-calls",
        ends_all: false,
        run: |target| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"x", ("127.0.0.1", target.port))?;
            Ok("sent".to_owned())
        },
    },
    Attack {
        name: "raw-socket",
        text: "opens a raw socket",
        walls: "capabilities, system-calls",
        ends_all: false,
        run: |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    },
    Attack {
        name: "packet-socket",
        text: "opens a socket for whole packets",
        walls: "capabilities, system-calls",
        ends_all: false,
        run: |_| socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0),
    },
    Attack {
        name: "netlink",
        text: "opens a socket to the kernel's routing tables",
        walls: "system-calls",
        ends_all: false,
        run: |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 0),
    },
    Attack {
        name: "vsock",
        text: "opens a socket to the hypervisor",
        walls: "system-calls",
        ends_all: false,
        run: |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    },
    Attack {
        name: "user-namespace",
        text: "becomes root of a user namespace",
        walls: "system-calls",
        ends_all: false,
        run: |_| unshare(libc::CLONE_NEWUSER),
    },
    Attack {
        name: "mount-namespace",
        text: "gets mounts of its own",
        walls: "capabilities, system-calls",
        ends_all: false,
        run: |_| unshare(libc::CLONE_NEWNS),
    },
    Attack {
        name: "affinity",
        text: "moves to CPUs of its choice",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            let mut cpus = nix::sched::CpuSet::new();
            for cpu in 0..nix::sched::CpuSet::count() {
                cpus.set(cpu)?;
            }
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
            Ok("all CPUs".to_owned())
        },
    },
    Attack {
        name: "memory-policy",
        text: "says which nodes its memory comes from",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            const INTERLEAVE: i32 = 3;
            let nodes = 1_u64;
            call(
                libc::SYS_set_mempolicy,
                &[INTERLEAVE as i64, (&raw const nodes) as i64, 64],
            )
        },
    },
    Attack {
        name: "nice",
        text: "has itself preferred to others",
        walls: "capabilities",
        ends_all: false,
        run: |_| {
            call(
                libc::SYS_setpriority,
                &[i64::from(libc::PRIO_PROCESS), 0, -5],
            )
        },
    },
    Attack {
        name: "real-time",
        text: "has itself scheduled before all others",
        walls: "capabilities",
        ends_all: false,
        run: |_| {
            let priority = 1_i32;
            let arguments = [0, i64::from(libc::SCHED_FIFO), (&raw const priority) as i64];
            call(libc::SYS_sched_setscheduler, &arguments)
        },
    },
    Attack {
        name: "io-uring",
        text: "makes a ring of system calls that no filter sees",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            let mut parameters = [0_u64; 15];
            call(
                libc::SYS_io_uring_setup,
                &[1, parameters.as_mut_ptr() as i64],
            )
        },
    },
    Attack {
        name: "bpf",
        text: "makes a map of the kernel's virtual machine",
        walls: "capabilities, system-calls",
        ends_all: false,
        run: |_| {
            // An array of one value of 4 bytes by keys of 4 bytes.
            let map: [u32; 18] = std::array::from_fn(|n| *[2, 4, 4, 1].get(n).unwrap_or(&0));
            call(
                libc::SYS_bpf,
                &[0, map.as_ptr() as i64, size_of_val(&map) as i64],
            )
        },
    },
    Attack {
        name: "perf",
        text: "counts events of the kernel",
        walls: "capabilities, system-calls",
        ends_all: false,
        run: |_| {
            // A software counter of context switches, on the CPU for all processes.
            let mut attributes = [0_u64; 8];
            attributes[0] = 1 | (64 << 32);
            attributes[1] = 3;
            call(
                libc::SYS_perf_event_open,
                &[attributes.as_ptr() as i64, -1, 0, -1, 0],
            )
        },
    },
    Attack {
        name: "page-faults",
        text: "handles page faults, which stops the kernel where it likes",
        walls: "system-calls",
        ends_all: false,
        run: |_| call(libc::SYS_userfaultfd, &[1]),
    },
    Attack {
        name: "keys",
        text: "stores a key with the kernel",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            const PROCESS_KEYRING: i64 = -2;
            let (kind, name) = (text("user"), text("insula-attack"));
            let arguments = [
                kind.as_ptr() as i64,
                name.as_ptr() as i64,
                b"x".as_ptr() as i64,
                1,
                PROCESS_KEYRING,
            ];
            call(libc::SYS_add_key, &arguments)
        },
    },
    Attack {
        name: "file-handle",
        text: "names a file by a handle that needs no directory",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            let mut handle = [0_u32; 64];
            handle[0] = 128;
            let (mut mount, here) = (0_i32, text("."));
            let arguments = [
                i64::from(libc::AT_FDCWD),
                here.as_ptr() as i64,
                handle.as_mut_ptr() as i64,
                (&raw mut mount) as i64,
                0,
            ];
            call(libc::SYS_name_to_handle_at, &arguments)
        },
    },
    Attack {
        name: "system-v-memory",
        text: "makes shared memory that every user of the host finds",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            let made = call(libc::SYS_shmget, &[0, 4096, 0o1666])?;
            let id = made.rsplit(' ').next().and_then(|id| id.parse().ok());
            call(libc::SYS_shmctl, &[id.unwrap_or(-1), 0, 0])?;
            Ok(made)
        },
    },
    Attack {
        name: "message-queue",
        text: "makes a message queue that every user of the host finds",
        walls: "system-calls",
        ends_all: false,
        run: |_| {
            let name = text(&format!("insula-attack-{}", std::process::id()));
            let flags = i64::from(libc::O_CREAT | libc::O_RDWR);
            let made = call(libc::SYS_mq_open, &[name.as_ptr() as i64, flags, 0o600, 0])?;
            call(libc::SYS_mq_unlink, &[name.as_ptr() as i64])?;
            Ok(made)
        },
    },
];

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL in it")
}

/// Makes a call; what it points to must be alive and as long as the call takes it to be.
fn call(number: libc::c_long, arguments: &[i64]) -> io::Result<String> {
    let at = |n: usize| arguments.get(n).copied().unwrap_or(0);
    // SAFETY: the callers, all above, point to what this call reads or writes, which lives in their
    // frames. Superfluous arguments are ignored.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4)) };
    Ok(format!("result {}", nix::Error::result(result)?))
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<String> {
    let arguments = [family, kind, protocol].map(i64::from);
    call(libc::SYS_socket, &arguments)
}

fn unshare(what: i32) -> io::Result<String> {
    call(libc::SYS_unshare, &[i64::from(what)])
}
