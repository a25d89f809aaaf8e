//! `daemon`: what concerns insulad itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;

use super::Exit;
use super::client::{Client, ClientError};
use crate::control::{Succession, VersionReport};

/// How long the new daemon may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(10);

/// What can be done with the daemon.
#[derive(Debug, Subcommand)]
pub(super) enum DaemonVerb {
    /// Have another program take the daemon's process over; services and their clients notice
    /// nothing. It is asked first whether it understands what is stored.
    Upgrade {
        /// The program; the one that lies now where the daemon's was started from unless given.
        program: Option<PathBuf>,
    },
    /// Say which version runs, and as which process.
    Version,
}

pub(super) async fn run(client: &Client, verb: &DaemonVerb) -> Result<Exit, ClientError> {
    match verb {
        DaemonVerb::Upgrade { program } => upgrade(client, program.as_deref()).await,
        DaemonVerb::Version => {
            let now = version(client).await?;
            println!("insulad {} (pid {})", now.version, now.pid);
            Ok(Exit::Done)
        }
    }
}

async fn version(client: &Client) -> Result<VersionReport, ClientError> {
    client.get("/v1/version").await
}

async fn upgrade(client: &Client, program: Option<&Path>) -> Result<Exit, ClientError> {
    let program = match program.map(std::path::absolute).transpose() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("error: the program's path: {error}");
            return Ok(Exit::Usage);
        }
    };
    let before = version(client).await?;
    let mut path = "/v1/daemon/upgrade".to_owned();
    if let Some(program) = program {
        path.push_str("?program=");
        path.push_str(&escaped(&program.to_string_lossy()));
    }
    match client.report::<Succession>(&path).await? {
        Succession::Refused { problems } => {
            eprintln!("error: insulad {} goes on:", before.version);
            for problem in problems {
                eprintln!("  {problem}");
            }
            return Ok(Exit::Failed);
        }
        Succession::Begins { .. } => {}
    }
    let asked = Instant::now();
    loop {
        match version(client).await {
            Ok(now) if now.began_ns != before.began_ns => {
                println!(
                    "insulad {} -> {} (pid {})",
                    before.version, now.version, now.pid
                );
                return Ok(Exit::Done);
            }
            Err(error) if asked.elapsed() > ANSWERS_WITHIN => return Err(error),
            Ok(_) if asked.elapsed() > ANSWERS_WITHIN => {
                eprintln!("error: no other daemon answers; see the log of insulad");
                return Ok(Exit::Failed);
            }
            // The old one answers yet, or its connection ended with it.
            Ok(_) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// A text as it may stand in a query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_stays_what_it_is_in_a_query() {
        assert_eq!(super::escaped("/opt/in sula&1"), "/opt/in%20sula%261");
    }
}
