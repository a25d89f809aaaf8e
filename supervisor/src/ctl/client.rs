//! The HTTP client: one connection per request, on the daemon's Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::control::{Answer, SOCKET};
use crate::paths::Paths;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("cannot reach the daemon at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The daemon does not talk to this user.
    #[error("not allowed to use {path}")]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// What was asked about is not there.
    #[error("{text}")]
    NoSuch {
        /// The daemon's words.
        text: String,
    },
    /// The connection broke.
    #[error("the daemon's connection broke")]
    Talk {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon answered something else than was expected.
    #[error("the daemon answered {status}: {text}")]
    Answer {
        /// The HTTP status.
        status: StatusCode,
        /// The start of what it said.
        text: String,
    },
}

fn talk(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Talk {
        source: source.into(),
    }
}

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(paths: &Paths) -> Self {
        Self {
            socket: paths.run().join(SOCKET),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(self.socket()).await.map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Forbidden {
                    path: self.socket.clone(),
                }
            } else {
                ClientError::Connect {
                    path: self.socket.clone(),
                    source,
                }
            }
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "insulad")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(talk)?;
        let response = sender.send_request(request).await.map_err(talk)?;
        if response.status() == StatusCode::FORBIDDEN {
            return Err(ClientError::Forbidden {
                path: self.socket.clone(),
            });
        }
        Ok(response)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, Vec::new()).await?;
        read_json(response).await
    }

    /// Posts what is asked, as JSON.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = serde_json::to_vec(body).map_err(talk)?;
        self.send(Method::POST, path, body).await
    }

    /// Orders something; the answer may take as long as the goal does.
    pub(super) async fn order(&self, path: &str) -> Result<Answer, ClientError> {
        self.report(path).await
    }

    /// Orders something that is answered by a report.
    pub(super) async fn report<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, Vec::new()).await?;
        read_json(response).await
    }
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let status = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(talk)?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|_| ClientError::Answer {
        status,
        text: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
    })
}

/// Gives the body piece by piece, as it comes.
pub(super) async fn read_pieces(
    response: Response<Incoming>,
    mut take: impl FnMut(&[u8]),
) -> Result<(), ClientError> {
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let bytes = body.collect().await.map_err(talk)?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        return Err(if status == StatusCode::NOT_FOUND {
            ClientError::NoSuch { text }
        } else {
            ClientError::Answer { status, text }
        });
    }
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(talk)?.data_ref() {
            take(data);
        }
    }
    Ok(())
}
