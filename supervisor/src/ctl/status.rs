//! `status`.

use insula_core::report::{Row, State};
use serde::Serialize;

use super::Exit;
use super::client::{Client, ClientError};

/// What `status --json` prints; the number changes when a field changes its meaning.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    schema: u32,
    services: &'a [Row],
}

pub(super) async fn run(
    client: &Client,
    names: &[String],
    json: bool,
) -> Result<Exit, ClientError> {
    let mut rows: Vec<Row> = client.get("/v1/status").await?;
    rows.retain(|row| {
        names.is_empty() || names.iter().any(|n| n == row.name.as_str() || n == "all")
    });
    if json {
        let report = Report {
            schema: 1,
            services: &rows,
        };
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
    } else {
        print!("{}", table(&rows));
    }
    let mut exit = Exit::Done;
    if rows.iter().any(|row| !row.state.is_up()) {
        exit = exit.and(Exit::NotRunning);
    }
    for name in names {
        if name != "all" && !rows.iter().any(|row| row.name.as_str() == name) {
            eprintln!("{name}: ERROR (no such process)");
            exit = exit.and(Exit::Unknown);
        }
    }
    Ok(exit)
}

/// supervisorctl's three columns, then ours.
fn table(rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.label().len())
        .max()
        .unwrap_or(0)
        .max(30)
        + 3;
    let mut text = String::new();
    for row in rows {
        text += &format!(
            "{:width$}{:<10}{:32}{:<10} {:<10} {:>9} {:>4}  {}",
            row.label(),
            row.state.name(),
            description(row),
            row.version.to_string(),
            row.profile,
            memory_text(row.memory),
            row.restarts,
            remark(row)
        );
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn memory_text(memory: Option<u64>) -> String {
    memory.map_or_else(String::new, |bytes| {
        format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
    })
}

fn description(row: &Row) -> String {
    match (row.state, row.pid, row.uptime_ms) {
        (
            State::Ready | State::Degraded | State::Running | State::Draining,
            Some(pid),
            Some(uptime),
        ) => {
            format!("pid {pid}, uptime {}", uptime_text(uptime / 1000))
        }
        (State::Stopped, ..) if row.restarts == 0 && row.reason.is_none() => {
            "Not started".to_owned()
        }
        _ => String::new(),
    }
}

fn uptime_text(seconds: u64) -> String {
    let clock = format!(
        "{}:{:02}:{:02}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    );
    match seconds / 86_400 {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

fn remark(row: &Row) -> String {
    match (&row.upgrading_to, &row.reason) {
        (Some(version), _) => format!("upgrading to {version}"),
        (None, Some(reason)) => reason.clone(),
        (None, None) => row.status.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, state: State) -> Row {
        Row {
            name: name.parse().unwrap(),
            instance: 0,
            instances: 1,
            state,
            code: state.code(),
            pid: Some(8581),
            attempt: Some(1),
            uptime_ms: Some(155_999),
            memory: Some(3 << 20),
            version: "1.0.0".parse().unwrap(),
            previous: None,
            profile: "shared".to_owned(),
            uid: None,
            restarts: 0,
            upgrading_to: None,
            reason: None,
            status: None,
            last_end: None,
        }
    }

    #[test]
    fn the_first_three_columns_are_those_of_supervisorctl() {
        let mut fatal = row("web", State::Fatal);
        fatal.reason = Some("no such file".to_owned());
        fatal.restarts = 3;
        fatal.memory = None;
        assert_eq!(
            table(&[row("kv", State::Ready), fatal]),
            "kv                               READY     pid 8581, uptime 0:02:35        \
             1.0.0      shared       3.0 MiB    0\n\
             web                              FATAL                                     \
             1.0.0      shared                  3  no such file\n"
        );
    }

    #[test]
    fn days_are_counted() {
        assert_eq!(uptime_text(59), "0:00:59");
        assert_eq!(uptime_text(86_400 + 61), "1 day, 0:01:01");
        assert_eq!(uptime_text(3 * 86_400), "3 days, 0:00:00");
    }
}
