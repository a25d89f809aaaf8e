//! Descriptors of processes that systemd keeps for the next daemon.
//!
//! A process that ends while no daemon runs is reaped by somebody else; only who holds its pidfd
//! since before can still ask how it ended. systemd keeps them in the unit's descriptor store, all
//! under one name: so a single one cannot be taken out again, and those of the dead gather there
//! until there are too many, when all are taken out and those of the living stored anew.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// The name of all of them.
pub const NAME: &str = "pidfd";
/// In one message; the kernel takes 253.
const AT_ONCE: usize = 200;
/// Those of the dead that may gather, beside as many as there are living ones.
const DEAD_MAX: usize = 64;

/// What systemd keeps.
#[derive(Debug)]
pub struct Store {
    watched: bool,
    /// How many there are; `None` where that is not known, as after an upgrade in place.
    stored: Option<usize>,
}

impl Store {
    /// The store of a unit; `watched` if systemd listens, `stored` what it handed over.
    pub fn new(watched: bool, stored: Option<usize>) -> Self {
        Self { watched, stored }
    }

    /// Whether there is anybody to keep them.
    pub fn is_there(&self) -> bool {
        self.watched
    }

    /// Whether all are to be stored anew, with this many living.
    pub fn is_full(&self, living: usize) -> bool {
        self.watched
            && self
                .stored
                .is_none_or(|stored| stored > 2 * living + DEAD_MAX)
    }

    /// Takes all of them out.
    pub fn empty(&mut self) {
        self.stored = Some(0);
        let words = [NotifyState::FdStoreRemove, NotifyState::FdName(NAME)];
        if let Err(error) = sd_notify::notify(false, &words) {
            tracing::warn!(%error, "systemd cannot be told what to keep");
        }
    }

    /// Has these kept, too.
    pub fn keep(&mut self, pidfds: &[BorrowedFd<'_>]) {
        for some in pidfds.chunks(AT_ONCE) {
            let words = [
                NotifyState::FdStore,
                NotifyState::FdName(NAME),
                // One of a process that ended is just what is wanted: it is not to be dropped.
                NotifyState::Custom("FDPOLL=0"),
            ];
            match sd_notify::notify_with_fds(false, &words, some) {
                Ok(()) => self.stored = self.stored.map(|stored| stored + some.len()),
                Err(error) => {
                    tracing::warn!(%error, "systemd does not keep descriptors");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_anew_when_most_are_of_the_dead_or_nobody_knows() {
        let store = |stored| Store::new(true, stored);
        assert!(!store(Some(0)).is_full(0));
        assert!(!store(Some(264)).is_full(100));
        assert!(store(Some(265)).is_full(100));
        assert!(store(None).is_full(100));
        assert!(!Store::new(false, None).is_full(0), "nobody listens");
    }
}
