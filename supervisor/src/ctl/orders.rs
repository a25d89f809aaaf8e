//! `start`, `stop`, `restart`, `upgrade`, `rollback`, `scale`, `shutdown`.

use std::time::Duration;

use insula_core::event::{Done, Refusal, RefusalKind};
use insula_core::report::Row;
use semver::Version;

use super::Exit;
use super::client::{Client, ClientError};
use super::progress::Progress;
use crate::control::Answer;

pub(super) enum Verb {
    Start,
    Stop,
    Restart,
    Upgrade(Option<Version>),
    Rollback,
    Scale(u16),
}

impl Verb {
    fn path(&self, name: &str) -> String {
        let verb = match self {
            Self::Start => "start".to_owned(),
            Self::Stop => "stop".to_owned(),
            Self::Restart => "restart".to_owned(),
            Self::Upgrade(None) => "upgrade".to_owned(),
            Self::Upgrade(Some(version)) => {
                // A `+` of build metadata would be read as a blank.
                format!(
                    "upgrade?version={}",
                    version.to_string().replace('+', "%2B")
                )
            }
            Self::Rollback => "rollback".to_owned(),
            Self::Scale(instances) => format!("scale?instances={instances}"),
        };
        format!("/v1/services/{name}/{verb}")
    }

    fn doing(&self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Stop => "stopping",
            Self::Restart => "restarting",
            Self::Upgrade(_) => "upgrading",
            Self::Rollback => "rolling back",
            Self::Scale(_) => "scaling",
        }
    }
}

pub(super) async fn run(
    client: &Client,
    verb: Verb,
    names: &[String],
) -> Result<Exit, ClientError> {
    let names = expand(client, names).await?;
    let mut exit = Exit::Done;
    // All at once: a service may wait for another of them.
    let mut orders = tokio::task::JoinSet::new();
    for name in &names {
        let (client, path, name) = (client.clone(), verb.path(name), name.clone());
        orders.spawn(async move { (name, client.order(&path).await) });
    }
    let mut progress = Progress::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !orders.is_empty() {
        tokio::select! {
            Some(ended) = orders.join_next() => {
                let Ok((name, answer)) = ended else { continue };
                progress.clear();
                exit = exit.and(tell(&name, answer?));
            }
            _ = tick.tick() => {
                let states = client.get::<Vec<Row>>("/v1/status").await.unwrap_or_default();
                let states: Vec<_> = states
                    .iter()
                    .filter(|row| names.iter().any(|name| name == row.name.as_str()))
                    .map(|row| format!("{} {}", row.label(), row.state.name()))
                    .take(3)
                    .collect();
                progress.show(&format!("{}: {}", verb.doing(), states.join(", ")));
            }
        }
    }
    Ok(exit)
}

async fn expand(client: &Client, names: &[String]) -> Result<Vec<String>, ClientError> {
    if names.iter().any(|name| name == "all") {
        let rows: Vec<Row> = client.get("/v1/status").await?;
        let mut names: Vec<_> = rows.iter().map(|row| row.name.to_string()).collect();
        names.dedup();
        return Ok(names);
    }
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    Ok(names)
}

fn tell(name: &str, answer: Answer) -> Exit {
    match answer {
        Answer::Done(done) => {
            let text = match done {
                Done::Started => "started".to_owned(),
                Done::AlreadyStarted => "already started".to_owned(),
                Done::Stopped => "stopped".to_owned(),
                Done::NotRunning => "not running".to_owned(),
                Done::Restarted => "restarted".to_owned(),
                Done::Upgraded { from, to } => format!("{from} -> {to}"),
                Done::AlreadyActive { version } => format!("{version} is active already"),
                Done::Scaled { from, to } => format!("{from} -> {to} instances"),
                Done::Configured => "updated".to_owned(),
                Done::ShutDown => "shut down".to_owned(),
            };
            println!("{name}: {text}");
            Exit::Done
        }
        Answer::Refused(refusal) => refused(name, &refusal),
    }
}

fn refused(name: &str, refusal: &Refusal) -> Exit {
    println!("{name}: ERROR ({})", word(refusal.kind));
    eprintln!("error: {}", refusal.text);
    if let Some(serving) = &refusal.serving {
        eprintln!("  {serving}");
    }
    if let Some(hint) = &refusal.hint {
        eprintln!("hint: {hint}");
    }
    match refusal.kind {
        RefusalKind::BadName | RefusalKind::NoRelease | RefusalKind::ShuttingDown => Exit::Failed,
        RefusalKind::SpawnError | RefusalKind::AbnormalTermination | RefusalKind::Waiting => {
            Exit::NotStarted
        }
        RefusalKind::Busy | RefusalKind::Superseded => Exit::Busy,
        RefusalKind::ContractRefused | RefusalKind::NotScalable => Exit::DoesNotFit,
    }
}

/// supervisorctl's word for it, where it has one.
fn word(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::BadName => "no such process",
        RefusalKind::NoRelease => "no such release",
        RefusalKind::SpawnError => "spawn error",
        RefusalKind::AbnormalTermination => "abnormal termination",
        RefusalKind::Busy => "busy",
        RefusalKind::Superseded => "superseded",
        RefusalKind::ContractRefused => "contract refused",
        RefusalKind::NotScalable => "not scalable",
        RefusalKind::Waiting => "waiting",
        RefusalKind::ShuttingDown => "shutting down",
    }
}

pub(super) async fn shutdown(client: &Client) -> Result<Exit, ClientError> {
    let order = client.order("/v1/shutdown");
    tokio::pin!(order);
    let mut progress = Progress::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            answer = &mut order => {
                progress.clear();
                return Ok(match answer? {
                    Answer::Done(_) => {
                        println!("Shut down");
                        Exit::Done
                    }
                    Answer::Refused(refusal) => refused("insulad", &refusal),
                });
            }
            _ = tick.tick() => {
                let rows = client.get::<Vec<Row>>("/v1/status").await.unwrap_or_default();
                let left = rows.iter().filter(|row| row.pid.is_some()).count();
                progress.show(&format!("stopping: {left} still run"));
            }
        }
    }
}
