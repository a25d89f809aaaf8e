//! The output of a service, from its files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use insula_contract::id::{Instance, ServiceName};
use serde::Deserialize;

use super::Api;
use crate::output::{Filter, Follow, Lines, Saved, newest};

/// The most lines of the past that are given; each is held in memory meanwhile.
const LINES_MAX: usize = 100_000;
/// How often followed files are looked at: a file has no way to tell.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
pub(super) struct LogsQuery {
    /// How many of the last lines.
    lines: Option<usize>,
    /// Only lines of the last so many seconds.
    since: Option<u64>,
    /// Only lines of this attempt.
    attempt: Option<u64>,
    /// Only lines of standard error.
    #[serde(default)]
    stderr: bool,
    /// Whether to go on with what is written from now on.
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(
    State(api): State<Api>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let Some(wanted) = Wanted::parse(&name) else {
        return (StatusCode::NOT_FOUND, "no such service\n").into_response();
    };
    api.lines.settle().await;
    let follow = query.follow;
    let begun = tokio::task::spawn_blocking(move || Reading::begin(&api.logs, wanted, &query));
    let (reading, text) = match begun.await.map_err(io::Error::other).flatten() {
        Ok(Some(begun)) => begun,
        Ok(None) => {
            let text = format!("{name} has written nothing yet, or is not installed\n");
            return (StatusCode::NOT_FOUND, text).into_response();
        }
        Err(error) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
    };
    let content = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    if !follow {
        return (content, text).into_response();
    }
    let first = Some((Some(text), reading));
    let stream = futures_util::stream::unfold(first, |state| async move {
        let (text, mut reading) = state?;
        if let Some(text) = text {
            return Some((Ok::<_, io::Error>(text), Some((None, reading))));
        }
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let looked = tokio::task::spawn_blocking(move || {
                let more = reading.more();
                (reading, more)
            });
            let more;
            match looked.await.map_err(io::Error::other) {
                Ok(looked) => (reading, more) = looked,
                Err(error) => return Some((Err(error), None)),
            }
            match more {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes), Some((None, reading)))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    (content, Body::from_stream(stream)).into_response()
}

/// Whose lines: `NAME` or `NAME:INDEX`.
#[derive(Debug)]
struct Wanted {
    service: ServiceName,
    index: Option<u16>,
}

impl Wanted {
    fn parse(text: &str) -> Option<Self> {
        let (service, index) = match text.split_once(':') {
            Some((service, index)) => (service, Some(index.parse().ok()?)),
            None => (text, None),
        };
        Some(Self {
            service: service.parse().ok()?,
            index,
        })
    }

    /// The instances that have files.
    fn instances(&self, logs: &Path) -> io::Result<Vec<Instance>> {
        let mut indices: Vec<u16> = std::fs::read_dir(logs)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let (service, index) = name.to_str()?.rsplit_once('-')?;
                let index = index.parse().ok()?;
                let wanted = self.index.is_none_or(|wanted| wanted == index);
                (service == self.service.as_str() && wanted).then_some(index)
            })
            .collect();
        indices.sort_unstable();
        let instance = |index| Instance {
            service: self.service.clone(),
            index,
        };
        Ok(indices.into_iter().map(instance).collect())
    }
}

/// A reading of some instances' lines that may go on.
#[derive(Debug)]
struct Reading {
    logs: std::path::PathBuf,
    wanted: Wanted,
    filter: Filter,
    followed: BTreeMap<u16, Follow>,
    /// Whether each line says whose it is.
    named: bool,
}

impl Reading {
    /// The lines of the past, and what goes on from there; `None` where there are no files.
    fn begin(
        logs: &Path,
        wanted: Wanted,
        query: &LogsQuery,
    ) -> io::Result<Option<(Self, Vec<u8>)>> {
        let since = query.since.map(|seconds| {
            SystemTime::now()
                .checked_sub(Duration::from_secs(seconds))
                .unwrap_or(SystemTime::UNIX_EPOCH)
        });
        let filter = Filter::new(since, query.attempt, query.stderr);
        let instances = wanted.instances(logs)?;
        if instances.is_empty() {
            return Ok(None);
        }
        let count = query.lines.unwrap_or(100).min(LINES_MAX);
        let (mut followed, mut lines) = (BTreeMap::new(), Vec::new());
        for instance in &instances {
            let saved = Saved::open(&Lines::directory(logs, instance))?;
            lines.push((instance.to_string(), saved.last(count, &filter)?));
            followed.insert(instance.index, saved.follow(filter.clone()));
        }
        let reading = Self {
            logs: logs.to_owned(),
            wanted,
            filter,
            followed,
            named: instances.len() > 1,
        };
        let mut text = Vec::new();
        for (name, line) in newest(lines, count) {
            reading.write(&mut text, &name, &line);
        }
        Ok(Some((reading, text)))
    }

    fn write(&self, text: &mut Vec<u8>, name: &str, line: &[u8]) {
        if self.named {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b" | ");
        }
        text.extend_from_slice(line);
    }

    /// What was written since, of instances that are new, too.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        for instance in self.wanted.instances(&self.logs)? {
            if !self.followed.contains_key(&instance.index) {
                let directory = Lines::directory(&self.logs, &instance);
                let follow = Follow::begin(&directory, self.filter.clone());
                self.followed.insert(instance.index, follow);
                self.named = self.followed.len() > 1;
            }
            let lines = match self.followed.get_mut(&instance.index) {
                Some(follow) => follow.more()?,
                None => continue,
            };
            for line in lines {
                self.write(&mut text, &instance.to_string(), &line);
            }
        }
        Ok(text)
    }
}
