//! The routes against a real channel to a kv in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use insula::ipc::client::Edge;
use insula::ipc::protocol::id::Attempt;
use insula::ipc::protocol::route::RouteState;
use insula::ipc::server::{Answer, CallContext, NoJournal, Reply, Server};
use insula::ipc::testing::Host;
use kv_contract::{
    Deleted, Entry, Found, Kv, KvDispatch, KvError, KvServer, Lookup, Page, Stats, Written, kv,
};
use tower::ServiceExt;

use super::*;

#[test]
fn a_key_is_any_bytes() {
    let key_of = |path: &'static str| key(&Uri::from_static(path));
    assert_eq!(key_of("/kv/a%20b/c%ff").unwrap(), b"a b/c\xff");
    for bad in ["/kv/%", "/kv/%2", "/kv/%zz"] {
        assert_eq!(key_of(bad).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn conditions_are_etags_or_a_star() {
    let headers = |name: &'static str, value: &'static str| {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    };
    assert_eq!(condition(&HeaderMap::new()).unwrap(), None);
    assert_eq!(
        condition(&headers("if-none-match", "*")).unwrap(),
        Some(Expected::Absent)
    );
    assert_eq!(
        condition(&headers("if-match", "\"7\"")).unwrap(),
        Some(Expected::Revision(7))
    );
    for (name, value) in [
        ("if-match", "7"),
        ("if-match", "*"),
        ("if-none-match", "\"7\""),
    ] {
        assert!(condition(&headers(name, value)).is_err(), "{name}: {value}");
    }
}

#[tokio::test]
async fn who_comes_when_the_queue_is_full_is_told_to_come_again() {
    let (backend, _waiting) = Backend::without_threads(0);
    let request = Request::get("/kv/a").body(Body::empty()).unwrap();
    let response = routes(backend).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn what_is_not_there_is_told_in_json() {
    let (backend, _waiting) = Backend::without_threads(1);
    let request = Request::get("/nothing").body(Body::empty()).unwrap();
    let response = routes(backend).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["code"], "no-route");
}

/// A kv in memory; it leaves requests for `slow` unanswered for longer than anybody waits.
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
}

impl KvServer for Memory {
    fn get(&mut self, _: &CallContext, request: Get<'_>, reply: Reply<'_, kv::Get>) -> Answer {
        if request.key == b"slow" {
            std::thread::sleep(Duration::from_millis(300));
        }
        if request.key == b"broken" {
            return reply.fail(&KvError::storage("on fire"));
        }
        let found = self.entries.get(request.key);
        reply.send(&Lookup {
            found: found.map(|(revision, value)| Found {
                revision: *revision,
                value,
            }),
        })
    }
    fn put(&mut self, _: &CallContext, request: Put<'_>, reply: Reply<'_, kv::Put>) -> Answer {
        let revision = self.set(request.key, request.value);
        reply.send(&Written { revision })
    }
    fn delete(&mut self, _: &CallContext, r: Delete<'_>, reply: Reply<'_, kv::Delete>) -> Answer {
        reply.send(&Deleted {
            existed: self.entries.remove(r.key).is_some(),
        })
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
        let Keys::Prefix(prefix) = request.keys else {
            return reply.fail(&KvError::BadCursor);
        };
        let after = request.cursor.unwrap_or_default();
        let found: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_slice() > after)
            .take(request.limit as usize + 1)
            .map(|(key, (revision, value))| Entry {
                key,
                revision: *revision,
                value,
            })
            .collect();
        let entries: Vec<_> = found.iter().take(request.limit as usize).copied().collect();
        let next = (found.len() > entries.len()).then(|| entries[entries.len() - 1].key);
        reply.send(&Page { entries, next })
    }
    fn stats(&mut self, _: &CallContext, reply: Reply<'_, kv::Stats>) -> Answer {
        reply.send(&Stats {
            entries: 0,
            bytes: 0,
            map_bytes: 0,
            epoch: 0,
            durability: "none".into(),
            release: "".into(),
        })
    }
}

/// Remembers nothing: none of these tests sends anything twice.
struct Forgetful;

impl insula::ipc::server::Journal for Forgetful {
    fn begin(&mut self) -> Result<(), insula::ipc::server::JournalError> {
        Ok(())
    }
    fn recall(
        &mut self,
        _: insula::ipc::server::OnceKey,
    ) -> Result<Option<insula::ipc::server::Recorded>, insula::ipc::server::JournalError> {
        Ok(None)
    }
    fn record(
        &mut self,
        _: insula::ipc::server::OnceKey,
        _: u64,
        _: insula::ipc::server::AnswerKind,
        _: &[u8],
    ) -> Result<(), insula::ipc::server::JournalError> {
        Ok(())
    }
    fn commit(&mut self) -> Result<(), insula::ipc::server::JournalError> {
        Ok(())
    }
    fn abort(&mut self) {}
    fn forget(&mut self, consumer: Attempt) -> Result<(), insula::ipc::server::JournalError> {
        NoJournal.forget(consumer)
    }
}

const PROVIDER: Attempt = Attempt(2);
const CONSUMER: Attempt = Attempt(1);

async fn ask(
    backend: &Backend,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = routes(backend.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn values_are_read_written_listed_and_removed_and_every_failure_has_its_status() {
    let host = Host::new("gateway");
    host.open_pair(PROVIDER, CONSUMER);
    let used = host.used::<Kv>(CONSUMER);
    let edge = Edge::new(used, host.routes(), host.page(), Duration::ZERO).unwrap();
    let backend = Backend::start(&edge).unwrap();

    // Nobody serves yet.
    let (status, headers, _) = ask(&backend, Method::GET, "/kv/a", &[], "").await;
    assert_eq!(status, 503);
    assert!(headers.contains_key(header::RETRY_AFTER));

    let (served, page) = (host.served::<Kv>(CONSUMER), host.page());
    let stop = Arc::new(AtomicBool::new(false));
    let (wakers, waker) = std::sync::mpsc::channel();
    let stopping = stop.clone();
    let server = std::thread::spawn(move || {
        let dispatch = KvDispatch(Memory::default());
        let mut server = Server::new(PROVIDER, 0, Duration::ZERO, dispatch, Forgetful);
        server.serve(served, page).unwrap();
        wakers.send(server.waker()).unwrap();
        while !stopping.load(Ordering::SeqCst) {
            if !server.turn() {
                server.park();
            }
        }
    });
    let waker = waker.recv().unwrap();
    host.publish(RouteState::Serve, PROVIDER, 0, None);

    assert_eq!(ask(&backend, Method::GET, "/kv/a", &[], "").await.0, 404);
    let (status, headers, _) = ask(&backend, Method::PUT, "/kv/a", &[], "one").await;
    assert_eq!(
        (status, headers[header::ETAG].to_str().unwrap()),
        (204, "\"1\"")
    );
    let (status, headers, body) = ask(&backend, Method::GET, "/kv/a", &[], "").await;
    assert_eq!((status, body.as_slice()), (200, &b"one"[..]));
    assert_eq!(headers[header::ETAG], "\"1\"");

    let absent = [("if-none-match", "*")];
    assert_eq!(
        ask(&backend, Method::PUT, "/kv/a", &absent, "two").await.0,
        412
    );
    let matching = [("if-match", "\"1\"")];
    assert_eq!(
        ask(&backend, Method::PUT, "/kv/a", &matching, "two")
            .await
            .0,
        204
    );
    assert_eq!(
        ask(&backend, Method::PUT, "/kv/a", &matching, "three")
            .await
            .0,
        412
    );

    assert_eq!(
        ask(&backend, Method::PUT, "/kv/a%ff", &[], "x").await.0,
        204
    );
    let (status, _, body) = ask(&backend, Method::GET, "/kv?prefix=a&limit=1", &[], "").await;
    assert_eq!(status, 200);
    let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(page["entries"][0]["key"], "a");
    let path = format!("/kv?prefix=a&cursor={}", page["next"].as_str().unwrap());
    let (_, _, body) = ask(&backend, Method::GET, &path, &[], "").await;
    let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(page["entries"][0]["key-base64"], BASE64.encode(b"a\xff"));
    assert!(page.get("next").is_none());

    let (status, ..) = ask(&backend, Method::DELETE, "/kv/a", &matching, "").await;
    assert_eq!(status, 400, "a condition is not ignored");
    assert_eq!(ask(&backend, Method::DELETE, "/kv/a", &[], "").await.0, 204);
    assert_eq!(ask(&backend, Method::DELETE, "/kv/a", &[], "").await.0, 404);

    let hurry = [("x-request-timeout-ms", "30")];
    assert_eq!(
        ask(&backend, Method::GET, "/kv/slow", &hurry, "").await.0,
        504
    );
    let (status, _, body) = ask(&backend, Method::GET, "/kv/broken", &[], "").await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &body["error"]["code"]), (500, &"storage".into()));
    for bad in ["/kv?limit=x", "/kv?unknown=1", "/kv?cursor=*"] {
        assert_eq!(
            ask(&backend, Method::GET, bad, &[], "").await.0,
            400,
            "{bad}"
        );
    }
    let bad = [("x-request-timeout-ms", "0")];
    assert_eq!(ask(&backend, Method::GET, "/kv/a", &bad, "").await.0, 400);

    stop.store(true, Ordering::SeqCst);
    waker.wake();
    server.join().unwrap();
}
