//! `releases`.

use super::Exit;
use super::client::{Client, ClientError};
use crate::driver::ask::ReleaseRow;

pub(super) async fn run(
    client: &Client,
    names: &[String],
    json: bool,
) -> Result<Exit, ClientError> {
    let mut rows: Vec<ReleaseRow> = client.get("/v1/releases").await?;
    rows.retain(|row| names.is_empty() || names.iter().any(|name| name == row.name.as_str()));
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(&rows).unwrap_or_default()
        );
    } else {
        print!("{}", table(&rows));
    }
    let mut exit = Exit::Done;
    for name in names {
        if !rows.iter().any(|row| row.name.as_str() == name) {
            eprintln!("error: no release of `{name}` is installed");
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

fn table(rows: &[ReleaseRow]) -> String {
    let mut text = String::new();
    let width = rows
        .iter()
        .map(|row| row.name.as_str().len())
        .max()
        .unwrap_or(0)
        .max(12);
    for row in rows {
        let mark = match (row.active, row.previous) {
            (true, _) => "active",
            (false, true) => "previous",
            (false, false) => "",
        };
        text += &format!(
            "{:width$}  {:10}  {:12}  {:>9}  {mark}",
            row.name,
            row.version.to_string(),
            &row.hash[..row.hash.len().min(12)],
            bytes(row.size),
        );
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn bytes(size: u64) -> String {
    match size {
        0..1_024 => format!("{size} B"),
        1_024..1_048_576 => format!("{:.1} KiB", size as f64 / 1_024.0),
        _ => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_serves() {
        let row = |version: &str, active, previous| ReleaseRow {
            name: "kv".parse().unwrap(),
            version: version.parse().unwrap(),
            hash: "0123456789abcdef".to_owned(),
            size: 2_048,
            installed_at: 0,
            active,
            previous,
        };
        let rows = [
            row("1.0.0", false, true),
            row("1.1.0", true, false),
            row("2.0.0", false, false),
        ];
        assert_eq!(
            table(&rows),
            "kv            1.0.0       0123456789ab    2.0 KiB  previous\n\
             kv            1.1.0       0123456789ab    2.0 KiB  active\n\
             kv            2.0.0       0123456789ab    2.0 KiB\n"
        );
    }
}
