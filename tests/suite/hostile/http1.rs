//! HTTP/1.1 that two programs may read in two ways, and topic names that look like paths.

use std::net::SocketAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bystander::Bystander;
use super::{Chance, Open};
use crate::common::{Process, get, post, soon};

const EVENTS: &str = "/v1/topics/a/events";

/// Sends `bytes`, and returns the statuses of all answers up to the end of the connection.
async fn statuses(address: SocketAddr, bytes: &str, chance: &Chance) -> Vec<u16> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    // The broker may close the connection before all is sent; its answers can still be read.
    let _closed = soon(chance.send(&mut socket, bytes.as_bytes())).await;
    let mut answers = Vec::new();
    let _reset = soon(socket.read_to_end(&mut answers)).await;
    let text = String::from_utf8_lossy(&answers);
    let starts = text.match_indices("HTTP/1.");
    starts.filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

/// Requests with the status of each answer. Each request has the listed headers, a `Host` and
/// `Connection: close`.
const BODIES: [(&str, &str, &str, u16); 25] = [
    ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n", "xx", 400),
    ("a list of lengths", "Content-Length: 2, 2\r\n", "xx", 400),
    ("a length with a sign", "Content-Length: +2\r\n", "xx", 400),
    ("a length below 0", "Content-Length: -2\r\n", "xx", 400),
    ("a length over 2^64", "Content-Length: 99999999999999999999999\r\n", "xx", 400),
    ("a fold", "X: a\r\n b\r\nContent-Length: 2\r\n", "xx", 400),
    ("a bare CR", "X: a\rb\r\nContent-Length: 2\r\n", "xx", 400),
    ("NUL in a value", "X: a\0b\r\nContent-Length: 2\r\n", "xx", 400),
    ("NUL in a name", "X\0: a\r\nContent-Length: 2\r\n", "xx", 400),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", 400),
    (
        "chunks, then something else",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "0\r\n\r\n",
        400,
    ),
    ("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", 400),
    ("a size that is none", "Transfer-Encoding: chunked\r\n", "zz\r\nxx\r\n0\r\n\r\n", 400),
    ("a size with 0x", "Transfer-Encoding: chunked\r\n", "0x2\r\nxx\r\n0\r\n\r\n", 400),
    ("a size over 2^64", "Transfer-Encoding: chunked\r\n", "11111111111111111\r\nxx\r\n", 400),
    ("chunks with bare LF", "Transfer-Encoding: chunked\r\n", "2\nxx\n0\n\n", 400),
    ("a chunk that is too long", "Transfer-Encoding: chunked\r\n", "2\r\nxxxx0\r\n\r\n", 400),
    ("an extension", "Transfer-Encoding: chunked\r\n", "2;a=b\r\nxx\r\n0\r\n\r\n", 201),
    // The bytes after the chunks are not a request: the chunks are the body, and the length is
    // ignored.
    (
        "a length and chunks",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "2\r\nxx\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        201,
    ),
    ("what is no gzip", "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "xx", 400),
    ("a coding of nobody's", "Content-Encoding: x\r\nContent-Length: 2\r\n", "xx", 415),
    ("the same length twice", "Content-Length: 2\r\nContent-Length: 2\r\n", "xx", 201),
    ("more than the length", "Content-Length: 2\r\n", "xxGET / HTTP/1.1\r\nHost: x\r\n\r\n", 201),
    ("an unknown expectation", "Expect: 200-maybe\r\nContent-Length: 2\r\n", "xx", 201),
    ("an ordinary one", "Content-Length: 2\r\n", "xx", 201),
];

/// Paths with the status of each answer.
const PATHS: [(&str, u16); 9] = [
    ("/v1/topics/../../etc/passwd/events", 404),
    ("/v1/topics/..%2f..%2fetc%2fpasswd/events", 400),
    ("/v1/topics/../events", 400),
    ("/v1/topics/%2e%2e/events", 400),
    ("/v1/topics/a%00b/events", 400),
    ("/v1/topics/a%0d%0ab/events", 400),
    ("/v1/topics/%ff/events", 400),
    ("/v1/topics/a%252fb/events", 404),
    ("//v1/topics/a/events", 404),
];

/// Goal: one request is never taken for two, and no topic name leads out of the topics.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_in_two_ways_is_refused_or_read_in_one() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    let before = Open::now(&process).await;
    let (bystander, chance) = (Bystander::start(address).await, Chance::new());
    let all = || async {
        let close = format!("Host: {address}\r\nConnection: close\r\n");
        for (name, headers, body, expected) in chance.shuffled(BODIES) {
            let request = format!("POST {EVENTS} HTTP/1.1\r\n{close}{headers}\r\n{body}");
            assert_eq!(statuses(address, &request, &chance).await, [expected], "{name}");
        }
        for (path, expected) in chance.shuffled(PATHS) {
            let request = format!("GET {path} HTTP/1.1\r\n{close}\r\n");
            assert_eq!(statuses(address, &request, &chance).await, [expected], "{path}");
        }
        let many: String = (0..200).map(|number| format!("a{number}: b\r\n")).collect();
        let request = format!("GET {EVENTS} HTTP/1.1\r\n{close}{many}\r\n");
        assert_eq!(statuses(address, &request, &chance).await, [431], "200 headers");
    };
    bystander.assert_unhurt(all).await;
    drop(bystander);
    before.assert_restored(&process).await;
    // An encoded slash is part of the name.
    let slash = "/v1/topics/b%2Fc/events";
    assert_eq!(post(address, slash, "x").await.status, StatusCode::CREATED);
    assert_eq!(get(address, slash).await.status, StatusCode::OK);
    assert_eq!(get(address, "/v1/topics/b/c/events").await.status, StatusCode::NOT_FOUND);
}

/// Goal: a client that asks before it sends its body is told to send it, and the body is read.
#[tokio::test]
async fn a_client_that_waits_to_send_its_body_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let mut socket = TcpStream::connect(process.address).await.unwrap();
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\
         Connection: close\r\n\r\n",
        process.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    soon(socket.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"xx").await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}
