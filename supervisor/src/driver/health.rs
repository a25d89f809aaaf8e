//! Finding out whether processes do their work, when the core asks.

use std::io;

use insula_contract::id::Attempt;
use insula_core::event::{Event, Vitality};
use insula_core::spec::Probe;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Driver, News};

impl Driver {
    /// Does a process's liveness probe once, beside the loop.
    pub(super) fn probe(&mut self, attempt: Attempt, number: u64) {
        let spec = self.core.service_of(attempt).map(|service| service.spec());
        let Some(liveness) = spec.and_then(|spec| spec.liveness.clone()) else {
            return;
        };
        let news = self.news.clone();
        tokio::spawn(async move {
            let asked = timeout(liveness.timeout, ask(&liveness.probe)).await;
            let result = match asked {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            // The loop ends before the daemon does.
            let _ = news.send(News::Event(Event::Probed {
                attempt,
                number,
                result,
            }));
        });
    }

    /// Looks whether a process that does not answer works all the same.
    pub(super) fn examine(&mut self, attempt: Attempt) {
        self.pending.push_back(Event::Examined {
            attempt,
            vitality: Vitality::Stuck("it answers no ping".to_owned()),
        });
    }
}

async fn ask(probe: &Probe) -> io::Result<()> {
    match probe {
        Probe::Tcp(address) => TcpStream::connect(address).await.map(drop),
        Probe::Http { .. } | Probe::Command(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
