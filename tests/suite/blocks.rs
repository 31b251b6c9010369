//! The blocks of an event stream (SSE, the lines up to an empty one; not the log's blocks of
//! events), as strict and as lax clients read them: no block comes out as an empty message, and
//! each block has the id to come back with.

use std::time::Duration;

use leftoff::{Config, NewEvent};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::common::{Server, name, publish, soon};

/// A block as a client parses it: complete at its empty line, with or without data.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Block {
    id: String,
    event: String,
    data: Vec<String>,
    retry: Option<u64>,
}

/// A client that hands each empty line on as a message, as `@microsoft/fetch-event-source` does.
struct Client {
    lines: Lines<BufReader<TcpStream>>,
    heartbeats: usize,
}

impl Client {
    /// Opens the stream at `path`. HTTP/1.0 has no chunks, so each line of the body is one of the
    /// stream.
    async fn follow(server: &Server, path: &str) -> Self {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        let status = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(status.contains(" 200 "), "{status}");
        while !soon(lines.next_line()).await.unwrap().unwrap().is_empty() {}
        Self { lines, heartbeats: 0 }
    }

    /// Returns the next block, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Block> {
        let mut block = Block::default();
        loop {
            let Some(line) = soon(self.lines.next_line()).await.unwrap() else {
                assert_eq!(block, Block::default(), "the stream ends within a block");
                return None;
            };
            let (field, value) = line.split_once(": ").unwrap_or((&line, ""));
            match field {
                "" if line.is_empty() => return Some(block),
                "" => self.heartbeats += 1,
                "id" => block.id = value.to_owned(),
                "event" => block.event = value.to_owned(),
                "data" => block.data.push(value.to_owned()),
                "retry" => block.retry = Some(value.parse().unwrap()),
                other => panic!("{other:?} is no field"),
            }
        }
    }

    /// Returns the blocks up to and including the first for which `is_last` holds.
    async fn through(&mut self, is_last: impl Fn(&Block) -> bool) -> Vec<Block> {
        let mut blocks = Vec::new();
        loop {
            let block = self.next().await.expect("the stream goes on");
            blocks.push(block.clone());
            if is_last(&block) {
                return blocks;
            }
        }
    }
}

/// Asserts that each block is an event of the test, or has a name and JSON.
fn assert_none_is_empty(blocks: &[Block]) {
    for block in blocks {
        let data = block.data.join("\n");
        let is_json = serde_json::from_str::<serde_json::Value>(&data).is_ok();
        assert!(is_json, "JSON.parse throws: {block:?}");
        assert!(block.event.starts_with("leftoff.") || data == "1", "{block:?}");
        assert_ne!(block.id, "", "{block:?}");
    }
}

fn quick_heartbeats() -> Config {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 20;
    config
}

/// Goal: no block that the broker sends on its own becomes an empty message.
/// Method: make the broker send every kind of block: the first block, heartbeats, a cursor that
/// moves without an event, a gap, an error, and the end.
#[tokio::test]
async fn no_block_comes_out_as_an_empty_message() {
    let server = Server::with(quick_heartbeats()).await;
    for _ in 0..3 {
        server.publish("a", "1").await;
    }
    server.broker.purge(&name("a"), leftoff::cursor::Sequence::new(3)).await.unwrap();
    let mut kinds = Vec::new();
    for path in [
        "/v1/topics/a/events?from=earliest",
        "/v1/topics/a/events",
        "/v1/topics/a/events?after=1&type=none",
        "/v1/events?topic=*&type=none",
    ] {
        let mut client = Client::follow(&server, path).await;
        let mut blocks = client.through(|block| block.event == "leftoff.caught-up").await;
        assert!(blocks[0].retry.is_some(), "{blocks:?}");
        if path.contains("type=none") {
            publish(&server.broker, "b", NewEvent::new("1")).await;
            publish(&server.broker, "a", NewEvent::new("1")).await;
            blocks.extend(client.through(|block| block.event == "leftoff.cursor").await);
            let moved = blocks.last().unwrap();
            let cursor = serde_json::json!({"cursor": moved.id}).to_string();
            assert_eq!(moved.data, [cursor]);
        }
        let mut silence = tokio::time::interval(Duration::from_millis(100));
        while client.heartbeats < 3 {
            silence.tick().await;
            publish(&server.broker, "a", NewEvent::new("1")).await;
            publish(&server.broker, "b", NewEvent::new("1")).await;
            blocks.push(client.next().await.unwrap()); // The first block after the heartbeats.
        }
        assert_none_is_empty(&blocks);
        kinds.extend(blocks.into_iter().map(|block| block.event));
    }
    let mut last = Client::follow(&server, "/v1/topics/a/events").await;
    let mut other = Client::follow(&server, "/v1/events?topic=*").await;
    let mut blocks = last.through(|block| block.event == "leftoff.caught-up").await;
    server.broker.delete_topic(&name("a")).await.unwrap();
    while let Some(block) = last.next().await {
        blocks.push(block);
    }
    assert_eq!(blocks.last().unwrap().retry, Some(30_000), "{blocks:?}");
    server.stop().await;
    while let Some(block) = other.next().await {
        blocks.push(block);
    }
    assert!(matches!(blocks.last().unwrap().retry, Some(1_000..=3_000)), "{blocks:?}");
    assert_none_is_empty(&blocks);
    kinds.extend(blocks.into_iter().map(|block| block.event));
    kinds.sort_unstable();
    kinds.dedup();
    let all = ["caught-up", "cursor", "error", "gap", "stopping"];
    let all = all.map(|kind| format!("leftoff.{kind}"));
    assert_eq!(kinds, [&[String::new()], &all[..]].concat());
}

/// Goal: a client that connects while the broker stops is sent away with a block that is a message.
#[tokio::test]
async fn a_stream_that_is_asked_for_while_the_broker_stops_is_one_named_block() {
    let mut config = Config::default();
    config.follow.drain_ms = 2_000;
    let server = Server::with(config).await;
    server.broker.drain();
    let mut client = Client::follow(&server, "/v1/topics/a/events").await;
    let block = client.next().await.unwrap();
    assert_eq!((block.event.as_str(), block.id.as_str()), ("leftoff.stopping", ""));
    let retry_ms = block.retry.unwrap();
    assert!((1_000..=3_000).contains(&retry_ms), "{block:?}");
    assert_eq!(block.data, [format!("{{\"retry_ms\":{retry_ms}}}")]);
    assert_eq!(client.next().await, None);
}
