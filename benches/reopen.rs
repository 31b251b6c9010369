//! How long does opening a log take after a crash, as the log grows? A process that is aborted
//! fills the log, the system is told to forget the file's pages, and the log is opened: with the
//! snapshots that were made meanwhile, and without them.
//! `cargo bench --bench reopen` measures, up to 16 GiB with `-- --gigabytes 16`, and
//! `cargo test --benches` runs it tiny.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use leftoff::NewEvent;
use leftoff::cursor::{Position, Sequence};
use leftoff::event::Timestamp;
use leftoff::log::contract::{BlockBuilder, Group, NewRecords, StoredTopic};
use leftoff::log::{Extent, Log, LogConfig, SledLog};
use leftoff::topic::{TopicId, TopicName};

const EVENT_BYTES: usize = 250_000;
const GROUP_BYTES: u64 = 1_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    if let (Some(directory), Some(bytes)) = (after("--fill"), after("--bytes")) {
        fill(Path::new(directory), bytes.parse().expect("a number of bytes"));
        std::process::abort(); // Files that are open are not closed.
    }
    let measuring = arguments.iter().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let gigabytes = after("--gigabytes").map_or(4, |text| text.parse().expect("a number"));
    let sizes: Vec<u64> = match measuring {
        true => [1, 4, 16].into_iter().filter(|size| *size <= gigabytes).collect(),
        false => vec![0],
    };
    for size in sizes {
        measure((size << 30).max(20 * GROUP_BYTES));
    }
}

/// Fills a log with `bytes` bytes on disk, and opens it as after a crash.
fn measure(bytes: u64) {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program)
        .arg("--fill")
        .arg(directory.path())
        .args(["--bytes", &bytes.to_string()])
        .status();
    assert!(!status.expect("a process").success(), "the process was not aborted");
    let with = open(directory.path());
    // Removes all snapshots, as if none were ever made. sled writes one when it opens a log.
    for entry in std::fs::read_dir(directory.path().join("sled")).expect("sled's directory") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path()).expect("a snapshot");
        }
    }
    let without = open(directory.path());
    println!(
        "reopen {:>6} MiB on disk: {with:.3} s, without snapshots {without:.3} s",
        bytes >> 20
    );
}

/// Opens the log in `directory`, whose pages are not in memory. Returns the time that this takes,
/// in seconds.
fn open(directory: &Path) -> f64 {
    let database = File::open(directory.join("sled/db")).expect("sled's file");
    database.sync_all().expect("a disk that syncs");
    rustix::fs::fadvise(&database, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    let started = Instant::now();
    let log = SledLog::open(directory, &LogConfig::default()).expect("a log");
    let elapsed = started.elapsed();
    let extent: Extent = log.topics().expect("topics")[0].extent;
    assert!(extent.tail > Sequence::FIRST, "the log is empty");
    elapsed.as_secs_f64()
}

fn fill(directory: &Path, bytes: u64) {
    let log = SledLog::open(directory, &LogConfig::default()).expect("a log");
    let name = TopicName::new("bench").expect("a name");
    let topic = StoredTopic::new(TopicId::FIRST, name);
    log.commit(&Group::noting(topic)).expect("a topic");
    let events = vec![NewEvent::new(vec![b'x'; EVENT_BYTES])];
    let records = NewRecords::encode(&events);
    let (file, mut next) = (directory.join("sled/db"), 1);
    while file.metadata().map_or(0, |data| data.len()) < bytes {
        let mut group = Group::default();
        for _ in 0..GROUP_BYTES / EVENT_BYTES as u64 {
            let mut builder = BlockBuilder::new(Sequence::new(next));
            builder.push(records.record(0), false, false);
            let block = builder.finish(Position::new(next), Timestamp::from_ms(1), 0);
            group.appended.push((TopicId::FIRST, block));
            next += 1;
        }
        log.commit(&group).expect("an append that works");
    }
}
