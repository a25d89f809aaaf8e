//! A visitor at the gateway: one request after the other, as curl would make them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the visitor saw.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    /// Requests that were answered as they should be.
    pub(crate) good: u64,
    /// Others, by what happened.
    pub(crate) bad: BTreeMap<String, u64>,
    /// Each good request's time.
    pub(crate) times: Vec<Duration>,
    /// The longest time without a good answer.
    pub(crate) longest_gap: Duration,
}

/// Asks until it is told to stop.
pub(crate) struct Visitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Visits>,
}

impl Visitor {
    pub(crate) fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || visit(port, &stopping));
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> Visits {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_default()
    }
}

fn visit(port: u16, stop: &AtomicBool) -> Visits {
    let mut visits = Visits::default();
    let mut last = Instant::now();
    let mut number = 0_u64;
    let mut expected: Option<String> = None;
    while !stop.load(Ordering::SeqCst) {
        let started = Instant::now();
        let value = format!("visit {number}");
        // Writes a value and reads it back, in turns.
        let answer = match &expected {
            None => ask(port, "PUT", &value).map(|(status, _)| status == 204),
            Some(written) => {
                ask(port, "GET", "").map(|(status, body)| status == 200 && body == *written)
            }
        };
        match answer {
            Ok(true) => {
                visits.good += 1;
                visits.times.push(started.elapsed());
                visits.longest_gap = visits.longest_gap.max(last.elapsed());
                last = Instant::now();
                expected = if expected.is_none() {
                    Some(value)
                } else {
                    None
                };
            }
            Ok(false) => *visits.bad.entry("wrong answer".to_owned()).or_default() += 1,
            Err(error) => *visits.bad.entry(error.to_string()).or_default() += 1,
        }
        number += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    visits
}

/// One request on a connection of its own.
fn ask(port: u16, method: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{method} /kv/visitor HTTP/1.1\r\nHost: insula\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let broken = || std::io::Error::other("no HTTP answer");
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(broken)?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").ok_or_else(broken)?.1;
    Ok((status, body.to_owned()))
}
