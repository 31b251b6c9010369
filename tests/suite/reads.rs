//! Reads of the log end when nobody waits for them, and their number at the same time is limited.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leftoff::cursor::Sequence;
use leftoff::edge::proto::BackupRequest;
use leftoff::log::contract::Block;
use leftoff::log::{Log, MemoryLog};
use leftoff::server::{Protocols, Shutdown};
use leftoff::testing::LogAround;
use leftoff::topic::TopicId;
use leftoff::{Broker, Config, NewEvent, Publish, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::common::{PATIENCE, get, grpc, name, post, soon};

/// The duration of one read of the slow log.
const READ: Duration = Duration::from_millis(1);

/// The limit of reads at the same time: the turns of readers, of recalls, and of maintenance.
const MAX_RUNNING: u64 = 2 + 4 + 2;

/// A log as on a slow disk, which counts its reads.
#[derive(Debug, Default)]
struct SlowLog {
    inner: MemoryLog,
    reads: AtomicU64,
    running: AtomicU64,
    most: AtomicU64,
}

impl LogAround for SlowLog {
    fn inside(&self) -> &dyn Log {
        &self.inner
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(READ);
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.inner.read(topic, from, below, max_bytes)
    }
}

impl SlowLog {
    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Waits until nobody reads, and returns the number of reads so far.
    async fn rests(&self) -> u64 {
        let mut last = (self.reads(), Instant::now());
        let rest = async {
            while last.1.elapsed() < 100 * READ {
                tokio::time::sleep(READ).await;
                if self.reads() != last.0 || self.running.load(Ordering::SeqCst) > 0 {
                    last = (self.reads(), Instant::now());
                }
            }
            last.0
        };
        soon(rest).await
    }
}

/// Returns a broker on a slow log, whose maintenance runs on request. When the broker was opened,
/// its log held `big`, with 300 large blocks, and 60 small topics.
async fn on_a_slow_log() -> (Arc<SlowLog>, Broker, SocketAddr, Shutdown) {
    let log = Arc::new(SlowLog::default());
    let mut config: Config = toml::from_str("[topics.big]\ncompact = true").unwrap();
    config.maintenance.interval_ms = 3_600_000;
    config.broker.max_tail_bytes = 0;
    config.broker.max_replay_bytes = 0;
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = config.open_config();
    let filling = Broker::with_log(log.clone(), &opened).unwrap();
    for number in 0..300 {
        let (key, id) = (format!("key {number}"), format!("id {number}"));
        let event = NewEvent { key, id, ..NewEvent::new(vec![b'x'; 200_000]) };
        publish(&filling, "big", event).await;
    }
    for topic in 0..60 {
        publish(&filling, &format!("small.{topic}"), NewEvent::new("x")).await;
    }
    filling.close().await;
    let broker = Broker::with_log(log.clone(), &opened).unwrap();
    let server = config.server_of(broker.clone()).bind().await.unwrap();
    let (address, shutdown) = (server.address(Protocols::Http).unwrap(), Shutdown::default());
    tokio::spawn(server.run(shutdown.clone()));
    (log, broker, address, shutdown)
}

async fn publish(broker: &Broker, topic: &str, event: NewEvent) {
    let publish = Publish::one(name(topic), event);
    soon(broker.publish(publish)).await.unwrap();
}

/// Sends a request. The connection lasts until the returned stream is dropped.
async fn ask(address: SocketAddr, method: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_nobody_waits_for_end_with_their_callers() {
    let (log, broker, address, shutdown) = on_a_slow_log().await;
    let state = ("GET", "/v1/topics/big/state?limit=1&key_prefix=none");
    let by_time = ("GET", "/v1/events?topic=%3E&from=time:2000-01-01T00:00:00Z&limit=1");
    let by_hand = ("POST", "/v1/maintenance");
    for (clients, (method, path)) in [(60, state), (40, by_time), (8, by_hand)] {
        // The number of reads of one request whose answer is awaited.
        let before = log.rests().await;
        let mut one = ask(address, method, path).await;
        assert!(soon(one.read(&mut [0; 12])).await.unwrap() > 0, "no answer");
        let cost = log.rests().await - before;
        assert!(cost > 50, "{path}: too few reads to prove anything: {cost}");
        let before = log.reads();
        let asking: JoinSet<TcpStream> = (0..clients).map(|_| ask(address, method, path)).collect();
        let connections = soon(asking.join_all()).await;
        while log.reads() < before + 5 {
            tokio::time::sleep(READ).await;
        }
        drop(connections);
        // A publish is stored meanwhile.
        let started = Instant::now();
        publish(&broker, "other", NewEvent::new("x")).await;
        assert!(started.elapsed() < PATIENCE / 3, "{path}: {:?}", started.elapsed());
        let read = log.rests().await - before;
        assert!(2 * read < clients * cost, "{path}: {read} reads, {clients} of {cost} each");
        println!("{path}: {read} reads, one that is waited for {cost}");
    }
    let most = log.most.load(Ordering::SeqCst);
    assert!(most <= MAX_RUNNING, "{most} reads at the same time");
    shutdown.start();
    soon(broker.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recalls_and_backups_end_with_their_callers_and_recalls_need_not_wait_for_readers() {
    let (log, broker, address, shutdown) = on_a_slow_log().await;
    let with_id = |id: &str| {
        let event = NewEvent { id: id.to_owned(), ..NewEvent::new("x") };
        Publish::one(name("big"), event)
    };
    // A recall whose caller gave up stops, until another publish needs it.
    let before = log.rests().await;
    let given_up = tokio::time::timeout(5 * READ, broker.publish(with_id("new"))).await;
    given_up.expect_err("the recall is too fast");
    assert!(log.rests().await - before < 30, "{} reads", log.reads() - before);
    let backups = log.rests().await;
    for _ in 0..20 {
        let mut client = grpc(address).await;
        let mut parts = soon(client.backup(BackupRequest::default())).await.unwrap().into_inner();
        soon(parts.message()).await.unwrap();
    }
    let read = log.rests().await - backups;
    assert!(read < 20 * 300 / 2, "{read} reads of 20 backups of 300 blocks");
    // An id is looked up although there are many readers.
    let path = "/v1/topics/big/state?limit=1&key_prefix=none";
    let readers: JoinSet<TcpStream> = (0..60).map(|_| ask(address, "GET", path)).collect();
    let readers = soon(readers.join_all()).await;
    let known = soon(broker.publish(with_id("id 7"))).await.unwrap();
    assert!(known.is_duplicate());
    drop(readers);
    log.rests().await;
    shutdown.start();
    soon(broker.close()).await;
}

/// Goal: requests for maintenance are served one after another, and some are refused if many wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_by_hand_is_done_for_one_after_the_other() {
    let (log, broker, address, shutdown) = on_a_slow_log().await;
    let asking: JoinSet<_> = (0..20).map(|_| post(address, "/v1/maintenance", "")).collect();
    let mut answers = BTreeMap::new();
    for answer in soon(asking.join_all()).await {
        *answers.entry(answer.status.as_u16()).or_insert(0) += 1;
    }
    let (done, refused) = (answers.get(&200).copied(), answers.get(&429).copied());
    assert!(done >= Some(8) && done.unwrap() + refused.unwrap_or(0) == 20, "{answers:?}");
    let metrics = get(address, "/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("\nleftoff_log_read_steps_total "), "{text}");
    log.rests().await;
    shutdown.start();
    soon(broker.close()).await;
}
