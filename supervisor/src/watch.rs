//! The world of processes turned into events: their ends.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use insula_core::process::Outcome;
use tokio::io::unix::AsyncFd;

/// How often and how many times the status of an adopted process is asked for: its parent, and
/// not this daemon, lets the kernel keep it.
const ASK_EVERY: Duration = Duration::from_millis(5);
const ASK_TIMES: u32 = 200;

/// `struct pidfd_info` of `linux/pidfd.h`, in its first size of 64 bytes.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`, from Linux 6.15.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// A descriptor of a process, as `pidfd_open(2)` gives it: close-on-exec, and ready for reading
/// when the process ends.
#[expect(unsafe_code, reason = "neither std nor nix has pidfd_open")]
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("a descriptor is an int");
    // SAFETY: the kernel just made this descriptor for us, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets tasks wait for a descriptor to be ready.
#[expect(
    unsafe_code,
    reason = "tokio cannot see that the descriptor stays open"
)]
pub fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is returned, which gives it to nobody, so
    // it stays open and the same for as long as it is registered.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Sends a signal to the process of a descriptor; one that is gone is no error.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    send(pidfd, signal, 0)
}

/// Sends a signal to the process group that the process of a descriptor leads or led; an empty one
/// is no error.
///
/// The process may be gone and its number in use again: the descriptor still means its group. From
/// Linux 6.9; before, `EINVAL` is the error.
pub fn pidfd_signal_group(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
    send(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

#[expect(unsafe_code, reason = "neither std nor nix has pidfd_send_signal")]
fn send(pidfd: &OwnedFd, signal: i32, flags: u32) -> io::Result<()> {
    // SAFETY: the third argument may be null, the rest are integers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if sent == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Waits for the end of a process and tells how it ended; a child of ours is reaped.
pub async fn wait(pidfd: Arc<AsyncFd<OwnedFd>>) -> Outcome {
    // Readiness of a pidfd is final, so a spurious error of the poll is the only way around.
    if pidfd.readable().await.is_err() {
        return Outcome::Unknown;
    }
    match reap(pidfd.get_ref()) {
        Ok(outcome) => return outcome,
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot reap a process");
            return Outcome::Unknown;
        }
    }
    for _ in 0..ASK_TIMES {
        match kept_status(pidfd.get_ref()) {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => match status_of_zombie(pidfd.get_ref()) {
                Some(outcome) => return outcome,
                None => tokio::time::sleep(ASK_EVERY).await,
            },
            // The kernel keeps no status of strangers.
            Err(_) => return Outcome::Unknown,
        }
    }
    Outcome::Unknown
}

#[expect(
    unsafe_code,
    reason = "nix's waitid wants a newer pidfd type and hides the status"
)]
fn reap(pidfd: &OwnedFd) -> io::Result<Outcome> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).expect("a descriptor is not negative");
    // SAFETY: `info` is valid for writing, and zeroed is a valid siginfo_t.
    let waited = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) };
    if waited != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and waitid filled in the fields of a child's end.
    let (code, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_status())
    };
    Ok(if code == libc::CLD_EXITED {
        Outcome::Code(status)
    } else {
        Outcome::Signal(status)
    })
}

/// The status that the kernel keeps of a process that another one reaped; `None` while it is not
/// reaped.
#[expect(unsafe_code, reason = "an ioctl that neither std nor nix has")]
fn kept_status(pidfd: &OwnedFd) -> io::Result<Option<Outcome>> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request number says 64 bytes, which is the size of `info`.
    let asked = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    let status = info.exit_code;
    Ok(Some(outcome_of_status(status)))
}

fn outcome_of_status(status: i32) -> Outcome {
    if libc::WIFSIGNALED(status) {
        Outcome::Signal(libc::WTERMSIG(status))
    } else {
        Outcome::Code(libc::WEXITSTATUS(status))
    }
}

/// The status of a process that has ended and that its parent has not reaped: field 52 of
/// `/proc/PID/stat`, which the kernel shows to who may trace it.
fn status_of_zombie(pidfd: &OwnedFd) -> Option<Outcome> {
    let number = || -> Option<i32> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))?
            .trim()
            .parse()
            .ok()?;
        (pid > 0).then_some(pid)
    };
    let pid = number()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // It was this process only if it still is: the number may have gone to another meanwhile.
    if fields.first() != Some(&"Z") || number() != Some(pid) {
        return None;
    }
    fields.get(49)?.parse().ok().map(outcome_of_status)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[expect(clippy::zombie_processes, reason = "reaping it is what is tested")]
    async fn outcome_of(script: &str) -> Outcome {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = Arc::new(readiness(pidfd_open(pid).unwrap()).unwrap());
        wait(pidfd).await
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_code_or_signal() {
        assert_eq!(outcome_of("exit 7").await, Outcome::Code(7));
        assert_eq!(outcome_of("kill -9 $$").await, Outcome::Signal(9));
    }

    #[test]
    fn the_status_of_who_is_not_reaped_is_seen() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED (needs root): the status of who is not reaped");
            return;
        }
        for (script, outcome) in [
            ("exit 7", Outcome::Code(7)),
            ("kill -9 $$", Outcome::Signal(9)),
        ] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pidfd = pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
            let seen = std::iter::repeat_with(|| status_of_zombie(&pidfd))
                .inspect(|_| std::thread::yield_now())
                .find_map(|seen| seen);
            assert_eq!(seen, Some(outcome));
            child.wait().unwrap();
            assert_eq!(status_of_zombie(&pidfd), None);
        }
    }

    #[tokio::test]
    async fn a_signal_to_the_dead_is_no_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        pidfd_signal(&pidfd, libc::SIGTERM).unwrap();
    }

    #[test]
    fn a_group_is_signalled_after_its_leader_is_gone() {
        use std::os::unix::process::CommandExt;
        // The leader leaves a process behind that keeps its output open.
        let mut leader = Command::new("sh")
            .args(["-c", "sleep 1000 & exit 0"])
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(i32::try_from(leader.id()).unwrap()).unwrap();
        let mut output = leader.stdout.take().unwrap();
        leader.wait().unwrap();
        match pidfd_signal_group(&pidfd, libc::SIGKILL) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                eprintln!("SKIPPED (needs Linux 6.9): signalling a group by descriptor");
                return;
            }
            sent => sent.unwrap(),
        }
        // It ends when the last of the group does.
        io::Read::read_to_end(&mut output, &mut Vec::new()).unwrap();
        pidfd_signal_group(&pidfd, libc::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_that_another_one_reaps_is_told_too() {
        // The shell is the parent of the process that is watched.
        let mut child = Command::new("sh")
            // A background process of a shell gets /dev/null for its input; this one is to wait.
            .args(["-c", "exec 3<&0; (read x <&3; exit 9) & echo $!; wait $!"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(
            &mut io::BufReader::new(child.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        let pidfd = pidfd_open(line.trim().parse().unwrap()).unwrap();
        let kept = matches!(kept_status(&pidfd), Ok(None));
        drop(child.stdin.take());
        let told = wait(Arc::new(readiness(pidfd).unwrap())).await;
        child.wait().unwrap();
        if kept {
            assert_eq!(told, Outcome::Code(9));
        } else {
            eprintln!("SKIPPED (needs Linux 6.15): the status of a stranger's end");
        }
    }
}
