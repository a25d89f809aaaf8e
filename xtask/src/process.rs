//! Runs a command and reads its output line by line while it runs.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Runs a command, handing over each line of its output and errors as it comes.
///
/// # Errors
/// The command could not be started or waited for.
pub(crate) fn run(command: &mut Command, mut line: impl FnMut(&str)) -> io::Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = lines_of(&mut child);
    for text in lines {
        line(&text);
    }
    child.wait()
}

/// The same with a limit: `None` if the command was ended because it took longer.
///
/// # Errors
/// The command could not be started, ended or waited for.
pub(crate) fn run_until(
    command: &mut Command,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> io::Result<Option<ExitStatus>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = lines_of(&mut child);
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Disconnected) => return child.wait().map(Some),
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
    }
}

/// The lines of a child's output and errors as they come, until both are closed.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let output = child.stdout.take().expect("the output is piped");
    let errors = child.stderr.take().expect("the errors are piped");
    let other = sender.clone();
    std::thread::spawn(move || forward(output, &sender));
    std::thread::spawn(move || forward(errors, &other));
    lines
}

fn forward(source: impl Read, lines: &Sender<String>) {
    let mut source = BufReader::new(source);
    let mut bytes = Vec::new();
    while matches!(source.read_until(b'\n', &mut bytes), Ok(1..)) {
        let text = String::from_utf8_lossy(&bytes);
        if lines
            .send(text.trim_end_matches(['\r', '\n']).to_owned())
            .is_err()
        {
            return;
        }
        bytes.clear();
    }
}

/// Runs a command with its output thrown away; `None` if it was ended because it took longer than
/// `limit`.
///
/// # Errors
/// The command could not be started or waited for.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_never_ends_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("infinity");
        let status = run_until(&mut command, Duration::from_millis(10), |_| {});
        assert_eq!(status.expect("it can be run"), None);
    }

    #[test]
    fn a_command_that_ends_in_time_gives_its_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let status = run_until(&mut command, Duration::from_secs(60), |_| {});
        let status = status.expect("it can be run").expect("it ended in time");
        assert_eq!(status.code(), Some(3));
    }
}
