//! The control API under what no client sends: anything may come, and the daemon answers with an
//! error or closes, goes on with its work, and does not grow.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{Host, WATCHDOG};

/// Requests of a run; `INSULA_CONTROL_REQUESTS` says otherwise.
const REQUESTS: u32 = 400;
/// How long a request that may be half of one is given before its sender says that it is all.
const PATIENCE: Duration = Duration::from_millis(50);
/// Connections that send half a request and nothing more, at once.
const SLOW: usize = 200;
/// Bytes that the daemon may use after all of it, more than before.
const GROWTH_MAX: u64 = 64 << 20;
/// Where anything is served, and where nothing is.
const PATHS: &[&str] = &[
    "/v1/version",
    "/v1/status",
    "/v1/releases",
    "/v1/doctor",
    "/v1/edges",
    "/v1/utilisation",
    "/v1/limits",
    "/v1/topology",
    "/v1/plan",
    "/v1/capacity",
    "/v1/explain/kv",
    "/metrics",
    "/v1/install",
    "/v1/update",
    "/v1/orders",
    "/v1/services/kv/logs",
    "/v1/services/kv/signal",
    "/v1/services/kv/start",
    "/v1/services/kv/scale",
    "/v1/services/nobody/start",
    "/v1/services//",
    "/v2/status",
    "/",
];
const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "get",
    "X\u{fc}",
];

fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("the daemon lives");
    let pages: u64 = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number of pages");
    pages * 4_096
}

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.root.join("run/control.sock")).expect("the daemon");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a time");
    stream.set_write_timeout(Some(WATCHDOG)).expect("a time");
    stream
}

/// Some JSON, near to what is expected or far from it.
fn json(chance: &mut SmallRng, depth: u32) -> String {
    match chance.random_range(0..9_u32) {
        0 => "null".to_owned(),
        1 => chance.random::<i64>().to_string(),
        2 => "1e999".to_owned(),
        3 => "\"\\ud800\"".to_owned(),
        4 => format!("\"{}\"", "a".repeat(chance.random_range(0..300))),
        5 if depth > 0 => {
            let inner: Vec<_> = (0..chance.random_range(0..4))
                .map(|_| json(chance, depth - 1))
                .collect();
            format!("[{}]", inner.join(","))
        }
        6 if depth > 0 => {
            let keys = ["verb", "services", "path", "version", ""];
            let inner: Vec<_> = (0..chance.random_range(0..4))
                .map(|_| {
                    let key = keys[chance.random_range(0..keys.len())];
                    format!("\"{key}\":{}", json(chance, depth - 1))
                })
                .collect();
            format!("{{{}}}", inner.join(","))
        }
        7 => "{\"verb\":\"start\",\"services\":[\"nobody\",\"a/../b\"]}".to_owned(),
        // Deeper than a parser that recurses without a limit has stack for.
        _ => "[".repeat(chance.random_range(1..5_000)),
    }
}

fn query(chance: &mut SmallRng) -> String {
    let queries = [
        "",
        "?",
        "?services=0",
        "?services=18446744073709551615",
        "?services=-1",
        "?lines=99999999999999999999",
        "?lines=1&since=18446744073709551615&attempt=x",
        "?instances=65536",
        "?version=not.a.version",
        "?signal=WINCHESTER",
        "?add=kv=4294967296",
        "?dry-run=maybe",
        "?%ff%00=%zz",
    ];
    queries[chance.random_range(0..queries.len())].to_owned()
}

/// A request that is one in most respects.
fn request(chance: &mut SmallRng) -> Vec<u8> {
    let method = METHODS[chance.random_range(0..METHODS.len())];
    let path = PATHS[chance.random_range(0..PATHS.len())];
    // An install of a path that is there and no release, an order for nobody: all of it refused.
    let body = json(chance, 4);
    let length = match chance.random_range(0..12_u32) {
        0 => "18446744073709551616".to_owned(),
        1 => "-1".to_owned(),
        2 => "x".to_owned(),
        3 => (body.len() / 2).to_string(),
        _ => body.len().to_string(),
    };
    let kind = [
        "application/json",
        "text/plain",
        "application/json; charset=\u{fc}",
    ];
    let kind = kind[chance.random_range(0..kind.len())];
    let extra = match chance.random_range(0..10_u32) {
        0 => format!(
            "x-long: {}\r\n",
            "y".repeat(chance.random_range(1..600_000))
        ),
        1 => (0..chance.random_range(1..300))
            .map(|number| format!("x-{number}: y\r\n"))
            .collect(),
        2 => "transfer-encoding: chunked\r\n".to_owned(),
        3 => "expect: 100-continue\r\n".to_owned(),
        4 => "upgrade: h2c\r\nconnection: upgrade\r\n".to_owned(),
        _ => String::new(),
    };
    let version = ["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9"][chance.random_range(0..4)];
    let mut bytes = format!(
        "{method} {path}{} {version}\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\n\
         {extra}content-length: {length}\r\n\r\n{body}",
        query(chance)
    )
    .into_bytes();
    // A part of it, or other bytes in it.
    match chance.random_range(0..6_u32) {
        0 => bytes.truncate(chance.random_range(0..bytes.len())),
        1 => {
            for _ in 0..chance.random_range(1..20) {
                let at = chance.random_range(0..bytes.len().min(400));
                bytes[at] = chance.random();
            }
        }
        _ => {}
    }
    bytes
}

/// Sends bytes and no more, and gives what came back until the daemon closed.
fn send(host: &Host, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(host);
    // The daemon may have refused before all of it was sent.
    let sent = stream.write_all(bytes);
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut ended = stream.read_to_end(&mut answer);
    if matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock) {
        // It waits for more: there is none.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(WATCHDOG)).expect("a time");
        ended = stream.read_to_end(&mut answer);
    }
    match ended {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}; {sent:?}: {}", shown(bytes)),
    }
    answer
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]);
    format!("{} bytes: {text:?}", bytes.len())
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(answer.get(..16)?).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}

#[test]
fn whatever_is_sent_is_answered_or_closed_and_the_daemon_goes_on() {
    let host = Host::start();
    host.install_kv("1.0.0");
    let pid = host.daemon_pid();
    let requests = std::env::var("INSULA_CONTROL_REQUESTS");
    let requests = requests.map_or(REQUESTS, |text| text.parse().expect("a number"));
    let seed = std::env::var("INSULA_CONTROL_SEED");
    let seed = seed.map_or(4_711, |text| text.parse().expect("a number"));
    let mut chance = SmallRng::seed_from_u64(seed);
    let before = resident(pid);
    let mut answered = 0;
    for number in 0..requests {
        let bytes = request(&mut chance);
        let answer = send(&host, &bytes);
        if let Some(status) = status_of(&answer) {
            answered += 1;
            assert!(
                status != 500 && (100..600).contains(&status),
                "request {number} of seed {seed}: {status}: {}",
                shown(&bytes)
            );
        }
        if number % 100 == 0 {
            host.must(&["releases"]);
        }
    }
    println!("{answered} of {requests} requests had an answer");
    assert_eq!(host.daemon_pid(), pid);
    let log = host.daemon_log();
    assert!(!log.contains("panicked"), "{log}");
    let after = resident(pid);
    assert!(
        after < before + GROWTH_MAX,
        "the daemon grew from {before} to {after} bytes"
    );
    // It still does its work.
    host.must(&["start", "kv"]);
    assert_eq!(host.row("kv")["state"], "READY");
}

#[test]
fn bodies_without_an_end_are_refused_before_they_fill_memory() {
    let host = Host::start();
    let pid = host.daemon_pid();
    let before = resident(pid);
    let mut stream = connect(&host);
    let head = "POST /v1/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the daemon reads");
    let piece = format!("{:x}\r\n{}\r\n", 64 << 10, "[".repeat(64 << 10));
    // Until it is refused, four times as much as it may take.
    let refused = (0..4 * (GROWTH_MAX >> 16)).any(|_| stream.write_all(piece.as_bytes()).is_err());
    let mut answer = Vec::new();
    // The answer is there, or was lost with what was sent after it.
    let _ = stream.read_to_end(&mut answer);
    let status = status_of(&answer);
    assert!(refused, "all of it was taken: {status:?}");
    assert!(matches!(status, None | Some(400..500)), "{status:?}");
    let after = resident(pid);
    assert!(after < before + GROWTH_MAX, "from {before} to {after}");
}

#[test]
fn who_sends_half_a_request_holds_nobody_up() {
    let host = Host::start();
    let halves = [
        "",
        "GET",
        "GET /v1/status HTTP/1.1\r\nhost: x\r\n",
        "POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{\"verb\"",
    ];
    let slow: Vec<_> = (0..SLOW)
        .map(|number| {
            let mut stream = connect(&host);
            let half = halves[number % halves.len()];
            stream.write_all(half.as_bytes()).expect("the daemon reads");
            stream
        })
        .collect();
    host.must(&["releases"]);
    // One that goes on a byte at a time is served like any other.
    let rest = "GET /v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut stream = connect(&host);
    for byte in rest.as_bytes() {
        stream.write_all(&[*byte]).expect("the daemon reads");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(status_of(&answer), Some(200));
    drop(slow);
    host.must(&["releases"]);
}
