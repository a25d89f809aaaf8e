//! `install`.

use std::path::Path;

use hyper::Method;

use super::Exit;
use super::client::{Client, ClientError, read_pieces};
use super::progress::Progress;
use crate::control::InstallRequest;
use crate::driver::ask::InstallNews;

pub(super) async fn run(client: &Client, path: &Path) -> Result<Exit, ClientError> {
    let path = match std::path::absolute(path) {
        Ok(path) => path,
        Err(error) => {
            eprintln!("error: cannot install `{}`: {error}", path.display());
            return Ok(Exit::Failed);
        }
    };
    let body = serde_json::to_vec(&InstallRequest { path }).unwrap_or_default();
    let response = client.send(Method::POST, "/v1/install", body).await?;
    let mut progress = Progress::new();
    let mut rest = Vec::new();
    let mut end = None;
    read_pieces(response, |piece| {
        rest.extend_from_slice(piece);
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=at).collect();
            match serde_json::from_slice(&line) {
                Ok(InstallNews::Progress { done, total }) => {
                    let percent = (done * 100).checked_div(total).unwrap_or(100);
                    progress.show(&format!("installing: {percent} % of {total} bytes"));
                }
                Ok(news) => end = Some(news),
                Err(_) => {}
            }
        }
    })
    .await?;
    progress.clear();
    Ok(match end {
        Some(InstallNews::Installed {
            name,
            version,
            hash,
            already,
        }) => {
            let word = if already {
                "already installed"
            } else {
                "installed"
            };
            println!("{name} {version}: {word} ({})", &hash[..hash.len().min(12)]);
            Exit::Done
        }
        Some(InstallNews::Refused { problems, hint }) => {
            eprintln!("error: the release cannot be installed; nothing changed");
            for problem in problems {
                eprintln!("  {}", problem.replace('\n', "\n  "));
            }
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            Exit::Failed
        }
        Some(InstallNews::Progress { .. }) | None => {
            eprintln!("error: the daemon ended before the release was installed");
            Exit::Failed
        }
    })
}
