//! `plan`: who would get which place, without doing anything.

use super::Exit;
use super::client::{Client, ClientError};
use crate::places::Planned;

/// Whom to add: `NAME=N`, or `NAME` for one.
pub(super) async fn run(client: &Client, add: &[String], json: bool) -> Result<Exit, ClientError> {
    let path = match add {
        [] => "/v1/plan".to_owned(),
        add => format!("/v1/plan?add={}", add.join(",")),
    };
    let planned: Result<Vec<Planned>, String> = client.get(&path).await?;
    let planned = match planned {
        Ok(planned) => planned,
        Err(text) => {
            eprintln!("error: {text}");
            return Ok(Exit::Failed);
        }
    };
    if json {
        let text = serde_json::to_string_pretty(&planned);
        println!("{}", text.unwrap_or_default());
    } else if planned.is_empty() {
        println!("everything that is wanted has its place");
    } else {
        planned
            .iter()
            .for_each(|planned| println!("{}", line(planned)));
    }
    let all = planned.iter().all(|planned| planned.seat.is_some());
    Ok(if all { Exit::Done } else { Exit::NotStarted })
}

fn line(planned: &Planned) -> String {
    let instance = &planned.instance;
    let Some(seat) = &planned.seat else {
        let why = planned.why.as_deref().unwrap_or("there is no room");
        let instead = planned.move_of.as_ref().map(|moved| {
            format!(
                "\n  it would fit if {} moved to {}",
                moved.instance, moved.cpus
            )
        });
        return format!("{instance}: no place: {why}{}", instead.unwrap_or_default());
    };
    let kind = if seat.own.is_some() { "own" } else { "shared" };
    format!(
        "{instance}: {kind} CPUs {}, memory from {}",
        seat.cpus, seat.from
    )
}
