//! A client that shuts its sending side after a complete request gets its answer, and a client that
//! is gone is noticed. Heads that could be read in two ways, and bodies that are too large, are
//! refused before anything else is read.

use std::net::SocketAddr;
use std::time::Duration;

use leftoff::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Server, get, post, read_all, soon, text};

const EVENTS: &str = "/v1/topics/a/events";

fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// Sends `asked`, and shuts the sending side at once.
async fn ask_and_shut(address: SocketAddr, asked: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(asked.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    socket
}

/// Returns all that arrives until the broker ends the connection.
async fn rest(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    soon(socket.read_to_end(&mut all)).await.unwrap();
    text(&all)
}

/// Returns all that arrives until `word` is in it.
async fn until(socket: &mut TcpStream, word: &str) -> String {
    until_is(socket, |seen| seen.contains(word)).await
}

/// Returns all that arrives until `is_enough` holds for it.
async fn until_is(socket: &mut TcpStream, is_enough: impl Fn(&str) -> bool) -> String {
    let mut seen = String::new();
    soon(async {
        let mut piece = [0; 4096];
        while !is_enough(&seen) {
            let count = socket.read(&mut piece).await.unwrap();
            assert!(count > 0, "the connection ended too early: {seen}");
            seen.push_str(&text(&piece[..count]));
        }
    })
    .await;
    seen
}

async fn members(server: &Server) -> usize {
    let listed = get(server.address, "/v1/topics/a/presence").await.json();
    listed["members"].as_array().unwrap().len()
}

/// Goal: a client that ends its sending side right after a complete request, as `nc -N` does, gets
/// the answer.
#[tokio::test]
async fn whoever_shuts_its_sending_side_after_a_request_gets_the_answer() {
    let server = Server::start().await;
    let address = server.address;
    server.publish("a", "one").await;
    let line = "{\"data\":1}\n";
    let lines = format!("Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n", line.len());
    let asked = [
        request("GET", EVENTS, ""),
        request("GET", EVENTS, "Connection: close\r\n"),
        format!("GET {EVENTS} HTTP/1.0\r\n\r\n"),
        request("POST", EVENTS, "Content-Length: 3\r\n") + "two",
        request("POST", EVENTS, "Transfer-Encoding: chunked\r\n") + "5\r\nthree\r\n0\r\n\r\n",
        request("POST", EVENTS, &lines) + line,
        request("GET", EVENTS, "") + &request("GET", EVENTS, ""),
    ];
    for (asked, answers) in asked.iter().zip([1, 1, 1, 1, 1, 1, 2]) {
        for _ in 0..20 {
            let answer = rest(&mut ask_and_shut(address, asked).await).await;
            let heads =
                [" 200 OK\r\n", " 201 Created\r\n"].map(|head| answer.matches(head).count());
            assert_eq!(heads.iter().sum::<usize>(), answers, "{asked:?}: {answer}");
            assert!(answer.ends_with('}'), "{asked:?}: {answer}");
        }
    }
    assert_eq!(get(address, &format!("{EVENTS}?limit=1000")).await.json()["tail"], 62);
    server.stop().await;
}

/// Goal: a client that ends its sending side also gets an answer that comes much later.
#[tokio::test]
async fn whoever_shuts_its_sending_side_gets_an_answer_that_is_waited_for() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 1_000;
    let server = Server::with(config).await;
    server.publish("a", "one").await;
    let poll = request("GET", &format!("{EVENTS}?after=1&wait=20s"), "");
    let follow = |version| {
        let path = format!("{EVENTS}?from=earliest&member=m");
        format!("GET {path} HTTP/{version}\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    };
    let mut polling = ask_and_shut(server.address, &poll).await;
    let mut following = Vec::new();
    let second = request("GET", "/healthz", "") + &follow("1.1");
    for asked in [follow("1.1"), follow("1.0"), second] {
        following.push(ask_and_shut(server.address, &asked).await);
    }
    for socket in &mut following {
        let is_probed = |seen: &str| seen.lines().filter(|line| *line == ":").count() == 3;
        until_is(socket, |seen| seen.contains("data: one\n") && is_probed(seen)).await;
    }
    server.publish("a", "two").await;
    assert!(rest(&mut polling).await.contains("\"data\":\"two\""), "the poll was not answered");
    for socket in &mut following {
        until(socket, "data: two\n").await;
    }
    drop(following); // A heartbeat shows that they are gone.
    soon(async {
        while members(&server).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    server.stop().await;
}

/// Goal: a client that is gone is noticed long before the next heartbeat, over each form of HTTP/1
/// stream; and a client that ends in the middle of a body is answered at once.
#[tokio::test]
async fn whoever_is_gone_is_noticed_without_a_heartbeat() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 3_600_000;
    config.follow.body_read_ms = 3_600_000;
    let server = Server::with(config).await;
    server.publish("a", "one").await;
    let follow = |version| {
        let path = format!("{EVENTS}?from=earliest&member=m");
        format!("GET {path} HTTP/{version}\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    };
    for asked in [follow("1.1"), follow("1.0"), request("GET", "/healthz", "") + &follow("1.1")] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(asked.as_bytes()).await.unwrap();
        until(&mut socket, "leftoff.caught-up").await;
        assert_eq!(members(&server).await, 1);
        drop(socket);
        soon(async {
            while members(&server).await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let half = request("POST", EVENTS, "Content-Length: 10\r\n") + "half";
    let mut socket = ask_and_shut(server.address, &half).await;
    let answer = rest(&mut socket).await;
    assert!(!answer.contains(" 201 "), "{answer}");
    let chunks = request("POST", EVENTS, "Transfer-Encoding: chunked\r\n") + "5\r\nhalf";
    let answer = rest(&mut ask_and_shut(server.address, &chunks).await).await;
    assert!(!answer.contains(" 201 "), "{answer}");
    assert_eq!(read_all(server.address, "a").await.len(), 1);
    server.stop().await;
}

/// Returns the statuses of all answers on one connection, and their text.
async fn answered(address: SocketAddr, asked: &str) -> (Vec<u16>, String) {
    let answer = rest(&mut ask_and_shut(address, asked).await).await;
    let heads = answer.split("HTTP/1.1 ").skip(1);
    (heads.filter_map(|head| head[..3].parse().ok()).collect(), answer)
}

/// Goal: no request can be read in one way by a proxy and in another way by the broker.
#[tokio::test]
async fn a_head_that_could_be_read_in_two_ways_is_refused_and_nothing_is_stored() {
    let server = Server::start().await;
    let body = "Content-Length: 3\r\n\r\none";
    let chunks = "5\r\nthree\r\n0\r\n\r\n";
    let host = "Host: localhost\r\n";
    let post = format!("POST {EVENTS} HTTP/1.1\r\n");
    let coded = |coding: &str| format!("{post}{host}Transfer-Encoding: {coding}\r\n\r\n{chunks}");
    let cases = [
        (format!("{post}{body}"), 400, "Host is missing"),
        (format!("{post}{host}{host}{body}"), 400, "Host is given more than once"),
        (format!("{post}{host}Host: other\r\n{body}"), 400, "Host is given more than once"),
        (format!("POST http://localhost{EVENTS} HTTP/1.1\r\n{body}"), 400, "Host is missing"),
        (coded("gzip, chunked"), 501, "gzip, chunked"),
        (coded("identity, chunked"), 501, "identity, chunked"),
        (coded("gzip"), 400, ""),
    ];
    for (asked, status, words) in &cases {
        let (statuses, answer) = answered(server.address, asked).await;
        assert_eq!(statuses, [*status], "{asked:?}: {answer}");
        assert!(answer.contains(words), "{asked:?}: {answer}");
    }
    let (statuses, answer) =
        answered(server.address, &(coded("gzip, chunked") + &coded("chunked"))).await;
    assert_eq!(statuses, [501], "the bytes after it were read as a request: {answer}");
    assert_eq!(get(server.address, EVENTS).await.status, 404, "nothing was stored");
    assert_eq!(answered(server.address, &coded("chunked")).await.0, [201]);
    let old = format!("POST {EVENTS} HTTP/1.0\r\n{body}");
    assert!(rest(&mut ask_and_shut(server.address, &old).await).await.contains(" 201 "));
    server.stop().await;
}

/// Goal: a client that asks with `Expect: 100-continue` is refused before it sends its body.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let server = Server::start().await;
    let limit = 1 << 20;
    let ask = async |path: &str, length: u64| {
        let expect = format!("Expect: 100-continue\r\nContent-Length: {length}\r\n");
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(request("POST", path, &expect).as_bytes()).await.unwrap();
        let answer = until(&mut socket, "\r\n\r\n").await;
        (answer, socket)
    };
    for (path, length) in [
        (EVENTS, limit + 1),
        (EVENTS, 1 << 40),
        ("/v1/events", limit + 1),
        ("/v1/topics/a/events?limit=1", 10),
    ] {
        let (answer, _socket) = ask(path, length).await;
        let is_refused = answer.starts_with("HTTP/1.1 413 ") || answer.starts_with("HTTP/1.1 400 ");
        assert!(is_refused, "{path} {length}: {answer}");
        // The connection closes, so that a body that arrives late is not read as a request.
        let head = answer.to_ascii_lowercase();
        assert!(head.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(!head.contains("\r\nkeep-alive:"), "{answer}");
    }
    let (answer, mut socket) = ask(EVENTS, limit).await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    socket.write_all(&vec![b'x'; limit as usize]).await.unwrap();
    until(&mut socket, "HTTP/1.1 201 ").await;
    server.stop().await;
}

/// Goal: an answer says when its idle connection is closed, so that a client does not send into the
/// end.
#[tokio::test]
async fn an_answer_says_for_how_long_its_connection_is_kept() {
    let mut config = Config::default();
    config.server.idle_ms = 7_900;
    let server = Server::with(config).await;
    for path in [EVENTS, "/healthz", "/nothing"] {
        assert_eq!(get(server.address, path).await.header("keep-alive"), "timeout=7", "{path}");
    }
    let answer = post(server.address, EVENTS, "x").await;
    assert_eq!((answer.status.as_u16(), answer.header("keep-alive")), (201, "timeout=7"));
    // A refused request whose body has arrived keeps the connection; one with a body to come ends
    // it.
    let refused = post(server.address, &format!("{EVENTS}?x=1"), "whole").await;
    assert_eq!((refused.status.as_u16(), refused.header("keep-alive")), (400, "timeout=7"));
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let cut = request("POST", &format!("{EVENTS}?x=1"), "Content-Length: 100\r\n") + "a part";
    socket.write_all(cut.as_bytes()).await.unwrap();
    let answer = rest(&mut socket).await.to_ascii_lowercase();
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(!answer.contains("\r\nkeep-alive:"), "{answer}");
    let answer = rest(&mut ask_and_shut(server.address, &request("GET", EVENTS, "")).await).await;
    assert!(!answer.to_ascii_lowercase().contains("keep-alive:"), "{answer}");
    for last in
        [request("GET", EVENTS, "Connection: close\r\n"), format!("GET {EVENTS} HTTP/1.0\r\n\r\n")]
    {
        let answer = rest(&mut ask_and_shut(server.address, &last).await).await;
        assert!(!answer.to_ascii_lowercase().contains("keep-alive:"), "{answer}");
    }
    assert_eq!(get(server.address, EVENTS).await.json()["tail"], json!(2));
    server.stop().await;
}
