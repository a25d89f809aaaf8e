//! A GET over HTTP/1.1, of which only the status counts.

use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bytes of an answer's head at most.
const HEAD_MAX: usize = 64 * 1024;

/// What is asked, and which answer is good.
#[derive(Debug)]
pub(crate) struct Get {
    /// Where the program listens.
    pub(crate) address: SocketAddr,
    /// What is asked for.
    pub(crate) path: String,
    /// The first and the last good status. Nobody follows a redirection: it is a status as others.
    pub(crate) status: (u16, u16),
}

impl Get {
    /// Asks; the body of the answer is not read.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let Self {
            address,
            path,
            status,
        } = self;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let failed = |error: hyper::Error| format!("GET {path} at {address}: {}", causes(&error));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::get(path)
            .header(HOST, address.to_string())
            .header(USER_AGENT, "insulad")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| format!("GET {path}: {error}"))?;
        let answer = sender.send_request(request);
        let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                // What arrived before the end lies ready.
                Ok(()) => answer.await,
                Err(error) => Err(error),
            },
        };
        let got = answer.map_err(failed)?.status().as_u16();
        if (status.0..=status.1).contains(&got) {
            Ok(())
        } else {
            Err(format!("GET {path} at {address} was answered with {got}"))
        }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Answers one connection with these bytes, and tells what it was asked.
    fn server(answer: Vec<u8>) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            // A probe that has seen enough closes.
            let _ = client.write_all(&answer);
            String::from_utf8(asked).unwrap()
        });
        (address, asked)
    }

    async fn ask(answer: &str) -> (Result<(), String>, String) {
        let (address, asked) = server(answer.as_bytes().to_vec());
        let get = Get {
            address,
            path: "/health?x=1".to_owned(),
            status: (200, 299),
        };
        let result = timeout(Duration::from_secs(60), get.ask()).await.unwrap();
        (result, asked.join().unwrap())
    }

    #[tokio::test]
    async fn the_status_of_an_answer_counts() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 299 Fine\r\n\r\nhello", true),
            // The rest of a long body is not waited for.
            ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx", true),
            (
                "HTTP/1.1 301 Moved\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
            ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 2000 OK\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
            ("", false),
        ] {
            let (result, asked) = ask(answer).await;
            assert_eq!(result.is_ok(), good, "{answer}: {result:?}");
            assert!(asked.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("\r\nhost: 127.0.0.1:"), "{asked}");
        }
        let (result, _) = ask("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        assert!(result.unwrap_err().ends_with("was answered with 503"));
    }

    #[tokio::test]
    async fn an_answer_whose_head_does_not_end_is_given_up() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(4 * HEAD_MAX));
        let (result, _) = ask(&endless).await;
        assert!(result.is_err());
    }
}
