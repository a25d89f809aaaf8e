//! `explain`: why the instances of a service sit where they do.

use super::Exit;
use super::client::{Client, ClientError};
use crate::places::Explanation;

pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<Exit, ClientError> {
    let explanation: Explanation = client.get(&format!("/v1/explain/{name}")).await?;
    if json {
        let text = serde_json::to_string_pretty(&explanation);
        println!("{}", text.unwrap_or_default());
    } else {
        print!("{}", text(name, &explanation));
    }
    let none = explanation.seats.is_empty() && explanation.waiting.is_empty();
    Ok(if none { Exit::NotRunning } else { Exit::Done })
}

fn text(name: &str, explanation: &Explanation) -> String {
    let mut lines = Vec::new();
    for explained in &explanation.seats {
        let seat = &explained.seat;
        let kind = if seat.own.is_some() {
            "its own"
        } else {
            "shared"
        };
        lines.push(format!(
            "{} runs on CPUs {} ({kind}), memory from {}",
            seat.instance, seat.cpus, seat.from
        ));
        let (profile, asks) = (&seat.profile, &explained.asks);
        lines.push(format!("  profile `{profile}` asks for {asks}"));
        for place in &explained.places {
            let mark = if place.taken { "here" } else { "not" };
            lines.push(format!("  {mark}: {}: {}", place.cpus, place.why));
        }
    }
    for waiting in &explanation.waiting {
        lines.push(format!(
            "{} waits for room: {}",
            waiting.instance, waiting.why
        ));
    }
    if lines.is_empty() {
        lines.push(format!("{name} has no place: it is down, or not installed"));
    }
    lines.push(String::new());
    lines.join("\n")
}
