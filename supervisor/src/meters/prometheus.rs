//! Figures of edges in the text format of Prometheus (version 0.0.4).

use std::fmt::Write;

use insula_contract::meters::{BUCKETS, Counts, Histogram, Outcome, bucket_start};

use super::{EdgeReading, Reading};

/// Buckets between two that are told: one for each power of two is enough for a graph.
const STEP: usize = 4;

/// One of the counts of an end.
type Count = fn(&Counts) -> u64;
/// One of the two ends of an edge.
type Side = fn(&EdgeReading) -> &Counts;

/// The whole page.
pub fn text(reading: &Reading) -> String {
    let mut text = String::new();
    let edges = &reading.edges;
    family(
        &mut text,
        "insula_edge_calls_total",
        "counter",
        "Calls that ended, by outcome.",
    );
    for edge in edges {
        for outcome in Outcome::ALL {
            let count = edge.called.ended(outcome);
            // All that ended well are told from the start, the errors once they have occurred.
            if outcome == Outcome::Ok || count > 0 {
                let labels = format!("{},outcome=\"{}\"", labels(edge), outcome.name());
                line(&mut text, "insula_edge_calls_total", &labels, count);
            }
        }
    }
    let plain: [(&str, &str, &str, Count); 4] = [
        (
            "insula_edge_calls_in_flight",
            "gauge",
            "Calls that have begun and not ended.",
            Counts::in_flight,
        ),
        (
            "insula_edge_resent_total",
            "counter",
            "Requests that were sent after they had been kept.",
            |counts| counts.resent,
        ),
        (
            "insula_edge_request_bytes_total",
            "counter",
            "Encoded bytes of requests.",
            |counts| counts.bytes_out,
        ),
        (
            "insula_edge_response_bytes_total",
            "counter",
            "Encoded bytes of answers.",
            |counts| counts.bytes_in,
        ),
    ];
    for (name, kind, help, value) in plain {
        family(&mut text, name, kind, help);
        for edge in edges {
            line(&mut text, name, &labels(edge), value(&edge.called));
        }
    }
    let durations: [(&str, &str, Side); 2] = [
        (
            "insula_edge_call_duration_seconds",
            "From a call to its outcome, as its consumer sees it.",
            |edge| &edge.called,
        ),
        (
            "insula_edge_queue_delay_seconds",
            "From a request's sending to its provider's taking it.",
            |edge| &edge.served,
        ),
    ];
    for (name, help, counts) in durations {
        family(&mut text, name, "histogram", help);
        for edge in edges {
            let counts = counts(edge);
            histogram(
                &mut text,
                name,
                &labels(edge),
                &counts.buckets,
                counts.sum_ns,
            );
        }
    }
    text
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(text, "{name}{{{labels}}} {value}");
}

/// Names of services and contracts have no character that would need escaping.
fn labels(edge: &EdgeReading) -> String {
    format!(
        "consumer=\"{}\",provider=\"{}\",contract=\"{}\"",
        edge.consumer, edge.provider, edge.contract
    )
}

/// What is told as less than or equal is less: the difference is a nanosecond.
fn histogram(text: &mut String, name: &str, labels: &str, buckets: &Histogram, sum_ns: u64) {
    let mut below = 0_u64;
    for (bucket, count) in buckets.0.iter().enumerate() {
        below = below.saturating_add(*count);
        if bucket % STEP == 0 && bucket + 1 < BUCKETS {
            let bound = bucket_start(bucket + 1) as f64 / 1e9;
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
    }
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {below}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}", sum_ns as f64 / 1e9);
    let _ = writeln!(text, "{name}_count{{{labels}}} {below}");
}

#[cfg(test)]
mod tests {
    use insula_contract::id::EdgeId;
    use insula_contract::meters::bucket_of;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let mut called = Counts::default();
        called.ended[Outcome::Ok as usize] = 3;
        called.ended[Outcome::Failed as usize] = 1;
        called.begun = 6;
        for ns in [100, 200, 1_000, u64::MAX] {
            called.buckets.0[bucket_of(ns)] += 1;
        }
        let reading = Reading {
            at_ns: 0,
            edges: vec![EdgeReading {
                edge: EdgeId(1),
                consumer: "web".to_owned(),
                provider: "kv".parse().unwrap(),
                contract: "kv@1".parse().unwrap(),
                called,
                served: Counts::default(),
            }],
        };
        let text = text(&reading);
        let edge = "consumer=\"web\",provider=\"kv\",contract=\"kv@1\"";
        for expected in [
            format!("insula_edge_calls_total{{{edge},outcome=\"ok\"}} 3\n"),
            format!("insula_edge_calls_total{{{edge},outcome=\"failed\"}} 1\n"),
            format!("insula_edge_calls_in_flight{{{edge}}} 2\n"),
            format!("insula_edge_call_duration_seconds_bucket{{{edge},le=\"0.000000128\"}} 1\n"),
            format!("insula_edge_call_duration_seconds_bucket{{{edge},le=\"0.000000256\"}} 2\n"),
            format!("insula_edge_call_duration_seconds_bucket{{{edge},le=\"0.000001024\"}} 3\n"),
            format!("insula_edge_call_duration_seconds_bucket{{{edge},le=\"68.719476736\"}} 3\n"),
            format!("insula_edge_call_duration_seconds_bucket{{{edge},le=\"+Inf\"}} 4\n"),
            format!("insula_edge_call_duration_seconds_count{{{edge}}} 4\n"),
            "# TYPE insula_edge_call_duration_seconds histogram\n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected} in {text}");
        }
        assert!(!text.contains("outcome=\"broken\""));
    }
}
