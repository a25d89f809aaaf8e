//! One order for many services, in one request: asking for each of a thousand by itself costs more
//! than starting it.

use std::io;

use axum::body::Body;
use axum::extract::{Json, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use insula_contract::id::ServiceName;
use insula_core::event::Order;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Answer, Api};
use crate::driver::ask::Ask;

/// What can be ordered of many services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderedVerb {
    /// Start them.
    Start,
    /// Stop them.
    Stop,
    /// Replace their processes.
    Restart,
}

/// What is ordered of whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OrdersRequest {
    /// What.
    pub verb: OrderedVerb,
    /// Of whom; each once.
    pub services: Vec<ServiceName>,
}

/// What became of the order for one of them: a line of JSON, in the order in which they ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Told {
    /// The service.
    pub name: ServiceName,
    /// What became of it.
    pub answer: Answer,
}

pub(super) async fn orders(
    State(api): State<Api>,
    Json(OrdersRequest { verb, services }): Json<OrdersRequest>,
) -> Response {
    tracing::info!(target: "audit", ?verb, services = services.len(), "ordered");
    let answers = FuturesUnordered::new();
    for name in services {
        let (reply, answer) = oneshot::channel();
        let asked = api
            .asks
            .send(Ask::Order {
                service: name.clone(),
                order: match verb {
                    OrderedVerb::Start => Order::Start,
                    OrderedVerb::Stop => Order::Stop,
                    OrderedVerb::Restart => Order::Restart,
                },
                reply,
            })
            .await;
        answers.push(async move {
            let answer = match (asked, answer.await) {
                (Ok(()), Ok(result)) => Answer::from(result),
                (Err(_), _) | (_, Err(_)) => Answer::ending(),
            };
            Told { name, answer }
        });
    }
    // Those that ended meanwhile go out together.
    let lines = answers.ready_chunks(LINES).map(|told| {
        let mut lines = Vec::new();
        for told in &told {
            serde_json::to_writer(&mut lines, told).map_err(io::Error::other)?;
            lines.push(b'\n');
        }
        Ok::<_, io::Error>(lines)
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// Lines of one piece of the answer, at most.
const LINES: usize = 256;
