//! Children of a test: the test binary itself, with a role in its environment.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use insula_contract::id::Attempt;
use insula_ipc::testing::{self, Host};

use crate::common::WATCHDOG;
use crate::contract::Ledger;

/// A child of this test; killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: mpsc::Receiver<String>,
}

/// Lines that roles write for their test begin with this.
const MARK: &str = "@@";

/// Tells the test a line.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{line}").unwrap();
    out.flush().unwrap();
}

impl Process {
    /// Runs this test binary as `role` of the test `test`, which is to look for ROLE.
    pub(crate) fn start(test: &str, role: &str, host: &Host, variables: &[(&str, String)]) -> Self {
        let (routes, page) = (host.routes(), host.page());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env("ROLE", role)
            .env("PARENT", host.used::<Ledger>(Attempt(0)).parent)
            .env("ROUTES", testing::inheritable(&routes).to_string())
            .env("PAGE", testing::inheritable(&page).to_string())
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, said) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || listen(lines, &tell));
        Self { child, said }
    }

    /// Waits until the role says the line.
    pub(crate) fn says(&self, expected: &str) {
        let line = self
            .said
            .recv_timeout(WATCHDOG)
            .expect("watchdog: a word of the child");
        assert_eq!(line, expected);
    }

    /// The next line that the role has said, if there is one.
    pub(crate) fn word(&self) -> Option<String> {
        self.said.try_recv().ok()
    }

    /// Whether it runs no more.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(lines: BufReader<ChildStdout>, tell: &mpsc::Sender<String>) {
    for line in lines.lines().map_while(Result::ok) {
        if let Some(word) = line.strip_prefix(MARK) {
            let _ = tell.send(word.to_owned());
        }
    }
}

/// What the test set.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Does nothing more, for ever.
pub(crate) fn stay() -> ! {
    loop {
        std::thread::park();
    }
}
