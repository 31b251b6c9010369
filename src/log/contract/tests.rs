//! Tests of the contract. The same tests run over every log.
//!
//! The file is long, because its tests share the helpers that fill a log and read it.

use std::path::Path;

use super::*;
use crate::cursor::TrimReason;
use crate::log::block::tests::block;
use crate::log::*;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

pub(in crate::log) fn id(number: u32) -> TopicId {
    TopicId::from_stored(number).unwrap()
}

pub(in crate::log) fn name(number: u32) -> TopicName {
    TopicName::new(&format!("topic.{number}")).unwrap()
}

pub(in crate::log) fn new_topic(number: u32) -> StoredTopic {
    let config = TopicConfig { max_events: Some(u64::from(number)), ..TopicConfig::default() };
    StoredTopic { config, ..StoredTopic::new(id(number), name(number)) }
}

/// Trims the events below `earliest` of the first topic.
pub(in crate::log) fn trim(log: &dyn Log, earliest: u64) -> StoredTopic {
    let mut topic = log.topics().unwrap().swap_remove(0);
    let (position, time) = log.last_below(&topic, Sequence::new(earliest)).unwrap();
    (topic.extent.trimmed_position, topic.extent.trimmed_time) = (position, time);
    topic.extent.earliest = Sequence::new(earliest);
    topic.extent.trim_reason = TrimReason::Purged;
    log.commit(&Group::noting(topic.clone())).unwrap();
    assert_eq!(log.topics().unwrap().swap_remove(0), topic);
    topic
}

/// Appends `blocks` blocks of `events` events to each of two topics in turn. Returns the sequences
/// of each topic.
pub(in crate::log) fn fill(log: &dyn Log, blocks: u64, events: u64) -> Vec<Vec<u64>> {
    let mut position = 1;
    let mut sequences = vec![Vec::new(), Vec::new()];
    let mut sizes = [0, 0];
    for index in 0..blocks {
        let mut group = Group::default();
        for topic in 1..=2 {
            if index == 0 {
                group.topics.push(new_topic(topic));
            }
            let first = 1 + index * events;
            let payloads: Vec<Vec<u8>> =
                (first..first + events).map(|s| format!("{topic}/{s}").into_bytes()).collect();
            let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let size = &mut sizes[topic as usize - 1];
            let block = block((first, position, 1000 + index), *size, &payloads);
            *size = block.end_bytes();
            group.appended.push((id(topic), block));
            position += events;
            sequences[topic as usize - 1].extend(first..first + events);
        }
        log.commit(&group).unwrap();
    }
    sequences
}

/// Reads `from..below` of `topic` in steps of `max_bytes`, and checks the payloads. Returns the
/// sequences.
pub(in crate::log) fn read_all(
    log: &dyn Log,
    topic: u32,
    from: u64,
    below: u64,
    max_bytes: usize,
) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut next = Sequence::new(from);
    while next < Sequence::new(below) {
        let blocks = log.read(id(topic), next, Sequence::new(below), max_bytes).unwrap();
        let last = blocks.last().expect("at least one block");
        for block in &blocks {
            for event in block.events().filter(|event| event.sequence.get() >= from) {
                let expected = format!("{topic}/{}", event.sequence);
                assert_eq!(event.payload, expected.as_bytes());
                seen.push(event.sequence.get());
            }
        }
        next = last.last_sequence().next();
    }
    seen
}

/// Returns the bytes, and the number of events, of the blocks of `topic` that hold `from..below`.
pub(in crate::log) fn stored(log: &dyn Log, topic: u32, from: u64, below: u64) -> (u64, u64) {
    if from == below {
        return (0, 0);
    }
    let all = log.read(id(topic), Sequence::new(from), Sequence::new(below), usize::MAX).unwrap();
    let size_bytes = all.iter().map(|block| block.bytes().len() as u64).sum();
    (size_bytes, all.iter().map(|block| block.count() as u64).sum())
}

/// Removes the trimmed blocks of the first topic, step by step.
pub(in crate::log) fn reclaim(log: &dyn Log) {
    loop {
        let mut topic = log.topics().unwrap().swap_remove(0);
        let all = Sequence::FIRST..topic.extent.tail;
        let mut oldest = log.stored_blocks(topic.id, all, MAX_REMOVED_PARTS / 4).unwrap();
        oldest.retain(|block| block.end <= topic.extent.earliest);
        if oldest.is_empty() {
            return;
        }
        oldest.iter().for_each(|block| topic.extent.drop_block(block));
        let removed = oldest.into_iter().map(|block| (topic.id, block)).collect();
        log.commit(&Group { removed, ..Group::noting(topic) }).unwrap();
    }
}

/// Puts `block` in the place of the blocks of the first topic that it spans.
pub(in crate::log) fn rewrite(log: &dyn Log, block: &Block) -> Extent {
    let mut topic = log.topics().unwrap().swap_remove(0);
    let spanned = block.first_sequence()..block.last_sequence().next();
    let old = log.stored_blocks(topic.id, spanned, usize::MAX).unwrap();
    old.iter().for_each(|old| topic.extent.drop_block(old));
    topic.extent.keep_block(block);
    let extent = topic.extent;
    let removed = old.into_iter().map(|block| (topic.id, block)).collect();
    let rewritten = vec![(topic.id, block.clone())];
    log.commit(&Group { removed, rewritten, ..Group::noting(topic) }).unwrap();
    extent
}

fn what_was_appended_is_read_from_any_place_in_steps_of_any_size(log: &dyn Log) {
    let sequences = fill(log, 40, 7);
    for topic in 1..=2 {
        let all = &sequences[topic as usize - 1];
        for from in [1, 2, 7, 8, 100, 280, 281] {
            for max_bytes in [1, 500, 1 << 20] {
                let expected: Vec<u64> = all.iter().copied().filter(|s| *s >= from).collect();
                assert_eq!(read_all(log, topic, from, 281, max_bytes), expected, "from {from}");
            }
        }
        assert_eq!(read_all(log, topic, 1, 8, 1 << 20), (1..=7).collect::<Vec<_>>(), "below 8");
    }
}

/// Goal: a reader that merges topics reads no farther than the events before those of other topics,
/// and knows where the topic goes on without reading that block.
fn reading_ahead_ends_before_a_position_and_tells_where_it_goes_on(log: &dyn Log) {
    fill(log, 40, 7);
    let below = Sequence::new(281);
    let whole = log.read(id(1), Sequence::FIRST, below, usize::MAX).unwrap();
    let firsts: Vec<_> = whole.iter().map(Block::first_position).collect();
    for from in [1, 2, 7, 8, 100, 280] {
        for before in [0, 1, 2, 15, 16, 300, 1_000] {
            for max_bytes in [1, 500, 1 << 20] {
                let from = Sequence::new(from);
                let before = Position::new(before);
                let plain = log.read(id(1), from, below, max_bytes).unwrap();
                let mut expected: Vec<_> = plain.iter().map(Block::first_position).collect();
                let first = expected[0];
                expected.retain(|position| *position == first || *position < before);
                for more_bytes in [0, 1, 700, 1 << 20] {
                    let found =
                        log.read_ahead(id(1), from..below, before, max_bytes, more_bytes).unwrap();
                    let case = format!("from {from} before {before}, {more_bytes} more");
                    let read: Vec<_> = found.blocks.iter().map(Block::first_position).collect();
                    assert_eq!(read[..found.wanted], expected, "{case}");
                    let all = &firsts[firsts.partition_point(|position| *position < first)..];
                    assert_eq!(read, all[..read.len()], "{case}");
                    assert_eq!(found.following, all.get(read.len()).copied(), "{case}");
                    let mut sizes = found.blocks[found.wanted..].iter().map(|b| b.bytes().len());
                    let read_bytes: usize = sizes.by_ref().sum();
                    assert!(read_bytes <= more_bytes, "{case}: {read_bytes}");
                    if found.following.is_some() {
                        let at = found.blocks.last().unwrap().last_sequence().next();
                        let next = log.read(id(1), at, below, 1).unwrap().remove(0);
                        assert!(read_bytes + next.bytes().len() > more_bytes, "{case}: too few");
                    }
                }
            }
        }
    }
}

fn seeking_by_time_and_position_finds_the_first_event_that_reaches_it(log: &dyn Log) {
    fill(log, 40, 7);
    let (earliest, tail) = (Sequence::FIRST, Sequence::new(281));
    let every: Vec<(u64, u64, u64)> = log
        .read(id(2), earliest, tail, usize::MAX)
        .unwrap()
        .iter()
        .flat_map(|block| {
            let event = |e: EventRef<'_>| (e.sequence.get(), e.position.get(), e.time.as_ms());
            block.events().map(event).collect::<Vec<_>>()
        })
        .collect();
    for time in 995..1045 {
        let found = log.seek(id(2), Seek::Time(Timestamp::from_ms(time)), earliest, tail).unwrap();
        let expected = every.iter().find(|event| event.2 >= time).map_or(281, |event| event.0);
        assert_eq!(found.get(), expected, "time {time}");
    }
    for position in 0..565 {
        let seek = Seek::AfterPosition(Position::new(position));
        let found = log.seek(id(2), seek, earliest, tail).unwrap();
        let expected = every.iter().find(|event| event.1 > position).map_or(281, |event| event.0);
        assert_eq!(found.get(), expected, "position {position}");
    }
}

fn trimming_takes_events_out_at_once_and_reclaiming_removes_whole_blocks(log: &dyn Log) {
    fill(log, 40, 7);
    let tail = Sequence::new(281);
    let position = |sequence: u64| match sequence {
        0 => 0,
        _ => (sequence - 1) / 7 * 14 + (sequence - 1) % 7 + 1,
    };
    let time = |sequence: u64| 1000 + (sequence - 1) / 7;
    for earliest in [1, 7, 8, 10, 150, 281] {
        let topic = log.topics().unwrap().swap_remove(0);
        assert_eq!((topic.id, topic.extent.tail), (id(1), tail));
        let expected = Extent {
            earliest: Sequence::new(earliest),
            trimmed_position: Position::new(position(earliest - 1)),
            trimmed_time: Timestamp::from_ms(if earliest == 1 { 0 } else { time(earliest - 1) }),
            trim_reason: TrimReason::Purged,
            ..topic.extent
        };
        assert_eq!(trim(log, earliest).extent, expected, "nothing is removed yet");
        reclaim(log);
        let (size_bytes, events) = stored(log, 1, earliest, 281);
        let first_kept = if earliest == 281 { 281 } else { (earliest - 1) / 7 * 7 + 1 };
        assert_eq!(events, 281 - first_kept);
        let expected = Extent {
            dropped_bytes: topic.extent.appended_bytes - size_bytes,
            dropped_events: 280 - events,
            ..expected
        };
        let left = log.topics().unwrap().swap_remove(0);
        assert_eq!(left, StoredTopic { extent: expected, ..topic });
        assert_eq!(read_all(log, 1, earliest, 281, 1000), (earliest..281).collect::<Vec<_>>());
        assert_eq!(read_all(log, 2, 1, 281, 1000), (1..281).collect::<Vec<_>>(), "the other topic");
    }
    assert_eq!(log.topics().unwrap().swap_remove(0).extent.size_bytes(), 0);
}

fn rewriting_puts_one_block_in_the_place_of_several(log: &dyn Log) {
    fill(log, 40, 7);
    let tail = Sequence::new(281);
    let mut kept: Vec<u64> = (1..281).collect();
    // In the middle, at the front, across blocks that were rewritten before, and with no event
    // left.
    for (from, below, every) in [(71, 141, 2), (1, 29, 3), (1, 141, 5), (141, 148, 1000)] {
        let topic = log.topics().unwrap().swap_remove(0);
        let blocks =
            log.read(id(1), Sequence::new(from), Sequence::new(below), usize::MAX).unwrap();
        let merged = Block::merge(&blocks, |event| event.sequence.get() % every == 0);
        let extent = rewrite(log, &merged);
        kept.retain(|s| !(from..below).contains(s) || s % every == 0);
        let (size_bytes, events) = stored(log, 1, 1, 281);
        assert_eq!((extent.size_bytes(), extent.events()), (size_bytes, events));
        assert_eq!(events, kept.len() as u64);
        assert_eq!(log.topics().unwrap().swap_remove(0), StoredTopic { extent, ..topic });
        for from in [1, 7, 50, 100, 141, 147, 148, 280] {
            let expected: Vec<u64> = kept.iter().copied().filter(|s| *s >= from).collect();
            assert_eq!(read_all(log, 1, from, 281, 300), expected, "from {from}");
        }
    }
    for sequence in 1..281 {
        let seek = Seek::AfterPosition(Position::new((sequence - 1) / 7 * 14 + (sequence - 1) % 7));
        let found = log.seek(id(1), seek, Sequence::FIRST, tail).unwrap().get();
        let next = |from: u64| kept.iter().copied().find(|s| *s >= from);
        assert_eq!(next(found), next(sequence), "position of {sequence}");
    }
}

fn counting_back_counts_what_is_there(log: &dyn Log) {
    fill(log, 40, 7);
    let blocks = log.read(id(1), Sequence::new(71), Sequence::new(141), usize::MAX).unwrap();
    let gone = [80, 81, 82];
    rewrite(log, &Block::merge(&blocks, |event| !gone.contains(&event.sequence.get())));
    let mut kept: Vec<u64> = (1..281).filter(|s| !gone.contains(s)).collect();
    // First, as many events of the first block are trimmed as are missing in the middle. Then the
    // topic is trimmed beyond these, up to and within a block, and to the end.
    for earliest in [1, 4, 150, 155, 281] {
        trim(log, earliest);
        kept.retain(|s| *s >= earliest);
        for is_reclaimed in [false, true] {
            if is_reclaimed {
                reclaim(log);
            }
            let extent = log.topics().unwrap().swap_remove(0).extent;
            for below in [1, 70, 83, 84, 141, 200, 281].map(|below| earliest.max(below)) {
                for count in [1, 2, 7, 60, 300] {
                    let before = kept.partition_point(|s| *s < below);
                    let found = back(log, extent, Sequence::new(below), count as u64).get();
                    let expected = match before.checked_sub(count) {
                        Some(index) if before > 0 => kept[index],
                        _ => earliest,
                    };
                    let next = |from: u64| kept.iter().copied().find(|s| *s >= from);
                    assert_eq!(next(found), next(expected), "{count} below {below}: {extent:?}");
                    assert!(found >= earliest, "{count} below {below}: {found} of {extent:?}");
                }
            }
        }
    }
}

/// Goal: a way back that has begun still counts the missing events in the middle when trimmed
/// blocks are removed meanwhile: the removed events are as many as the missing ones, so the topic
/// looks whole by then.
fn counting_back_goes_on_over_holes_while_what_was_trimmed_is_removed(log: &dyn Log) {
    fill(log, 40, 7);
    let (from, below) = (Sequence::new(141), Sequence::new(155));
    let blocks = log.read(id(1), from, below, usize::MAX).unwrap();
    let extent = rewrite(log, &Block::merge(&blocks, |_| false));
    assert_eq!(extent.events(), 280 - 14);
    let extent = trim(log, 15).extent;
    let mut way = WayBack::new(id(1), extent, extent.tail, 200);
    assert_eq!(way.step(log).unwrap(), None);
    reclaim(log);
    let found = std::iter::from_fn(|| Some(way.step(log).unwrap())).find_map(|found| found);
    assert_eq!(found, Some(Sequence::new(281 - 200 - 14)));
}

/// Goes the whole way back in the first topic. Returns the sequence that it finds.
pub(in crate::log) fn back(log: &dyn Log, extent: Extent, below: Sequence, count: u64) -> Sequence {
    let mut way = WayBack::new(id(1), extent, below, count);
    loop {
        if let Some(found) = way.step(log).unwrap() {
            return found;
        }
    }
}

/// Goal: a way back ends soon if all events are purged meanwhile.
fn counting_back_over_what_was_purged_meanwhile_ends_at_once(log: &dyn Log) {
    fill(log, 40, 7);
    let mut topic = log.topics().unwrap().swap_remove(0);
    let seen = Extent { tail: Sequence::new(1 << 60), dropped_events: 1, ..topic.extent };
    topic.extent.earliest = topic.extent.tail;
    trim(log, 281);
    reclaim(log);
    assert_eq!(back(log, seen, seen.tail, 1 << 59), Sequence::FIRST);
}

fn stored_blocks_are_told_with_what_they_span_and_take(log: &dyn Log) {
    fill(log, 40, 7);
    let (first, tail) = (Sequence::FIRST, Sequence::new(281));
    let blocks = log.read(id(2), first, tail, usize::MAX).unwrap();
    let stored = log.stored_blocks(id(2), first..tail, usize::MAX).unwrap();
    assert_eq!(stored.len(), 40);
    for (stored, block) in stored.iter().zip(&blocks) {
        let expected = StoredBlock {
            first: block.first_sequence(),
            end: block.last_sequence().next(),
            parts: 1,
            size_bytes: block.bytes().len() as u64,
            events: 7,
            has_ids: false,
            has_ttl: false,
            last: StoredBlock::of(block).last,
        };
        assert_eq!(*stored, expected);
    }
    for (max_parts, count) in [(0, 1), (1, 1), (5, 5), (99, 40)] {
        let some = log.stored_blocks(id(2), first..tail, max_parts).unwrap();
        assert_eq!(some, stored[..count], "{max_parts}");
    }
    let middle = Sequence::new(8)..Sequence::new(22);
    assert_eq!(log.stored_blocks(id(2), middle, 99).unwrap(), stored[1..3]);
    assert_eq!(log.stored_blocks(id(2), tail..Sequence::new(u64::MAX), 9).unwrap(), []);
}

fn large_events_are_kept_beside_small_ones(log: &dyn Log) {
    let large: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 700_000 * usize::from(n)]).collect();
    let mut group = Group::noting(new_topic(1));
    for (sequence, payload) in (1..).zip(&large) {
        group.appended.push((id(1), block((sequence, sequence, 1), 0, &[payload])));
    }
    log.commit(&group).unwrap();
    let blocks = log.read(id(1), Sequence::FIRST, Sequence::new(5), usize::MAX).unwrap();
    let read: Vec<&[u8]> =
        blocks.iter().map(|block| block.events().next().unwrap().payload).collect();
    assert_eq!(read, large);
    for first in 1..=4 {
        let first = Sequence::new(first);
        let sequences = first..Sequence::new(5);
        let ahead = log.read_ahead(id(1), sequences, Position::new(first.get()), 1, 0).unwrap();
        let read: Vec<_> = ahead.blocks.iter().map(Block::bytes).collect();
        let index = first.get() as usize - 1;
        assert_eq!(read, [blocks[index].bytes()]);
        assert_eq!(ahead.following, blocks.get(index + 1).map(Block::first_position));
    }
    trim(log, 4);
    reclaim(log);
    let all = Sequence::FIRST..Sequence::new(5);
    let left = log.stored_blocks(id(1), all, usize::MAX).unwrap();
    assert_eq!((left.len(), left[0].first.get()), (1, 4));
    assert_eq!(left[0].size_bytes, blocks[3].bytes().len() as u64);
}

/// Returns blocks of ids of a topic, one block for each of these sequences.
pub(in crate::log) fn ids_of(topic: u32, sequences: Range<u64>) -> Vec<(TopicId, Block)> {
    let block = |sequence| {
        let places = (Sequence::new(sequence), Position::new(2 * sequence));
        let (time, clock) = (Timestamp::from_ms(900), Timestamp::from_ms(890));
        let placed = PlacedId { id: "an id", sequence: places.0, position: places.1, time, clock };
        blocks_of_ids([placed].into_iter()).remove(0)
    };
    sequences.map(|sequence| (id(topic), block(sequence))).collect()
}

/// Returns the topic and the sequence of every id that `log` has.
pub(in crate::log) fn stored_ids(log: &dyn Log) -> Vec<(u32, u64)> {
    let ids = log.ids().unwrap();
    ids.iter().map(|(topic, block)| (topic.get(), block.first_sequence().get())).collect()
}

fn ids_of_dropped_events_come_and_go_with_a_group(log: &dyn Log) {
    fill(log, 3, 7);
    assert_eq!(stored_ids(log), []);
    let ids = [ids_of(2, 1..4), ids_of(1, 1..300)].concat();
    log.commit(&Group { ids, ..Group::default() }).unwrap();
    let all: Vec<_> = (1..300).map(|s| (1, s)).chain((1..4).map(|s| (2, s))).collect();
    assert_eq!(stored_ids(log), all);
    let forgotten = (1..299).map(|s| (id(1), Sequence::new(s))).chain([(id(2), Sequence::new(2))]);
    let forgotten = forgotten.collect();
    log.commit(&Group { forgotten, ids: ids_of(2, 4..5), ..Group::default() }).unwrap();
    assert_eq!(stored_ids(log), [(1, 299), (2, 1), (2, 3), (2, 4)]);
    assert_eq!(read_all(log, 1, 1, 22, 1000), (1..22).collect::<Vec<_>>(), "events are as before");
    // Also together with an event that would otherwise be written alone.
    let extent = log.topics().unwrap().swap_remove(0).extent;
    let alone = block((22, 43, 2_000), extent.appended_bytes, &[b"1/22".as_slice()]);
    let appended = vec![(id(1), alone)];
    log.commit(&Group { appended, ids: ids_of(2, 5..6), ..Group::default() }).unwrap();
    assert_eq!(stored_ids(log), [(1, 299), (2, 1), (2, 3), (2, 4), (2, 5)]);
    assert_eq!(read_all(log, 1, 1, 23, 1000), (1..23).collect::<Vec<_>>());
}

/// Returns a place in a fleet's stream.
pub(in crate::log) fn place(stream: u64) -> Applied {
    let epoch = Epoch::new(9);
    Applied { stream, term: 2, number: stream - 1, chain: 7 * stream as u32, epoch }
}

fn the_place_in_a_stream_moves_with_its_group(log: &dyn Log) {
    assert_eq!(log.applied().unwrap(), None);
    fill(log, 3, 7);
    assert_eq!(log.applied().unwrap(), None, "outside of a fleet there is no place");
    let alone = Group { applied: Some(place(1)), ..Group::default() };
    assert!(!alone.is_empty());
    log.commit(&alone).unwrap();
    assert_eq!(log.applied().unwrap(), Some(place(1)));
    // Also with an event that would otherwise be written alone.
    let extent = log.topics().unwrap().swap_remove(0).extent;
    let block = block((22, 43, 2_000), extent.appended_bytes, &[b"1/22".as_slice()]);
    let appended = vec![(id(1), block)];
    log.commit(&Group { appended, applied: Some(place(2)), ..Group::default() }).unwrap();
    assert_eq!(log.applied().unwrap(), Some(place(2)));
    assert_eq!(read_all(log, 1, 1, 23, 1000), (1..23).collect::<Vec<_>>());
    log.commit(&Group::noting(new_topic(3))).unwrap();
    assert_eq!(log.applied().unwrap(), Some(place(2)), "a group without a place moves none");
}

/// A test of the contract, which is given a new log.
type ContractTest = fn(&dyn Log);

/// The tests of every log.
pub(crate) const CONTRACT: [ContractTest; 11] = [
    what_was_appended_is_read_from_any_place_in_steps_of_any_size,
    reading_ahead_ends_before_a_position_and_tells_where_it_goes_on,
    seeking_by_time_and_position_finds_the_first_event_that_reaches_it,
    trimming_takes_events_out_at_once_and_reclaiming_removes_whole_blocks,
    rewriting_puts_one_block_in_the_place_of_several,
    counting_back_counts_what_is_there,
    counting_back_goes_on_over_holes_while_what_was_trimmed_is_removed,
    counting_back_over_what_was_purged_meanwhile_ends_at_once,
    stored_blocks_are_told_with_what_they_span_and_take,
    large_events_are_kept_beside_small_ones,
    ids_of_dropped_events_come_and_go_with_a_group,
];

/// Returns the tests of a log that is given its place in a stream, and does not find it itself.
fn local_contract() -> impl Iterator<Item = ContractTest> {
    CONTRACT.into_iter().chain([the_place_in_a_stream_moves_with_its_group as ContractTest])
}

pub(in crate::log) fn open(directory: &Path) -> SledLog {
    SledLog::open(directory, &LogConfig { min_free_bytes: 0, ..LogConfig::default() }).unwrap()
}

pub(in crate::log) fn blob_count(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("sled/blobs")).map_or(0, Iterator::count)
}

#[test]
fn the_log_in_memory_keeps_the_contract() {
    local_contract().for_each(|test| test(&MemoryLog::default()));
}

#[test]
fn the_faulty_log_without_a_fault_keeps_the_contract() {
    local_contract().for_each(|test| test(&FaultyLog::default()));
}

#[test]
fn the_log_on_sled_keeps_the_contract_and_no_page_becomes_a_blob() {
    for test in local_contract() {
        let directory = tempfile::tempdir().unwrap();
        test(&open(directory.path()));
        assert_eq!(blob_count(directory.path()), 0);
    }
}
