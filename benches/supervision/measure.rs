//! One round of one contestant.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::contestants::{Contestant, Insula, Task};
use crate::process;
use crate::stamps::{Stamp, milliseconds, now};

/// How many are killed at once.
const AT_ONCE: usize = 100;
/// How many are killed one after the other.
const KILLS: usize = 50;
/// The same where each costs a second or more.
const SLOW_KILLS: usize = 6;
/// How many are restarted by an order.
const RESTARTS: usize = 6;
/// How often `status` is asked.
const ASKS: usize = 11;

/// What a round is.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Its number.
    pub(crate) round: usize,
    /// For how many seconds wake-ups are counted, if they are.
    pub(crate) idle: Option<u64>,
}

/// A figure of a contestant: what it is of, in which unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// From the order to the first instruction of the last service, ms.
    Start,
    /// From the signal to the first instruction of the replacement, the median, ms.
    Kill,
    /// The longest of them, ms.
    KillLongest,
    /// From the command to the first instruction of the replacement, the median, ms.
    Restart,
    /// From the first of 100 signals to the first instruction of the last replacement, ms.
    AtOnce,
    /// From the order to the end of the last service, ms.
    Stop,
    /// Of `status`, from its start to its end, the median, ms.
    Status,
    /// Of `status --json`, ms.
    StatusJson,
    /// Of the supervisor's processes with all services running, bytes.
    Memory,
    /// Of the supervisor's processes, with nothing installed, bytes.
    Base,
    /// Of the supervisor's processes, idle, a second.
    WakeUps,
    /// Of the services, idle, a second.
    ServiceWakeUps,
    /// From kill -9 of the daemon and the start of the next to an answer to `status`, ms.
    Answers,
    /// The same to the end of a `stop` of one service, ms.
    Control,
    /// Services that this disturbed or doubled.
    Disturbed,
}

/// All figures: by the number of services, the contestant and the figure, one for each round.
#[derive(Debug, Default)]
pub(crate) struct Results {
    figures: BTreeMap<(usize, String, Figure), BTreeMap<usize, f64>>,
    /// The contestants in the order of their turns.
    pub(crate) names: Vec<String>,
    /// What insulad says of the host.
    pub(crate) host: String,
}

impl Results {
    fn put(&mut self, count: usize, name: &str, round: usize, figure: Figure, value: f64) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        let rounds = self.figures.entry((count, name.to_owned(), figure));
        rounds.or_default().insert(round, value);
    }

    /// The figures of all rounds.
    pub(crate) fn all(&self, count: usize, name: &str, figure: Figure) -> Vec<f64> {
        let rounds = self.figures.get(&(count, name.to_owned(), figure));
        rounds
            .into_iter()
            .flat_map(|r| r.values().copied())
            .collect()
    }

    /// Against another contestant, round by round.
    pub(crate) fn ratios(
        &self,
        count: usize,
        name: &str,
        against: &str,
        figure: Figure,
    ) -> Vec<f64> {
        let of = |name: &str| self.figures.get(&(count, name.to_owned(), figure));
        let (Some(own), Some(other)) = (of(name), of(against)) else {
            return Vec::new();
        };
        own.iter()
            .filter_map(|(round, value)| Some(value / other.get(round)?))
            .collect()
    }
}

/// The middle of some values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Measures all that every contestant can do, and ends with none of its services running.
pub(crate) fn round(
    contestant: &mut dyn Contestant,
    task: &Task,
    plan: &Plan,
    results: &mut Results,
) -> Result<(), String> {
    let (count, name) = (task.count, contestant.name());
    eprintln!("{count} services, round {}: {name}", plan.round + 1);
    let mut put = |figure, value| results.put(count, &name, plan.round, figure, value);
    put(Figure::Start, start(contestant, task)?);

    let mut kills = Vec::new();
    let many = if contestant.pauses() {
        SLOW_KILLS
    } else {
        KILLS
    };
    for index in spread(count, many.min(count)) {
        kills.push(kill(task, &[index])?);
    }
    put(Figure::Kill, median(&kills).unwrap_or(0.0));
    put(
        Figure::KillLongest,
        kills.iter().copied().fold(0.0, f64::max),
    );

    let mut restarts = Vec::new();
    for index in spread(count, RESTARTS.min(count)) {
        let had = [(index, task.stamps.stamp(index))];
        if let Some(command) = contestant.restart(index) {
            let ordered = now();
            process::run(command)?;
            restarts.push(milliseconds(ordered, task.stamps.wait_beyond(&had)?));
        }
    }
    if let Some(restart) = median(&restarts) {
        put(Figure::Restart, restart);
    }

    for (index, figure) in [Figure::Status, Figure::StatusJson].into_iter().enumerate() {
        let mut asked = Vec::new();
        for _ in 0..ASKS {
            let Some((_, command)) = contestant.status().into_iter().nth(index) else {
                break;
            };
            let began = now();
            process::run(command)?;
            asked.push(milliseconds(began, now()));
        }
        if let Some(took) = median(&asked) {
            put(figure, took);
        }
    }

    put(
        Figure::Memory,
        process::memory(&contestant.processes()) as f64,
    );
    if let Some(seconds) = plan.idle {
        // What was asked just now has its last echoes.
        std::thread::sleep(Duration::from_secs(1));
        let supervisors = contestant.processes();
        let services: Vec<_> = task.stamps.all(count).iter().map(|s| s.pid).collect();
        let before = (
            process::wake_ups(&supervisors),
            process::wake_ups(&services),
        );
        std::thread::sleep(Duration::from_secs(seconds));
        let after = (
            process::wake_ups(&supervisors),
            process::wake_ups(&services),
        );
        let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds as f64;
        put(Figure::WakeUps, per_second(before.0, after.0));
        put(Figure::ServiceWakeUps, per_second(before.1, after.1));
    }
    put(Figure::Stop, stop(contestant, task)?);

    // Anew, so that nobody remembers the deaths of before.
    start(contestant, task)?;
    put(
        Figure::AtOnce,
        kill(task, &spread(count, AT_ONCE.min(count)))?,
    );
    stop(contestant, task)?;
    Ok(())
}

/// So many of `count`, evenly.
fn spread(count: usize, many: usize) -> Vec<usize> {
    (0..many).map(|index| index * count / many).collect()
}

fn start(contestant: &mut dyn Contestant, task: &Task) -> Result<f64, String> {
    let had: Vec<(usize, Stamp)> = task
        .stamps
        .all(task.count)
        .into_iter()
        .enumerate()
        .collect();
    let ordered = contestant.start()?;
    Ok(milliseconds(ordered, task.stamps.wait_beyond(&had)?))
}

/// Kills these services and waits for what takes their places.
fn kill(task: &Task, victims: &[usize]) -> Result<f64, String> {
    let had: Vec<_> = victims
        .iter()
        .map(|index| (*index, task.stamps.stamp(*index)))
        .collect();
    let began = now();
    for (_, stamp) in &had {
        process::signal(stamp.pid, Signal::SIGKILL)?;
    }
    Ok(milliseconds(began, task.stamps.wait_beyond(&had)?))
}

fn stop(contestant: &mut dyn Contestant, task: &Task) -> Result<f64, String> {
    let stamps = task.stamps.all(task.count);
    let mut processes = Vec::with_capacity(stamps.len());
    for stamp in &stamps {
        let opened = process::pidfd(stamp.pid);
        processes.push(opened.map_err(|error| format!("{} is gone: {error}", stamp.pid))?);
    }
    let ordered = now();
    contestant.stop()?;
    process::wait_for_ends(&processes)?;
    let took = milliseconds(ordered, now());
    contestant.end()?;
    Ok(took)
}

/// Kills the daemon with all services running and starts it again.
pub(crate) fn adoption(
    insula: &mut Insula,
    task: &Task,
    plan: &Plan,
    results: &mut Results,
) -> Result<(), String> {
    let (count, name) = (task.count, insula.name());
    start(insula, task)?;
    let had = task.stamps.all(count);
    insula.kill()?;
    let began = now();
    insula.launch()?;
    insula.wait_for_answer()?;
    let answered = milliseconds(began, now());
    insula.stop_one(0)?;
    let controlled = milliseconds(began, now());
    let now_there = task.stamps.all(count);
    let mut disturbed = 0;
    for (had, is) in had.iter().zip(&now_there).skip(1) {
        let lives = process::pidfd(is.pid).is_ok();
        disturbed += u32::from(had != is || !lives);
    }
    // The first one comes back, so that all can be told to end.
    start_one(insula, task)?;
    stop(insula, task)?;
    let mut put = |figure, value| results.put(count, &name, plan.round, figure, value);
    put(Figure::Answers, answered);
    put(Figure::Control, controlled);
    put(Figure::Disturbed, f64::from(disturbed));
    put(Figure::Base, insula.base() as f64);
    Ok(())
}

fn start_one(insula: &Insula, task: &Task) -> Result<(), String> {
    let had = [(0, task.stamps.stamp(0))];
    process::must(insula.control(&["start", &task.name(0)]))?;
    task.stamps.wait_beyond(&had).map(drop)
}
