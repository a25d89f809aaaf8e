//! `edges`: who calls whom, how often, how fast and with what errors.

use std::collections::BTreeMap;
use std::time::Duration;

use insula_contract::id::EdgeId;
use insula_contract::meters::{Counts, Outcome};
use serde::Serialize;

use super::Exit;
use super::client::{Client, ClientError};
use crate::meters::{EdgeReading, Reading};

/// Between two readings, from which the rates are told.
const INTERVAL: Duration = Duration::from_secs(1);

/// One edge's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Figures {
    consumer: String,
    provider: String,
    contract: String,
    /// Calls that ended in the last interval, per second.
    calls_per_second: f64,
    calls: u64,
    in_flight: u64,
    /// By kind, those that occurred.
    errors: BTreeMap<&'static str, u64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: u64,
    queue_p99_ns: Option<u64>,
    resent: u64,
    wakes: u64,
    request_bytes: u64,
    response_bytes: u64,
}

/// What `edges --json` prints; the number changes when a field changes its meaning.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    schema: u32,
    edges: Vec<Figures>,
}

pub(super) async fn run(
    client: &Client,
    names: &[String],
    json: bool,
    watch: bool,
) -> Result<Exit, ClientError> {
    let mut earlier: Reading = client.get("/v1/edges").await?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now: Reading = client.get("/v1/edges").await?;
        let figures = figures(&earlier, &now, names, watch);
        if json {
            let report = Report {
                schema: 1,
                edges: figures,
            };
            let text = if watch {
                serde_json::to_string(&report)
            } else {
                serde_json::to_string_pretty(&report)
            };
            println!("{}", text.unwrap_or_default());
        } else {
            if watch {
                // To the corner, and everything below it away.
                print!("\x1b[H\x1b[J");
            }
            print!("{}", table(&figures));
        }
        if !watch {
            return Ok(Exit::Done);
        }
        earlier = now;
    }
}

/// The figures of edges with an end of one of these names, of all where there are none.
///
/// All but the rate since the ends began, or with `recent` since the earlier reading.
fn figures(earlier: &Reading, now: &Reading, names: &[String], recent: bool) -> Vec<Figures> {
    let before: BTreeMap<EdgeId, &EdgeReading> =
        earlier.edges.iter().map(|edge| (edge.edge, edge)).collect();
    let seconds = now.at_ns.saturating_sub(earlier.at_ns).max(1) as f64 / 1e9;
    let wanted = |edge: &&EdgeReading| {
        names.is_empty()
            || names
                .iter()
                .any(|name| *name == edge.consumer || name == edge.provider.as_str())
    };
    now.edges
        .iter()
        .filter(wanted)
        .map(|edge| {
            let nothing = Counts::default();
            let (called, served) = before
                .get(&edge.edge)
                .map_or((&nothing, &nothing), |edge| (&edge.called, &edge.served));
            let (recently, taken) = (edge.called.since(called), edge.served.since(served));
            let calls_per_second = recently.ended_in_all() as f64 / seconds;
            let (called, served) = if recent {
                (&recently, &taken)
            } else {
                (&edge.called, &edge.served)
            };
            let errors = Outcome::ALL
                .into_iter()
                .filter(|outcome| *outcome != Outcome::Ok && called.ended(*outcome) > 0)
                .map(|outcome| (outcome.name(), called.ended(outcome)))
                .collect();
            Figures {
                consumer: edge.consumer.clone(),
                provider: edge.provider.to_string(),
                contract: edge.contract.to_string(),
                calls_per_second,
                calls: called.ended_in_all(),
                in_flight: edge.called.in_flight(),
                errors,
                p50_ns: called.buckets.quantile(0.5),
                p90_ns: called.buckets.quantile(0.9),
                p99_ns: called.buckets.quantile(0.99),
                max_ns: called.longest_ns,
                queue_p99_ns: served.buckets.quantile(0.99),
                resent: called.resent,
                wakes: called.wakes,
                request_bytes: called.bytes_out,
                response_bytes: called.bytes_in,
            }
        })
        .collect()
}

fn table(figures: &[Figures]) -> String {
    let name = |edge: &Figures| format!("{} -> {} {}", edge.consumer, edge.provider, edge.contract);
    let width = figures.iter().map(|edge| name(edge).len()).max();
    let width = width.unwrap_or(0).max(28);
    let mut text = format!(
        "{:width$} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
        "EDGE", "CALLS/S", "ERRORS", "IN FLIGHT", "P50", "P99", "QUEUE P99"
    );
    for edge in figures {
        text += &format!(
            "{:width$} {:>10.0} {:>8} {:>9} {:>9} {:>9} {:>9}",
            name(edge),
            edge.calls_per_second,
            edge.errors
                .values()
                .fold(0, |sum: u64, count| sum.saturating_add(*count)),
            edge.in_flight,
            duration_text(edge.p50_ns),
            duration_text(edge.p99_ns),
            duration_text(edge.queue_p99_ns),
        );
        for (kind, count) in &edge.errors {
            text += &format!("  {kind} {count}");
        }
        text.push('\n');
    }
    text
}

fn duration_text(ns: Option<u64>) -> String {
    match ns {
        None => "-".to_owned(),
        Some(ns) if ns < 10_000 => format!("{ns} ns"),
        Some(ns) if ns < 10_000_000 => format!("{} us", ns / 1_000),
        Some(ns) if ns < 10_000_000_000 => format!("{} ms", ns / 1_000_000),
        Some(ns) => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use insula_contract::meters::bucket_of;

    use super::*;

    fn reading(at_ns: u64, calls: u64, failed: u64) -> Reading {
        let mut called = Counts {
            begun: calls + failed + 2,
            ..Counts::default()
        };
        called.ended[Outcome::Ok as usize] = calls;
        called.ended[Outcome::Failed as usize] = failed;
        called.buckets.0[bucket_of(1_000)] = calls;
        called.buckets.0[bucket_of(50_000_000)] = failed;
        Reading {
            at_ns,
            edges: vec![EdgeReading {
                edge: EdgeId(4),
                consumer: "web".to_owned(),
                provider: "kv".parse().unwrap(),
                contract: "kv@1".parse().unwrap(),
                called,
                served: Counts::default(),
            }],
        }
    }

    #[test]
    fn the_rate_is_that_between_two_readings() {
        let (one, two) = (reading(0, 100, 0), reading(2_000_000_000, 500, 8));
        let all = figures(&one, &two, &[], false);
        assert_eq!(all[0].calls_per_second, 204.0);
        assert_eq!((all[0].calls, all[0].in_flight), (508, 2));
        assert_eq!(
            table(&all),
            "EDGE                            CALLS/S   ERRORS IN FLIGHT       P50       P99 QUEUE P99\n\
             web -> kv kv@1                      204        8         2    960 ns     44 ms         -  \
             failed 8\n"
        );
        let recent = figures(&one, &two, &["kv".to_owned()], true);
        assert_eq!(recent[0].calls, 408);
        assert!(figures(&one, &two, &["k".to_owned()], true).is_empty());
    }
}
