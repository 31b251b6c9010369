//! Tests of the log on sled: opening it again, and damage.
//!
//! The file is long, because its tests share the helpers that make damage.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::log::block::tests::block;
use crate::log::contract::tests::*;
use crate::log::*;

#[test]
fn a_reopened_log_has_the_same_topics_epoch_and_events() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let sequences = fill(&log, 40, 7);
    let (epoch, topics) = (log.epoch(), log.topics().unwrap());
    drop(log);
    let log = open(directory.path());
    assert_eq!((log.epoch(), log.topics().unwrap()), (epoch, topics));
    assert_eq!(read_all(&log, 2, 1, 281, 1000), sequences[1]);
}

/// Copies the files of a log that is open, with this mark, as they are after a crash, without the
/// last `cut_bytes` bytes of sled's file that are not zero.
fn crashed(directory: &Path, mark: &[u8], cut_bytes: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("sled")).unwrap();
    std::fs::write(copy.path().join("mark"), mark).unwrap();
    std::fs::copy(directory.join("sled/conf"), copy.path().join("sled/conf")).unwrap();
    let mut bytes = std::fs::read(directory.join("sled/db")).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end - cut_bytes..].fill(0);
    std::fs::write(copy.path().join("sled/db"), bytes).unwrap();
    copy
}

/// Goal: the place in the fleet's stream is exactly that of the events that are there, wherever a
/// crash has cut the log.
#[test]
fn the_place_in_a_stream_fits_the_events_after_a_crash_at_any_byte() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    log.commit(&Group { applied: Some(place(1)), ..Group::noting(new_topic(1)) }).unwrap();
    // The mark from before the groups that are cut: what is durable by it is not cut.
    let mark = std::fs::read(directory.path().join("mark")).unwrap();
    let mut size_bytes = 0;
    for sequence in 1..=40 {
        let block = block((sequence, sequence, 1_000), size_bytes, &[&[b'x'; 100]]);
        size_bytes = block.end_bytes();
        let (appended, applied) = (vec![(id(1), block)], Some(place(sequence + 1)));
        let durability = Durability::Process;
        log.commit(&Group { appended, applied, durability, ..Group::default() }).unwrap();
    }
    let mut found = BTreeSet::new();
    for cut_bytes in [0, 1, 9, 30, 100, 300, 700, 1_500, 3_000] {
        let copy = crashed(directory.path(), &mark, cut_bytes);
        let opened = open(copy.path());
        let tail = opened.topics().unwrap()[0].extent.tail;
        let expected = place(tail.get());
        assert_eq!(opened.applied().unwrap(), Some(expected), "without {cut_bytes} bytes");
        drop(opened);
        let scratch = tempfile::tempdir().unwrap();
        let report = check(copy.path(), scratch.path(), |_| {}).unwrap();
        assert_eq!((report.applied, report.damage.len()), (Some(expected), 0));
        found.insert(tail);
    }
    assert!(found.contains(&Sequence::new(41)) && found.len() >= 4, "{found:?}");
}

/// Goal: a log that has lost events to damage does not claim to have applied them.
#[test]
fn a_log_that_has_lost_events_has_no_place_in_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    fill(&log, 3, 7);
    log.commit(&Group { applied: Some(place(1)), ..Group::default() }).unwrap();
    drop(log);
    let log = open(directory.path());
    assert_eq!(log.applied().unwrap(), Some(place(1)));
    log.mark_durable(Position::new(43)); // The log has 42 events.
    drop(log);
    assert_eq!(open(directory.path()).applied().unwrap(), None);
}

#[test]
fn a_second_process_is_refused_and_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let _open = open(directory.path());
    let error = SledLog::open(directory.path(), &LogConfig::default()).unwrap_err();
    assert!(error.to_string().contains("another process has it open"), "{error}");
}

/// Returns the extents of all topics of a log of which nobody knows which topic has lost its end.
/// Checks that no topic takes more events.
fn damaged_ends(log: &SledLog, last: Position) -> Vec<Extent> {
    let topics = log.topics().unwrap();
    for StoredTopic { extent, .. } in &topics {
        assert!(extent.is_damaged, "{extent:?}");
        assert!(extent.last_position > last, "a position may be given out again: {extent:?}");
    }
    topics.into_iter().map(|topic| topic.extent).collect()
}

#[test]
fn a_log_that_lost_its_end_is_served_up_to_there_in_a_new_epoch_and_gives_nothing_out_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let sequences = fill(&log, 3, 7);
    let epoch = log.epoch();
    log.mark_durable(Position::new(43)); // The log has 42 events.
    drop(log);
    let found = damage_found_by_check(directory.path());
    assert!(found[0].to_string().contains("positions 43 to 43"), "{found:?}");
    let log = open(directory.path());
    let (next_epoch, ends) = (log.epoch(), damaged_ends(&log, Position::new(43)));
    assert_ne!(next_epoch, epoch);
    assert!(ends.iter().all(|extent| extent.tail > Sequence::new(23)), "{ends:?}");
    for (index, sequences) in sequences.iter().enumerate() {
        assert_eq!(read_all(&log, index as u32 + 1, 1, 22, 1000), *sequences);
    }
    drop(log);
    let log = open(directory.path());
    assert_eq!((log.epoch(), damaged_ends(&log, Position::new(43))), (next_epoch, ends));
}

/// Goal: if all of very many topics may have lost their ends, their records are written in steps,
/// and all are found at the next start.
#[test]
fn of_any_number_of_topics_it_is_noted_that_they_may_have_lost_their_ends() {
    const TOPICS: u32 = 2_500;
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    for topic in 1..=TOPICS {
        log.commit(&Group::noting(new_topic(topic))).unwrap();
    }
    log.mark_durable(Position::new(1));
    drop(log);
    let log = open(directory.path());
    let ends = damaged_ends(&log, Position::new(1));
    assert_eq!(ends.len(), TOPICS as usize);
    let epoch = log.epoch();
    drop(log);
    let log = open(directory.path());
    assert_eq!((log.epoch(), damaged_ends(&log, Position::new(1))), (epoch, ends));
}

/// Goal: a log beside the mark of another log begins an epoch, and has all its events.
#[test]
fn a_mark_of_another_log_begins_an_epoch() {
    let [log, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [epoch, _] = [&log, &other].map(|directory| {
        let log = open(directory.path());
        fill(&log, 3, 7);
        log.epoch()
    });
    std::fs::copy(other.path().join("mark"), log.path().join("mark")).unwrap();
    let log = open(log.path());
    assert_ne!(log.epoch(), epoch);
    assert!(log.topics().unwrap().iter().all(|topic| !topic.extent.is_damaged));
    assert_eq!(read_all(&log, 1, 1, 22, 1000), (1..22).collect::<Vec<_>>());
}

#[test]
fn a_topic_that_lost_its_newest_block_is_noticed_though_others_end_later() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    fill(&log, 3, 7);
    let newest = Sequence::new(15)..Sequence::new(22);
    let removed = log.stored_blocks(id(1), newest, 1).unwrap().remove(0);
    log.commit(&Group { removed: vec![(id(1), removed)], ..Group::default() }).unwrap();
    drop(log);
    let found = damage_found_by_check(directory.path());
    assert!(found[0].to_string().contains("end 7 events before position 42"), "{found:?}");
    let [repaired, scratch] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    repair(directory.path(), &scratch.path().join("copy"), repaired.path(), |_| ()).unwrap();
    let log = open(repaired.path());
    assert_eq!(read_all(&log, 1, 1, 15, 1000), (1..15).collect::<Vec<_>>());
    assert_eq!(read_all(&log, 2, 1, 22, 1000), (1..22).collect::<Vec<_>>());
    // Opened without a repair, both topics count as damaged: nobody knows which one it is.
    let log = open(directory.path());
    damaged_ends(&log, Position::new(42));
    assert_eq!(read_all(&log, 1, 1, 15, 1000), (1..15).collect::<Vec<_>>());
    assert_eq!(read_all(&log, 2, 1, 22, 1000), (1..22).collect::<Vec<_>>());
}

#[test]
fn what_was_begun_to_be_restored_is_taken_for_no_log() {
    let directory = tempfile::tempdir().unwrap();
    drop(restore::NewLog::create(directory.path()).unwrap());
    let refused = SledLog::open(directory.path(), &LogConfig::default()).unwrap_err();
    assert!(refused.to_string().contains("was interrupted"), "{refused}");
}

/// Goal: a damaged block of ids costs its ids, and nothing else.
#[test]
fn ids_that_are_damaged_are_told_by_the_check_and_the_others_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    fill(&log, 3, 7);
    log.commit(&Group { ids: ids_of(1, 1..4), ..Group::default() }).unwrap();
    drop(log);
    assert!(damage_found_by_check(directory.path()).is_empty());
    let database = engine::open(&directory.path().join("sled"), 1 << 20).unwrap();
    let tree = database.open_tree(keys::TREE).unwrap();
    tree.insert(keys::ids(id(1), Sequence::new(2)), b"nothing").unwrap();
    drop((tree, database));
    let [repaired, scratch] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let copy = scratch.path().join("copy");
    let report = repair(directory.path(), &copy, repaired.path(), |_| ()).unwrap();
    let [found] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert!(found.to_string().contains("ids of dropped events of topic 1"), "{found}");
    for directory in [directory.path(), repaired.path()] {
        let log = open(directory);
        assert_eq!(stored_ids(&log), [(1, 1), (1, 3)]);
        assert_eq!(read_all(&log, 1, 1, 22, 1000), (1..22).collect::<Vec<_>>());
    }
}

#[test]
fn blocks_whose_topic_has_no_record_are_told_and_repaired_under_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    fill(&log, 3, 7);
    drop(log);
    let database = engine::open(&directory.path().join("sled"), 1 << 20).unwrap();
    database.open_tree(keys::TREE).unwrap().insert(keys::topic(id(1)), b"nothing").unwrap();
    drop(database);
    let [repaired, scratch] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let copy = scratch.path().join("copy");
    let report = repair(directory.path(), &copy, repaired.path(), |_| ()).unwrap();
    assert!(report.damage.iter().any(|d| d.to_string().contains("has blocks and no record")));
    let log = open(repaired.path());
    let names: Vec<_> = log.topics().unwrap().iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["recovered.topic-1", "topic.2"]);
    assert_eq!(read_all(&log, 1, 1, 22, 1000), (1..22).collect::<Vec<_>>());
}

/// Changes one byte of the stored block of topic 1 that begins at `first`, so that it does not fit
/// its checksum.
fn damage(directory: &Path, first: u64) {
    let database = super::engine::open(&directory.join("sled"), 1 << 20).unwrap();
    let tree = database.open_tree(keys::TREE).unwrap();
    let key = keys::block(id(1), Sequence::new(first), 0);
    let mut value = tree.get(key).unwrap().unwrap().to_vec();
    let last = value.len() - 1;
    value[last] ^= 1;
    tree.insert(key, value).unwrap();
    database.flush().unwrap();
}

/// Changes one byte of the stored block that holds `text`, so that it does not fit its checksum.
/// The log in `directory` is closed. Opening it again does not notice the damage: only a reader
/// does.
pub(crate) fn damage_stored(directory: &Path, text: &str) {
    let database = super::engine::open(&directory.join("sled"), 1 << 20).unwrap();
    let tree = database.open_tree(keys::TREE).unwrap();
    let mut stored = tree.iter().map(|record| record.unwrap()).filter_map(|(key, value)| {
        let at = value.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((key, at, value))
    });
    let (key, at, mut value) = stored.next().expect("a block holds it");
    value[at] ^= 1;
    tree.insert(key, value).unwrap();
    database.flush().unwrap();
}

/// Checks that `error` tells that the events of the first topic from `first` to `last` are damaged.
fn assert_damaged(error: &Error, first: u64, last: Option<u64>) {
    let Error::Damaged { topic, first: from, last: to, .. } = error else { panic!("{error}") };
    let told = (topic, from.get(), to.map(Sequence::get));
    assert_eq!(told, (&name(1), first, last), "{error}");
}

/// Removes the stored block of topic 1 that begins at `first`.
fn remove(directory: &Path, first: u64) {
    let database = super::engine::open(&directory.join("sled"), 1 << 20).unwrap();
    let tree = database.open_tree(keys::TREE).unwrap();
    tree.remove(keys::block(id(1), Sequence::new(first), 0)).unwrap().unwrap();
    database.flush().unwrap();
}

fn damage_found_by_check(directory: &Path) -> Vec<Error> {
    let scratch = tempfile::tempdir().unwrap();
    check(directory, scratch.path(), |_| {}).unwrap().damage
}

#[test]
fn a_block_that_is_missing_is_told_and_never_skipped() {
    for (missing, last) in [(1, 7), (15, 21), (22, 28)] {
        let directory = tempfile::tempdir().unwrap();
        fill(&open(directory.path()), 10, 7);
        remove(directory.path(), missing);
        let log = open(directory.path());
        for from in missing..=last {
            let tail = Sequence::new(71);
            let error = log.read(id(1), Sequence::new(from), tail, usize::MAX).unwrap_err();
            let Error::Damaged { first, last: to, .. } = &error else { panic!("{error}") };
            assert!(first.get() <= from && to.unwrap().get() == last, "{error}");
        }
        drop(log);
        let found = damage_found_by_check(directory.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_damaged(&found[0], missing, Some(last));
    }
}

#[test]
fn a_topic_with_a_damaged_block_is_trimmed_past_it() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()), 10, 7);
    damage(directory.path(), 15);
    let log = open(directory.path());
    let trimmed = trim(&log, 20).extent;
    assert_eq!(trimmed.trimmed_position.get(), 42, "the last that the damaged block can have held");
    trim(&log, 22);
    reclaim(&log);
    assert_eq!(read_all(&log, 1, 22, 71, 1000), (22..71).collect::<Vec<_>>());
    drop(log);
    assert_eq!(damage_found_by_check(directory.path()).len(), 0);
}

#[test]
fn a_damaged_block_is_named_and_not_served_and_its_neighbours_are() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()), 10, 7);
    damage(directory.path(), 15);
    let log = open(directory.path());
    let tail = Sequence::new(71);
    let before = log.read(id(1), Sequence::FIRST, tail, usize::MAX).unwrap();
    assert_eq!(before.last().unwrap().last_sequence().get(), 14);
    let error = log.read(id(1), Sequence::new(15), tail, usize::MAX).unwrap_err();
    assert_damaged(&error, 15, Some(21));
    let after = log.read(id(1), Sequence::new(22), tail, usize::MAX).unwrap();
    assert_eq!(after.first().unwrap().first_sequence().get(), 22);
    drop(log);

    let files = |path: &Path| -> Vec<_> {
        let mut files: Vec<_> = std::fs::read_dir(path.join("sled"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let untouched = files(directory.path());
    let scratch = tempfile::tempdir().unwrap();
    let report = check(directory.path(), scratch.path(), |_| {}).unwrap();
    assert_eq!(files(directory.path()), untouched, "the check changed the log");
    assert_eq!((report.topics, report.blocks, report.events), (2, 19, 133));
    let damage: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].contains("sequences 15 to 21"), "{damage:?}");
}

/// Goal: a repair keeps all blocks that can be verified, reports the lost events, and makes a log
/// without damage.
#[test]
fn a_repaired_log_holds_what_verifies_and_the_report_says_what_is_lost() {
    for damaged in [1, 15, 64] {
        let directory = tempfile::tempdir().unwrap();
        fill(&open(directory.path()), 10, 7);
        damage(directory.path(), damaged);
        let (scratch, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repaired = parent.path().join("repaired");
        let report = repair(directory.path(), scratch.path(), &repaired, |_| {}).unwrap();
        assert_eq!(report.events, 133);
        assert!(!report.damage.is_empty());
        assert_damaged(&report.damage[0], damaged, (damaged < 64).then_some(damaged + 6));
        let mut lost = damaged..damaged + 7;
        assert_eq!(damage_found_by_check(&repaired).len(), 0);
        let log = open(&repaired);
        let topics = log.topics().unwrap();
        let extent = topics[0].extent;
        let (earliest, tail) = (extent.earliest.get(), extent.tail.get());
        assert_eq!(
            (earliest, tail),
            match damaged {
                1 => (8, 71),
                64 => (1, 64),
                _ => (1, 71),
            }
        );
        let expected: Vec<u64> = (earliest..tail).filter(|s| !lost.contains(s)).collect();
        assert_eq!(read_all(&log, 1, earliest, tail, 300), expected);
        assert_eq!(extent.events(), expected.len() as u64);
        assert_eq!(extent.size_bytes(), stored(&log, 1, earliest, tail).0);
        assert_eq!(read_all(&log, 2, 1, 71, 300), (1..71).collect::<Vec<_>>());
        assert_eq!(topics[1].extent.tail.get(), 71);
        assert!(lost.next().is_some());
        let again = repair(directory.path(), scratch.path(), &repaired, |_| {}).unwrap_err();
        assert!(again.to_string().contains("not empty"), "{again}");
    }
}

/// Goal: a repair also brings back the events after a page that sled cannot read.
/// Method: the file is so large that sled does not read its beginning when it is opened.
#[test]
fn a_log_with_an_unreadable_page_is_repaired_but_for_what_the_page_held() {
    const BLOCKS: u64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let mut size = 0;
    for sequence in 1..=BLOCKS {
        let payload = format!("{:x>60000}", format!("1/{sequence:03}."));
        let block = block((sequence, sequence, 1_000), size, &[payload.as_bytes()]);
        size = block.end_bytes();
        let topics = if sequence == 1 { vec![new_topic(1)] } else { Vec::new() };
        let appended = vec![(id(1), block)];
        log.commit(&Group { topics, appended, ..Group::default() }).unwrap();
    }
    drop(log);
    drop(open(directory.path())); // sled has a snapshot now, and does not read all.
    flip(directory.path(), "1/050.");
    let (scratch, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repaired = parent.path().join("repaired");
    let report = repair(directory.path(), scratch.path(), &repaired, |_| {}).unwrap();
    let mut kept: BTreeSet<u64> = (1..=BLOCKS).collect();
    for damage in &report.damage {
        let Error::Damaged { first, last, .. } = damage else { panic!("{:?}", report.damage) };
        let last = last.map_or(BLOCKS, Sequence::get);
        kept.retain(|sequence| !(first.get()..=last).contains(sequence));
    }
    assert!(!kept.contains(&50), "{:?}", report.damage);
    assert!(kept.contains(&1) && kept.contains(&BLOCKS), "{:?}", report.damage);
    let below = Sequence::new(BLOCKS + 1);
    let blocks = open(&repaired).read(id(1), Sequence::FIRST, below, usize::MAX).unwrap();
    let read = blocks.iter().flat_map(Block::events).map(|event| event.sequence.get());
    assert_eq!(BTreeSet::from_iter(read), kept);
    // The damaged log serves the same events.
    let log = open(directory.path());
    for sequence in (1..=BLOCKS).map(Sequence::new) {
        match log.read(id(1), sequence, below, 1) {
            Ok(blocks) => assert_eq!(blocks[0].first_sequence(), sequence),
            Err(Error::Damaged { first, last, .. }) => {
                assert!(!kept.contains(&sequence.get()), "{sequence} is told as damaged");
                assert!(first <= sequence && last.is_some_and(|last| last >= sequence));
                assert!(!kept.contains(&first.get()));
            }
            Err(error) => panic!("{sequence}: {error}"),
        }
    }
    let extent = Extent { dropped_events: 1, ..log.topics().unwrap()[0].extent }; // A hole.
    let found = back(&log, extent, below, kept.len() as u64 - 10);
    assert_eq!(Some(&found.get()), kept.iter().nth(10));
}

/// Goal: damage at the end of one topic costs only that topic's end, and no sequence or position is
/// given out again.
#[test]
fn a_topic_whose_newest_block_is_damaged_is_read_up_to_it_and_takes_no_more() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()), 10, 7);
    damage(directory.path(), 64);
    let log = open(directory.path());
    let topics = log.topics().unwrap();
    let [damaged, whole] = [topics[0].extent, topics[1].extent];
    assert!(damaged.is_damaged && !whole.is_damaged);
    assert!(damaged.tail.get() > 71 && damaged.last_position.get() > 140);
    assert_eq!((whole.tail.get(), whole.last_position.get()), (71, 140));
    assert_eq!(read_all(&log, 1, 1, 64, 1000), (1..64).collect::<Vec<_>>());
    let error = log.read(id(1), Sequence::new(64), damaged.tail, usize::MAX).unwrap_err();
    assert_damaged(&error, 64, Some(damaged.tail.previous().get()));
    assert_eq!(read_all(&log, 2, 1, 71, 1000), (1..71).collect::<Vec<_>>());
    drop(log);
    let log = open(directory.path());
    assert_eq!(log.topics().unwrap(), topics, "the next start finds other topics");
    drop(log);
    let found = damage_found_by_check(directory.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_damaged(&found[0], 64, None);
}

/// Flips a bit of `needle` in sled's file, at each place where it is found.
fn flip(directory: &Path, needle: &str) {
    let path = directory.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let windows = bytes.windows(needle.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == needle.as_bytes());
    let at: Vec<usize> = found.map(|(at, _)| at).collect();
    assert!(!at.is_empty());
    at.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(&path, bytes).unwrap();
}

/// Goal: a changed byte in sled's own file is never passed over.
/// Method: change one byte of a payload in the file, at each place where it is found; then open the
/// log and read all.
#[test]
fn a_byte_that_rots_in_the_file_is_found_at_open_or_when_it_is_read() {
    for (reopened_before, needle) in
        [(false, "1/50"), (true, "1/50"), (false, "2/3"), (true, "2/3")]
    {
        let directory = tempfile::tempdir().unwrap();
        fill(&open(directory.path()), 10, 7);
        if reopened_before {
            drop(open(directory.path())); // sled has a snapshot now, and does not read all.
        }
        flip(directory.path(), needle);
        let read = |log: &SledLog, topic| {
            log.read(id(topic), Sequence::FIRST, Sequence::new(71), usize::MAX).and_then(|blocks| {
                let next = blocks.last().map_or(Sequence::FIRST, |b| b.last_sequence().next());
                log.read(id(topic), next, Sequence::new(71), usize::MAX)
            })
        };
        let found = damage_found_by_check(directory.path());
        let outcome = SledLog::open(directory.path(), &LogConfig::default())
            .and_then(|log| read(&log, 1).and(read(&log, 2)).map(|_| ()));
        let error = outcome.expect_err("the changed byte was not found");
        for error in found.iter().chain([&error]) {
            let is_damage = matches!(error, Error::Damaged { .. } | Error::DamagedLog { .. });
            assert!(is_damage, "{needle}, reopened before: {reopened_before}: {error}");
        }
        assert!(!found.is_empty(), "the check passes over {needle}");
    }
}
