//! The control API: HTTP with JSON on a Unix socket.
//!
//! `insulactl` and every script use the same one. Whoever may connect is told by the kernel; root
//! and the daemon's own user may do everything, nobody else anything yet, whatever the mode of the
//! socket. Every change is written to the daemon's log with who asked for it (target `audit`).

mod logs;
mod orders;
mod places;
pub(crate) mod signals;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Json, Path as UrlPath, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use insula_contract::id::ServiceName;
use insula_core::event::{Done, Order, Refusal, RefusalKind};
use insula_core::time::Time;
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::doctor::{self, By, Host};
use crate::driver::ask::Ask;
use crate::meters::{self, Reading};
use crate::output::Lines;
use crate::successor;
pub use orders::{OrderedVerb, OrdersRequest, Told};

/// The socket's name in the run directory.
pub const SOCKET: &str = "control.sock";
/// Version of the API: the first part of every path, and in every answer of `/v1/version`.
pub const API: u32 = 1;

/// Who is at the other end, by the kernel's word.
#[derive(Debug, Clone)]
struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let cred = stream.io().peer_cred().ok();
        Self {
            uid: cred.as_ref().map(tokio::net::unix::UCred::uid),
            pid: cred.as_ref().and_then(tokio::net::unix::UCred::pid),
        }
    }
}

/// What the API needs to answer.
#[derive(Debug, Clone)]
pub struct Api {
    asks: mpsc::Sender<Ask>,
    logs: PathBuf,
    lines: Lines,
    began: Time,
}

impl Api {
    /// An API that asks the driver through `asks` and finds the output `lines` below `logs`.
    pub(crate) fn new(asks: mpsc::Sender<Ask>, logs: PathBuf, lines: Lines) -> Self {
        let began = crate::driver::now();
        Self {
            asks,
            logs,
            lines,
            began,
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        self.asks
            .send(make(reply))
            .await
            .map_err(|_| Answer::ending())?;
        answer.await.map_err(|_| Answer::ending())
    }
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It worked.
    Done(Done),
    /// It did not.
    Refused(Refusal),
}

impl Answer {
    fn ending() -> Self {
        Self::Refused(Refusal {
            kind: RefusalKind::ShuttingDown,
            text: "the daemon is ending".to_owned(),
            serving: None,
            hint: None,
        })
    }
}

impl From<Result<Done, Refusal>> for Answer {
    fn from(result: Result<Done, Refusal>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Done(_) => StatusCode::OK,
            Self::Refused(refusal) => match refusal.kind {
                RefusalKind::BadName | RefusalKind::NoRelease => StatusCode::NOT_FOUND,
                RefusalKind::Busy
                | RefusalKind::Superseded
                | RefusalKind::ContractRefused
                | RefusalKind::NotScalable
                | RefusalKind::NoRoom
                | RefusalKind::Waiting => StatusCode::CONFLICT,
                RefusalKind::SpawnError | RefusalKind::AbnormalTermination => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                RefusalKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            },
        };
        (status, Json(self)).into_response()
    }
}

/// Opens the control socket; one that a dead daemon left is replaced.
pub fn bind(run: &Path) -> io::Result<UnixListener> {
    let path = run.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Takes the control socket over from who held it before.
pub fn take_over(listener: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves the API until the task is dropped.
pub async fn serve(listener: UnixListener, api: Api) -> io::Result<()> {
    let routes = Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/releases", get(releases))
        .route("/v1/doctor", get(examine))
        .route("/v1/edges", get(edges))
        .route("/v1/utilisation", get(utilisation))
        .route("/v1/limits", get(limits))
        .route("/v1/topology", get(places::topology))
        .route("/v1/plan", get(places::plan))
        .route("/v1/capacity", get(places::capacity))
        .route("/v1/explain/{name}", get(places::explain))
        .route("/metrics", get(metrics))
        .route("/v1/install", post(install))
        .route("/v1/update", post(update))
        .route("/v1/shutdown", post(shutdown))
        .route("/v1/daemon/upgrade", post(succeed))
        .route("/v1/orders", post(orders::orders))
        .route("/v1/services/{name}/logs", get(logs::logs))
        .route("/v1/services/{name}/signal", post(signals::signal))
        .route("/v1/services/{name}/{verb}", post(order))
        .layer(from_fn(authorise))
        .with_state(api);
    axum::serve(
        listener,
        routes.into_make_service_with_connect_info::<Peer>(),
    )
    .await
}

async fn authorise(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    let own = nix::unistd::geteuid().as_raw();
    let allowed = peer.uid.is_some_and(|uid| uid == 0 || uid == own);
    let change = request.method() != axum::http::Method::GET;
    let path = request.uri().path().to_owned();
    if !allowed {
        tracing::warn!(target: "audit", uid = peer.uid, pid = peer.pid, path, "refused");
        let text = "only root and the daemon's own user may use the control socket\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let response = next.run(request).await;
    if change {
        let status = response.status().as_u16();
        tracing::info!(target: "audit", uid = peer.uid, pid = peer.pid, path, status, "asked");
    }
    response
}

/// What `/v1/version` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// Version of `insulad`.
    pub version: String,
    /// [`API`].
    pub api: u32,
    /// Its process id.
    pub pid: u32,
    /// When it began, in nanoseconds of `CLOCK_BOOTTIME`: another number is another daemon.
    pub began_ns: u64,
}

async fn version(State(api): State<Api>) -> Json<VersionReport> {
    Json(VersionReport {
        began_ns: api.began.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API,
        pid: std::process::id(),
    })
}

async fn status(State(api): State<Api>) -> Response {
    match api.ask(|reply| Ask::Status { reply }).await {
        Ok(rows) => {
            // Who reads that a process ended finds its last lines.
            api.lines.settle().await;
            Json(rows).into_response()
        }
        Err(answer) => answer.into_response(),
    }
}

async fn releases(State(api): State<Api>) -> Response {
    match api.ask(|reply| Ask::Releases { reply }).await {
        Ok(rows) => Json(rows).into_response(),
        Err(answer) => answer.into_response(),
    }
}

/// Reads all meters beside the driver.
async fn reading(api: &Api) -> Result<Reading, Answer> {
    let survey = api.ask(|reply| Ask::Edges { reply }).await?;
    tokio::task::spawn_blocking(|| survey.read())
        .await
        .map_err(|_| Answer::ending())
}

async fn edges(State(api): State<Api>) -> Response {
    match reading(&api).await {
        Ok(reading) => Json(reading).into_response(),
        Err(answer) => answer.into_response(),
    }
}

/// Looks at all processes beside the driver.
async fn utilisation(State(api): State<Api>) -> Response {
    let sights = match api.ask(|reply| Ask::Utilisation { reply }).await {
        Ok(sights) => sights,
        Err(answer) => return answer.into_response(),
    };
    match tokio::task::spawn_blocking(move || sights.look()).await {
        Ok(utilisation) => Json(utilisation).into_response(),
        Err(_) => Answer::ending().into_response(),
    }
}

/// Looks at all cgroups beside the driver.
async fn limits(State(api): State<Api>) -> Response {
    let sights = match api.ask(|reply| Ask::Limits { reply }).await {
        Ok(sights) => sights,
        Err(answer) => return answer.into_response(),
    };
    match tokio::task::spawn_blocking(move || sights.look()).await {
        Ok(holdings) => Json(holdings).into_response(),
        Err(_) => Answer::ending().into_response(),
    }
}

async fn metrics(State(api): State<Api>) -> Response {
    match reading(&api).await {
        Ok(reading) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, meters::prometheus(&reading)).into_response()
        }
        Err(answer) => answer.into_response(),
    }
}

/// What `doctor` may say.
#[derive(Debug, Deserialize)]
struct DoctorDetails {
    #[serde(default = "DoctorDetails::services")]
    services: u64,
}

impl DoctorDetails {
    fn services() -> u64 {
        doctor::SERVICES
    }
}

/// Looks at the host beside the driver.
async fn examine(State(api): State<Api>, Query(details): Query<DoctorDetails>) -> Response {
    let known = match api.ask(|reply| Ask::Doctor { reply }).await {
        Ok(known) => known,
        Err(answer) => return answer.into_response(),
    };
    let look = tokio::task::spawn_blocking(move || {
        Host::here(*known, By::Insulad, details.services).map(|host| doctor::examine(&host))
    });
    match look.await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(_) => Answer::ending().into_response(),
    }
}

async fn shutdown(State(api): State<Api>) -> Answer {
    match api.ask(|reply| Ask::Shutdown { reply }).await {
        Ok(result) => result.into(),
        Err(answer) => answer,
    }
}

/// What an upgrade of the daemon may say.
#[derive(Debug, Default, Deserialize)]
struct SucceedDetails {
    program: Option<PathBuf>,
}

/// Why another program does not take over, or which version of it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Succession {
    /// This version does, in a moment.
    Begins {
        /// Which.
        version: String,
    },
    /// It does not; nothing changed.
    Refused {
        /// All that speaks against it.
        problems: Vec<String>,
    },
}

async fn succeed(State(api): State<Api>, Query(details): Query<SucceedDetails>) -> Response {
    let refuse = |problems| {
        let refused = Succession::Refused { problems };
        (StatusCode::CONFLICT, Json(refused)).into_response()
    };
    let asked = tokio::task::spawn_blocking(move || {
        let program = successor::program(details.program)
            .map_err(|error| format!("the daemon's own program is not found: {error}"))?;
        let checked = successor::ask(&program)?;
        Ok::<_, String>((program, checked))
    });
    let (program, checked) = match asked.await {
        Ok(Ok(asked)) => asked,
        Ok(Err(problem)) => return refuse(vec![problem]),
        Err(_) => return Answer::ending().into_response(),
    };
    if !checked.problems.is_empty() {
        let of_it = |problem| format!("{} {}: {problem}", program.display(), checked.version);
        return refuse(checked.problems.iter().map(of_it).collect());
    }
    match api.ask(|reply| Ask::Succeed { program, reply }).await {
        Ok(Ok(())) => Json(Succession::Begins {
            version: checked.version,
        })
        .into_response(),
        Ok(Err(refusal)) => {
            let hint = refusal.hint.map(|hint| format!("; {hint}"));
            refuse(vec![refusal.text + &hint.unwrap_or_default()])
        }
        Err(answer) => answer.into_response(),
    }
}

/// What `update` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UpdateDetails {
    #[serde(default)]
    dry_run: bool,
}

/// Answers when all that was changed holds.
async fn update(State(api): State<Api>, Query(details): Query<UpdateDetails>) -> Response {
    let dry_run = details.dry_run;
    match api.ask(|reply| Ask::Update { dry_run, reply }).await {
        Ok(updated) => {
            let report = updated.wait().await;
            let status = if report.problems.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::UNPROCESSABLE_ENTITY
            };
            (status, Json(report)).into_response()
        }
        Err(answer) => answer.into_response(),
    }
}

/// What `upgrade` and `scale` may say beside the name.
#[derive(Debug, Default, Deserialize)]
struct OrderDetails {
    version: Option<Version>,
    instances: Option<u16>,
}

async fn order(
    State(api): State<Api>,
    UrlPath((name, verb)): UrlPath<(String, String)>,
    Query(details): Query<OrderDetails>,
) -> Response {
    let order = match verb.as_str() {
        "start" => Order::Start,
        "stop" => Order::Stop,
        "restart" => Order::Restart,
        "upgrade" => Order::Upgrade(details.version),
        "rollback" => Order::Rollback,
        "scale" => match details.instances {
            Some(instances) => Order::Scale(instances),
            None => return (StatusCode::BAD_REQUEST, "`instances` is missing\n").into_response(),
        },
        _ => return (StatusCode::NOT_FOUND, "no such verb\n").into_response(),
    };
    let service: ServiceName = match name.parse() {
        Ok(name) => name,
        Err(error) => {
            let refusal = Refusal {
                kind: RefusalKind::BadName,
                text: format!("no such service: {error}"),
                serving: None,
                hint: None,
            };
            return Answer::Refused(refusal).into_response();
        }
    };
    match api
        .ask(|reply| Ask::Order {
            service,
            order,
            reply,
        })
        .await
    {
        Ok(result) => {
            // Who hears that a process ended finds its last lines.
            api.lines.settle().await;
            Answer::from(result).into_response()
        }
        Err(answer) => answer.into_response(),
    }
}

/// What `install` is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallRequest {
    /// A directory or a tarball, absolute.
    pub path: PathBuf,
}

/// Answers with a line of JSON per piece of news, the last one being the end.
async fn install(State(api): State<Api>, Json(request): Json<InstallRequest>) -> Response {
    let (news, mut receiver) = mpsc::unbounded_channel();
    if api
        .asks
        .send(Ask::Install {
            path: request.path,
            news,
        })
        .await
        .is_err()
    {
        return Answer::ending().into_response();
    }
    let stream = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|news| {
            news.map(|news| {
                let mut line = serde_json::to_vec(&news).map_err(io::Error::other)?;
                line.push(b'\n');
                Ok::<_, io::Error>(line)
            })
        })
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response()
}
