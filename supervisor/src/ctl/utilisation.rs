//! `utilisation`: what services use of the host, and what best effort gains.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Exit;
use super::client::{Client, ClientError};
use crate::driver::Gains;
use crate::utilisation::Utilisation;

/// What the processes of a profile used over the interval.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    best_effort: bool,
    processes: u64,
    /// Processors that they kept busy, on average.
    cores: f64,
    /// Their resident memory in bytes at the end; what they share counts for each.
    resident: u64,
}

/// What `utilisation --json` prints; the number changes when a field changes its meaning.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    schema: u32,
    seconds: f64,
    cpus: u64,
    /// Processors that were busy on average, with whatever else runs on the host.
    cores_busy: f64,
    /// Of those, with best-effort services.
    cores_best_effort: f64,
    memory: u64,
    memory_available: u64,
    /// How often best-effort services were stopped for others in the interval, and its share.
    stops: u64,
    stopped: f64,
    profiles: BTreeMap<String, Row>,
    /// What idle services gave back, since the daemon began.
    idle: Gains,
}

pub(super) async fn run(client: &Client, over: Duration, json: bool) -> Result<Exit, ClientError> {
    let earlier: Utilisation = client.get("/v1/utilisation").await?;
    tokio::time::sleep(over).await;
    let later: Utilisation = client.get("/v1/utilisation").await?;
    let report = report(&earlier, &later);
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
    } else {
        print!("{}", text(&report));
    }
    Ok(Exit::Done)
}

fn report(earlier: &Utilisation, later: &Utilisation) -> Report {
    let ns = later.at_ns.saturating_sub(earlier.at_ns).max(1) as f64;
    let share = |before: u64, after: u64| after.saturating_sub(before) as f64 / ns;
    let profiles: BTreeMap<_, _> = later
        .profiles
        .iter()
        .map(|(name, after)| {
            let before = earlier.profiles.get(name).copied().unwrap_or_default();
            let row = Row {
                best_effort: after.best_effort,
                processes: after.processes,
                // Processes that ended meanwhile took their time with them.
                cores: share(before.cpu_ns, after.cpu_ns),
                resident: after.resident,
            };
            (name.clone(), row)
        })
        .collect();
    Report {
        schema: 1,
        seconds: ns / 1e9,
        cpus: later.host.cpus,
        cores_busy: share(earlier.host.busy_ns, later.host.busy_ns),
        cores_best_effort: profiles
            .values()
            .filter(|row| row.best_effort)
            .map(|row| row.cores)
            .sum(),
        memory: later.host.memory,
        memory_available: later.host.memory_available,
        stops: later.stops.count.saturating_sub(earlier.stops.count),
        stopped: share(earlier.stops.total_ns, later.stops.total_ns),
        profiles,
        idle: later.idle.clone(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{:<16} {:>9} {:>8} {:>14}\n",
        "PROFILE", "PROCESSES", "CORES", "RESIDENT"
    );
    for (name, row) in &report.profiles {
        let _ = writeln!(
            text,
            "{name:<16} {:>9} {:>8.2} {:>14}{}",
            row.processes,
            row.cores,
            mebibytes(row.resident),
            if row.best_effort { "  best effort" } else { "" }
        );
    }
    let _ = writeln!(
        text,
        "host: {:.2} of {} processors busy over {:.1} s, {:.2} of them with best effort; {} of {} of memory to be had",
        report.cores_busy,
        report.cpus,
        report.seconds,
        report.cores_best_effort,
        mebibytes(report.memory_available),
        mebibytes(report.memory),
    );
    if report.stops > 0 {
        let _ = writeln!(
            text,
            "best effort stepped aside {} times, for {:.1} % of the time",
            report.stops,
            report.stopped * 100.0
        );
    }
    let idle = &report.idle;
    if idle.put_away > 0 || idle.reclaims > 0 {
        let _ = writeln!(
            text,
            "idle services: {} put away ({} times in all), which had {} resident; {} taken back from others in {} goes",
            idle.away.len(),
            idle.put_away,
            mebibytes(idle.away.values().sum()),
            mebibytes(idle.reclaimed),
            idle.reclaims,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::Stops;
    use crate::utilisation::{Host, Use};

    #[test]
    fn what_was_used_between_two_looks_is_told_in_processors() {
        let at = |seconds: u64, cpu: u64, stops| Utilisation {
            at_ns: seconds * 1_000_000_000,
            host: Host {
                cpus: 4,
                busy_ns: cpu * 3,
                memory: 1 << 30,
                memory_available: 1 << 29,
            },
            profiles: BTreeMap::from([(
                "background".to_owned(),
                Use {
                    best_effort: true,
                    processes: 2,
                    cpu_ns: cpu,
                    resident: 3 << 20,
                },
            )]),
            stops,
            idle: Gains {
                put_away: 4,
                away: BTreeMap::from([("kv".parse().unwrap(), 5 << 20)]),
                reclaims: 2,
                reclaimed: 7 << 20,
            },
        };
        let stops = Stops {
            count: 3,
            total_ns: 200_000_000,
        };
        let report = report(&at(10, 0, Stops::default()), &at(12, 1_000_000_000, stops));
        assert_eq!(report.profiles["background"].cores, 0.5);
        assert_eq!((report.cores_busy, report.cores_best_effort), (1.5, 0.5));
        assert_eq!((report.stops, report.stopped), (3, 0.1));
        let text = text(&report);
        assert!(
            text.contains("1.50 of 4 processors busy over 2.0 s, 0.50 of them"),
            "{text}"
        );
        assert!(text.contains("3 times, for 10.0 %"), "{text}");
        let idle = "idle services: 1 put away (4 times in all), which had 5.0 MiB resident; \
                    7.0 MiB taken back from others in 2 goes";
        assert!(text.contains(idle), "{text}");
    }
}
