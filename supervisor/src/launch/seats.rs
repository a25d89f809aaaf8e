//! Where the descriptors of a process to be lie meanwhile: at low numbers.
//!
//! The kernel copies the table of descriptors for a new process and closes the copies at its exec,
//! one by one: with a thousand services, which have four thousand in the daemon, that was a third of
//! a launch. So the child shares the daemon's table until its first step, which copies no more of
//! it than reaches up to the highest descriptor that it needs (`close_range` with
//! `CLOSE_RANGE_UNSHARE`). For that number to be low, a few are reserved when the daemon begins,
//! and hold `/dev/null` between launches.
//!
//! Without a reservation all is as right, and slower the more the process has open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::child::FIRST_FREE;

/// As many as a launch without sockets needs.
const RESERVED: usize = 8;

static RESERVATION: Mutex<Option<Reservation>> = Mutex::new(None);

#[derive(Debug)]
struct Reservation {
    null: OwnedFd,
    seats: Vec<OwnedFd>,
}

/// Reserves low numbers for the launches of this process, all above `kept`, which a child therefore
/// has open until its exec.
///
/// # Errors
/// Those of opening `/dev/null` and of copying descriptors.
pub fn reserve(kept: BorrowedFd<'_>) -> io::Result<()> {
    let from = FIRST_FREE.max(kept.as_raw_fd() + 1);
    let null = copy(null()?.as_fd(), from)?;
    let seats = (0..RESERVED)
        .map(|_| copy(null.as_fd(), from))
        .collect::<io::Result<_>>()?;
    *lock() = Some(Reservation { null, seats });
    Ok(())
}

fn lock() -> MutexGuard<'static, Option<Reservation>> {
    // Each seat is right by itself, whoever panicked.
    RESERVATION.lock().unwrap_or_else(PoisonError::into_inner)
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// A copy of a descriptor at the first free number from `from` on.
fn copy(fd: BorrowedFd<'_>, from: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(from))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The descriptors of one launch; free again when dropped.
#[derive(Debug)]
pub(super) struct Seats {
    reservation: MutexGuard<'static, Option<Reservation>>,
    taken: usize,
    /// What has no seat.
    standing: Vec<OwnedFd>,
    highest: RawFd,
}

impl Seats {
    /// Waits until no other thread launches.
    pub(super) fn take() -> Self {
        Self {
            reservation: lock(),
            taken: 0,
            standing: Vec::new(),
            highest: FIRST_FREE,
        }
    }

    /// Copies a descriptor to a number that the child overwrites none of, and tells it; it is valid
    /// until this is dropped.
    pub(super) fn put(&mut self, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
        let seats = self.reservation.iter_mut().flat_map(|r| &mut r.seats);
        let number = match seats.into_iter().nth(self.taken) {
            Some(seat) => {
                nix::unistd::dup3(fd, seat, OFlag::O_CLOEXEC)?;
                self.taken += 1;
                seat.as_raw_fd()
            }
            None => {
                let copy = copy(fd, FIRST_FREE)?;
                let number = copy.as_raw_fd();
                self.standing.push(copy);
                number
            }
        };
        self.highest = self.highest.max(number);
        Ok(number)
    }

    /// `/dev/null`, to read and to write.
    pub(super) fn put_null(&mut self) -> io::Result<RawFd> {
        let Some(reservation) = self.reservation.as_ref() else {
            return self.put(null()?.as_fd());
        };
        let number = reservation.null.as_raw_fd();
        self.highest = self.highest.max(number);
        Ok(number)
    }

    /// The first number from which on the child needs none.
    pub(super) fn beyond(&self) -> RawFd {
        self.highest + 1
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        let Some(Reservation { null, seats }) = self.reservation.as_mut() else {
            return;
        };
        for seat in &mut seats[..self.taken] {
            // The kernel refuses this only to who gives it no descriptors.
            let emptied = nix::unistd::dup3(null.as_fd(), seat, OFlag::O_CLOEXEC);
            debug_assert!(emptied.is_ok(), "cannot empty a seat: {emptied:?}");
        }
    }
}
