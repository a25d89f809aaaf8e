//! One client: a thread that does one operation after the other on a connection of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use insula::ipc::client::{CallError, CallOptions, Malformed};
use kv_contract::{CompareAndSwap, Expected, Get, KvClient, Put, Swap};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::expect::{Expectations, Write};
use crate::failure::Failure;
use crate::measure::{Measured, Operation};
use crate::record::{Record, Stamp, VALUE_SIZE, key};
use crate::run::Connect;
use crate::workload::Workload;
use crate::zipfian::Zipfian;

/// The longest sleep before looking whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// A pause after a failure, so that failures that come at once do not fill the report.
const PAUSE: Duration = Duration::from_millis(1);

/// When a run ends.
#[derive(Debug)]
pub(crate) struct Until<'a> {
    /// At this time.
    pub end: Option<Instant>,
    /// When so many operations have begun.
    pub operations: Option<AtomicU64>,
    /// When somebody says so.
    pub stop: &'a AtomicBool,
}

impl Until<'_> {
    fn is_over(&self, now: Instant) -> bool {
        self.stop.load(Ordering::Relaxed) || self.end.is_some_and(|end| now >= end)
    }

    /// Takes one operation of those that are left.
    fn begin_one(&self) -> bool {
        let Some(left) = &self.operations else {
            return true;
        };
        left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    }
}

/// How far a phase has come, for the progress line.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Operations that succeeded.
    pub done: AtomicU64,
    /// Operations that failed.
    pub failed: AtomicU64,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The operations.
    pub workload: Workload,
    /// The records.
    pub zipfian: Zipfian,
    /// What the keys begin with.
    pub prefix: &'a str,
    /// The number of this run.
    pub run: u64,
    /// When it begins.
    pub begin: Instant,
    /// When it ends.
    pub until: Until<'a>,
    /// From one client's intended sending to its next; none in a closed loop.
    pub interval: Option<Duration>,
    /// How long a call may take; the contract's own deadlines where it is none.
    pub deadline: Option<Duration>,
    /// What has to be in the store.
    pub expectations: &'a Expectations,
    /// How far it has come.
    pub tally: &'a Tally,
}

/// One client of a run.
pub(crate) struct Client<'a> {
    plan: &'a Plan<'a>,
    number: u64,
    kv: KvClient,
    connect: &'a Connect<'a>,
    chance: SmallRng,
    sequence: u64,
    value: [u8; VALUE_SIZE],
    measured: Measured,
}

/// Why an operation did not succeed.
enum Trouble {
    Failed(Failure),
    /// Counted already.
    Violated,
}

impl From<CallError<kv_contract::KvError>> for Trouble {
    fn from(error: CallError<kv_contract::KvError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Self {
        Self::Failed(CallError::from(malformed).into())
    }
}

impl<'a> Client<'a> {
    /// The client of this number, that calls through `kv`, and after a failure through what
    /// `connect` gives: the next supervisor's edge where the last one is gone.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        number: u64,
        kv: KvClient,
        connect: &'a Connect<'a>,
    ) -> Self {
        Self {
            plan,
            number,
            kv,
            connect,
            chance: SmallRng::seed_from_u64(plan.run ^ number),
            sequence: 0,
            value: [0; VALUE_SIZE],
            measured: Measured::new(plan.begin),
        }
    }

    /// Does operations until the run is over; `phase` is when in its interval an open loop sends.
    pub(crate) fn run(mut self, phase: Duration) -> Measured {
        let mut intended = self.plan.begin + phase;
        loop {
            if let Some(interval) = self.plan.interval {
                self.sleep_until(intended);
                if self.plan.until.is_over(Instant::now()) || !self.plan.until.begin_one() {
                    break;
                }
                self.operate(intended);
                intended += interval;
            } else {
                let now = Instant::now();
                if self.plan.until.is_over(now) || !self.plan.until.begin_one() {
                    break;
                }
                self.operate(now);
            }
        }
        self.measured.gaps.close(Instant::now());
        self.measured
    }

    fn sleep_until(&self, time: Instant) {
        loop {
            let now = Instant::now();
            if now >= time || self.plan.until.is_over(now) {
                return;
            }
            thread::sleep((time - now).min(NAP));
        }
    }

    fn operate(&mut self, since: Instant) {
        let operation = self.plan.workload.choose(&mut self.chance);
        let record = self.plan.zipfian.record(&mut self.chance);
        let key = key(self.plan.prefix, record);
        let result = match operation {
            Operation::Read => self.read(record, &key).map(drop),
            Operation::Update => self.update(record, &key),
            Operation::ReadModifyWrite => self.increment(record, &key),
        };
        match result {
            Ok(()) => {
                self.measured.succeed(operation, since, Instant::now());
                self.plan.tally.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(trouble) => {
                if let Trouble::Failed(failure) = trouble {
                    self.measured.errors.add(failure);
                }
                self.plan.tally.failed.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
                if let Ok(kv) = (self.connect)(self.number) {
                    self.kv = kv;
                }
            }
        }
    }

    fn options(&self) -> CallOptions {
        CallOptions {
            deadline: self.plan.deadline,
            ..CallOptions::default()
        }
    }

    /// The record with its revision.
    fn read(&mut self, number: u64, key: &[u8]) -> Result<(u64, Record), Trouble> {
        let expectations = self.plan.expectations;
        let floor = expectations.floor(number);
        let response = self.kv.get_with(&Get { key }, self.options())?;
        let found = response.get()?.found;
        let revision = found.map_or(0, |found| found.revision);
        let found = found.map(|found| (found.revision, found.value));
        match expectations.read(number, floor, found) {
            Ok(record) => Ok((revision, record)),
            Err(violation) => {
                self.measured.violations.add(violation);
                Err(Trouble::Violated)
            }
        }
    }

    fn write(&mut self, number: u64, counter: u64) -> Stamp {
        self.sequence += 1;
        let stamp = Stamp {
            run: self.plan.run,
            client: self.number,
            sequence: self.sequence,
        };
        let record = Record {
            number,
            stamp,
            counter,
        };
        record.write(&mut self.value);
        stamp
    }

    /// Notes what an outcome says of a write.
    fn note<T>(
        &self,
        number: u64,
        write: Write,
        stamp: Stamp,
        outcome: Result<T, Failure>,
    ) -> Result<T, Trouble> {
        outcome.map_err(|failure| {
            if failure.unknown {
                self.plan.expectations.doubt(number, write, stamp);
            }
            Trouble::Failed(failure)
        })
    }

    fn update(&mut self, number: u64, key: &[u8]) -> Result<(), Trouble> {
        let stamp = self.write(number, 0);
        let value = &self.value;
        let outcome = self
            .kv
            .put_with(&Put { key, value }, self.options())
            .and_then(|response| Ok(response.get()?.revision))
            .map_err(Failure::from);
        let revision = self.note(number, Write::Set, stamp, outcome)?;
        let expectations = self.plan.expectations;
        expectations.acknowledge(number, Write::Set, revision, stamp);
        Ok(())
    }

    fn increment(&mut self, number: u64, key: &[u8]) -> Result<(), Trouble> {
        // It ends: whenever it goes round again, another client has succeeded.
        loop {
            let (revision, record) = self.read(number, key)?;
            let stamp = self.write(number, record.counter + 1);
            let request = CompareAndSwap {
                key,
                expected: Expected::Revision(revision),
                value: &self.value,
            };
            let outcome = self
                .kv
                .compare_and_swap_with(&request, self.options())
                .and_then(|response| Ok(response.get()?))
                .map_err(Failure::from);
            match self.note(number, Write::Increment, stamp, outcome)? {
                Swap::Swapped { revision } => {
                    let expectations = self.plan.expectations;
                    expectations.acknowledge(number, Write::Increment, revision, stamp);
                    return Ok(());
                }
                Swap::Conflict { .. } => self.measured.conflicts += 1,
            }
        }
    }
}
