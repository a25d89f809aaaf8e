//! `signal`.

use super::Exit;
use super::client::{Client, ClientError, read_pieces};
use crate::driver::signals::Signalled;

/// Has a signal sent to the processes of a service or of one instance.
pub(super) async fn run(client: &Client, name: &str, signal: &str) -> Result<Exit, ClientError> {
    let path = format!("/v1/services/{name}/signal?signal={signal}");
    let response = client.post(&path, &()).await?;
    let status = response.status();
    let mut body = Vec::new();
    read_pieces(response, |piece| body.extend_from_slice(piece)).await?;
    let sent: Vec<Signalled> =
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer {
            status,
            text: error.to_string(),
        })?;
    if sent.is_empty() {
        eprintln!("error: {name} has no process");
        return Ok(Exit::Failed);
    }
    let mut exit = Exit::Done;
    for one in sent {
        let (instance, attempt) = (&one.instance, one.attempt.0);
        match one.error {
            None => println!("{instance}: sent SIG{signal} to attempt {attempt}"),
            Some(error) => {
                eprintln!("error: {instance}: attempt {attempt}: {error}");
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}
