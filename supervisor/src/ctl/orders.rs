//! `start`, `stop`, `restart`, `upgrade`, `rollback`, `scale`, `shutdown`.

use std::pin::pin;
use std::time::Duration;

use insula_core::event::{Done, Refusal, RefusalKind};
use insula_core::report::Row;
use semver::Version;
use tokio::sync::mpsc;

use super::Exit;
use super::client::{Client, ClientError, read_pieces};
use super::progress::Progress;
use crate::control::{Answer, OrderedVerb, OrdersRequest, Told};

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

    /// The same as an order for many, where it can be one.
    fn of_many(&self) -> Option<OrderedVerb> {
        match self {
            Self::Start => Some(OrderedVerb::Start),
            Self::Stop => Some(OrderedVerb::Stop),
            Self::Restart => Some(OrderedVerb::Restart),
            Self::Upgrade(_) | Self::Rollback | Self::Scale(_) => None,
        }
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
    let (news, mut told) = mpsc::unbounded_channel();
    let mut asked = pin!(ask(client, &verb, &names, news));
    let mut progress = Progress::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    // The first tick is at once; what takes no longer than that needs no progress.
    tick.reset();
    let mut done = None;
    loop {
        tokio::select! {
            biased;
            next = told.recv() => match next {
                Some((name, answer)) => {
                    progress.clear();
                    exit = exit.and(tell(&name, answer));
                }
                // Nobody tells any more: asking has ended, well or not.
                None => match done.take() {
                    Some(asked) => return Result::map(asked, |()| exit),
                    None => return asked.await.map(|()| exit),
                },
            },
            ended = &mut asked, if done.is_none() => done = Some(ended),
            _ = tick.tick() => {
                if !progress.is_due() {
                    continue;
                }
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
}

/// Gives the order, for all at once: a service may wait for another of them. What becomes of each
/// is told as it comes.
async fn ask(
    client: &Client,
    verb: &Verb,
    names: &[String],
    news: mpsc::UnboundedSender<(String, Answer)>,
) -> Result<(), ClientError> {
    let names_of_services: Result<Vec<_>, _> = names.iter().map(|name| name.parse()).collect();
    let (Some(verb_of_many), Ok(services), true) =
        (verb.of_many(), names_of_services, names.len() > 1)
    else {
        // One of them, or a name that the daemon has to refuse.
        let mut orders = tokio::task::JoinSet::new();
        for name in names {
            let (client, path, name) = (client.clone(), verb.path(name), name.clone());
            orders.spawn(async move { (name, client.order(&path).await) });
        }
        while let Some(ended) = orders.join_next().await {
            let Ok((name, answer)) = ended else { continue };
            // It is listened to until this ends.
            let _ = news.send((name, answer?));
        }
        return Ok(());
    };
    let request = OrdersRequest {
        verb: verb_of_many,
        services,
    };
    let response = client.post("/v1/orders", &request).await?;
    let mut rest = Vec::new();
    let mut unread = None;
    read_pieces(response, |piece| {
        rest.extend_from_slice(piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match serde_json::from_slice::<Told>(&line) {
                Ok(Told { name, answer }) => {
                    let _ = news.send((name.to_string(), answer));
                }
                Err(error) => unread = Some(error),
            }
        }
    })
    .await?;
    match unread {
        Some(error) => Err(ClientError::Talk {
            source: Box::new(error),
        }),
        None => Ok(()),
    }
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
        RefusalKind::SpawnError
        | RefusalKind::AbnormalTermination
        | RefusalKind::Waiting
        | RefusalKind::NoRoom => Exit::NotStarted,
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
        RefusalKind::NoRoom => "no room",
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
