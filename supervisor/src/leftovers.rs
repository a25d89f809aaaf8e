//! What an earlier daemon did not come to remove: sockets of attempts that are over.
//!
//! That an attempt is over is recorded before its sockets are removed, so a daemon that dies in
//! between leaves them, and the next one knows nothing of the attempt any more.

use std::fs;
use std::io;

use insula_contract::id::Attempt;

use crate::paths::Paths;

/// Removes the sockets of all attempts that do not live.
pub(crate) fn clear_sockets(paths: &Paths, living: impl Fn(Attempt) -> bool) -> io::Result<()> {
    for directory in ["lines", "notify"] {
        let entries = match fs::read_dir(paths.run().join(directory)) {
            // Nobody needed one yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let attempt = name.to_str().map(|name| u64::from_str_radix(name, 16));
            if let Some(Ok(attempt)) = attempt
                && !living(Attempt(attempt))
            {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_the_dead_go_and_those_of_the_living_stay() {
        let place = tempfile::tempdir().unwrap();
        let paths = Paths::new(Some(place.path().to_owned()));
        clear_sockets(&paths, |_| false).unwrap();
        let lines = paths.run().join("lines");
        fs::create_dir_all(&lines).unwrap();
        for name in ["1a", "1b", "other"] {
            fs::write(lines.join(name), "").unwrap();
        }
        clear_sockets(&paths, |attempt| attempt == Attempt(0x1b)).unwrap();
        let left = |name: &str| lines.join(name).exists();
        assert_eq!([left("1a"), left("1b"), left("other")], [false, true, true]);
    }
}
