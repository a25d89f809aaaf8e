//! What a caller is told when there is no value: a status and a reason in JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use insula::ipc::client::CallError;
use kv_contract::KvError;
use serde::Serialize;

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A word for programs.
    pub(crate) code: &'static str,
    /// A sentence for people.
    pub(crate) message: String,
    /// Whether, and in how many seconds, it makes sense to ask again.
    pub(crate) retry_after: Option<u32>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(crate) fn unavailable() -> Self {
        let message = "nobody provides kv@1 now";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self {
            retry_after: Some(1),
            ..problem
        }
    }

    pub(crate) fn busy() -> Self {
        let message = "too many requests wait already";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        Self {
            retry_after: Some(1),
            ..problem
        }
    }
}

impl From<KvError> for Problem {
    fn from(error: KvError) -> Self {
        let message = error.to_string();
        match error {
            KvError::KeyEmpty
            | KvError::KeyTooLong { .. }
            | KvError::LimitOutOfRange { .. }
            | KvError::BadCursor => Self::bad(message),
            KvError::ValueTooLong { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
            }
            KvError::Storage(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage", message),
        }
    }
}

impl From<CallError<KvError>> for Problem {
    fn from(error: CallError<KvError>) -> Self {
        let message = error.to_string();
        match error {
            CallError::Failed(error) => error.into(),
            CallError::DeadlineExceeded => {
                let message = "kv did not answer in time; a write may still happen";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "late", message)
            }
            CallError::Unavailable => Self::unavailable(),
            CallError::TooManyInFlight { .. } | CallError::Overloaded => Self::busy(),
            CallError::QuotaExceeded => Self::new(StatusCode::TOO_MANY_REQUESTS, "quota", message),
            CallError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
            }
            CallError::OutcomeUnknown => {
                Self::new(StatusCode::BAD_GATEWAY, "outcome-unknown", message)
            }
            CallError::Refused(_) | CallError::Broken(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "bad-gateway", message)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            error: Error {
                code: self.code,
                message: &self.message,
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_a_call_has_its_status() {
        let cases = [
            (CallError::Failed(KvError::KeyEmpty), 400),
            (CallError::Failed(KvError::KeyTooLong { max: 1 }), 400),
            (CallError::Failed(KvError::BadCursor), 400),
            (CallError::Failed(KvError::LimitOutOfRange { max: 1 }), 400),
            (CallError::Failed(KvError::ValueTooLong { max: 1 }), 413),
            (CallError::Failed(KvError::storage("disk full")), 500),
            (CallError::DeadlineExceeded, 504),
            (CallError::Unavailable, 503),
            (CallError::TooManyInFlight { max: 1 }, 503),
            (CallError::Overloaded, 503),
            (CallError::QuotaExceeded, 429),
            (CallError::TooLarge { max: 1 }, 413),
            (CallError::OutcomeUnknown, 502),
            (CallError::Broken("x"), 502),
        ];
        for (error, status) in cases {
            let shown = format!("{error:?}");
            let problem = Problem::from(error);
            assert_eq!(problem.status.as_u16(), status, "{shown}");
            let response = problem.into_response();
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                status == 503
            );
        }
    }
}
