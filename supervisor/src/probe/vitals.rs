//! Whether a process that does not answer is stuck, or gets no processor.
//!
//! Time alone proves nothing on a busy machine: a process is stuck only once it could have answered
//! for as long as it is given. What it *could* is the time that passed, less the time that its
//! threads were ready to run and did not (`run_delay` of `/proc/PID/task/TID/schedstat`). The
//! thread that waited longest counts: whatever the others did, the answer may have depended on it.
//! A process that sleeps, is stopped or runs without end has had all of its time or its share of
//! it; one that was kept from running has not.
//!
//! A kernel without `CONFIG_SCHED_INFO` does not tell how long threads waited; there, time alone
//! counts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use insula_core::event::Vitality;

/// Threads of a process that are looked at.
const THREADS_MAX: usize = 256;

/// What a thread has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    /// As in `/proc/PID/stat`: R runs or could run, S and D sleep, T is stopped.
    state: char,
    /// On a processor.
    ran: Duration,
    /// Ready to run, and not on a processor.
    waited: Duration,
}

/// What a process has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    at: Instant,
    threads: BTreeMap<i32, Thread>,
    /// What it has counted of its work.
    progress: u64,
}

/// A process under suspicion, from the moment at which it was first looked at.
#[derive(Debug)]
pub(crate) struct Vitals {
    pid: i32,
    patience: Duration,
    first: Sample,
}

impl Vitals {
    /// Looks at a process for the first time; it is stuck once it could have answered for
    /// `patience`. `progress` is what it has counted of its work.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn begin(pid: i32, patience: Duration, progress: u64) -> io::Result<Self> {
        Ok(Self {
            pid,
            patience,
            first: Sample::take(pid, progress)?,
        })
    }

    /// How much time must pass at least before it can be found stuck.
    pub(crate) fn missing(&self) -> Duration {
        self.patience.saturating_sub(self.first.at.elapsed())
    }

    /// Looks again.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn judge(&self, progress: u64) -> io::Result<Vitality> {
        Ok(verdict(
            &self.first,
            &Sample::take(self.pid, progress)?,
            self.patience,
        ))
    }
}

impl Sample {
    fn take(pid: i32, progress: u64) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))?.take(THREADS_MAX) {
            let path = entry?.path();
            // A thread that ended meanwhile is one that did something.
            let (Ok(stat), Some(number)) = (
                fs::read_to_string(path.join("stat")),
                path.file_name()
                    .and_then(|name| name.to_str()?.parse().ok()),
            ) else {
                continue;
            };
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            let times = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let mut times = times
                .split_whitespace()
                .map(|time| time.parse().unwrap_or(0));
            let mut next = || Duration::from_nanos(times.next().unwrap_or(0));
            let thread = Thread {
                state: state.unwrap_or('?'),
                ran: next(),
                waited: next(),
            };
            threads.insert(number, thread);
        }
        Ok(Self {
            at: Instant::now(),
            threads,
            progress,
        })
    }
}

fn verdict(first: &Sample, now: &Sample, patience: Duration) -> Vitality {
    if now.progress != first.progress {
        return Vitality::Working;
    }
    let passed = now.at.saturating_duration_since(first.at);
    let mut longest = Duration::ZERO;
    let mut ran = Duration::ZERO;
    for (number, thread) in &now.threads {
        let before = first.threads.get(number);
        let since = |time: fn(&Thread) -> Duration| {
            time(thread).saturating_sub(before.map_or(Duration::ZERO, time))
        };
        let (own, waited) = (since(|thread| thread.ran), since(|thread| thread.waited));
        // The wait of one that never got its turn is counted only when it gets it.
        let unserved = before.is_some() && thread.state == 'R' && own + waited == Duration::ZERO;
        longest = longest.max(if unserved { passed } else { waited });
        ran += own;
    }
    let could = passed.saturating_sub(longest);
    // The readings are not taken at one moment.
    if could < patience.mul_f64(0.9) {
        return Vitality::Starved;
    }
    let states = || now.threads.values().map(|thread| thread.state);
    let how = if states().any(|state| matches!(state, 'T' | 't')) {
        "it is stopped".to_owned()
    } else if ran >= could.mul_f64(0.5) {
        format!(
            "it has used the processor for {:.1} s and got nowhere",
            ran.as_secs_f64()
        )
    } else if states().any(|state| state == 'D') {
        "it waits for a device".to_owned()
    } else {
        "it sleeps".to_owned()
    };
    Vitality::Stuck(how)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(at: Instant, threads: &[(char, f64, f64)], progress: u64) -> Sample {
        let threads = threads.iter().map(|(state, ran, waited)| Thread {
            state: *state,
            ran: SECOND.mul_f64(*ran),
            waited: SECOND.mul_f64(*waited),
        });
        Sample {
            at,
            threads: (1..).zip(threads).collect(),
            progress,
        }
    }

    /// The verdict after ten seconds on threads that began with nothing.
    fn after_ten(threads: &[(char, f64, f64)], patience: f64) -> Vitality {
        let now = Instant::now();
        let none: Vec<_> = threads
            .iter()
            .map(|(state, ..)| (*state, 0.0, 0.0))
            .collect();
        let first = sample(now, &none, 5);
        let later = sample(now + 10 * SECOND, threads, 5);
        verdict(&first, &later, SECOND.mul_f64(patience))
    }

    fn stuck(how: &str) -> Vitality {
        Vitality::Stuck(how.to_owned())
    }

    #[test]
    fn one_that_could_answer_and_does_not_is_stuck() {
        assert_eq!(after_ten(&[('S', 0.0, 0.0)], 10.0), stuck("it sleeps"));
        assert_eq!(
            after_ten(&[('S', 0.0, 0.0), ('T', 0.0, 0.0)], 10.0),
            stuck("it is stopped")
        );
        assert_eq!(
            after_ten(&[('D', 0.1, 0.2)], 10.0),
            stuck("it waits for a device")
        );
        let spins = stuck("it has used the processor for 9.9 s and got nowhere");
        assert_eq!(after_ten(&[('R', 9.9, 0.1), ('S', 0.0, 0.0)], 10.0), spins);
    }

    #[test]
    fn one_that_was_kept_from_running_is_given_more_time() {
        // It had four seconds of its ten.
        assert_eq!(after_ten(&[('R', 4.0, 6.0)], 10.0), Vitality::Starved);
        assert!(matches!(
            after_ten(&[('R', 4.0, 6.0)], 4.0),
            Vitality::Stuck(_)
        ));
        // The thread that waits is the one that matters.
        let both = [('S', 0.0, 0.0), ('R', 1.0, 9.0)];
        assert_eq!(after_ten(&both, 10.0), Vitality::Starved);
        // It never got a turn, so that nothing was counted.
        assert_eq!(after_ten(&[('R', 0.0, 0.0)], 10.0), Vitality::Starved);
    }

    #[test]
    fn one_that_moves_on_works_whatever_else_is_seen() {
        let now = Instant::now();
        let first = sample(now, &[('T', 0.0, 0.0)], 5);
        let later = sample(now + 10 * SECOND, &[('T', 0.0, 0.0)], 6);
        assert_eq!(verdict(&first, &later, SECOND), Vitality::Working);
    }

    struct Process(Child);

    impl Process {
        fn start(script: &str) -> Self {
            Self(Command::new("sh").args(["-c", script]).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        /// Looks until there is a verdict about this long.
        fn judge(&self, patience: Duration) -> Vitality {
            let vitals = Vitals::begin(self.pid(), patience, 0).unwrap();
            let begun = Instant::now();
            loop {
                match vitals.judge(0).unwrap() {
                    Vitality::Starved => assert!(begun.elapsed() < 60 * SECOND, "no verdict"),
                    verdict => return verdict,
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// Processor time of a process in the kernel's ticks.
    fn used(pid: i32) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let user = stat.rsplit_once(')').unwrap().1.split(' ').nth(12);
        user.unwrap().parse().unwrap()
    }

    #[test]
    fn living_processes_are_judged_by_what_they_do() {
        let patience = Duration::from_millis(200);
        let spinning = Process::start("while :; do :; done");
        // A shell that is still being loaded waits for the disk.
        let begun = Instant::now();
        while used(spinning.pid()) < 10 {
            assert!(begun.elapsed() < 60 * SECOND, "it does not get to spin");
            std::thread::sleep(Duration::from_millis(10));
        }
        let Vitality::Stuck(how) = spinning.judge(patience) else {
            panic!("it spins");
        };
        assert!(how.contains("used the processor"), "{how}");
        kill(Pid::from_raw(spinning.pid()), Signal::SIGSTOP).unwrap();
        assert_eq!(spinning.judge(patience), stuck("it is stopped"));
        let gone = Vitals::begin(i32::MAX, patience, 0);
        assert!(gone.is_err());
    }
}
