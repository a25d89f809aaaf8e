//! A command of a release that tells by its exit code how the program is.
//!
//! It runs behind the same walls as the program: under its user, in its directory and cgroup, with
//! its files, ports and limits. It leads a session of its own and is killed with its process group
//! when it takes too long or nobody waits for it any more; what it puts into another session ends
//! with the program's cgroup.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use insula_core::process::Outcome;
use nix::fcntl::OFlag;
use nix::sys::resource::Resource;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;

use crate::cgroup::Group;
use crate::driver::because;
use crate::launch::{Access, Calls, Launch, LaunchError, Network, spawn};
use crate::watch;

/// Characters of its output that are kept for people.
const REASON_MAX: usize = 200;
/// Bytes of its output that are looked at for that.
const HEAD_MAX: usize = 4096;

/// How a command is run.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: PathBuf,
    pub(crate) uid: Option<u32>,
    pub(crate) cpus: Vec<usize>,
    pub(crate) limits: Vec<(Resource, u64)>,
    pub(crate) access: Option<Access>,
    pub(crate) network: Network,
    pub(crate) calls: Option<Calls>,
    pub(crate) group: Option<Group>,
}

/// Why it does not run.
#[derive(Debug, Error)]
enum StartError {
    /// Its output cannot be read, or its end not be watched.
    #[error("cannot prepare it")]
    Prepare(#[from] io::Error),
    /// The launch.
    #[error("cannot launch it")]
    Launch(#[from] LaunchError),
}

/// A command that runs; killed with its group when dropped.
struct Running {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let pidfd = self.pidfd.get_ref();
        // One that ended by itself meanwhile is no error; then its group is what is left.
        let killed = watch::pidfd_signal(pidfd, libc::SIGKILL)
            .and_then(|()| watch::pidfd_signal_group(pidfd, libc::SIGKILL));
        if let Err(error) = killed {
            tracing::warn!(%error, "cannot kill the command of a probe");
        }
        // Without a runtime the daemon is ending, and whoever reaps orphans reaps it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let pidfd = self.pidfd.clone();
            runtime.spawn(async move { watch::wait(pidfd).await });
        }
    }
}

impl Recipe {
    /// Runs it; the reason where it does not exit with 0.
    pub(super) async fn run(&self) -> Result<(), String> {
        let name = self.executable.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let (mut running, mut output) = self
            .start()
            .map_err(|error| format!("`{name}`: {}", because("cannot be run", &error)))?;
        let mut head = Vec::new();
        let outcome = {
            let ended = watch::wait(running.pidfd.clone());
            let mut ended = std::pin::pin!(ended);
            let mut buffer = [0; HEAD_MAX];
            loop {
                tokio::select! {
                    outcome = &mut ended => break outcome,
                    read = output.read(&mut buffer) => match read {
                        Ok(bytes @ 1..) => keep(&mut head, &buffer[..bytes]),
                        Ok(0) | Err(_) => break ended.await,
                    },
                }
            }
        };
        running.ended = true;
        // What it left in its process group goes with it; there may be nothing.
        let _ = watch::pidfd_signal_group(running.pidfd.get_ref(), libc::SIGKILL);
        if outcome == Outcome::Code(0) {
            return Ok(());
        }
        // The rest of what it said; another process may keep the pipe open.
        let mut buffer = [0; HEAD_MAX];
        while let (true, Ok(bytes @ 1..)) = (head.len() < HEAD_MAX, output.try_read(&mut buffer)) {
            keep(&mut head, &buffer[..bytes]);
        }
        Err(match first_line(&head) {
            Some(line) => format!("`{name}` {outcome}: {line}"),
            None => format!("`{name}` {outcome}"),
        })
    }

    fn start(&self) -> Result<(Running, Receiver), StartError> {
        let (output, end) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        let output = Receiver::from_owned_fd(output)?;
        let launched = spawn(&Launch {
            executable: self.executable.clone(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            output: Some(end.as_fd()),
            errors: None,
            line: None,
            sockets: Vec::new(),
            watchdog: None,
            // The next daemon would know nothing of it.
            tied: true,
            uid: self.uid,
            cpus: self.cpus.clone(),
            idle: false,
            memory: None,
            nice: None,
            limits: self.limits.clone(),
            access: self.access.clone(),
            network: self.network.clone(),
            calls: self.calls,
            cgroup: self.group.as_ref().map(Group::descriptor),
        })?;
        let running = Running {
            pidfd: Arc::new(watch::readiness(launched.pidfd)?),
            ended: false,
        };
        Ok((running, output))
    }
}

fn keep(head: &mut Vec<u8>, more: &[u8]) {
    let room = HEAD_MAX - head.len().min(HEAD_MAX);
    head.extend_from_slice(&more[..more.len().min(room)]);
}

fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    Some(line.chars().take(REASON_MAX).map(plain).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn shell(script: &str, directory: &Path) -> Recipe {
        Recipe {
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            directory: directory.to_owned(),
            uid: None,
            cpus: Vec::new(),
            limits: Vec::new(),
            access: None,
            network: Network::default(),
            calls: None,
            group: None,
        }
    }

    async fn run(script: &str) -> Result<(), String> {
        let recipe = shell(script, Path::new("/"));
        timeout(WATCHDOG, recipe.run()).await.unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_is_the_answer_and_the_first_line_the_reason() {
        assert_eq!(run("echo fine").await, Ok(()));
        assert_eq!(
            run("echo; echo ' no room '; echo more; exit 3").await,
            Err("`sh` exited with status 3: no room".to_owned())
        );
        assert_eq!(
            run("kill -9 $$").await,
            Err("`sh` was ended by signal 9".to_owned())
        );
        let flood = run("yes x | head -c 1000000; exit 1").await;
        assert_eq!(flood, Err("`sh` exited with status 1: x".to_owned()));
        assert_eq!(run("exec >&- 2>&-; exit 0").await, Ok(()));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_reason() {
        let mut recipe = shell("", Path::new("/"));
        recipe.executable = "/nowhere/check".into();
        let reason = timeout(WATCHDOG, recipe.run()).await.unwrap().unwrap_err();
        assert!(reason.starts_with("`check`: cannot be run: "), "{reason}");
    }

    /// The script writes its number and that of a child, and both would go on for long.
    const LONG: &str = "sleep 1000 & echo $$ $! > pids.new; mv pids.new pids; wait";

    async fn pids(directory: &Path) -> Vec<i32> {
        let read = async {
            loop {
                if let Ok(text) = std::fs::read_to_string(directory.join("pids")) {
                    return text
                        .split_whitespace()
                        .map(|pid| pid.parse().unwrap())
                        .collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WATCHDOG, read).await.unwrap()
    }

    async fn are_gone(pids: &[i32]) {
        let gone = async {
            // A child of ours that is not reaped would stay.
            while std::path::Path::new(&format!("/proc/{}", pids[0])).exists()
                || std::fs::read_to_string(format!("/proc/{}/stat", pids[1]))
                    .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WATCHDOG, gone).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let recipe = shell(LONG, directory.path());
        let question = super::super::Question::Command(Box::new(recipe));
        let asked = async {
            // Again where it was too slow to say who it is.
            loop {
                let answer = question.ask(Duration::from_secs(1)).await;
                assert_eq!(answer, Err("no answer within 1.0 s".to_owned()));
                if directory.path().join("pids").exists() {
                    break;
                }
            }
        };
        timeout(WATCHDOG, asked).await.unwrap();
        are_gone(&pids(directory.path()).await).await;
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed_and_reaped() {
        let directory = tempfile::tempdir().unwrap();
        let recipe = shell(LONG, directory.path());
        let asked = tokio::spawn(async move { recipe.run().await });
        let pids = pids(directory.path()).await;
        asked.abort();
        are_gone(&pids).await;
    }
}
