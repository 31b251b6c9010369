//! HTTP/2 frame by frame, for clients that do what no library permits.
//! Source: RFC 9113, 4.1 and 6; RFC 7541, 6.2.2, for the heads.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use crate::common::soon;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest window that HTTP/2 allows.
const WINDOW: u32 = (1 << 31) - 1;

/// A connection whose received bytes are read and dropped.
pub(super) struct RawHttp2 {
    socket: OwnedWriteHalf,
    reading: tokio::task::JoinHandle<()>,
    next_stream: u32,
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a SETTINGS frame that sets the window of each stream.
pub(super) fn initial_window(size_bytes: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 4], &size_bytes.to_be_bytes()[..]].concat())
}

/// Returns a header that enters no table: the index of its name, and its value.
fn header(index: u8, value: &str) -> Vec<u8> {
    assert!(value.len() < 127, "{value} takes more bytes for its length");
    let name = if index < 15 { vec![index] } else { vec![15, index - 15] };
    [&name, &[value.len() as u8][..], value.as_bytes()].concat()
}

impl RawHttp2 {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let (mut read, mut socket) = TcpStream::connect(address).await.unwrap().into_split();
        let window = frame(8, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        let beginning = [PREFACE, &frame(4, 0, 0, &[]), &window].concat();
        socket.write_all(&beginning).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(1..) = read.read(&mut buffer).await {}
        });
        Self { socket, reading, next_stream: 1 }
    }

    /// Asks for an event stream, and ignores the answer.
    pub(super) async fn follow(&mut self, address: SocketAddr, path: &str) {
        self.ask(address, path, "text/event-stream").await;
    }

    /// Sends a GET request for `path`, and ignores the answer.
    pub(super) async fn ask(&mut self, address: SocketAddr, path: &str, accept: &str) {
        let head = [
            vec![0x82, 0x86], // :method GET, :scheme http
            header(4, path),
            header(1, &address.to_string()),
            header(19, accept),
        ];
        let stream = self.next_stream;
        self.next_stream += 2;
        self.send(&frame(1, 0x5, stream, &head.concat())).await.unwrap();
    }

    /// Sends bytes unchanged.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon(self.socket.write_all(bytes)).await
    }

    /// Whether the connection is open: the broker has not ended it.
    pub(super) fn is_open(&self) -> bool {
        !self.reading.is_finished()
    }

    /// Waits until the broker ends the connection.
    pub(super) async fn ended(self) {
        soon(self.reading).await.unwrap();
    }
}
