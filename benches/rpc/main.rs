//! Round trips of 64 bytes between two processes, beside those of bare peers in the same run.
//!
//! Timed, one by one: from before the client writes its request until it has read the answer's
//! bytes. The two processes are pinned, to one core or to two. Cases take turns in rounds, so that
//! what else the host does hits all of them; each figure is over all rounds, each ratio the median
//! of the rounds' ratios.

mod cases;
mod figures;
mod peers;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use cases::Case;
use figures::Figures;

/// Says to a started process that it is the server of which case.
const ROLE: &str = "INSULA_BENCH_ROLE";
/// Further words for the server.
const WORDS: &str = "INSULA_BENCH_WORDS";
/// The server's core.
const CORE: &str = "INSULA_BENCH_CORE";

/// Where client and server run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    OneCore,
    TwoCores,
}

/// A server's process; it ends when this is dropped.
struct Server {
    child: Child,
    /// Its closing tells the server to end.
    stdin: Option<ChildStdin>,
}

impl Server {
    /// Starts this program again as the server of `case` and waits until it is ready.
    fn start(case: Case, core: usize, words: &[String]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .env(ROLE, case.name())
            .env(WORDS, words.join(" "))
            .env(CORE, core.to_string())
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
        assert_eq!(line, "ready\n", "the server of {} failed", case.name());
        Self { child, stdin }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Tells the client that the server is ready, and lets this process end with the client.
fn ready() {
    std::thread::spawn(|| {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        std::process::exit(0);
    });
    println!("ready");
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a core's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("pinning to a core");
}

/// The cores that this process may use.
fn cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

fn serve(role: &str) -> ExitCode {
    let variable = |name| std::env::var(name).unwrap_or_default();
    pin(variable(CORE).parse().expect("a core's number"));
    let words = variable(WORDS);
    let words: Vec<&str> = words.split(' ').collect();
    Case::by_name(role).serve(&words);
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return serve(&role);
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, part) = if quick { (1, 20) } else { (7, 1) };
    let cores = cores();
    let mut figures = Figures::default();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (case, placement) in Case::ALL {
            let server_core = match (placement, &cores[..]) {
                (Placement::OneCore, [core, ..]) | (Placement::TwoCores, [_, core, ..]) => *core,
                _ => continue,
            };
            pin(cores[0]);
            let samples = case.measure(server_core, case.round_trips(placement) / part);
            figures.add(case, placement, samples);
        }
    }
    if cores.len() < 2 {
        println!("SKIPPED (needs two cores): round trips between two cores");
    }
    figures.print();
    ExitCode::SUCCESS
}
