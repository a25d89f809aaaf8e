//! The output of a service, from its file.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use insula_contract::id::ServiceName;
use serde::Deserialize;

use super::Api;

/// The most bytes that are looked through for the last lines.
const LOOK_BACK: u64 = 1 << 20;
/// How often a followed file is looked at: the file has no way to tell.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize)]
pub(super) struct LogsQuery {
    /// How many of the last lines.
    lines: Option<usize>,
    /// Whether to go on with what is written from now on.
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(
    State(api): State<Api>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let Ok(name) = name.parse::<ServiceName>() else {
        return (StatusCode::NOT_FOUND, "no such service\n").into_response();
    };
    let path = crate::watch::output_path(&api.logs, &name, 0);
    let (tail, end) = match tail(&path, query.lines.unwrap_or(100)) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{name} has written nothing yet, or is not installed\n");
            return (StatusCode::NOT_FOUND, text).into_response();
        }
        Err(error) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
    };
    let content = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    if !query.follow {
        return (content, tail).into_response();
    }
    let first = Some((Some(tail), path, end));
    let stream = futures_util::stream::unfold(first, |state| async move {
        let (tail, path, mut at) = state?;
        if let Some(tail) = tail {
            return Some((Ok::<_, io::Error>(tail), Some((None, path, at))));
        }
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            match read_from(&path, at) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    at += bytes.len() as u64;
                    return Some((Ok(bytes), Some((None, path, at))));
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    (content, Body::from_stream(stream)).into_response()
}

/// The last `lines` lines of a file, and where it ended.
fn tail(path: &Path, lines: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = std::fs::File::open(path)?;
    let end = file.metadata()?.len();
    let from = end.saturating_sub(LOOK_BACK);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(end - from).read_to_end(&mut bytes)?;
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let start = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(lines.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    Ok((
        if lines == 0 {
            Vec::new()
        } else {
            bytes.split_off(start)
        },
        end,
    ))
}

/// At most a chunk of what follows `at`; from the start where the file became shorter.
fn read_from(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let at = if file.metadata()?.len() < at { 0 } else { at };
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(64 * 1024).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\n", 5, "a\n"),
            ("", 5, ""),
            ("a\nb\n", 0, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            std::fs::write(&path, text).unwrap();
            let (tail, end) = tail(&path, lines).unwrap();
            assert_eq!(
                String::from_utf8(tail).unwrap(),
                expected,
                "{text:?} {lines}"
            );
            assert_eq!(end, text.len() as u64);
        }
    }
}
