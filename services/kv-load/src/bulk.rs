//! All records one after the other, with many requests on their way at once: to load them, and to
//! look at what is in the store before and after a run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use insula::ipc::client::{CallError, CallOptions, Ticket};
use kv_contract::{Get, KvClient, KvError, Put, kv};

use crate::client::Tally;
use crate::expect::{Expectations, Violation, Write};
use crate::failure::{Failure, Failures};
use crate::measure::Violations;
use crate::record::{Record, Stamp, key};
use crate::run::{Connect, StartError};

/// Requests of one connection on their way at once; as many as the contract allows.
const DEPTH: usize = 16;

/// A request that was sent, or was not.
type Sent<M> = Result<Ticket<M>, CallError<KvError>>;

/// How long a request may take: many wait before it, and a provider may be replaced meanwhile.
const DEADLINE: Duration = Duration::from_secs(30);

/// What became of a pass over the records.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Records that were dealt with.
    pub done: u64,
    /// Requests that failed.
    pub errors: Failures,
    /// What was found that must not be.
    pub violations: Violations,
}

impl Passed {
    fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.errors.merge(other.errors);
        self.violations.merge(other.violations);
    }

    fn count(&mut self, tally: &Tally, outcome: Result<Result<(), Violation>, Failure>) {
        let counter = match outcome {
            Ok(Ok(())) => {
                self.done += 1;
                &tally.done
            }
            Ok(Err(violation)) => {
                self.violations.add(violation);
                &tally.failed
            }
            Err(failure) => {
                self.errors.add(failure);
                &tally.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where and how wide a pass goes.
pub(crate) struct Pass<'a> {
    /// Makes connections.
    pub connect: &'a Connect<'a>,
    /// How many threads share the records.
    pub threads: u64,
    /// What the keys begin with.
    pub prefix: &'a str,
    /// How many records there are.
    pub records: u64,
    /// Ends the pass early.
    pub stop: &'a AtomicBool,
    /// How far it has come.
    pub tally: &'a Tally,
}

/// How long of that while nobody provides the contract.
const PROVIDER_WITHIN: Duration = Duration::from_secs(5);

/// Failed requests after which a thread gives up: a store that is away is not waited for once per
/// record. What it leaves out is missing in [`Passed::done`].
const FAILURES_MAX: u64 = 100;

fn options() -> CallOptions {
    CallOptions {
        deadline: Some(DEADLINE),
        wait_for_provider: Some(PROVIDER_WITHIN),
        ..CallOptions::default()
    }
}

impl Pass<'_> {
    /// Writes every record anew, as run number `run`.
    pub(crate) fn load(&self, run: u64, expectations: &Expectations) -> Result<Passed, StartError> {
        self.spread(|kv, thread, passed| {
            let mut waiting: VecDeque<(u64, Stamp, Sent<kv::Put>)> = VecDeque::new();
            let take = |(number, stamp, ticket): (u64, Stamp, Sent<kv::Put>)| {
                let outcome: Result<u64, CallError<KvError>> = ticket
                    .and_then(Ticket::wait)
                    .and_then(|response| Ok(response.get()?.revision));
                let outcome = outcome.map_err(Failure::from);
                match &outcome {
                    Ok(revision) => {
                        expectations.acknowledge(number, Write::Set, *revision, stamp);
                    }
                    Err(failure) if failure.unknown => {
                        expectations.doubt(number, Write::Set, stamp);
                    }
                    Err(_) => {}
                }
                outcome.map(|_| Ok(()))
            };
            for number in self.share(thread) {
                if passed.errors.count() > FAILURES_MAX {
                    break;
                }
                // Clients of runs are numbered from 0; these do not meet them.
                let stamp = Stamp {
                    run,
                    client: u64::MAX - thread,
                    sequence: number,
                };
                let record = Record {
                    number,
                    stamp,
                    counter: 0,
                };
                let (key, value) = (key(self.prefix, number), record.value());
                let request = Put {
                    key: &key,
                    value: &value,
                };
                if waiting.len() == DEPTH
                    && let Some(first) = waiting.pop_front()
                {
                    passed.count(self.tally, take(first));
                }
                waiting.push_back((number, stamp, kv.submit_put(&request, options())));
            }
            for rest in waiting {
                passed.count(self.tally, take(rest));
            }
        })
    }

    /// Reads every record and lets `check` judge it.
    pub(crate) fn inspect(
        &self,
        check: impl Fn(u64, Option<(u64, &[u8])>) -> Result<(), Violation> + Sync,
    ) -> Result<Passed, StartError> {
        self.spread(|kv, thread, passed| {
            let mut waiting: VecDeque<(u64, Sent<kv::Get>)> = VecDeque::new();
            let take = |(number, ticket): (u64, Sent<kv::Get>)| {
                let response = ticket.and_then(Ticket::wait).map_err(Failure::from)?;
                let lookup = response
                    .get()
                    .map_err(CallError::from)
                    .map_err(Failure::from)?;
                let found = lookup.found.map(|found| (found.revision, found.value));
                Ok(check(number, found))
            };
            for number in self.share(thread) {
                if passed.errors.count() > FAILURES_MAX {
                    break;
                }
                let key = key(self.prefix, number);
                if waiting.len() == DEPTH
                    && let Some(first) = waiting.pop_front()
                {
                    passed.count(self.tally, take(first));
                }
                waiting.push_back((number, kv.submit_get(&Get { key: &key }, options())));
            }
            for rest in waiting {
                passed.count(self.tally, take(rest));
            }
        })
    }

    /// The records of one thread, until told to stop.
    fn share(&self, thread: u64) -> impl Iterator<Item = u64> {
        (thread..self.records)
            .step_by(self.threads as usize)
            .take_while(|_| !self.stop.load(Ordering::Relaxed))
    }

    fn spread(
        &self,
        work: impl Fn(&KvClient, u64, &mut Passed) + Sync,
    ) -> Result<Passed, StartError> {
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|thread| {
                    scope.spawn(move || {
                        let kv = (self.connect)(thread)?;
                        let mut passed = Passed::default();
                        work(&kv, thread, &mut passed);
                        Ok(passed)
                    })
                })
                .collect();
            let mut all = Passed::default();
            for thread in threads {
                match thread.join() {
                    Ok(passed) => all.merge(passed?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }
}
