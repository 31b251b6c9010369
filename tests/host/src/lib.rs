//! The parts of a host program that its tests share: raw clients, which use nothing of the broker.

pub mod ways;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The limit of each wait, longer than any test needs: at the limit, a test has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, at most [`PATIENCE`].
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("a wait took longer than 30 seconds")
}

/// Sends the head of a request of HTTP/1.1 with these headers, and no body.
pub async fn ask(socket: &mut (impl AsyncWrite + Unpin), path: &str, headers: &[(&str, &str)]) {
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    soon(socket.write_all(head.as_bytes())).await.expect("the server takes a request");
}

/// Reads until `wanted` came, and returns all that was read.
///
/// # Panics
///
/// If the connection ends before.
pub async fn read_through(socket: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if text.contains(wanted) {
            return text;
        }
        let count = soon(socket.read(&mut buffer)).await.expect("the server answers");
        assert!(count > 0, "the connection ended before {wanted:?}: {text}");
        read.extend_from_slice(&buffer[..count]);
    }
}

/// Asks for `path` on a connection of its own, and returns the whole answer.
pub async fn get(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &[(&str, &str)],
) -> String {
    let headers = [headers, &[("connection", "close")]].concat();
    ask(&mut socket, path, &headers).await;
    let mut answer = Vec::new();
    soon(socket.read_to_end(&mut answer)).await.expect("the server answers");
    String::from_utf8_lossy(&answer).into_owned()
}
