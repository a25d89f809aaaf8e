//! What a cgroup tells about the end of the process that lived in it.

use std::fs;
use std::path::Path;

use insula_core::process::Outcome;

use crate::config::units::size_text;

/// Why a process ended, where that was one of its limits.
///
/// To be asked before the cgroup is removed. A kill for memory is counted by the kernel before
/// it happens, so it is there when the end is seen.
pub(crate) fn cause(group: &Path, outcome: Outcome) -> Option<String> {
    const KILLED: Outcome = Outcome::Signal(libc::SIGKILL);
    match outcome {
        KILLED | Outcome::Unknown if count(group, "memory.events", "oom_kill") > 0 => {
            Some(for_memory(group))
        }
        Outcome::Code(0) => None,
        Outcome::Code(_) | Outcome::Signal(_) | Outcome::Unknown => {
            let refused = count(group, "pids.events", "max");
            let most = number(group, "pids.max")?;
            (refused > 0).then(|| {
                format!("it was refused another process {refused} times, by its limit of {most}")
            })
        }
    }
}

/// What there is to tell of an end that nobody saw.
pub(super) fn told(group: &Path) -> Option<String> {
    cause(group, Outcome::Unknown)
}

fn for_memory(group: &Path) -> String {
    // From Linux 5.19.
    let used = number(group, "memory.peak").map(size_text);
    match (number(group, "memory.max").map(size_text), used) {
        (Some(most), Some(used)) => format!("killed for memory: {used} of limit {most}"),
        (Some(most), None) => format!("killed for memory: its limit is {most}"),
        (None, Some(used)) => format!(
            "killed for memory: it used {used} and has no limit, but the host or a cgroup above \
             had no more"
        ),
        (None, None) => "killed for memory: the host or a cgroup above had no more".to_owned(),
    }
}

/// A number in a file of its own; `None` where there is no file, or it says `max`.
fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A number beside its key.
fn count(group: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(group.join(file)).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Outcome = Outcome::Signal(libc::SIGKILL);

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(group.path().join(name), text).unwrap();
        }
        group
    }

    #[test]
    fn a_kill_for_memory_is_told_with_its_limit() {
        let group = group(&[
            (
                "memory.events",
                "low 0\noom 1\noom_kill 3\noom_group_kill 1\n",
            ),
            ("memory.peak", "67108864\n"),
            ("memory.max", "67108864\n"),
        ]);
        let text = cause(group.path(), KILLED).unwrap();
        assert_eq!(text, "killed for memory: 64MiB of limit 64MiB");
        assert_eq!(cause(group.path(), Outcome::Signal(libc::SIGTERM)), None);
        assert_eq!(cause(group.path(), Outcome::Code(1)), None);
    }

    #[test]
    fn a_kill_without_a_limit_of_its_own_blames_the_host() {
        let group = group(&[("memory.events", "oom_kill 1\n"), ("memory.max", "max\n")]);
        let text = cause(group.path(), KILLED).unwrap();
        let expected = "killed for memory: the host or a cgroup above had no more";
        assert_eq!(text, expected);
    }

    #[test]
    fn any_other_kill_has_no_cause_here() {
        let group = group(&[
            ("memory.events", "oom_kill 0\n"),
            ("pids.events", "max 0\n"),
        ]);
        assert_eq!(cause(group.path(), KILLED), None);
        assert_eq!(cause(Path::new("/nowhere"), KILLED), None);
    }

    #[test]
    fn who_fails_after_refused_processes_is_told_of_them() {
        let group = group(&[("pids.events", "max 7\n"), ("pids.max", "20\n")]);
        let text = cause(group.path(), Outcome::Code(1)).unwrap();
        assert_eq!(
            text,
            "it was refused another process 7 times, by its limit of 20"
        );
        assert_eq!(cause(group.path(), Outcome::Code(0)), None);
    }
}
