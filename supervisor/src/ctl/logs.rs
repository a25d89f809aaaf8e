//! `logs`.

use std::time::Duration;

use hyper::Method;

use super::Exit;
use super::client::{Client, ClientError, read_pieces};

/// Which lines of a service to show.
#[derive(Debug)]
pub(super) struct Which {
    /// How many of the last.
    pub(super) lines: Option<usize>,
    /// How old at most.
    pub(super) since: Option<Duration>,
    /// Of which attempt.
    pub(super) attempt: Option<u64>,
    /// Only of standard error.
    pub(super) stderr: bool,
    /// Go on with what it writes from now on.
    pub(super) follow: bool,
}

pub(super) async fn run(client: &Client, name: &str, which: &Which) -> Result<Exit, ClientError> {
    // Who names a time wants all of it.
    let lines = which.lines.unwrap_or(match which.since {
        Some(_) => usize::MAX,
        None => 100,
    });
    let Which { stderr, follow, .. } = which;
    let mut path =
        format!("/v1/services/{name}/logs?lines={lines}&stderr={stderr}&follow={follow}");
    if let Some(since) = which.since {
        path.push_str(&format!("&since={}", since.as_secs()));
    }
    if let Some(attempt) = which.attempt {
        path.push_str(&format!("&attempt={attempt}"));
    }
    let show = async {
        let response = client.send(Method::GET, &path, Vec::new()).await?;
        read_pieces(response, super::print::bytes).await
    };
    tokio::select! {
        shown = show => shown?,
        // The way to end a following.
        _ = tokio::signal::ctrl_c(), if which.follow => {}
    }
    Ok(Exit::Done)
}
