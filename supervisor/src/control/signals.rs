//! Signals to services.

use axum::extract::{Json, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use insula_contract::id::ServiceName;
use serde::Deserialize;

use super::Api;
use crate::driver::ask::Ask;

/// Signals that can be sent, by their names without `SIG`.
pub(crate) const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("WINCH", libc::SIGWINCH),
];

#[derive(Debug, Deserialize)]
pub(super) struct SignalQuery {
    /// A name of [`SIGNALS`].
    signal: String,
}

/// `NAME` or `NAME:INDEX`.
fn parse(text: &str) -> Option<(ServiceName, Option<u16>)> {
    match text.split_once(':') {
        Some((name, index)) => Some((name.parse().ok()?, Some(index.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

pub(super) async fn signal(
    State(api): State<Api>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<SignalQuery>,
) -> Response {
    let refuse = |status: StatusCode, text: String| (status, text).into_response();
    let known = SIGNALS.iter().find(|(known, _)| *known == query.signal);
    let Some((signal, number)) = known else {
        let text = format!("no signal `{}`\n", query.signal);
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    let unknown = || {
        refuse(
            StatusCode::NOT_FOUND,
            format!("no such service: `{name}`\n"),
        )
    };
    let Some((service, index)) = parse(&name) else {
        return unknown();
    };
    tracing::info!(target: "audit", name, signal, "a signal is sent");
    let signal = *number;
    let asked = api.ask(|reply| Ask::Signal {
        service,
        index,
        signal,
        reply,
    });
    match asked.await {
        Ok(Some(sent)) => Json(sent).into_response(),
        Ok(None) => unknown(),
        Err(answer) => answer.into_response(),
    }
}
