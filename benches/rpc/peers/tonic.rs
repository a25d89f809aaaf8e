//! gRPC by tonic over one Unix socket: each side one thread with a current-thread runtime, flow
//! control windows and frames so large that no message waits for a window, no compression, bodies
//! as shared `Bytes` that prost does not copy.

use std::convert::Infallible;
use std::future::{Ready, ready as at_once};
use std::os::unix::net::UnixStream as StdStream;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper_util::rt::TokioIo;
use insula_benches::contracts::touch;
use insula_benches::process::{Role, Server, ready};
use insula_ipc::testing::{inheritable, inherited};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::client::Grpc as GrpcClient;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc as GrpcServer, UnaryService};
use tonic::transport::{Channel, Endpoint, Server as TonicServer};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Client;
use crate::cases::{Case, Pattern};
use crate::meter::Meter;

/// A window that no run exhausts.
const WINDOW: u32 = 1 << 30;
/// The largest frame that HTTP/2 knows.
const FRAME: u32 = (1 << 24) - 1;
/// More than the largest payload.
const MESSAGE: usize = 8 << 20;
const PATH: &str = "/bench.Echo/Echo";

/// What `message Body { bytes payload = 1; }` generates.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

type Codec = ProstCodec<Body, Body>;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .expect("a runtime")
}

pub(crate) struct Tonic {
    client: GrpcClient<Channel>,
    runtime: Runtime,
    server: Server,
    pattern: Pattern,
}

impl Tonic {
    pub(crate) fn connect(case: Case, core: usize) -> Self {
        let (socket, other) = StdStream::pair().expect("a pair of sockets");
        let server = Server::start(&case.role(), core, &[inheritable(&other).to_string()]);
        drop(other);
        let runtime = runtime();
        let channel = runtime.block_on(async {
            socket.set_nonblocking(true).expect("the socket's mode");
            let mut socket = Some(UnixStream::from_std(socket).expect("the socket"));
            let connector = tower::service_fn(move |_| {
                let socket = socket.take().map(TokioIo::new);
                at_once(socket.ok_or_else(|| std::io::Error::other("connected once already")))
            });
            Endpoint::from_static("http://bench")
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_frame_size(FRAME)
                .connect_with_connector(connector)
                .await
                .expect("a connection")
        });
        let client = GrpcClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Self {
            client,
            runtime,
            server,
            pattern: case.pattern,
        }
    }
}

async fn call(client: &mut GrpcClient<Channel>, payload: Bytes) {
    client.ready().await.expect("a ready connection");
    let request = Request::new(Body { payload });
    let response = client
        .unary(request, PathAndQuery::from_static(PATH), Codec::default())
        .await
        .expect("an answer");
    touch(&response.into_inner().payload);
}

impl Client for Tonic {
    fn server(&self) -> &Server {
        &self.server
    }

    fn run(&mut self, payload: &[u8], meter: &mut Meter) {
        let payload = Bytes::copy_from_slice(payload);
        let Self {
            client,
            runtime,
            pattern,
            ..
        } = self;
        if pattern.is_burst() {
            return runtime.block_on(async {
                let one = || {
                    let (mut client, payload) = (client.clone(), payload.clone());
                    async move { call(&mut client, payload).await }
                };
                let mut calls: FuturesUnordered<_> =
                    (0..self.pattern.outstanding()).map(|_| one()).collect();
                while meter.begin().is_some() {
                    calls.next().await;
                    calls.push(one());
                    meter.end_of_many(1);
                }
            });
        }
        runtime.block_on(async {
            while let Some(began) = meter.begin() {
                call(client, payload.clone()).await;
                meter.end(began);
            }
        });
    }
}

/// The service as tonic's own generator writes it.
#[derive(Debug, Clone)]
struct Echo;

impl UnaryService<Body> for Echo {
    type Response = Body;
    type Future = Ready<Result<Response<Body>, Status>>;

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let body = request.into_inner();
        touch(&body.payload);
        at_once(Ok(Response::new(body)))
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        debug_assert_eq!(request.uri().path(), PATH);
        let mut grpc = GrpcServer::new(Codec::default())
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Box::pin(async move { Ok(grpc.unary(Echo, request).await) })
    }
}

pub(crate) fn serve(role: &Role) {
    let socket = StdStream::from(inherited(role.number(0)));
    socket.set_nonblocking(true).expect("the socket's mode");
    runtime().block_on(async {
        let socket = UnixStream::from_std(socket).expect("the socket");
        let incoming = futures_util::stream::iter([Ok::<_, Infallible>(socket)])
            .chain(futures_util::stream::pending());
        ready();
        TonicServer::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .serve_with_incoming(Echo, incoming)
            .await
            .expect("serving");
    });
}
