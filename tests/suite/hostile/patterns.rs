//! Readers with thousands of patterns: however many come and go at once, they do not slow others
//! down, and they leave nothing behind.

use std::net::SocketAddr;
use std::time::Duration;

use leftoff::edge::proto;
use serde_json::{Value, json};

use super::bystander::Bystander;
use super::fairness::assert_nobody_held_a_worker;
use super::peak_kib;
use crate::common::{PATIENCE, Process, Sse, get, grpc, post, send, soon, text, to};
use crate::websocket::Client;

/// The number of patterns of one reader: the largest that is allowed.
const PATTERNS: usize = 1_024;

/// The number of readers on one connection. Without optimisation, everything takes ten times as
/// long.
const READERS: usize = if cfg!(debug_assertions) { 128 } else { 256 };

/// A setting with enough memory for all of these readers on one connection.
pub(super) const MAX_CLIENT_BYTES: &str = "server.max_client_bytes=2147483648";

/// Returns the number of followers of a topic, as a publisher gets it.
async fn receivers(address: SocketAddr, topic: &str) -> u64 {
    let path = format!("/v1/topics/{topic}/events?ephemeral=true");
    post(address, &path, "x").await.json()["receivers"].as_u64().unwrap()
}

async fn members(address: SocketAddr, topic: &str) -> usize {
    let listed = get(address, &format!("/v1/topics/{topic}/presence")).await.json();
    listed["members"].as_array().unwrap().len()
}

/// Returns the memory that the broker counts for all clients together, in bytes.
async fn client_bytes(address: SocketAddr) -> u64 {
    let metrics = text(&get(address, "/metrics").await.body);
    let line = metrics.lines().find_map(|line| line.strip_prefix("leftoff_client_bytes "));
    line.unwrap().parse().unwrap()
}

/// Returns [`client_bytes`] when they no longer change: a body counts for a moment after it is
/// read.
async fn settled_client_bytes(address: SocketAddr) -> u64 {
    let settled = async {
        let mut before = client_bytes(address).await;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = client_bytes(address).await;
            if now == before {
                return now;
            }
            before = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("settled bytes")
}

/// Waits until no reader of these topics is left, and the memory of all readers is given back.
async fn until_nobody_follows(address: SocketAddr, topics: &[String]) {
    let gone = async {
        for topic in topics {
            while receivers(address, topic).await + members(address, topic).await as u64 > 0 {
                tokio::task::yield_now().await;
            }
        }
        // The bystander and these requests hold little memory.
        while client_bytes(address).await > 256 << 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("something is left of the readers");
}

fn subscribe(reader: usize, topics: Vec<String>) -> Value {
    json!({"type": "subscribe", "subscription": format!("s{reader}"), "topics": topics})
}

/// Goal: hundreds of subscriptions to a thousand patterns each begin and end in small steps, also
/// when their connection ends before all have begun. Each counts as memory until it has ended, and
/// no longer.
#[tokio::test]
async fn a_connection_with_hundreds_of_thousands_of_patterns_comes_and_goes_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &["--set", MAX_CLIENT_BYTES]);
    let address = process.address;
    let bystander = Bystander::start(address).await;
    let name = |reader, pattern| format!("n{reader}x{pattern}.b");
    let patterns = |reader| (0..PATTERNS).map(|pattern| name(reader, pattern)).collect();
    let ends = [(0, 0), (0, PATTERNS - 1), (READERS - 1, 0), (READERS - 1, PATTERNS - 1)];
    let topics = ends.map(|(reader, pattern)| name(reader, pattern));
    for is_whole in [true, false, true] {
        let attack = async || {
            let mut client = Client::connect(address).await;
            for reader in 0..READERS {
                client.say(subscribe(reader, patterns(reader))).await;
            }
            client.until_subscribed(if is_whole { READERS } else { READERS / 4 }).await;
            if is_whole {
                for topic in &topics {
                    assert_eq!(receivers(address, topic).await, 1, "{topic}");
                }
            }
            drop(client);
            until_nobody_follows(address, &topics).await;
        };
        bystander.assert_unhurt(attack).await;
    }
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: members of a thousand topics each join and leave in small steps, also when their
/// connection ends before all have joined.
#[tokio::test]
async fn members_of_a_thousand_topics_come_and_go_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &["--set", MAX_CLIENT_BYTES]);
    let address = process.address;
    let bystander = Bystander::start(address).await;
    let names: Vec<String> = (0..PATTERNS).map(|number| format!("room.{number}")).collect();
    let topics = [names[0].clone(), names[PATTERNS - 1].clone()];
    for is_whole in [true, false] {
        let attack = async || {
            let mut client = Client::connect(address).await;
            for reader in 0..READERS {
                let mut message = subscribe(reader, names.clone());
                message["member"] = json!({"id": format!("m{reader}")});
                client.say(message).await;
            }
            client.until_subscribed(if is_whole { READERS } else { READERS / 4 }).await;
            if is_whole {
                assert_eq!(members(address, &topics[1]).await, READERS);
            }
            drop(client);
            until_nobody_follows(address, &topics).await;
        };
        bystander.assert_unhurt(attack).await;
    }
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: one reader with the largest number of patterns, each of a hundred tokens, does not slow
/// others down over any protocol, neither when it begins nor when it ends.
#[tokio::test]
async fn patterns_of_a_hundred_tokens_hold_nobody_up_on_any_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    let bystander = Bystander::start(address).await;
    let deep = |number| format!("d{number}{}", ".t".repeat(100));
    let patterns: Vec<String> = (0..PATTERNS).map(deep).collect();
    let topics = [deep(0), deep(PATTERNS - 1)];
    let body = json!({"topics": patterns, "from": "latest"}).to_string();
    let asked = |path| to(address, "POST", path).header("content-type", "application/json");
    let over_sse = async || {
        let stream = Sse::open_with(asked("/v1/events"), body.clone()).await.unwrap();
        assert_eq!(stream.status, 200);
        assert_eq!(receivers(address, &topics[1]).await, 1);
        drop(stream);
        until_nobody_follows(address, &topics).await;
    };
    bystander.assert_unhurt(over_sse).await;
    let in_pages = async || {
        let page = send(asked("/v1/events?wait=100ms"), body.clone()).await;
        assert_eq!(page.status, 200, "{}", text(&page.body));
        until_nobody_follows(address, &topics).await;
    };
    bystander.assert_unhurt(in_pages).await;
    let over_grpc = async || {
        let mut client = grpc(address).await;
        let request = proto::SubscribeRequest { topics: patterns.clone(), ..Default::default() };
        let mut stream = client.subscribe(request).await.unwrap().into_inner();
        soon(stream.message()).await.unwrap().unwrap();
        assert_eq!(receivers(address, &topics[1]).await, 1);
        drop((stream, client));
        until_nobody_follows(address, &topics).await;
    };
    bystander.assert_unhurt(over_grpc).await;
    let over_a_websocket = async || {
        let mut client = Client::connect(address).await;
        client.say(subscribe(0, patterns.clone())).await;
        client.until_subscribed(1).await;
        client.say(json!({"type": "unsubscribe", "subscription": "s0"})).await;
        client.find("unsubscribed").await;
        until_nobody_follows(address, &topics).await;
    };
    bystander.assert_unhurt(over_a_websocket).await;
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: patterns count as about the memory that they take, however many tokens they have.
#[tokio::test]
async fn patterns_count_for_the_memory_of_their_tokens() {
    for tokens in [1, 10, 100] {
        let directory = tempfile::tempdir().unwrap();
        let process = Process::serve(directory.path(), &["--set", MAX_CLIENT_BYTES]);
        let open = async |reader: usize| {
            let deep = |number| format!("d{reader}x{number}{}", ".t".repeat(tokens - 1));
            let patterns: Vec<String> = (0..PATTERNS).map(deep).collect();
            let request = to(process.address, "POST", "/v1/events");
            let request = request.header("content-type", "application/json");
            Sse::open_with(request, json!({"topics": patterns}).to_string()).await.unwrap()
        };
        let _first = open(0).await;
        let (kib, bytes) = (peak_kib(process.id()), client_bytes(process.address).await);
        let mut readers = Vec::new();
        for reader in 1..=100_usize.div_ceil(tokens) {
            readers.push(open(reader).await);
        }
        let taken = (peak_kib(process.id()) - kib) << 10;
        let counted = client_bytes(process.address).await - bytes;
        println!("{tokens} tokens: {taken} bytes taken, {counted} bytes counted");
        assert!(counted > taken / 2 && counted < 3 * taken, "{tokens}: {taken}, {counted}");
    }
}

/// Goal: a member's info counts as memory for each topic in which the member is present, until it
/// leaves.
#[tokio::test]
async fn a_member_counts_in_each_of_its_topics() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let topics: Vec<String> = (0..PATTERNS).map(|number| format!("room.{number}")).collect();
    let mut counted = Vec::new();
    for info in ["x".repeat(1_000), String::new()] {
        let member = json!({"id": "m", "info": {"text": info}});
        let body = json!({"topics": topics, "member": member}).to_string();
        let request = to(process.address, "POST", "/v1/events");
        let request = request.header("content-type", "application/json");
        let stream = Sse::open_with(request, body).await.unwrap();
        assert_eq!(stream.status, 200);
        assert_eq!(members(process.address, &topics[PATTERNS - 1]).await, 1);
        counted.push(settled_client_bytes(process.address).await);
        drop(stream);
        until_nobody_follows(process.address, &topics[..1]).await;
    }
    let more = counted[0] - counted[1];
    assert!(more >= PATTERNS as u64 * 1_000, "{more} bytes more for {PATTERNS} times 1,000");
}
