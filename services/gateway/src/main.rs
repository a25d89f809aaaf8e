//! `gateway`: HTTP at the front of `kv@1`.

mod answer;
mod backend;
mod routes;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use insula::{Context, Failure, Service};

use backend::Backend;

/// How long the supervisor may take to give the edge to kv.
const EDGE_WITHIN: Duration = Duration::from_secs(10);

/// HTTP at the front of kv@1; started by insulad.
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
struct Args {
    /// Where to listen; the port is also in the service.toml.
    #[arg(long, default_value = "127.0.0.1:18080")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let args = Args::parse();
    Service::new()
        .requires::<kv_contract::Kv>()
        .run(|context| serve(context, args.listen))
}

fn serve(context: &Context, listen: SocketAddr) -> Result<(), Failure> {
    let edge = context.runtime().edge::<kv_contract::Kv>(EDGE_WITHIN)?;
    let backend = Backend::start(&edge)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        tracing::info!("listening on http://{listen}");
        context.runtime().ready();
        let waiting = context.runtime().clone();
        let stop = tokio::task::spawn_blocking(move || waiting.wait_for_stop());
        axum::serve(listener, routes::routes(backend))
            .with_graceful_shutdown(async move {
                // Whatever became of the waiting: it is time to stop.
                let _ = stop.await;
            })
            .await?;
        Ok(())
    })
}
