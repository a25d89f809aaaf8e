//! Who sits where, and who could: the account is copied by the driver, and looked at beside it.

use axum::extract::{Json, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use insula_contract::id::ServiceName;
use serde::{Deserialize, Serialize};

use super::{Answer, Api};
use crate::driver::ask::Ask;
use crate::places::Places;

async fn look<T: Serialize + Send + 'static>(
    api: &Api,
    find: impl FnOnce(&Places) -> T + Send + 'static,
) -> Response {
    let places = match api.ask(|reply| Ask::Places { reply }).await {
        Ok(places) => places,
        Err(answer) => return answer.into_response(),
    };
    match tokio::task::spawn_blocking(move || find(&places)).await {
        Ok(found) => Json(found).into_response(),
        Err(_) => Answer::ending().into_response(),
    }
}

pub(super) async fn topology(State(api): State<Api>) -> Response {
    look(&api, Places::picture).await
}

pub(super) async fn capacity(State(api): State<Api>) -> Response {
    look(&api, Places::capacity).await
}

pub(super) async fn explain(State(api): State<Api>, UrlPath(name): UrlPath<String>) -> Response {
    match name.parse::<ServiceName>() {
        Ok(name) => look(&api, move |places| places.explain(&name)).await,
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// What `plan` may say.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PlanDetails {
    /// `NAME=N` or `NAME`, with commas between them.
    add: Option<String>,
}

fn added(text: &str) -> Option<(ServiceName, usize)> {
    let (name, count) = text.split_once('=').unwrap_or((text, "1"));
    Some((name.parse().ok()?, count.parse().ok()?))
}

pub(super) async fn plan(State(api): State<Api>, Query(details): Query<PlanDetails>) -> Response {
    let add = details.add.unwrap_or_default();
    let add = add.split(',').filter(|text| !text.is_empty());
    match add.map(added).collect::<Option<Vec<_>>>() {
        Some(add) => look(&api, move |places| places.plan(&add)).await,
        None => (StatusCode::BAD_REQUEST, "`add` is NAME=N\n").into_response(),
    }
}
