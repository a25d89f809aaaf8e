//! How long a waiter spins before it sleeps, by what spinning was worth before.
//!
//! A spin pays where the other end runs on another core and takes less time than the spin. It
//! costs the spin and more where both ends are on one core: who spins there keeps the other from
//! running. The kernel puts them there by itself: in a guest of KVM a core that sleeps counts as
//! taken, so whom one wakes lands on one's own. There a call took both ends' spins (438 us with
//! 200 us each) in place of the 10 us of two ends that sleep at once.

/// Spins in vain, one after the other, before any are left out.
const VAIN_MAX: u32 = 2;
/// The most waits without a spin between two trials, as a power of two.
const APART_MAX: u32 = 10;

/// The spins of one waiter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spin {
    /// How many were in vain since one was not.
    vain: u32,
    /// Waits that do without before the next trial.
    skip: u32,
}

impl Spin {
    /// For how many nanoseconds to spin in the wait that begins, of `ns` at most; 0 is not at all.
    #[inline]
    pub(crate) fn begin(&mut self, ns: u64) -> u64 {
        if self.skip == 0 {
            return ns;
        }
        self.skip -= 1;
        0
    }

    /// What was waited for came during a spin.
    #[inline]
    pub(crate) fn paid(&mut self) {
        self.vain = 0;
    }

    /// A spin ended, and nothing had come.
    #[cold]
    pub(crate) fn in_vain(&mut self) {
        self.vain = self.vain.saturating_add(1);
        if self.vain > VAIN_MAX {
            // 8, 16, 32, ... waits.
            self.skip = 1 << self.vain.min(APART_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many waits spin, where none pays.
    fn in_vain(spin: &mut Spin, waits: u32) -> u32 {
        let mut spun = 0;
        for _ in 0..waits {
            if spin.begin(200) > 0 {
                spun += 1;
                spin.in_vain();
            }
        }
        spun
    }

    #[test]
    fn spins_in_vain_are_left_out_ever_longer_and_tried_again_for_ever() {
        let mut spin = Spin::default();
        let first = in_vain(&mut spin, 10_000);
        assert!(first < 20, "{first} of the first 10,000");
        let later = in_vain(&mut spin, 10_250);
        assert!((9..=11).contains(&later), "{later}: one of 1,025");
    }

    #[test]
    fn one_that_pays_brings_all_back() {
        let mut spin = Spin::default();
        in_vain(&mut spin, 1_000);
        while spin.begin(200) == 0 {}
        spin.paid();
        for _ in 0..1_000 {
            assert_eq!(spin.begin(200), 200);
            spin.paid();
        }
        // One now and then costs none of the others.
        spin.in_vain();
        assert_eq!(spin.begin(200), 200);
    }
}
