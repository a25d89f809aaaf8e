//! The second process of a bench: this program once more, as a server on a core of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Says to a started process what it serves.
const ROLE: &str = "INSULA_BENCH_ROLE";
/// Further words for the server, a line each.
const WORDS: &str = "INSULA_BENCH_WORDS";
/// The server's core.
const CORE: &str = "INSULA_BENCH_CORE";

/// What a started process is to serve.
#[derive(Debug)]
pub struct Role {
    /// The name given to [`Server::start`].
    pub name: String,
    /// The words given to it.
    pub words: Vec<String>,
}

impl Role {
    /// This process's role, which it may be pinned for; `None` in the process that measures.
    pub fn of_this_process() -> Option<Self> {
        let name = std::env::var(ROLE).ok()?;
        let variable = |name| std::env::var(name).unwrap_or_default();
        match variable(CORE).as_str() {
            "" => {}
            core => pin(core.parse().expect("a core's number")),
        }
        let words = variable(WORDS).lines().map(str::to_owned).collect();
        Some(Self { name, words })
    }

    /// The word at `index` as a number, for a descriptor or a size.
    pub fn number<T: std::str::FromStr>(&self, index: usize) -> T {
        self.words[index]
            .parse()
            .unwrap_or_else(|_| panic!("word {index} of the role is a number"))
    }
}

/// A server's process; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Its closing tells the server to end.
    stdin: Option<ChildStdin>,
    /// What it said when it was ready.
    said: String,
}

impl Server {
    /// Starts this program again on `core` and waits until it is ready.
    pub fn start(role: &str, core: usize, words: &[String]) -> Self {
        Self::start_on(&core.to_string(), role, words)
    }

    /// The same on whatever core there is.
    pub fn start_unpinned(role: &str, words: &[String]) -> Self {
        Self::start_on("", role, words)
    }

    fn start_on(core: &str, role: &str, words: &[String]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .env(ROLE, role)
            .env(WORDS, words.join("\n"))
            .env(CORE, core)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server's process");
        let stdin = child.stdin.take();
        let output = child.stdout.take().expect("the output is piped");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("the server's word");
        let said = line
            .strip_prefix("ready")
            .unwrap_or_else(|| panic!("the server of {role} failed"))
            .trim()
            .to_owned();
        Self { child, stdin, said }
    }

    /// What it said when it was ready.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Tells the measuring process that this server is ready, and lets it end with that process.
pub fn ready() {
    ready_saying("");
}

/// The same, with a word of what the server has found out so far; one line.
pub fn ready_saying(word: &str) {
    std::thread::spawn(|| {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        std::process::exit(0);
    });
    println!("ready {word}");
}

/// Pins the calling thread, and what it starts, to one core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a core's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("pinning to a core");
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}
