//! Best-effort services step aside when requests of others lie too long.
//!
//! A thread of its own looks every few milliseconds at how long requests lay at the services whose
//! profile has a `queue-delay`, as their meters say, and every half second at the pressure on their
//! processors (PSI of their cgroups); `insula_core::aside` decides, and the cgroups of best-effort
//! services are frozen and thawed. The thread sleeps while there is nobody of one of the two kinds.
//! Where processes have no cgroup of their own nobody is stopped; the kernel's idle class is all.
//!
//! A daemon that is killed while they are stopped leaves them so until the next one begins.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use insula_contract::id::Attempt;
use insula_core::aside::{Aside, Course};
use serde::{Deserialize, Serialize};

use crate::driver::now;
use crate::meters::Meters;

/// Between two looks.
const TICK: Duration = Duration::from_millis(2);
/// Between two looks while no requests come.
const IDLE_TICK: Duration = Duration::from_millis(10);
/// So long without requests is idle.
const IDLE: Duration = Duration::from_secs(1);
/// Between two looks at pressure.
const PRESSURE_EVERY: Duration = Duration::from_millis(500);
/// The share of the last ten seconds in which somebody waited for a processor that is too much.
const PRESSURE_MAX: f64 = 0.2;
/// Of so many requests one may be late.
const LATE_ONE_IN: u64 = 100;

/// A service that is to be quick.
#[derive(Debug)]
struct Quick {
    meters: Meters,
    bound: Duration,
    /// How many requests were taken, and how many late, at the last look.
    seen: (u64, u64),
    /// Its cgroup's `cpu.pressure`.
    pressure: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Table {
    quick: BTreeMap<Attempt, Quick>,
    /// The cgroups of best-effort services.
    yielding: BTreeMap<Attempt, PathBuf>,
    stopped: bool,
    ended: bool,
}

/// How often best-effort services were stopped, since the daemon began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stops {
    /// How often.
    pub count: u64,
    /// For how long in all, in nanoseconds.
    pub total_ns: u64,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
    count: AtomicU64,
    total_ns: AtomicU64,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The thread that has best-effort services step aside; it ends with this.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread, which sleeps until there is somebody of both kinds.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("aside".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run(&shared)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A process in this cgroup is best effort; it runs from now on, whatever an earlier daemon did.
    pub fn yields(&self, attempt: Attempt, group: PathBuf) -> io::Result<()> {
        freeze(&group, false)?;
        let mut table = self.shared.table();
        if table.stopped {
            // The next stop takes it along.
            thaw_all(&mut table);
        }
        table.yielding.insert(attempt, group);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Requests to a process are not to lie for longer than `bound`.
    pub fn is_quick(
        &self,
        attempt: Attempt,
        meters: Meters,
        bound: Duration,
        group: Option<&Path>,
    ) {
        let seen = meters.taken(bound);
        let quick = Quick {
            meters,
            bound,
            seen,
            pressure: group.map(|group| group.join("cpu.pressure")),
        };
        self.shared.table().quick.insert(attempt, quick);
        self.shared.changed.notify_one();
    }

    /// A process is gone.
    pub fn forget(&self, attempt: Attempt) {
        let mut table = self.shared.table();
        table.quick.remove(&attempt);
        table.yielding.remove(&attempt);
    }

    /// How often best-effort services were stopped.
    pub fn stops(&self) -> Stops {
        Stops {
            count: self.shared.count.load(Ordering::Relaxed),
            total_ns: self.shared.total_ns.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.table().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panicked, and said so.
            let _ = thread.join();
        }
    }
}

fn freeze(group: &Path, stopped: bool) -> io::Result<()> {
    match std::fs::write(group.join("cgroup.freeze"), if stopped { "1" } else { "0" }) {
        // Its process is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn set_all(table: &mut Table, stopped: bool) {
    table.stopped = stopped;
    for (attempt, group) in &table.yielding {
        if let Err(error) = freeze(group, stopped) {
            tracing::warn!(%attempt, %error, stopped, "a best-effort service is not told");
        }
    }
}

fn thaw_all(table: &mut Table) {
    set_all(table, false);
}

fn run(shared: &Shared) {
    let mut aside = Aside::default();
    let mut looked = Instant::now();
    let mut pressed = false;
    let mut busy = Instant::now();
    let mut stopped_at = None;
    let mut table = shared.table();
    loop {
        if table.ended {
            thaw_all(&mut table);
            return;
        }
        if table.quick.is_empty() || table.yielding.is_empty() {
            if table.stopped {
                thaw_all(&mut table);
                note_stop(shared, &mut stopped_at);
            }
            aside = Aside::default();
            table = shared
                .changed
                .wait(table)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            continue;
        }
        let (taken, late) = look(&mut table);
        if taken {
            busy = Instant::now();
        }
        if looked.elapsed() >= PRESSURE_EVERY {
            looked = Instant::now();
            // Who waits for a processor while nobody calls waits for nobody's sake.
            pressed = busy.elapsed() < PRESSURE_EVERY && is_pressed(&table);
        }
        let course = aside.turn(now(), late || pressed);
        if table.stopped != (course == Course::Stop) {
            set_all(&mut table, course == Course::Stop);
            match course {
                Course::Stop => stopped_at = Some(Instant::now()),
                Course::Run => note_stop(shared, &mut stopped_at),
            }
        }
        let idle = busy.elapsed() > IDLE && !table.stopped;
        let tick = if idle { IDLE_TICK } else { TICK };
        table = shared
            .changed
            .wait_timeout(table, tick)
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0;
    }
}

fn note_stop(shared: &Shared, stopped_at: &mut Option<Instant>) {
    if let Some(at) = stopped_at.take() {
        let ns = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.count.fetch_add(1, Ordering::Relaxed);
        shared.total_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// Whether requests were taken since the last look, and whether too many of them were late.
fn look(table: &mut Table) -> (bool, bool) {
    let (mut any, mut too_late) = (false, false);
    for quick in table.quick.values_mut() {
        let (taken, late) = quick.meters.taken(quick.bound);
        let more = taken.saturating_sub(quick.seen.0);
        let more_late = late.saturating_sub(quick.seen.1);
        quick.seen = (taken, late);
        any |= more > 0;
        too_late |= more_late > 0 && more_late >= more / LATE_ONE_IN;
    }
    (any, too_late)
}

/// Whether a quick service waits for a processor too often.
fn is_pressed(table: &Table) -> bool {
    table
        .quick
        .values()
        .filter_map(|quick| std::fs::read_to_string(quick.pressure.as_ref()?).ok())
        .any(|text| some_avg10(&text).is_some_and(|share| share > PRESSURE_MAX))
}

/// The share of the last ten seconds in which some task waited, as PSI says it: 0 to 1.
fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    Some(value.parse::<f64>().ok()? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=12.34 avg60=0.20 avg300=0.07 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(0.1234));
        assert_eq!(some_avg10("full avg10=1.0"), None);
        assert_eq!(some_avg10(""), None);
    }
}
