//! Redis: it opens its port itself, so a restart has a gap; what it acknowledged is there after it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::debian;
use crate::support::{Host, WATCHDOG, wait_for};

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

fn install(host: &Host, redis: &Path, address: SocketAddr) {
    let port = address.port();
    let manifest = format!(
        "name = \"redis\"\nversion = \"7.0.15\"\n[run]\ntype = \"foreign\"\n\
         command = [\"bin/redis-server\", \"--supervised\", \"systemd\", \"--bind\", \"127.0.0.1\", \
         \"--port\", \"{port}\", \"--appendonly\", \"yes\", \"--appendfsync\", \"always\"]\n\
         profile = \"shared\"\nready = \"notify\"\nnetwork = \"loopback\"\nlisten = [{port}]\n\
         [run.environment]\nLD_LIBRARY_PATH = \".\"\n"
    );
    let libraries = redis.join(LIBRARIES);
    let libraries = ["libjemalloc.so.2", "liblzf.so.1"].map(|name| libraries.join(name));
    let program = redis.join("usr/bin/redis-server");
    let files = [libraries[0].as_path(), &libraries[1]];
    debian::install(host, "redis", &manifest, &program, &files);
}

/// A connection that speaks RESP.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(WATCHDOG))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Says an inline command; its answer's last line.
    fn ask(&mut self, command: &str) -> std::io::Result<String> {
        write!(self.0.get_mut(), "{command}\r\n")?;
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // A text follows its length.
        if line.starts_with('$') && line.trim_end() != "$-1" {
            line.clear();
            self.0.read_line(&mut line)?;
        }
        Ok(line.trim_end().to_owned())
    }
}

/// What was acknowledged, and the longest time without.
#[derive(Default)]
struct Written {
    keys: Vec<u64>,
    longest: Duration,
}

fn write(address: SocketAddr, over: &AtomicBool, written: &Mutex<Written>) {
    let mut connection = None;
    let mut last = Instant::now();
    for key in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let mut put = || {
            let open = match connection.take() {
                Some(open) => open,
                None => Connection::open(address)?,
            };
            connection.insert(open).ask(&format!("SET key-{key} {key}"))
        };
        match put() {
            Ok(answer) if answer == "+OK" => {
                let mut written = written.lock().expect("nobody panics with it");
                written.keys.push(key);
                written.longest = written.longest.max(last.elapsed());
                last = Instant::now();
            }
            // It is away, or reads its file.
            Ok(_) | Err(_) => {
                connection = None;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn benchmark(redis: &Path, address: SocketAddr, requests: &str) -> Child {
    Command::new(redis.join("usr/bin/redis-benchmark"))
        .env("LD_LIBRARY_PATH", redis.join(LIBRARIES))
        .args(["-p", &address.port().to_string()])
        .args(["-c", "4", "-k", "1", "-t", "set,get", "-q", "-n", requests])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs")
}

#[test]
fn redis_loses_no_acknowledged_write_by_a_restart_a_kill_or_the_daemons_death() {
    let what = "Redis under insulad";
    let packages = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1"];
    let Some(redis) = debian::unpacked(what, "redis", &packages) else {
        return;
    };
    if !redis.join(LIBRARIES).exists() {
        println!("SKIPPED (needs Debian packages): {what}: those at hand are for another machine");
        return;
    }
    let mut host = Host::start();
    let address = debian::free_address();
    install(&host, &redis, address);
    host.must(&["start", "redis"]);
    let (over, written) = (AtomicBool::new(false), Mutex::new(Written::default()));
    std::thread::scope(|threads| {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        threads.spawn(|| write(address, &over, &written));
        let _over = Over(&over);
        let more = || {
            let count = || written.lock().expect("nobody panics with it").keys.len();
            let before = count();
            wait_for("more writes", || (count() > before + 50).then_some(()));
        };
        more();
        // It gives up when it loses its connections, so there is one for each round.
        let mut cut = benchmark(&redis, address, "100000000");
        more();
        let first = host.pid("redis");
        host.must(&["restart", "redis"]);
        assert_ne!(host.pid("redis"), first);
        more();
        let ended = wait_for("the end of the benchmark", || {
            cut.try_wait().expect("our child")
        });
        println!("the benchmark that lost its connections: {ended}");
        let mut whole = benchmark(&redis, address, "2000");
        assert!(whole.wait().expect("our child").success());
        let killed = host.pid("redis");
        kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        wait_for("its replacement", || {
            let row = host.row("redis");
            (row["state"] == "READY" && row["pid"] != killed).then_some(())
        });
        more();
        host.kill_daemon();
        more();
        host.start_daemon();
        host.wait_for_state("redis", "READY");
        host.must(&["restart", "redis"]);
        more();
    });
    let written = written.into_inner().expect("no thread is left");
    let mut connection = Connection::open(address).unwrap();
    for key in &written.keys {
        let found = connection.ask(&format!("GET key-{key}")).unwrap();
        assert_eq!(found, key.to_string(), "an acknowledged write");
    }
    println!(
        "{} acknowledged writes are there; longest time without one {:?}",
        written.keys.len(),
        written.longest
    );
}
