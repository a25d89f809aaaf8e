//! What happened, as a table; and whether it is what should have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Failed;
use super::gateway::Visits;

/// Prints the table; true if nothing failed, nothing was lost and only kv's process changed.
pub(crate) fn print(
    report: &Value,
    events: &[(&str, Duration)],
    visits: &Visits,
    before: &BTreeMap<String, i64>,
    after: &BTreeMap<String, i64>,
) -> Result<bool, Failed> {
    let run = &report["run"];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    if run.is_null() {
        return Err(Failed::new(format!("the load reports no run: {report}")));
    }
    println!();
    println!(
        "YCSB {}: {} operations in {:.1} s, {:.0} a second; failed {}",
        run["workload"].as_str().unwrap_or("?"),
        count(&run["succeeded"]),
        number(&run["seconds"]),
        number(&run["throughput"]),
        failures(&run["errors"]),
    );
    println!(
        "{:10} {:>10} {:>10} {:>10} {:>10}",
        "", "count", "p50 us", "p99 us", "max us"
    );
    for (operation, latency) in run["latency"].as_object().into_iter().flatten() {
        println!(
            "{operation:10} {:>10} {:>10.1} {:>10.1} {:>10.0}",
            count(&latency["count"]),
            number(&latency["p50_us"]),
            number(&latency["p99_us"]),
            number(&latency["max_us"]),
        );
    }
    let bad: u64 = visits.bad.values().sum();
    println!(
        "gateway    {:>10} {:>10.1} {:>10.1} {:>10.0}   failed {bad} {}",
        visits.good,
        quantile(&visits.times, 0.5),
        quantile(&visits.times, 0.99),
        quantile(&visits.times, 1.0),
        if bad > 0 {
            format!("{:?}", visits.bad)
        } else {
            String::new()
        },
    );

    println!();
    println!(
        "{:10} {:>22} {:>28}",
        "event", "until it was done", "longest gap of a client"
    );
    for (name, took) in events {
        let marks = run["marks"].as_array();
        let mark = marks
            .into_iter()
            .flatten()
            .find(|mark| mark["name"] == *name);
        let gap = mark.map_or(f64::NAN, |mark| number(&mark["longest_gap"]["length_ms"]));
        println!(
            "{name:10} {:>19.1} ms {gap:>25.1} ms",
            took.as_secs_f64() * 1000.0
        );
    }
    let apart = number(&run["longest_gap_apart"]["length_ms"]);
    println!("{:10} {:>22} {apart:>25.1} ms", "no event", "");
    println!(
        "{:10} {:>22} {:>25.1} ms",
        "gateway",
        "",
        visits.longest_gap.as_secs_f64() * 1000.0
    );

    println!();
    let mut only_kv = true;
    for (name, pid) in before {
        let now = after.get(name);
        let changed = now != Some(pid);
        only_kv &= changed == (name == "kv");
        let now = now.map_or_else(|| "none".to_owned(), ToString::to_string);
        println!(
            "pid of {name:10} {pid:>8} -> {now:>8}{}",
            if changed { "  changed" } else { "" }
        );
    }
    let verified = &report["verification"];
    let lost = count(&verified["violations"]["count"]) + count(&run["violations"]["count"]);
    println!(
        "verified {} of {} records: {lost} lost, doubled or damaged",
        count(&verified["good"]),
        count(&verified["records"]),
    );
    let passed = report["passed"] == true && bad == 0 && visits.good > 0 && only_kv;
    println!(
        "{}",
        if passed {
            "all as it should be"
        } else {
            "NOT as it should be"
        }
    );
    if !passed {
        println!("{report:#}");
    }
    Ok(passed)
}

/// How many failed, in all and by kind.
fn failures(errors: &Value) -> String {
    let kinds = errors.as_object().cloned().unwrap_or_default();
    let all: u64 = kinds.values().filter_map(Value::as_u64).sum();
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    if all == 0 {
        "0".to_owned()
    } else {
        format!("{all} ({})", kinds.join(", "))
    }
}

fn quantile(times: &[Duration], quantile: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = (times.len() as f64 * quantile) as usize;
    times
        .get(at.min(last))
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}
