//! What kv answers.

use insula::ipc::server::{Answer, CallContext, Reply};
use insula::store::{Store, StoreError};
use kv_contract::{
    CompareAndSwap, Delete, Deleted, Get, KEY_MAX, KvError, KvServer, Lookup, PAGE_ENTRIES, Page,
    Put, Scan, Stats, VALUE_MAX, Written, kv,
};

use crate::entries::{BadCursor, Entries};

/// The service.
#[derive(Debug)]
pub(crate) struct Kv {
    store: Store,
    entries: Entries,
    release: String,
}

impl Kv {
    pub(crate) fn open(store: Store, release: &str) -> Result<Self, StoreError> {
        Ok(Self {
            entries: Entries::open(&store)?,
            store,
            release: release.to_owned(),
        })
    }
}

fn check_key(key: &[u8]) -> Result<(), KvError> {
    if key.is_empty() {
        Err(KvError::KeyEmpty)
    } else if key.len() > KEY_MAX {
        Err(KvError::KeyTooLong {
            max: KEY_MAX as u32,
        })
    } else {
        Ok(())
    }
}

fn check(key: &[u8], value: &[u8]) -> Result<(), KvError> {
    check_key(key)?;
    if value.len() > VALUE_MAX {
        return Err(KvError::ValueTooLong {
            max: VALUE_MAX as u32,
        });
    }
    Ok(())
}

fn failed(error: &StoreError) -> KvError {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    // Only the first time would be news that it is full, and the figures tell it.
    if !matches!(error, StoreError::Full) {
        tracing::error!("{text}");
    }
    KvError::storage(text)
}

impl KvServer for Kv {
    fn get(&mut self, _: &CallContext, request: Get<'_>, reply: Reply<'_, kv::Get>) -> Answer {
        if let Err(error) = check_key(request.key) {
            return reply.fail(&error);
        }
        let mut reply = Some(reply);
        let answered = self.store.read(|reader| {
            let found = self.entries.get(reader, request.key)?;
            Ok(reply.take().map(|reply| reply.send(&Lookup { found })))
        });
        finish(answered, reply)
    }

    fn put(&mut self, _: &CallContext, request: Put<'_>, reply: Reply<'_, kv::Put>) -> Answer {
        if let Err(error) = check(request.key, request.value) {
            return reply.fail(&error);
        }
        let put = self
            .store
            .write(|w| self.entries.put(w, request.key, request.value));
        match put {
            Ok(revision) => reply.send(&Written { revision }),
            Err(error) => reply.fail(&failed(&error)),
        }
    }

    fn delete(
        &mut self,
        _: &CallContext,
        request: Delete<'_>,
        reply: Reply<'_, kv::Delete>,
    ) -> Answer {
        if let Err(error) = check_key(request.key) {
            return reply.fail(&error);
        }
        match self.store.write(|w| self.entries.delete(w, request.key)) {
            Ok(existed) => reply.send(&Deleted { existed }),
            Err(error) => reply.fail(&failed(&error)),
        }
    }

    fn compare_and_swap(
        &mut self,
        _: &CallContext,
        request: CompareAndSwap<'_>,
        reply: Reply<'_, kv::CompareAndSwap>,
    ) -> Answer {
        let CompareAndSwap {
            key,
            expected,
            value,
        } = request;
        if let Err(error) = check(key, value) {
            return reply.fail(&error);
        }
        match self
            .store
            .write(|w| self.entries.compare_and_swap(w, key, expected, value))
        {
            Ok(swap) => reply.send(&swap),
            Err(error) => reply.fail(&failed(&error)),
        }
    }

    fn scan(&mut self, _: &CallContext, request: Scan<'_>, reply: Reply<'_, kv::Scan>) -> Answer {
        let limit = request.limit as usize;
        if !(1..=PAGE_ENTRIES).contains(&limit) {
            return reply.fail(&KvError::LimitOutOfRange {
                max: PAGE_ENTRIES as u32,
            });
        }
        let mut reply = Some(reply);
        let answered = self.store.read(|reader| {
            let page = self
                .entries
                .page(reader, request.keys, limit, request.cursor)?;
            Ok(reply.take().map(|reply| match page {
                Ok((entries, next)) => reply.send(&Page {
                    entries,
                    next: next.as_deref(),
                }),
                Err(BadCursor) => reply.fail(&KvError::BadCursor),
            }))
        });
        finish(answered, reply)
    }

    fn stats(&mut self, _: &CallContext, reply: Reply<'_, kv::Stats>) -> Answer {
        let figures = self.store.read(|reader| self.entries.figures(reader));
        match (figures, self.store.stored_epoch()) {
            (Ok((entries, bytes)), Ok(epoch)) => reply.send(&Stats {
                entries,
                bytes,
                map_bytes: self.store.size_max(),
                epoch: epoch.0,
                durability: self.store.durability().name().into(),
                release: (&self.release).into(),
            }),
            (Err(error), _) | (_, Err(error)) => reply.fail(&failed(&error)),
        }
    }
}

/// The answer that a look at the store gave, or the reason why it gave none.
fn finish<M>(answered: Result<Option<Answer>, StoreError>, reply: Option<Reply<'_, M>>) -> Answer
where
    M: insula::ipc::contract::Method<Contract = kv_contract::Kv>,
{
    match (answered, reply) {
        (Ok(Some(answer)), _) => answer,
        (Err(error), Some(reply)) => reply.fail(&failed(&error)),
        (Ok(None), Some(reply)) => reply.fail(&KvError::storage("no answer was made")),
        (Ok(None) | Err(_), None) => unreachable!("a reply that was used gave its answer"),
    }
}
