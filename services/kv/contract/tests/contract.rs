//! `kv@1` over a real channel, and what of it may not change.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insula::ipc::client::{CallError, CallOptions, Edge};
use insula::ipc::contract::{Contract, Message, Method, Safety};
use insula::ipc::protocol::id::Attempt;
use insula::ipc::protocol::route::RouteState;
use insula::ipc::server::{
    Answer, AnswerKind, CallContext, Journal, JournalError, OnceKey, Recorded, Reply, Server,
};
use insula::ipc::testing::Host;
use kv_contract::*;

const PROVIDER: Attempt = Attempt(1);
const CONSUMER: Attempt = Attempt(2);

/// Entries in memory.
#[derive(Default)]
struct Memory {
    entries: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    revision: u64,
}

impl Memory {
    fn set(&mut self, key: &[u8], value: &[u8]) -> u64 {
        self.revision += 1;
        self.entries
            .insert(key.to_vec(), (self.revision, value.to_vec()));
        self.revision
    }

    fn page(&self, scan: &Scan<'_>) -> Page<'_> {
        let wanted = |key: &[u8]| match scan.keys {
            Keys::Prefix(prefix) => key.starts_with(prefix),
            Keys::Range { from, to } => from <= key && to.is_none_or(|to| key < to),
        };
        let mut page = Page {
            entries: Vec::new(),
            next: None,
        };
        let mut weight = 0;
        for (key, (revision, value)) in &self.entries {
            if !wanted(key) || scan.cursor.is_some_and(|cursor| key.as_slice() < cursor) {
                continue;
            }
            let entry = Entry {
                key,
                revision: *revision,
                value,
            };
            weight += entry.weight();
            if page.entries.len() == scan.limit as usize || weight > PAGE_WEIGHT {
                page.next = Some(key);
                break;
            }
            page.entries.push(entry);
        }
        page
    }
}

impl KvServer for Memory {
    fn get(&mut self, _: &CallContext, request: Get<'_>, reply: Reply<'_, kv::Get>) -> Answer {
        if request.key.is_empty() {
            return reply.fail(&KvError::KeyEmpty);
        }
        if request.key.len() > KEY_MAX {
            return reply.fail(&KvError::KeyTooLong {
                max: KEY_MAX as u32,
            });
        }
        let found = self.entries.get(request.key);
        let found = found.map(|(revision, value)| Found {
            revision: *revision,
            value,
        });
        reply.send(&Lookup { found })
    }

    fn put(&mut self, _: &CallContext, request: Put<'_>, reply: Reply<'_, kv::Put>) -> Answer {
        let revision = self.set(request.key, request.value);
        reply.send(&Written { revision })
    }

    fn delete(
        &mut self,
        _: &CallContext,
        request: Delete<'_>,
        reply: Reply<'_, kv::Delete>,
    ) -> Answer {
        let existed = self.entries.remove(request.key).is_some();
        reply.send(&Deleted { existed })
    }

    fn compare_and_swap(
        &mut self,
        _: &CallContext,
        request: CompareAndSwap<'_>,
        reply: Reply<'_, kv::CompareAndSwap>,
    ) -> Answer {
        let current = self.entries.get(request.key).map(|(revision, _)| *revision);
        let expected = match request.expected {
            Expected::Absent => None,
            Expected::Revision(revision) => Some(revision),
        };
        if current != expected {
            return reply.send(&Swap::Conflict { current });
        }
        let revision = self.set(request.key, request.value);
        reply.send(&Swap::Swapped { revision })
    }

    fn scan(&mut self, _: &CallContext, request: Scan<'_>, reply: Reply<'_, kv::Scan>) -> Answer {
        reply.send(&self.page(&request))
    }

    fn stats(&mut self, _: &CallContext, reply: Reply<'_, kv::Stats>) -> Answer {
        reply.send(&Stats {
            entries: self.entries.len() as u64,
            bytes: 0,
            map_bytes: 0,
            epoch: 1,
            durability: "grouped".into(),
            release: "1.0.0".into(),
        })
    }
}

/// Answers in memory.
#[derive(Default)]
struct Answers(HashMap<OnceKey, Recorded>);

impl Journal for Answers {
    fn begin(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
    fn recall(&mut self, key: OnceKey) -> Result<Option<Recorded>, JournalError> {
        Ok(self.0.get(&key).cloned())
    }
    fn record(
        &mut self,
        key: OnceKey,
        _: u64,
        kind: AnswerKind,
        body: &[u8],
    ) -> Result<(), JournalError> {
        self.0.insert(
            key,
            Recorded {
                kind,
                body: body.to_vec(),
            },
        );
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

/// Runs `consumer` against a served store.
fn with_client(name: &str, consumer: impl FnOnce(&KvClient)) {
    let host = Host::new(name);
    host.open_pair(PROVIDER, CONSUMER);
    let stop = Arc::new(AtomicBool::new(false));
    let (served, page, stopped) = (host.served::<Kv>(CONSUMER), host.page(), stop.clone());
    let (tell, told) = std::sync::mpsc::channel();
    let provider = std::thread::spawn(move || {
        let dispatch = KvDispatch(Memory::default());
        let mut server = Server::new(PROVIDER, 0, Duration::ZERO, dispatch, Answers::default());
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
    consumer(&KvClient::connect(&edge).unwrap());
    stop.store(true, Ordering::SeqCst);
    waker.wake();
    provider.join().unwrap();
}

#[test]
fn every_method_is_called_and_answered() {
    with_client("kv-methods", |client| {
        let absent = client.get(&Get { key: b"a" }).unwrap();
        assert_eq!(absent.get().unwrap().found, None);
        drop(absent);

        let written = client
            .put(&Put {
                key: b"a",
                value: b"one",
            })
            .unwrap()
            .get()
            .unwrap();
        let found = client.get(&Get { key: b"a" }).unwrap();
        let expected = Found {
            revision: written.revision,
            value: b"one",
        };
        assert_eq!(found.get().unwrap().found, Some(expected));

        let swap = |expected, value| {
            let request = CompareAndSwap {
                key: b"a",
                expected,
                value,
            };
            client.compare_and_swap(&request).unwrap().get().unwrap()
        };
        let current = Some(written.revision);
        assert_eq!(swap(Expected::Absent, b"two"), Swap::Conflict { current });
        let Swap::Swapped { revision } = swap(Expected::Revision(written.revision), b"two") else {
            panic!("a conflict with oneself");
        };
        assert!(revision > written.revision);

        let stats = client.stats().unwrap();
        assert_eq!(stats.get().unwrap().release, "1.0.0");
        let delete = || {
            client
                .delete(&Delete { key: b"a" })
                .unwrap()
                .get()
                .unwrap()
                .existed
        };
        assert_eq!((delete(), delete()), (true, false));
    });
}

#[test]
fn the_contracts_error_arrives_as_itself() {
    with_client("kv-errors", |client| {
        let error = client.get(&Get { key: b"" }).unwrap_err();
        assert_eq!(error, CallError::Failed(KvError::KeyEmpty));
        let error = client
            .get(&Get {
                key: &[7; KEY_MAX + 1],
            })
            .unwrap_err();
        assert_eq!(error, CallError::Failed(KvError::KeyTooLong { max: 500 }));
    });
}

#[test]
fn requests_are_sent_before_their_answers_are_awaited() {
    with_client("kv-pipeline", |client| {
        let options = CallOptions::default();
        let keys: Vec<[u8; 1]> = (0..Kv::IN_FLIGHT as u8).map(|number| [number]).collect();
        let tickets: Vec<_> = keys
            .iter()
            .map(|key| {
                client
                    .submit_put(&Put { key, value: key }, options)
                    .unwrap()
            })
            .collect();
        let revisions: Vec<u64> = tickets
            .into_iter()
            .map(|ticket| ticket.wait().unwrap().get().unwrap().revision)
            .collect();
        assert_eq!(revisions, (1..=Kv::IN_FLIGHT as u64).collect::<Vec<_>>());
    });
}

#[test]
fn the_greatest_entry_is_put_got_and_scanned() {
    with_client("kv-greatest", |client| {
        let (key, value) = ([255; KEY_MAX], vec![7; VALUE_MAX]);
        let _ = client
            .put(&Put {
                key: &key,
                value: &value,
            })
            .unwrap();
        let _ = client
            .put(&Put {
                key: b"small",
                value: b"",
            })
            .unwrap();
        let found = client.get(&Get { key: &key }).unwrap();
        assert_eq!(found.get().unwrap().found.unwrap().value, value);
        drop(found);

        let mut keys = Vec::new();
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            let scan = Scan {
                keys: Keys::Prefix(b""),
                limit: 1,
                cursor: cursor.as_deref(),
            };
            let response = client.scan(&scan).unwrap();
            let page = response.get().unwrap();
            keys.extend(page.entries.iter().map(|entry| entry.key.to_vec()));
            cursor = page.next.map(<[u8]>::to_vec);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(keys, [b"small".to_vec(), key.to_vec()]);
    });
}

#[test]
fn a_full_page_fits_whatever_its_entries() {
    let (key, value) = ([255; KEY_MAX], vec![255; VALUE_MAX]);
    let greatest = Entry {
        key: &key,
        revision: u64::MAX,
        value: &value,
    };
    assert!(greatest.weight() <= PAGE_WEIGHT);
    let cursor = [255; CURSOR_MAX];
    let fits = |entries: Vec<Entry<'_>>| {
        assert!(entries.iter().map(Entry::weight).sum::<usize>() <= PAGE_WEIGHT);
        let page = Page {
            entries,
            next: Some(&cursor),
        };
        let length = postcard::to_stdvec(&page).unwrap().len();
        assert!(length <= Page::ENCODED_MAX, "{length}");
        assert!(length <= Kv::RESPONSE_MAX, "{length}");
    };
    fits(vec![greatest]);
    let share = PAGE_WEIGHT / PAGE_ENTRIES - 16;
    let entry = Entry {
        key: &key[..100],
        revision: u64::MAX,
        value: &value[..share - 100],
    };
    fits(vec![entry; PAGE_ENTRIES]);
}

#[test]
fn storage_reasons_are_cut_between_characters() {
    let KvError::Storage(reason) = KvError::storage("é".repeat(REASON_MAX)) else {
        panic!("another error");
    };
    assert!(reason.len() <= REASON_MAX);
    assert!(reason.chars().all(|c| c == 'é'));
    assert!(postcard::to_stdvec(&KvError::Storage(reason)).is_ok());
}

#[test]
fn writes_are_once_and_reads_idempotent() {
    assert_eq!(kv::Get::SAFETY, Safety::Idempotent);
    assert_eq!(kv::Put::SAFETY, Safety::Once);
    assert_eq!(kv::CompareAndSwap::ID, 4);
    assert_eq!(kv::Put::DEADLINE, Duration::from_secs(5));
    const { assert!(Kv::NEEDS_JOURNAL) };
    assert_eq!(Kv::id().to_string(), "kv@1");
}

/// A change of this number is a change of what travels: see the compatibility rules of
/// `insula_contract::schema::compatibility` before it is accepted.
#[test]
fn the_schema_is_the_kept_one() {
    assert_eq!(format!("{:016x}", Kv::schema().hash()), "a68befc69f1e3947");
}
