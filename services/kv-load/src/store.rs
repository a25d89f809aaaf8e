//! A kv@1 in memory, on a thread of the test, that can be told to go wrong; and tests of whole
//! sessions against it, through a real channel.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use insula::ipc::client::Edge;
use insula::ipc::local::LocalError;
use insula::ipc::protocol::id::Attempt;
use insula::ipc::protocol::route::RouteState;
use insula::ipc::server::{
    Answer, AnswerKind, CallContext, Journal, JournalError, OnceKey, Recorded, Reply, Server, Waker,
};
use insula::ipc::testing::Host;
use kv_contract::{
    CompareAndSwap, Delete, Expected, Found, Get, Kv, KvClient, KvDispatch, KvError, KvServer,
    Lookup, Put, Scan, Swap, Written, kv,
};

use crate::arguments::{Extent, Running};
use crate::report::Report;
use crate::run::StartError;
use crate::session::Session;
use crate::stop::Stop;
use crate::workload::Workload;

/// What goes wrong; each with every tenth request that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A put is acknowledged and not done.
    LosesWrites,
    /// A compare-and-swap is done, and answered as if another write had come before it.
    ForgetsThatItSwapped,
    /// A read finds what was there before the last write.
    ReadsStale,
    /// A put fails and says so.
    Refuses,
    /// Every read fails, even before anything is loaded.
    ReadsNothing,
}

#[derive(Debug, Clone)]
struct Entry {
    revision: u64,
    value: Vec<u8>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    turns: u64,
    revision: u64,
    entries: BTreeMap<Vec<u8>, (Entry, Entry)>,
    answers: BTreeMap<OnceKey, Recorded>,
}

#[derive(Debug, Clone)]
struct Memory(Rc<RefCell<State>>);

impl State {
    /// Whether this time the fault, if it is this one, strikes.
    fn strikes(&mut self, fault: Fault) -> bool {
        self.turns += 1;
        // Loading comes first, and is to succeed.
        self.fault == fault && self.revision > RECORDS && self.turns.is_multiple_of(10)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> u64 {
        self.revision += 1;
        let entry = Entry {
            revision: self.revision,
            value: value.to_vec(),
        };
        let before = self.entries.remove(key).map(|(now, _)| now);
        let before = before.unwrap_or_else(|| entry.clone());
        self.entries.insert(key.to_vec(), (entry, before));
        self.revision
    }
}

impl KvServer for Memory {
    fn get(&mut self, _: &CallContext, request: Get<'_>, reply: Reply<'_, kv::Get>) -> Answer {
        let mut state = self.0.borrow_mut();
        if state.fault == Fault::ReadsNothing {
            return reply.fail(&KvError::storage("the disk is gone"));
        }
        let stale = state.strikes(Fault::ReadsStale);
        let entry = state.entries.get(request.key);
        let entry = entry.map(|(now, before)| if stale { before } else { now });
        reply.send(&Lookup {
            found: entry.map(|entry| Found {
                revision: entry.revision,
                value: &entry.value,
            }),
        })
    }

    fn put(&mut self, _: &CallContext, request: Put<'_>, reply: Reply<'_, kv::Put>) -> Answer {
        let mut state = self.0.borrow_mut();
        if state.strikes(Fault::Refuses) {
            return reply.fail(&KvError::storage("the disk is full"));
        }
        let revision = if state.strikes(Fault::LosesWrites) {
            state.revision += 1;
            state.revision
        } else {
            state.set(request.key, request.value)
        };
        reply.send(&Written { revision })
    }

    fn delete(&mut self, _: &CallContext, _: Delete<'_>, reply: Reply<'_, kv::Delete>) -> Answer {
        reply.fail(&KvError::storage("not in this test"))
    }

    fn compare_and_swap(
        &mut self,
        _: &CallContext,
        request: CompareAndSwap<'_>,
        reply: Reply<'_, kv::CompareAndSwap>,
    ) -> Answer {
        let mut state = self.0.borrow_mut();
        let current = state.entries.get(request.key).map(|(now, _)| now.revision);
        let expected = match request.expected {
            Expected::Absent => None,
            Expected::Revision(revision) => Some(revision),
        };
        if current != expected {
            return reply.send(&Swap::Conflict { current });
        }
        let revision = state.set(request.key, request.value);
        if state.strikes(Fault::ForgetsThatItSwapped) {
            return reply.send(&Swap::Conflict {
                current: Some(revision),
            });
        }
        reply.send(&Swap::Swapped { revision })
    }

    fn scan(&mut self, _: &CallContext, _: Scan<'_>, reply: Reply<'_, kv::Scan>) -> Answer {
        reply.fail(&KvError::storage("not in this test"))
    }

    fn stats(&mut self, _: &CallContext, reply: Reply<'_, kv::Stats>) -> Answer {
        reply.fail(&KvError::storage("not in this test"))
    }
}

impl Journal for Memory {
    fn begin(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
    fn recall(&mut self, key: OnceKey) -> Result<Option<Recorded>, JournalError> {
        Ok(self.0.borrow().answers.get(&key).cloned())
    }
    fn record(
        &mut self,
        key: OnceKey,
        forget_below: u64,
        kind: AnswerKind,
        body: &[u8],
    ) -> Result<(), JournalError> {
        let answers = &mut self.0.borrow_mut().answers;
        answers.retain(|known, _| {
            (known.consumer, known.slot) != (key.consumer, key.slot)
                || known.sequence >= forget_below
        });
        let body = body.to_vec();
        answers.insert(key, Recorded { kind, body });
        Ok(())
    }
    fn commit(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
    fn abort(&mut self) {}
    fn forget(&mut self, _: Attempt) -> Result<(), JournalError> {
        Ok(())
    }
}

const PROVIDER: Attempt = Attempt(1);
const CONSUMER: Attempt = Attempt(2);
const RECORDS: u64 = 50;

/// A provider on a thread of its own.
struct Provider {
    /// One for all sessions: the numbers of `once` requests go on.
    edge: Edge,
    /// Kept for its memory and directories.
    _host: Host,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    fn start(name: &str, fault: Fault) -> Self {
        let host = Host::new(name);
        host.open_pair(PROVIDER, CONSUMER);
        let (served, page) = (host.served::<Kv>(CONSUMER), host.page());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let memory = Memory(Rc::new(RefCell::new(State {
                fault,
                turns: 0,
                revision: 0,
                entries: BTreeMap::new(),
                answers: BTreeMap::new(),
            })));
            let dispatch = KvDispatch(memory.clone());
            let mut server = Server::new(PROVIDER, 0, Duration::ZERO, dispatch, memory);
            server.serve(served, page).unwrap();
            tell.send(server.waker()).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                if !server.turn() {
                    server.park();
                }
            }
        });
        let waker = told.recv().unwrap();
        host.publish(RouteState::Serve, PROVIDER, 0, None);
        let used = host.used::<Kv>(CONSUMER);
        let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
        Self {
            edge,
            _host: host,
            stop,
            waker,
            thread: Some(thread),
        }
    }

    fn exercise(&self, running: &Running, load: bool) -> Report {
        let connect = |number| {
            KvClient::connect(&self.edge).map_err(|source| StartError::Connect {
                number,
                source: Box::new(LocalError::Connect {
                    contract: "kv@1".parse().unwrap(),
                    source,
                }),
            })
        };
        let session = Session {
            connect: &connect,
            prefix: "test",
            stop: &Stop::default(),
            run: 7,
        };
        let mut report = session.exercise(running, load).unwrap();
        report.judge();
        report
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn running(workload: Workload) -> Running {
    Running {
        extent: Extent {
            records: RECORDS,
            clients: 3,
        },
        workload,
        duration: None,
        operations: Some(600),
        rate: None,
        deadline: Some(Duration::from_secs(20)),
        marks: false,
        mark_window: Duration::from_secs(5),
    }
}

#[test]
fn every_workload_passes_on_a_sound_store() {
    let provider = Provider::start("load-sound", Fault::None);
    for workload in [Workload::A, Workload::B, Workload::C, Workload::F] {
        let report = provider.exercise(&running(workload), true);
        assert!(report.passed, "{report}");
        assert_eq!(report.run.as_ref().unwrap().succeeded, 600);
        // The same again on what is there, counters and all.
        let report = provider.exercise(&running(workload), false);
        assert!(report.passed, "{report}");
    }
}

#[test]
fn an_open_loop_sends_as_many_as_intended() {
    let provider = Provider::start("load-open", Fault::None);
    let order = Running {
        rate: Some(2_000.0),
        operations: Some(400),
        ..running(Workload::B)
    };
    let report = provider.exercise(&order, true);
    assert!(report.passed, "{report}");
    let run = report.run.unwrap();
    assert_eq!(run.succeeded, 400);
    // The last of 400 is due 399/2000 s after the first: it cannot be done before.
    assert!(run.seconds >= 0.199, "{}", run.seconds);
}

#[test]
fn a_store_that_loses_writes_fails() {
    let provider = Provider::start("load-loses", Fault::LosesWrites);
    let report = provider.exercise(&running(Workload::A), true);
    assert!(!report.passed);
    let text = report.to_string();
    // Either it is gone at the end, or a read found so before another write covered it.
    let found = ["lost write", "stale read"]
        .iter()
        .any(|what| text.contains(what));
    assert!(found, "{report}");
}

#[test]
fn a_store_that_reads_stale_fails() {
    let provider = Provider::start("load-stale", Fault::ReadsStale);
    let report = provider.exercise(&running(Workload::A), true);
    assert!(!report.passed);
    assert!(report.to_string().contains("stale read"), "{report}");
}

#[test]
fn a_store_that_increments_twice_fails() {
    let provider = Provider::start("load-doubles", Fault::ForgetsThatItSwapped);
    let report = provider.exercise(&running(Workload::F), true);
    assert!(!report.passed);
    assert!(report.to_string().contains("violations: "), "{report}");
}

#[test]
fn a_failed_request_fails_the_run_and_nothing_else() {
    let provider = Provider::start("load-refuses", Fault::Refuses);
    let report = provider.exercise(&running(Workload::A), true);
    assert!(!report.passed);
    let run = report.run.as_ref().unwrap();
    assert!(!run.errors.is_empty(), "{report}");
    assert!(report.to_string().contains("the disk is full"));
    assert_eq!(run.violations.count, 0, "{report}");
    assert_eq!(report.verification.unwrap().good, RECORDS);
}

#[test]
fn records_that_are_not_there_are_told() {
    let provider = Provider::start("load-empty", Fault::None);
    let report = provider.exercise(&running(Workload::C), false);
    assert!(!report.passed);
    assert!(report.run.is_none());
    assert_eq!(report.survey.unwrap().violations.count, RECORDS);
}

#[test]
fn a_store_that_fails_throughout_is_given_up() {
    let provider = Provider::start("load-gone", Fault::ReadsNothing);
    let mut order = running(Workload::C);
    order.extent.records = 5_000;
    let survey = provider.exercise(&order, false).survey.unwrap();
    assert_eq!(survey.good, 0);
    // Three threads, each with some more requests on their way when it gives up.
    assert!(
        (300..600).contains(&survey.errors.count()),
        "{:?}",
        survey.errors
    );
}
