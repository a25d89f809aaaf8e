//! Questions to programs, answered by how they behave: is it ready, does it still work.
//!
//! A question is asked once and within a time ([`Question::ask`]), or again and again until the
//! answer is good ([`Question::ask_until_good`]). Whoever stops waiting gives it up: nothing of it
//! stays behind, no connection and no process.
//!
//! Of a process that does not answer at all, [`Vitals`] tell whether it is stuck, or would answer
//! if it got a processor.

mod command;
mod http;
mod vitals;

use std::net::SocketAddr;
use std::time::Duration;

use insula_core::spec::Probe;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

pub(crate) use command::Recipe;
pub(crate) use vitals::Vitals;

/// How long a start-up probe may take each time.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const RUN_WITHIN: Duration = Duration::from_secs(30);
/// The first and the longest wait between two of them.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// The same where each is a process.
const RETRY_RUN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A probe, with what it takes to do it.
#[derive(Debug)]
pub(crate) enum Question {
    /// [`Probe::Tcp`].
    Tcp(SocketAddr),
    /// [`Probe::Http`].
    Http(http::Get),
    /// [`Probe::Command`].
    Command(Box<Recipe>),
}

impl Question {
    /// Of a probe; `recipe` says how a command of the program is run.
    pub(crate) fn new<E>(
        probe: &Probe,
        recipe: impl FnOnce(&[String]) -> Result<Recipe, E>,
    ) -> Result<Self, E> {
        Ok(match probe {
            Probe::Tcp(address) => Self::Tcp(*address),
            Probe::Http {
                address,
                path,
                status,
            } => Self::Http(http::Get {
                address: *address,
                path: path.clone(),
                status: *status,
            }),
            Probe::Command(command) => Self::Command(Box::new(recipe(command)?)),
        })
    }

    /// Asks once; the reason where the answer is bad or does not come in time.
    pub(crate) async fn ask(&self, within: Duration) -> Result<(), String> {
        let asked = async {
            match self {
                Self::Tcp(address) => TcpStream::connect(address)
                    .await
                    .map(drop)
                    .map_err(|error| format!("cannot connect to {address}: {error}")),
                Self::Http(get) => get.ask().await,
                Self::Command(recipe) => recipe.run().await,
            }
        };
        match timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:.1} s", within.as_secs_f64())),
        }
    }

    /// Asks until the answer is good.
    pub(crate) async fn ask_until_good(&self) {
        let (within, (mut wait, longest)) = match self {
            Self::Tcp(_) => (CONNECT_WITHIN, RETRY),
            Self::Http(_) => (ANSWER_WITHIN, RETRY),
            Self::Command(_) => (RUN_WITHIN, RETRY_RUN),
        };
        while let Err(reason) = self.ask(within).await {
            tracing::debug!(reason, "not ready yet");
            sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::net::TcpListener;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn tcp(address: SocketAddr) -> Question {
        let no_recipe = |_: &[String]| -> Result<Recipe, Infallible> { unreachable!() };
        Question::new(&Probe::Tcp(address), no_recipe).unwrap()
    }

    #[tokio::test]
    async fn a_port_is_good_when_it_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tcp(address).ask(WATCHDOG).await.unwrap();
        drop(listener);
        let reason = tcp(address).ask(WATCHDOG).await.unwrap_err();
        assert!(reason.contains("cannot connect to 127.0.0.1:"), "{reason}");
    }

    #[tokio::test]
    async fn a_start_up_probe_goes_on_until_the_answer_is_good() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let asking = tokio::spawn(async move { tcp(address).ask_until_good().await });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        let _listener = TcpListener::bind(address).await.unwrap();
        timeout(WATCHDOG, asking).await.unwrap().unwrap();
    }
}
