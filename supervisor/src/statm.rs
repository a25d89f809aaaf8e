//! How much memory processes have in use, a thousand of them at once.
//!
//! Of the files that say it, `/proc/PID/statm` is by far the cheapest to make and to read.

#![expect(unsafe_code, reason = "neither std nor nix tells the page's size")]

use std::fs::File;
use std::io::Read;

/// The resident memory of a process, in bytes; `None` of one that is gone.
pub(crate) fn resident(pid: i32) -> Option<u64> {
    let mut file = File::open(format!("/proc/{pid}/statm")).ok()?;
    // Seven numbers, which the kernel gives at once.
    let mut text = [0; 192];
    let length = file.read(&mut text).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size()?)
}

fn page_size() -> Option<u64> {
    // SAFETY: takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_who_lives_is_told_in_bytes() {
        let own = resident(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!((100 << 10..64 << 30).contains(&own), "{own}");
        // The highest number that a process can have is 2^22.
        assert_eq!(resident(1 << 23), None);
    }
}
