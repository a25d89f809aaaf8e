//! `capacity`: how many more instances of each profile fit, and what binds.

use insula_core::placement::MANY;

use super::Exit;
use super::client::{Client, ClientError};
use crate::places::Capacity;

pub(super) async fn run(client: &Client, json: bool) -> Result<Exit, ClientError> {
    let rows: Vec<Capacity> = client.get("/v1/capacity").await?;
    if json {
        let text = serde_json::to_string_pretty(&rows);
        println!("{}", text.unwrap_or_default());
    } else {
        rows.iter().for_each(|row| println!("{}", line(row)));
    }
    Ok(Exit::Done)
}

fn line(row: &Capacity) -> String {
    match &row.binds {
        Some(binds) => format!("{:<16} {:>6} more; then it {binds}", row.profile, row.more),
        None => format!("{:<16} {MANY:>5}+ more", row.profile),
    }
}
