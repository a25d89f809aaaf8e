//! `limits`: what limits services, and what they use of it.

use std::fmt::Write as _;

use insula_core::report::Row;
use serde::Serialize;

use super::Exit;
use super::client::{Client, ClientError};
use crate::config::units::size_text;
use crate::limits::{Held, Holdings, Limit};

/// What `limits --json` prints; the number changes when a field changes its meaning.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    schema: u32,
    #[serde(flatten)]
    holdings: &'a Holdings,
}

pub(super) async fn run(
    client: &Client,
    name: Option<&str>,
    json: bool,
) -> Result<Exit, ClientError> {
    let mut holdings: Holdings = client.get("/v1/limits").await?;
    let is_meant = |held: &Held| {
        name.is_none_or(|name| name == held.instance.service.as_str() || name == label(held))
    };
    holdings.instances.retain(is_meant);
    if let (Some(name), true) = (name, holdings.instances.is_empty()) {
        let rows: Vec<Row> = client.get("/v1/status").await?;
        let is_known = |row: &Row| row.name.as_str() == name || row.label() == name;
        return Ok(if rows.iter().any(is_known) {
            eprintln!("error: `{name}` has no process that could be limited");
            Exit::NotRunning
        } else {
            eprintln!("error: no such service: `{name}`");
            Exit::Failed
        });
    }
    if json {
        let report = Report {
            schema: 1,
            holdings: &holdings,
        };
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.unwrap_or_default());
    } else {
        print!("{}", text(&holdings));
    }
    Ok(Exit::Done)
}

fn label(held: &Held) -> String {
    held.instance.to_string()
}

/// An amount in the unit of a key.
fn amount(key: &str, amount: u64) -> String {
    match key {
        "memory-high" | "memory-max" | "data-max" => size_text(amount),
        "cpu-max" => format!("{}%", amount as f64 / 10.0),
        _ => amount.to_string(),
    }
}

fn remark(limit: &Limit) -> String {
    match limit.in_force {
        None => "not enforced".to_owned(),
        Some(force) if force == limit.set => String::new(),
        // The kernel counts memory in pages.
        Some(force) => format!("in force: {}", amount(&limit.key, force)),
    }
}

fn text(holdings: &Holdings) -> String {
    let mut rows = vec![["INSTANCE", "PROFILE", "LIMIT", "SET", "USED", ""].map(str::to_owned)];
    for held in &holdings.instances {
        let seconds = |ns: Option<u64>| ns.map(|ns| format!("{:.1} s", ns as f64 / 1e9));
        let memory = held.memory.map(|bytes| format!("{} KiB", bytes / 1_024));
        for limit in &held.limits {
            let used = match limit.key.as_str() {
                "memory-high" | "memory-max" => memory.clone(),
                "cpu-max" => seconds(held.throttled_ns).map(|time| format!("held back {time}")),
                "data-max" => limit.used.map(|bytes| format!("{} KiB", bytes / 1_024)),
                _ => limit.used.map(|used| used.to_string()),
            };
            rows.push([
                label(held),
                held.profile.clone(),
                limit.key.clone(),
                amount(&limit.key, limit.set),
                used.unwrap_or_else(|| "-".to_owned()),
                remark(limit),
            ]);
        }
        if held.limits.is_empty() {
            let uses = [
                memory,
                held.tasks.map(|tasks| format!("{tasks} tasks")),
                seconds(held.cpu_ns).map(|time| format!("{time} of processors")),
            ];
            let uses: Vec<_> = uses.into_iter().flatten().collect();
            let none = ["none", "-"].map(str::to_owned);
            let [limit, set] = none;
            rows.push([
                label(held),
                held.profile.clone(),
                limit,
                set,
                uses.join(", "),
                String::new(),
            ]);
        }
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let limits = holdings.instances.iter().flat_map(|held| &held.limits);
    let lacks = limits.into_iter().any(|limit| limit.in_force.is_none());
    for why in holdings.not_enforced.iter().filter(|_| lacks) {
        let _ = writeln!(text, "not enforced: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(service: &str, limits: Vec<Limit>) -> Held {
        Held {
            instance: insula_contract::id::Instance {
                service: service.parse().unwrap(),
                index: 0,
            },
            attempt: insula_contract::id::Attempt(7),
            profile: "small".to_owned(),
            limits,
            memory: Some(3 << 20),
            tasks: Some(2),
            cpu_ns: Some(1_500_000_000),
            throttled_ns: Some(250_000_000),
        }
    }

    fn limit(key: &str, set: u64, in_force: Option<u64>, used: Option<u64>) -> Limit {
        Limit {
            key: key.to_owned(),
            set,
            in_force,
            used,
        }
    }

    #[test]
    fn each_limit_is_a_line_with_what_is_used_of_it() {
        let limits = vec![
            limit("memory-max", 64 << 20, Some(64 << 20), Some(3 << 20)),
            limit("pids-max", 20, None, Some(2)),
            limit("cpu-max", 500, Some(500), None),
        ];
        let holdings = Holdings {
            instances: vec![held("kv", limits), held("web", Vec::new())],
            not_enforced: vec!["no cgroup v2 controllers pids".to_owned()],
        };
        let text = text(&holdings);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        let expected = [
            "INSTANCE PROFILE LIMIT SET USED",
            "kv:0 small memory-max 64MiB 3072 KiB",
            "kv:0 small pids-max 20 2 not enforced",
            "kv:0 small cpu-max 50% held back 0.2 s",
            "web:0 small none - 3072 KiB, 2 tasks, 1.5 s of processors",
            "not enforced: no cgroup v2 controllers pids",
        ];
        assert_eq!(lines, expected, "{text}");
        let columns = text.lines().take(4).map(|line| line.find("small"));
        assert_eq!(columns.skip(1).collect::<Vec<_>>(), [Some(10); 3]);
    }
}
