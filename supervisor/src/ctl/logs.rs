//! `logs`.

use std::io::Write;

use hyper::Method;

use super::Exit;
use super::client::{Client, ClientError, read_pieces};

pub(super) async fn run(
    client: &Client,
    name: &str,
    lines: usize,
    follow: bool,
) -> Result<Exit, ClientError> {
    let path = format!("/v1/services/{name}/logs?lines={lines}&follow={follow}");
    let response = client.send(Method::GET, &path, Vec::new()).await?;
    let mut closed = false;
    read_pieces(response, |piece| {
        let mut stdout = std::io::stdout().lock();
        // `logs | head` is no error.
        closed |= stdout
            .write_all(piece)
            .and_then(|()| stdout.flush())
            .is_err();
        if closed {
            std::process::exit(0);
        }
    })
    .await?;
    Ok(Exit::Done)
}
