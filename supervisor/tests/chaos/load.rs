//! Clients of the services, and what they remember.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use echo::{EchoClient, Text};
use insula_ipc::client::CallError;
use insula_ipc::local::LocalClient;
use serde_json::Value;

use crate::support::{Host, WATCHDOG, program, wait_for};

/// Where the services with ports listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) gateway: SocketAddr,
    pub(crate) guest: SocketAddr,
}

impl Ports {
    /// Ports that are free now.
    pub(crate) fn free() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [gateway, guest] = listeners.map(|l| l.local_addr().expect("it listens"));
        Self { gateway, guest }
    }
}

/// What the clients of this program saw.
#[derive(Debug, Default)]
struct Seen {
    over: AtomicBool,
    /// Keys that were put through the gateway and acknowledged; the value is the key.
    kept: Mutex<Vec<u64>>,
    puts: AtomicU64,
    echoes: AtomicU64,
    unanswered: AtomicU64,
    guests: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, text: String) {
        self.wrong.lock().expect("nobody panics with it").push(text);
    }
}

/// The clients.
#[derive(Debug)]
pub(crate) struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
    /// Increments by compare-and-swap; verified by the program itself.
    counting: Child,
    gateway: SocketAddr,
}

/// A run that fails leaves no program behind, and no thread that goes on asking.
impl Drop for Load {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        let _ = self.counting.kill();
        let _ = self.counting.wait();
    }
}

/// One request to the gateway: its status and body.
fn ask(gateway: SocketAddr, head: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(gateway).ok()?;
    stream.set_read_timeout(Some(WATCHDOG)).ok()?;
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 20000\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest).ok()?;
    let (_, body) = rest.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Puts new keys through the gateway; each is put once, and kept in mind once acknowledged.
fn put(seen: &Seen, gateway: SocketAddr) {
    let mut key = 0_u64;
    while !seen.over.load(Ordering::Relaxed) {
        key += 1;
        match ask(gateway, &format!("PUT /kv/chaos-{key}"), &key.to_string()) {
            Some((204, _)) => {
                seen.kept.lock().expect("nobody panics with it").push(key);
                seen.puts.fetch_add(1, Ordering::Relaxed);
            }
            // The gateway or kv is away.
            Some((500..=599, _)) | None => std::thread::yield_now(),
            Some((status, body)) => seen.wrong(format!("PUT of {key}: {status} {body}")),
        }
    }
}

/// Calls echo on the newest edge.
///
/// A call that is under way when the daemon dies stays on the edge that it had: if its instance dies
/// as well, nobody can be asked any more whether it was executed.
fn echo(seen: &Seen, local: &LocalClient) {
    let attached = local.attach::<echo::Echo>().expect("echo is there");
    while !seen.over.load(Ordering::Relaxed) {
        // The next daemon may still be on its way, or the service on the way up.
        let Ok(connection) = attached.connection() else {
            std::thread::yield_now();
            continue;
        };
        let text = insula_ipc::payload::Text::new("to be or not to be");
        let answer = EchoClient::new(connection).echo(&Text { text });
        match answer.as_ref().map(|answer| answer.get()) {
            Ok(Ok(answer)) if answer.text == text => {
                seen.echoes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => seen.wrong(format!("echo: {answer:?}")),
            Err(
                CallError::DeadlineExceeded | CallError::Unavailable | CallError::OutcomeUnknown,
            ) => {
                seen.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => seen.wrong(format!("echo: {error}")),
        }
    }
}

/// Connects to the guest, again and again: the kernel keeps who comes while it is away.
fn connect(seen: &Seen, guest: SocketAddr) {
    while !seen.over.load(Ordering::Relaxed) {
        let mut text = String::new();
        let answer = TcpStream::connect(guest).and_then(|mut stream| {
            stream.set_read_timeout(Some(WATCHDOG))?;
            stream.read_to_string(&mut text)
        });
        match answer {
            Ok(0) => {}
            Ok(_) if text.ends_with(" hello\n") => {
                seen.guests.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => seen.wrong(format!("the guest says {text:?}")),
            // A process that is killed takes along what it had accepted.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => seen.wrong(format!("a connection to the guest: {error}")),
        }
    }
}

impl Load {
    pub(crate) fn start(host: &Host, ports: Ports) -> Self {
        let said = host.root.join("load.err");
        let counting = Command::new(program("kv-load"))
            .arg("--root")
            .arg(&host.root)
            .args(["exercise", "--workload", "F", "--records", "50"])
            .args(["--clients", "2", "--rate", "400", "--deadline", "2s"])
            .args(["--marks", "--json"])
            .arg(host.root.join("load.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&said).expect("our directory"))
            .spawn()
            .expect("kv-load runs");
        let seen = Arc::new(Seen::default());
        let mut load = Self {
            seen: seen.clone(),
            threads: Vec::new(),
            counting,
            gateway: ports.gateway,
        };
        wait_for("the records to be there", || {
            let said = fs::read_to_string(&said).expect("our file");
            said.contains("running workload").then_some(())
        });
        let threads = &mut load.threads;
        let of = seen.clone();
        threads.push(std::thread::spawn(move || put(&of, ports.gateway)));
        let of = seen.clone();
        let local = host.local();
        threads.push(std::thread::spawn(move || echo(&of, &local)));
        let of = seen.clone();
        threads.push(std::thread::spawn(move || connect(&of, ports.guest)));
        load.wait_for_more("the beginning");
        load
    }

    /// Waits until every client got on.
    pub(crate) fn wait_for_more(&self, after: &str) {
        let seen = &self.seen;
        let counts =
            || [&seen.puts, &seen.echoes, &seen.guests].map(|count| count.load(Ordering::Relaxed));
        let before = counts();
        let started = Instant::now();
        loop {
            self.check(after);
            let now = counts();
            if now
                .iter()
                .zip(before)
                .all(|(now, before)| *now > before + 1)
            {
                return;
            }
            assert!(
                started.elapsed() < WATCHDOG,
                "puts, echoes and guests did not get on after {after}: {before:?}, {now:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check(&self, after: &str) {
        let wrong = self
            .seen
            .wrong
            .lock()
            .expect("nobody panics with it")
            .clone();
        assert!(wrong.is_empty(), "after {after}: {wrong:?}");
    }

    /// Ends the load, and looks for everything that was acknowledged.
    pub(crate) fn finish(mut self, host: &Host) {
        self.seen.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client");
        }
        self.check("the end");
        let mut words = self.counting.stdin.take().expect("it is piped");
        // It may have ended; its output says why.
        let _ = writeln!(words, "stop");
        drop(words);
        self.counting.wait().expect("our child");
        let report = fs::read(host.root.join("load.json")).expect("kv-load reports");
        let report: Value = serde_json::from_slice(&report).expect("as JSON");
        let (run, verified) = (&report["run"], &report["verification"]);
        assert_eq!(run["violations"]["count"], 0, "{run}");
        assert_eq!(verified["good"], verified["records"], "{verified}");
        assert_eq!(verified["violations"]["count"], 0, "{verified}");
        println!(
            "{} increments and reads, failed: {}; longest gap {} ms",
            run["succeeded"], run["errors"], run["longest_gap"]["length_ms"]
        );
        let kept = std::mem::take(&mut *self.seen.kept.lock().expect("no thread is left"));
        for key in &kept {
            let found = ask(self.gateway, &format!("GET /kv/chaos-{key}"), "");
            assert_eq!(found, Some((200, key.to_string())), "an acknowledged put");
        }
        println!(
            "{} acknowledged puts are there; {} echoes, {} unanswered; {} connections to the guest",
            kept.len(),
            self.seen.echoes.load(Ordering::Relaxed),
            self.seen.unanswered.load(Ordering::Relaxed),
            self.seen.guests.load(Ordering::Relaxed)
        );
    }
}
