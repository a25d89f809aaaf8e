//! A service and a journal in a file, for the tests of this crate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::contract::{Add, Echo, Ledger, LedgerError, Refuse, Risk, TEXT_MAX, Text};
use insula_contract::id::Attempt;
use insula_ipc::contract::Method;
use insula_ipc::server::{
    Answer, AnswerKind, CallContext, Dispatch, Journal, JournalError, OnceKey, Recorded, ReplySlot,
};
use serde::{Deserialize, Serialize};

/// No wait of a test lasts longer.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// What the service does, besides answering.
#[derive(Default)]
pub(crate) struct Service {
    pub(crate) journal: FileJournal,
    /// Called in every handler before it answers.
    pub(crate) before: Option<Box<dyn FnMut(u16)>>,
    pub(crate) executed: Rc<RefCell<Vec<u16>>>,
    /// `Add` answers more than fits.
    pub(crate) too_long: bool,
}

impl Dispatch for Service {
    type Contract = Ledger;

    fn dispatch(
        &mut self,
        _: &CallContext,
        method: u16,
        request: &[u8],
        reply: ReplySlot<'_>,
    ) -> Answer {
        let Ok(text) = postcard::from_bytes::<Text<'_>>(request) else {
            return reply.bad_request();
        };
        self.executed.borrow_mut().push(method);
        if let Some(before) = &mut self.before {
            before(method);
        }
        match method {
            Echo::ID => reply.send::<Echo>(&text),
            Add::ID => {
                let total = self.journal.add();
                if self.too_long {
                    let long = "x".repeat(TEXT_MAX * 2);
                    return reply.send::<Echo>(&Text { text: &long });
                }
                reply.send::<Add>(&total)
            }
            Risk::ID => reply.send::<Risk>(&text),
            Refuse::ID => reply.fail::<Refuse>(&LedgerError::Refused(text.text.len() as u32)),
            _ => reply.unknown_method(),
        }
    }
}

/// A journal in a file, each batch one write: what was committed survives a kill.
///
/// It is shared between the service, which adds, and the server, which commits.
#[derive(Default, Clone)]
pub(crate) struct FileJournal {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    file: Option<File>,
    total: u64,
    answers: BTreeMap<OnceKey, Recorded>,
    /// Effects and answers of the open batch.
    open: bool,
    added: u64,
    recorded: Vec<(OnceKey, u64, Recorded)>,
    fail_commits: usize,
    commits: usize,
    after_commit: Option<Box<dyn FnMut()>>,
}

const KINDS: [AnswerKind; 3] = [AnswerKind::Response, AnswerKind::Error, AnswerKind::TooLong];

#[derive(Serialize, Deserialize)]
struct Batch {
    added: u64,
    answers: Vec<(u64, u8, u64, u8, Vec<u8>)>,
}

impl FileJournal {
    pub(crate) fn open(path: &Path) -> Self {
        let journal = Self::default();
        {
            let mut inner = journal.inner.borrow_mut();
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .read(true)
                .open(path)
                .unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (batch, after) = postcard::take_from_bytes::<Batch>(rest).unwrap();
                rest = after;
                inner.total += batch.added;
                for (consumer, slot, sequence, kind, body) in batch.answers {
                    let key = OnceKey {
                        consumer: Attempt(consumer),
                        slot,
                        sequence,
                    };
                    let kind = KINDS[usize::from(kind)];
                    inner.answers.insert(key, Recorded { kind, body });
                }
            }
            inner.file = Some(file);
        }
        journal
    }

    /// The sum of what was committed.
    pub(crate) fn total(&self) -> u64 {
        self.inner.borrow().total
    }

    /// How many answers are kept.
    pub(crate) fn kept(&self) -> usize {
        self.inner.borrow().answers.len()
    }

    /// How many batches were committed.
    pub(crate) fn commits(&self) -> usize {
        self.inner.borrow().commits
    }

    /// Makes the next commits fail.
    pub(crate) fn fail_commits(&self, number: usize) {
        self.inner.borrow_mut().fail_commits = number;
    }

    /// Runs after every commit, before answers are sent.
    pub(crate) fn after_commit(&self, act: impl FnMut() + 'static) {
        self.inner.borrow_mut().after_commit = Some(Box::new(act));
    }

    fn add(&self) -> u64 {
        let mut inner = self.inner.borrow_mut();
        assert!(inner.open, "an effect outside of a transaction");
        inner.added += 1;
        inner.total + inner.added
    }
}

impl Journal for FileJournal {
    fn begin(&mut self) -> Result<(), JournalError> {
        let mut inner = self.inner.borrow_mut();
        assert!(!inner.open, "begun twice");
        inner.open = true;
        Ok(())
    }

    fn recall(&mut self, key: OnceKey) -> Result<Option<Recorded>, JournalError> {
        Ok(self.inner.borrow().answers.get(&key).cloned())
    }

    fn record(
        &mut self,
        key: OnceKey,
        forget_below: u64,
        kind: AnswerKind,
        body: &[u8],
    ) -> Result<(), JournalError> {
        let recorded = Recorded {
            kind,
            body: body.to_vec(),
        };
        self.inner
            .borrow_mut()
            .recorded
            .push((key, forget_below, recorded));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        let inner = &mut *self.inner.borrow_mut();
        assert!(inner.open, "commit without begin");
        inner.open = false;
        let added = std::mem::take(&mut inner.added);
        let recorded = std::mem::take(&mut inner.recorded);
        if inner.fail_commits > 0 {
            inner.fail_commits -= 1;
            return Err(JournalError("a failing disk".into()));
        }
        if let Some(file) = &mut inner.file {
            let answers = recorded
                .iter()
                .map(|(key, _, Recorded { kind, body })| {
                    let kind = KINDS.iter().position(|known| known == kind).unwrap() as u8;
                    (key.consumer.0, key.slot, key.sequence, kind, body.clone())
                })
                .collect();
            let batch = Batch { added, answers };
            file.write_all(&postcard::to_stdvec(&batch).unwrap())
                .unwrap();
        }
        inner.total += added;
        inner.commits += 1;
        for (key, forget_below, answer) in recorded {
            inner.answers.retain(|old, _| {
                (old.consumer, old.slot) != (key.consumer, key.slot) || old.sequence >= forget_below
            });
            inner.answers.insert(key, answer);
        }
        if let Some(act) = &mut inner.after_commit {
            act();
        }
        Ok(())
    }

    fn abort(&mut self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.open = false;
        inner.added = 0;
        inner.recorded.clear();
    }

    fn forget(&mut self, consumer: Attempt) -> Result<(), JournalError> {
        self.inner
            .borrow_mut()
            .answers
            .retain(|key, _| key.consumer != consumer);
        Ok(())
    }

    fn retain(&mut self, consumers: &[Attempt]) -> Result<(), JournalError> {
        self.inner
            .borrow_mut()
            .answers
            .retain(|key, _| consumers.contains(&key.consumer));
        Ok(())
    }
}

/// Waits for a state, not for a time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WATCHDOG;
    while !holds() {
        assert!(Instant::now() < end, "watchdog: {what}");
        std::thread::yield_now();
    }
}
