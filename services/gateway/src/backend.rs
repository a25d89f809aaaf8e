//! The threads that call kv: a connection belongs to a thread, and a call blocks it.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use insula::ipc::client::{ConnectError, Edge};
use insula::ipc::contract::CONNECTIONS;
use kv_contract::KvClient;
use tokio::sync::oneshot;

use crate::answer::Problem;

/// Requests that wait for a thread at most; who comes then is told to come again.
const WAITING_MAX: usize = 256;

type Job = Box<dyn FnOnce(&KvClient) + Send>;

/// The calling threads; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    jobs: SyncSender<Job>,
}

impl Backend {
    /// Starts a thread for each connection that the edge has.
    pub(crate) fn start(edge: &Edge) -> Result<Self, std::io::Error> {
        let (backend, waiting) = Self::without_threads(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..CONNECTIONS {
            let (edge, waiting) = (edge.clone(), waiting.clone());
            thread::Builder::new()
                .name(format!("kv-{number}"))
                .spawn(move || match KvClient::connect(&edge) {
                    Ok(client) => work(&client, &waiting),
                    Err(error) => give_up(&error),
                })?;
        }
        Ok(backend)
    }

    /// The queue alone: for tests, which do the work themselves.
    pub(crate) fn without_threads(waiting_max: usize) -> (Self, Receiver<Job>) {
        let (jobs, waiting) = sync_channel(waiting_max);
        (Self { jobs }, waiting)
    }

    /// Calls kv from one of the threads.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&KvClient) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |client| {
            // Who asked may have gone.
            let _ = reply.send(call(client));
        });
        self.jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => Problem::busy(),
            TrySendError::Disconnected(_) => Problem::unavailable(),
        })?;
        answer.await.unwrap_or_else(|_| Err(Problem::unavailable()))
    }
}

fn work(client: &KvClient, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match job {
            Ok(job) => job(client),
            Err(_) => return,
        }
    }
}

fn give_up(error: &ConnectError) {
    tracing::error!("cannot use the edge to kv: {error}");
    std::process::abort();
}
