//! Finding out whether processes are ready and do their work, when the core asks.

use std::time::Duration;

use insula_contract::id::{Attempt, ContractId};
use insula_core::event::{Event, Notice, Vitality};
use insula_core::process::{Phase, Process};
use insula_core::spec::{Probe, Readiness, ServiceSpec};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::processes::StartError;
use super::{Driver, DriverError, News, because};
use crate::foreign::notice::Said;
use crate::foreign::notify::NotifySocket;
use crate::meters::Meters;
use crate::probe::{Question, Vitals};

/// How long the words that a process may have said are given to arrive, before it is judged: the
/// daemon may have slept itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a program that is to say that it lives must have had a processor since it was late.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A process under suspicion.
#[derive(Debug)]
pub(super) struct Suspect {
    vitals: Vitals,
    /// Tells one suspicion from the next.
    number: u64,
}

impl Driver {
    /// The process of an attempt, and its release.
    fn process_of(&self, attempt: Attempt) -> Option<(&Process, &ServiceSpec)> {
        let service = self.core.service_of(attempt)?;
        let process = service
            .processes()
            .find(|process| process.attempt == attempt)?;
        Some((process, service.releases.get(&process.version)?))
    }

    /// What it takes to do a probe of an attempt's program.
    fn question(&self, attempt: Attempt, probe: &Probe) -> Result<Question, StartError> {
        Question::new(probe, |command| self.recipe(attempt, command))
    }

    /// Does a process's liveness probe once, beside the loop; an earlier one is given up.
    pub(super) fn probe(&mut self, attempt: Attempt, number: u64) {
        let Some((_, spec)) = self.process_of(attempt) else {
            return;
        };
        let Some(liveness) = spec.liveness.clone() else {
            return;
        };
        let question = self.question(attempt, &liveness.probe);
        let Some(handle) = self.processes.get_mut(&attempt) else {
            return;
        };
        if let Some(earlier) = handle.probing.take() {
            earlier.abort();
        }
        let news = self.news.clone();
        let probing = tokio::spawn(async move {
            let result = match question {
                Ok(question) => question.ask(liveness.timeout).await,
                Err(error) => Err(because("it cannot be asked", &error)),
            };
            // The loop ends before the daemon does.
            let _ = news.send(News::Event(Event::Probed {
                attempt,
                number,
                result,
            }));
        });
        handle.probing = Some(probing.abort_handle());
    }

    /// Waits for a foreign program to be ready.
    pub(super) fn await_readiness(
        &self,
        attempt: Attempt,
        pid: i32,
        readiness: &Readiness,
        notify: Option<NotifySocket>,
    ) -> Result<Option<AbortHandle>, StartError> {
        let news = self.news.clone();
        let task = match (readiness, notify) {
            (Readiness::Notify, Some(socket)) => tokio::spawn(relay(socket, attempt, pid, news)),
            (Readiness::Probe(probe), _) => {
                let question = self.question(attempt, probe)?;
                tokio::spawn(async move {
                    question.ask_until_good().await;
                    let _ = news.send(News::Event(Event::Ready { attempt }));
                })
            }
            // The core knows that it counts as ready once it runs; a line is awaited from before.
            (Readiness::Started | Readiness::Notify | Readiness::Line(_), _) => return Ok(None),
        };
        Ok(Some(task.abort_handle()))
    }

    /// Has a program count as ready once a line was written that was asked for before it ran.
    pub(super) fn await_line(
        &self,
        attempt: Attempt,
        line: tokio::sync::oneshot::Receiver<()>,
    ) -> AbortHandle {
        let news = self.news.clone();
        let task = tokio::spawn(async move {
            if line.await.is_ok() {
                // The loop ends before the daemon does.
                let _ = news.send(News::Event(Event::Ready { attempt }));
            }
        });
        task.abort_handle()
    }

    /// Goes on hearing a program that an earlier daemon started, at the same place.
    pub(super) fn hear_again(&mut self, attempt: Attempt, pid: i32, uid: Option<u32>) {
        let socket = match NotifySocket::bind(&self.paths, attempt, uid) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%attempt, %error, "what a program says of itself is not heard");
                return;
            }
        };
        let task = tokio::spawn(relay(socket, attempt, pid, self.news.clone()));
        if let Some(handle) = self.processes.get_mut(&attempt) {
            handle.tasks.push(task.abort_handle());
        }
    }

    /// Somebody waits too long for a contract: whoever serves it is suspected, but for one that
    /// waits for somebody itself.
    pub(super) fn late(
        &mut self,
        who: Option<Attempt>,
        contract: &ContractId,
        waited: Duration,
    ) -> Result<(), DriverError> {
        // Saying so is a sign of life.
        if let Some(own) = who
            && self.suspects.remove(&own).is_some()
        {
            let vitality = Vitality::Working;
            self.turn(Event::Examined {
                attempt: own,
                vitality,
            })?;
        }
        let provider = self.core.provider_of(contract);
        let service = provider.and_then(|name| self.core.services().get(name));
        let serving: Vec<Attempt> = service
            .into_iter()
            .flat_map(|service| service.processes())
            .filter(|process| process.phase == Phase::Ready && Some(process.attempt) != who)
            .map(|process| process.attempt)
            .collect();
        for attempt in serving {
            if !self.suspects.contains_key(&attempt) {
                tracing::info!(%attempt, %contract, ?waited, "a request waits too long");
            }
            self.turn(Event::Suspected { attempt, waited })?;
        }
        // One that does not need it has nothing to want of it.
        let needs = |own| {
            let process = self.process_of(own);
            process.is_some_and(|(_, spec)| spec.requires.contains_key(contract))
        };
        if who.is_none_or(needs) {
            self.want(contract)?;
        }
        Ok(())
    }

    /// A process is being pinged: from now on it is watched whether it could answer.
    pub(super) fn begin_suspicion(&mut self, attempt: Attempt) {
        if let Some((_, spec)) = self.process_of(attempt)
            && let Some(patience) = spec.watchdog
        {
            self.suspect(attempt, patience);
        }
    }

    fn suspect(&mut self, attempt: Attempt, patience: Duration) {
        let Some(pid) = self
            .process_of(attempt)
            .and_then(|(process, _)| process.pid)
        else {
            return;
        };
        let vitals = match Vitals::begin(pid, patience, self.progress(attempt)) {
            Ok(vitals) => vitals,
            Err(error) => {
                // Its end will be heard of.
                tracing::debug!(%attempt, %error, "a suspect cannot be looked at");
                return;
            }
        };
        self.suspicions += 1;
        let number = self.suspicions;
        self.suspects.insert(attempt, Suspect { vitals, number });
    }

    /// Nothing is held against a process any more.
    pub(super) fn end_suspicion(&mut self, attempt: Attempt) {
        self.suspects.remove(&attempt);
    }

    /// What a process has counted of its work as a provider.
    fn progress(&self, attempt: Attempt) -> u64 {
        self.meters.get(&attempt).map_or(0, Meters::progress)
    }

    /// Has a process judged, once what it said before was heard.
    pub(super) fn examine(&mut self, attempt: Attempt) {
        if !self.suspects.contains_key(&attempt) {
            // A program that is to say that it lives; it is watched only from now on.
            let Some((_, spec)) = self.process_of(attempt) else {
                return;
            };
            let interval = spec.watchdog.unwrap_or(SILENCE_MAX);
            self.suspect(attempt, SILENCE_MAX.min(interval / 2));
        }
        let Some(Suspect { number, vitals }) = self.suspects.get(&attempt) else {
            return;
        };
        let (number, news) = (*number, self.news.clone());
        let wait = LOOK_AGAIN.max(vitals.missing());
        let task = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = news.send(News::LookDue(attempt, number));
        });
        if let Some(handle) = self.processes.get_mut(&attempt) {
            handle.tasks.retain(|task| !task.is_finished());
            handle.tasks.push(task.abort_handle());
        }
    }

    /// Judges a process that is still under the same suspicion.
    pub(super) fn look(&mut self, attempt: Attempt, number: u64) -> Result<(), DriverError> {
        let Some(suspect) = self.suspects.get(&attempt).filter(|s| s.number == number) else {
            return Ok(());
        };
        let vitality = match suspect.vitals.judge(self.progress(attempt)) {
            Ok(vitality) => vitality,
            Err(error) => {
                tracing::debug!(%attempt, %error, "a suspect cannot be looked at");
                return Ok(());
            }
        };
        match &vitality {
            Vitality::Starved => {
                tracing::warn!(%attempt, "does not answer, and gets no processor");
            }
            Vitality::Working | Vitality::Stuck(_) => self.end_suspicion(attempt),
        }
        self.turn(Event::Examined { attempt, vitality })
    }
}

/// Passes on what a program says of itself.
async fn relay(
    socket: NotifySocket,
    attempt: Attempt,
    pid: i32,
    news: mpsc::UnboundedSender<News>,
) {
    let tell = |said| {
        let event = match said {
            Said::Ready => Event::Ready { attempt },
            Said::Notice(notice) => {
                if notice == Notice::WatchdogTrigger {
                    tracing::warn!(%attempt, "says that it does not work");
                }
                Event::Notified { attempt, notice }
            }
            Said::Barrier | Said::Refused(_) => return,
        };
        // The loop ends before the daemon does.
        let _ = news.send(News::Event(event));
    };
    socket.relay(pid, tell).await;
}
