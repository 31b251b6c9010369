//! Clients over TLS that are slow: in the handshake, and in taking what they are sent; and how a
//! stop ends their streams.

use std::time::{Duration, Instant};

use leftoff::NewEvent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::certified::secure;
use super::{Authority, Running, follow, get, read_through, settings};
use crate::common::{name, publish, soon};

/// Goal: a handshake that is not complete in time ends its connection, whatever was sent of it, and
/// keeps nobody else waiting.
#[tokio::test]
async fn a_handshake_has_to_end_in_time() {
    let authority = Authority::new();
    let mut config = settings(&authority);
    config.header_read_ms = 500;
    let server = Running::start(config, None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut begun = TcpStream::connect(server.address).await.unwrap();
    // The head of a record of 512 bytes, and the head of a hello in it.
    begun.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
    let started = Instant::now();
    let answer = get(server.address, &authority.client(&[], None), "/healthz").await;
    assert!(answer.ends_with("ok\n"), "{answer}");
    assert!(started.elapsed() < Duration::from_millis(400), "another client had to wait");
    for socket in [&mut silent, &mut begun] {
        let mut rest = Vec::new();
        soon(socket.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"", "there is nothing to be told before the handshake is over");
    }
    server.stop().await;
}

/// Goal: a reader that takes nothing is cut after the write timeout, over TLS as without it, and
/// delays no stop.
#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut() {
    let authority = Authority::new();
    let mut config = settings(&authority);
    (config.write_timeout_ms, config.shutdown_ms) = (1_000, 2_000);
    let server = Running::start(config, None).await;
    for _ in 0..40 {
        publish(&server.broker, "large", NewEvent::new(vec![b'x'; 512 << 10])).await;
    }
    let client = authority.client(&[], None);
    let stall = async || {
        let mut stream = super::connect(server.address, &client).await;
        let path = "/v1/topics/large/events?from=earliest&member=stalled";
        super::ask(&mut stream, path, "accept: text/event-stream\r\n").await;
        read_through(&mut stream, "HTTP/1.1 200").await;
        stream
    };
    let large = name("large");
    let _stalled = stall().await;
    soon(async {
        while server.broker.presence(&large, "", 9).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while !server.broker.presence(&large, "", 9).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let _stalled = [stall().await, stall().await];
    let started = Instant::now();
    server.stop().await;
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

/// Goal: readers that paused get all that was sent meanwhile, to the last byte, without anything
/// further being published: no record stays behind in the server.
/// Method: each reader is sent 8 KiB more than the one before. For some, the sockets are full just
/// before the last record, which has 16 KiB at most.
#[tokio::test]
async fn readers_that_paused_get_the_last_record_too() {
    const STEP_BYTES: usize = 8 << 10;
    let authority = Authority::new();
    let server = Running::start(settings(&authority), None).await;
    let client = authority.client(&[], None);
    let mut streams = Vec::new();
    for number in 1..=80 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let socket = socket.connect(server.address).await.unwrap();
        let mut stream = secure(socket, &client).await.unwrap();
        let path = format!("/v1/topics/t{number}/events");
        super::ask(&mut stream, &path, "accept: text/event-stream\r\n").await;
        read_through(&mut stream, "leftoff.caught-up").await;
        streams.push((number, stream));
    }
    for (number, _) in &streams {
        let payload = [vec![b'x'; number * STEP_BYTES], b"the last".to_vec()].concat();
        publish(&server.broker, &format!("t{number}"), NewEvent::new(payload)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await; // The sockets are full.
    let started = Instant::now();
    for (number, mut stream) in streams {
        let read = read_through(&mut stream, "the last\n").await;
        assert!(read.len() > number * STEP_BYTES, "{}", read.len());
        // A heartbeat, after 15 seconds, would have pushed it out.
        assert!(started.elapsed() < Duration::from_secs(10), "{number}: {:?}", started.elapsed());
    }
    server.stop().await;
}

/// Goal: a stop ends each stream with the end of its body, and then with that of TLS: the client
/// knows that nothing is missing.
#[tokio::test]
async fn a_stop_ends_streams_in_order() {
    let authority = Authority::new();
    let server = Running::start(settings(&authority), None).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = follow(server.address, &authority.client(&[], None), "orders").await;
        read_through(&mut stream, "leftoff.caught-up").await;
        streams.push(stream);
    }
    let mut idle = super::connect(server.address, &authority.client(&[], None)).await;
    super::ask(&mut idle, "/healthz", "").await;
    read_through(&mut idle, "ok\n").await;
    server.shutdown.start();
    for mut stream in streams.into_iter().chain([idle]) {
        let mut rest = String::new();
        // Without a close_notify this would be an error.
        soon(stream.read_to_string(&mut rest)).await.unwrap();
        assert!(rest.is_empty() || rest.ends_with("0\r\n\r\n"), "{rest}");
    }
    server.stop().await;
}
