//! The routes.
//!
//! | request | answer |
//! |---|---|
//! | `GET /kv/{key}` | 200 with the value and its revision in `ETag`; 404 |
//! | `PUT /kv/{key}` | 204 with `ETag`; with `If-None-Match: *` or `If-Match`, else 412 |
//! | `DELETE /kv/{key}` | 204; 404 |
//! | `GET /kv?prefix=&limit=&cursor=` | 200 with a page as JSON |
//! | `GET /healthz` | 200 while the process serves |
//!
//! A key is the percent-decoded rest of the path, any bytes. In a page, keys and values that are
//! UTF-8 come as `key` and `value`, others as `key-base64` and `value-base64`. The header
//! `traceparent` is passed on to kv;
//! `X-Request-Timeout-Ms` shortens or lengthens the wait for kv, up to a minute.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use insula::ipc::client::{CallOptions, TraceContext};
use kv_contract::{CompareAndSwap, Delete, Expected, Get, Keys, Put, Scan, Swap, VALUE_MAX};
use serde::{Deserialize, Serialize};

use crate::answer::Problem;
use crate::backend::Backend;

/// How long a call may take unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a caller may ask for.
const TIMEOUT_MAX_MS: u64 = 60_000;
/// How long of that while nobody provides kv: a restart is waited for, an absence is told.
const PROVIDER_WITHIN: Duration = Duration::from_secs(1);
/// Entries of a page unless the caller says otherwise.
const LIMIT: u32 = 100;

/// All routes.
pub(crate) fn routes(backend: Backend) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/kv", get(scan))
        .route("/kv/{*key}", get(read).put(write).delete(remove))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no-route", "no such route") })
        .layer(DefaultBodyLimit::max(VALUE_MAX + 1))
        .with_state(backend)
}

fn options(headers: &HeaderMap) -> Result<CallOptions, Problem> {
    let deadline = match headers.get("x-request-timeout-ms") {
        None => TIMEOUT,
        Some(text) => text
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|ms| (1..=TIMEOUT_MAX_MS).contains(ms))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                Problem::bad(format!(
                    "X-Request-Timeout-Ms is not from 1 to {TIMEOUT_MAX_MS}"
                ))
            })?,
    };
    let trace = headers
        .get("traceparent")
        .and_then(|text| TraceContext::parse(text.to_str().ok()?))
        .unwrap_or_default();
    Ok(CallOptions {
        trace,
        deadline: Some(deadline),
        wait_for_provider: Some(PROVIDER_WITHIN),
        ..CallOptions::default()
    })
}

/// The key in a path: its raw bytes, which need not be text.
fn key(uri: &Uri) -> Result<Vec<u8>, Problem> {
    let raw = uri
        .path()
        .strip_prefix("/kv/")
        .unwrap_or_default()
        .as_bytes();
    let mut key = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            key.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let value = digits.into_iter().try_fold(0, |value, digit| {
            Some(value * 16 + char::from(*digit?).to_digit(16)?)
        });
        let value = value.and_then(|value| u8::try_from(value).ok());
        key.push(value.ok_or_else(|| Problem::bad("the key has a bad percent escape"))?);
    }
    Ok(key)
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

async fn read(
    State(backend): State<Backend>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (key, options) = (key(&uri)?, options(&headers)?);
    let found = backend
        .call(move |kv| {
            let response = kv.get_with(&Get { key: &key }, options)?;
            let lookup = response
                .get()
                .map_err(|error| Problem::from_malformed(&error))?;
            Ok(lookup
                .found
                .map(|found| (found.revision, Bytes::copy_from_slice(found.value))))
        })
        .await?;
    let Some((revision, value)) = found else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "nothing is under this key",
        ));
    };
    let content = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
    Ok(([content, (header::ETAG, etag(revision))], value).into_response())
}

/// What a caller expects to be there.
fn condition(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &header::HeaderValue| value.to_str())
    };
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some(Ok("*"))) => Ok(Some(Expected::Absent)),
        (Some(Ok(tag)), None) => tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .and_then(|tag| tag.parse().ok())
            .map(|revision| Some(Expected::Revision(revision)))
            .ok_or_else(|| Problem::bad("If-Match is not one ETag as this server gives them")),
        _ => Err(Problem::bad(
            "only If-Match with one ETag, or If-None-Match: *, is understood",
        )),
    }
}

async fn write(
    State(backend): State<Backend>,
    uri: Uri,
    headers: HeaderMap,
    value: Bytes,
) -> Result<Response, Problem> {
    let (key, options, expected) = (key(&uri)?, options(&headers)?, condition(&headers)?);
    let revision = backend
        .call(move |kv| {
            let Some(expected) = expected else {
                let response = kv.put_with(
                    &Put {
                        key: &key,
                        value: &value,
                    },
                    options,
                )?;
                let written = response
                    .get()
                    .map_err(|error| Problem::from_malformed(&error))?;
                return Ok(written.revision);
            };
            let request = CompareAndSwap {
                key: &key,
                expected,
                value: &value,
            };
            let response = kv.compare_and_swap_with(&request, options)?;
            match response
                .get()
                .map_err(|error| Problem::from_malformed(&error))?
            {
                Swap::Swapped { revision } => Ok(revision),
                Swap::Conflict { current } => {
                    let message = match current {
                        Some(revision) => format!("revision {revision} is there"),
                        None => "nothing is there".to_owned(),
                    };
                    Err(Problem::new(
                        StatusCode::PRECONDITION_FAILED,
                        "conflict",
                        message,
                    ))
                }
            }
        })
        .await?;
    Ok((StatusCode::NO_CONTENT, [(header::ETAG, etag(revision))]).into_response())
}

async fn remove(
    State(backend): State<Backend>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (key, options) = (key(&uri)?, options(&headers)?);
    if condition(&headers)?.is_some() {
        return Err(Problem::bad("a removal with a condition is not understood"));
    }
    let existed = backend
        .call(move |kv| {
            let response = kv.delete_with(&Delete { key: &key }, options)?;
            Ok(response
                .get()
                .map_err(|error| Problem::from_malformed(&error))?
                .existed)
        })
        .await?;
    if existed {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "nothing is under this key",
        ))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScanQuery {
    #[serde(default)]
    prefix: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct PageBody {
    entries: Vec<EntryBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct EntryBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Text as text, other bytes in base64.
fn shown(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

async fn scan(
    State(backend): State<Backend>,
    headers: HeaderMap,
    query: Result<Query<ScanQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<PageBody>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad(error.body_text()))?;
    let options = options(&headers)?;
    let cursor = query
        .cursor
        .map(|cursor| BASE64.decode(cursor))
        .transpose()
        .map_err(|_| Problem::bad("the cursor is not one of this server's"))?;
    let page = backend
        .call(move |kv| {
            let request = Scan {
                keys: Keys::Prefix(query.prefix.as_bytes()),
                limit: query.limit.unwrap_or(LIMIT),
                cursor: cursor.as_deref(),
            };
            let response = kv.scan_with(&request, options)?;
            let page = response
                .get()
                .map_err(|error| Problem::from_malformed(&error))?;
            let entries = page.entries.iter().map(|entry| {
                let (key, key_base64) = shown(entry.key);
                let (value, value_base64) = shown(entry.value);
                EntryBody {
                    key,
                    key_base64,
                    revision: entry.revision,
                    value,
                    value_base64,
                }
            });
            Ok(PageBody {
                entries: entries.collect(),
                next: page.next.map(|next| BASE64.encode(next)),
            })
        })
        .await?;
    Ok(Json(page))
}

impl Problem {
    fn from_malformed(error: &insula::ipc::client::Malformed) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "bad-gateway", error.to_string())
    }
}

#[cfg(test)]
mod tests;
