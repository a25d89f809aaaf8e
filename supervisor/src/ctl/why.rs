//! `why`: what the supervisor knows about how a service is, in words, and what to do next.

use insula_core::report::{Row, State};

use super::Exit;
use super::client::{Client, ClientError};

pub(super) async fn run(client: &Client, name: &str) -> Result<Exit, ClientError> {
    let rows: Vec<Row> = client.get("/v1/status").await?;
    let (own, others): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.name.as_str() == name || row.label() == name);
    if own.is_empty() {
        eprintln!("error: no service `{name}`");
        let names: Vec<_> = others
            .iter()
            .filter(|row| row.instance == 0)
            .map(|row| row.name.as_str())
            .collect();
        eprintln!("hint: there are {}", names.join(", "));
        return Ok(Exit::Unknown);
    }
    for row in &own {
        print!("{}", explain(row));
    }
    Ok(Exit::Done)
}

fn explain(row: &Row) -> String {
    let label = row.label();
    let mut text = format!("{label} is {}: {}\n", row.state.name(), meaning(row.state));
    let mut add = |what: &str, said: &Option<String>| {
        if let Some(said) = said {
            text += &format!("  {what}: {said}\n");
        }
    };
    let running = row
        .pid
        .zip(row.attempt)
        .map(|(pid, attempt)| format!("release {}, attempt {attempt}, pid {pid}", row.version));
    add("it runs", &running);
    add("reason", &row.reason);
    add("it says", &row.status);
    // The reason of what is down is how it ended.
    let told = |end: &String| {
        row.reason
            .as_ref()
            .is_some_and(|reason| reason.contains(end))
    };
    let before = row.last_end.clone().filter(|end| !told(end));
    add("the process before", &before);
    if row.restarts > 0 {
        text += &format!("  restarts since a person started it: {}\n", row.restarts);
    }
    text += &format!("next: {}\n", next(row));
    text
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Stopped => "nobody wants it up",
        State::Waiting => "something that it needs is not there",
        State::Starting => "its process was launched and has not been in touch",
        State::Running => "its process runs and is not ready yet",
        State::Ready => "it does its work",
        State::Degraded => "it is there, and something speaks against it",
        State::Draining => "it finishes what it accepted",
        State::Stopping => "it was told to end",
        State::Backoff => "its process ended, and another one starts soon",
        State::Exited => "it ended, and is not to be started again",
        State::Fatal => "it was given up",
        State::Dormant => "nobody used it, so its processes were ended",
    }
}

fn next(row: &Row) -> String {
    let name = &row.name;
    match row.state {
        State::Stopped => format!("`insulactl start {name}`"),
        State::Waiting => {
            "it starts by itself once that is there; `insulactl why` tells about that too"
                .to_owned()
        }
        State::Starting | State::Running => {
            format!("`insulactl logs {name}` shows what it does; `ready-timeout` ends the wait")
        }
        State::Ready | State::Draining | State::Stopping => "nothing".to_owned(),
        State::Degraded => {
            format!("`insulactl logs {name}`; `insulactl restart {name}` replaces it now")
        }
        State::Backoff => format!("`insulactl logs {name}` shows what it wrote before its end"),
        State::Dormant => {
            format!("it starts when somebody uses it, or by `insulactl start {name}`")
        }
        State::Exited | State::Fatal => {
            format!("`insulactl logs {name}`, mend it, then `insulactl start {name}`")
        }
    }
}
