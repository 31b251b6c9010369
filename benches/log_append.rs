//! How many events per second does the log append durably, compared with a plain file? Groups of
//! 1,000 events of 256 bytes, with one `fdatasync` for each group, both in a new directory on the
//! same disk.
//! `cargo bench --bench log_append` measures, and `cargo test --benches` runs it tiny.
//!
//! The bench uses the binary's allocator, which reuses sled's large buffers without page faults.
//! Log and file take turns, round by round, so that a change of the machine's speed affects both.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::BrokerConfig;
use leftoff::cursor::{Position, Sequence};
use leftoff::event::{NewEvent, Timestamp};
use leftoff::log::contract::{Block, BlockBuilder, Group, NewRecords, StoredTopic};
use leftoff::log::{Log, LogConfig, SledLog};
use leftoff::topic::{TopicId, TopicName};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENT_BYTES: usize = 256;
const GROUP_EVENTS: u64 = 1_000;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (rounds, groups) = if measuring { (7, 100) } else { (1, 3) };
    let block_bytes = BrokerConfig::default().max_block_bytes as usize;
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let mut appender = Appender::new(directory.path(), block_bytes);
    let mut file = File::create(directory.path().join("plain")).expect("a file");
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let log = rate(groups, || appender.append_group());
        let plain = rate(groups, || append_plain(&mut file));
        ratios.push(log / plain);
        println!(
            "round {round}: log {log:>9.0} events/s, plain file {plain:>9.0} events/s, ratio {:.2}",
            log / plain
        );
    }
    assert_eq!(appender.tail(), 1 + rounds * groups * GROUP_EVENTS, "not all events were appended");
    ratios.sort_by(f64::total_cmp);
    let written = size_of(&directory.path().join("log/sled/db")) as f64;
    let payload = (rounds * groups * GROUP_EVENTS) as f64 * EVENT_BYTES as f64;
    println!(
        "log_append block_bytes={block_bytes} ratio to a plain file: median {:.2} (target 0.30), \
         {:.2} to {:.2}; disk/payload {:.2}",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
        written / payload
    );
}

fn size_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |data| data.len())
}

fn rate(groups: u64, mut append: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..groups).for_each(|_| append());
    let elapsed = started.elapsed().max(Duration::from_nanos(1));
    (groups * GROUP_EVENTS) as f64 / elapsed.as_secs_f64()
}

fn append_plain(file: &mut File) {
    let bytes = vec![b'x'; GROUP_EVENTS as usize * EVENT_BYTES];
    file.write_all(&bytes).expect("room on the disk");
    file.sync_data().expect("a disk that syncs");
}

struct Appender {
    log: SledLog,
    topic: TopicId,
    events: Vec<NewEvent>,
    next: u64,
    block_bytes: usize,
}

impl Appender {
    fn new(directory: &Path, block_bytes: usize) -> Self {
        let log = SledLog::open(&directory.join("log"), &LogConfig::default()).expect("a log");
        let name = TopicName::new("bench").expect("a name");
        let topic = StoredTopic::new(TopicId::FIRST, name);
        log.commit(&Group::noting(topic)).expect("a topic");
        let events = vec![NewEvent::new(vec![b'x'; EVENT_BYTES]); GROUP_EVENTS as usize];
        Self { log, topic: TopicId::FIRST, events, next: 1, block_bytes }
    }

    /// Encodes a group as the broker does, and appends it.
    fn append_group(&mut self) {
        let records = NewRecords::encode(&self.events);
        let mut group = Group::default();
        let mut builder = self.builder();
        for index in 0..records.len() {
            let record = records.record(index);
            if builder.count() > 0 && builder.size_bytes() + record.len() > self.block_bytes {
                let full = std::mem::replace(&mut builder, self.builder());
                group.appended.push((self.topic, self.finish(full)));
            }
            builder.push(record, false, false);
            self.next += 1;
        }
        group.appended.push((self.topic, self.finish(builder)));
        self.log.commit(&group).expect("an append that works");
    }

    fn builder(&self) -> BlockBuilder {
        BlockBuilder::new(Sequence::new(self.next))
    }

    fn finish(&self, builder: BlockBuilder) -> Block {
        let first_position = Position::new(builder.next_sequence().get() - builder.count());
        builder.finish(first_position, Timestamp::from_ms(1), 0)
    }

    fn tail(&self) -> u64 {
        self.log.topics().expect("topics")[0].extent.tail.get()
    }
}
