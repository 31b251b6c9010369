//! Tests of blocks, and the block that other tests write.

use super::*;
use crate::log::block_builder::BlockBuilder;

/// Goal: the positions of events in a new block may lie apart, by any distance, and nothing else
/// changes.
#[test]
fn events_that_are_positions_apart_read_back() {
    let (event, ends) = (NewEvent::new("payload"), [0, 1, 127, 128, 16_384, 1 << 40]);
    let records = NewRecords::encode([&event]);
    let mut builder = BlockBuilder::new(Sequence::new(7));
    let (mut expected, mut position) = (Vec::new(), 70);
    builder.push(records.record(0), false, false);
    expected.push((7, 70));
    for (index, skip) in ends.into_iter().enumerate() {
        builder.push_apart(records.record(0), skip, false, false);
        position += 1 + skip;
        expected.push((8 + index as u64, position));
    }
    let block = builder.finish(Position::new(70), Timestamp::from_ms(9), 0);
    assert_eq!(block.last_position(), Position::new(position));
    let block = Block::decode(block.bytes().clone()).unwrap();
    let read: Vec<_> = block.events().map(|e| (e.sequence.get(), e.position.get())).collect();
    assert_eq!(read, expected);
    assert!(block.events().all(|read| *read.payload == event.payload && read.time.as_ms() == 9));
}

/// Returns a block of events with these payloads. `places` are the sequence, position and time of
/// the first event; `start_bytes` are the bytes of the topic's blocks before it.
pub(in crate::log) fn block(
    places: (u64, u64, u64),
    start_bytes: u64,
    payloads: &[&[u8]],
) -> Block {
    let (first, position, time_ms) = places;
    let mut builder = BlockBuilder::new(Sequence::new(first));
    for payload in payloads {
        let event = NewEvent::new(payload.to_vec());
        builder.push(NewRecords::encode([&event]).record(0), false, false);
    }
    builder.finish(Position::new(position), Timestamp::from_ms(time_ms), start_bytes)
}

#[test]
fn a_block_reads_back_and_says_what_it_holds() {
    let built = block((5, 50, 500), 5_000, &[b"a", b"", b"ccc"]);
    let read = Block::decode(built.bytes().clone()).unwrap();
    assert_eq!(read.header, built.header);
    assert_eq!((read.first_sequence().get(), read.last_sequence().get()), (5, 7));
    assert_eq!((read.first_position().get(), read.last_position().get()), (50, 52));
    assert_eq!(read.end_bytes(), 5_000 + read.bytes().len() as u64);
    let events: Vec<_> = read
        .events()
        .map(|event| (event.sequence.get(), event.position.get(), event.payload.to_vec()))
        .collect();
    assert_eq!(events, [(5, 50, b"a".to_vec()), (6, 51, b"".to_vec()), (7, 52, b"ccc".to_vec())]);
}

#[test]
fn merged_blocks_hold_what_is_kept_and_span_what_they_spanned() {
    let parts = [
        block((5, 50, 500), 1_000, &[b"5", b"6", b"7"]),
        block((8, 90, 600), 2_000, &[b"8"]),
        block((9, 95, 600), 3_000, &[b"9", b"10"]),
    ];
    type Place = (u64, u64, u64);
    let places = |block: &Block| -> Vec<(Place, Vec<u8>)> {
        let place = |e: &EventRef<'_>| (e.sequence.get(), e.position.get(), e.time.as_ms());
        block.events().map(|event| (place(&event), event.payload.to_vec())).collect()
    };
    let all: Vec<_> = parts.iter().flat_map(places).collect();
    for kept in 0..1_u32 << 6 {
        let is_kept = |sequence: u64| kept & (1 << (sequence - 5)) != 0;
        let merged = Block::merge(&parts, |event| is_kept(event.sequence.get()));
        let merged = Block::decode(merged.bytes().clone()).unwrap();
        let expected: Vec<_> = all.iter().filter(|((s, ..), _)| is_kept(*s)).cloned().collect();
        assert_eq!(places(&merged), expected);
        assert_eq!(merged.count(), expected.len());
        // A block that is merged again, with nothing left out, is the same.
        assert_eq!(Block::merge(std::slice::from_ref(&merged), |_| true).bytes(), merged.bytes());
        let whole = Header { first_sequence: Sequence::new(5), ..parts[2].header.clone() };
        let spans = |h: &Header| (h.first_sequence, h.last_sequence, h.last_position);
        assert_eq!(spans(&merged.header), spans(&whole));
        assert_eq!(merged.end_bytes(), parts[2].end_bytes());
    }
}

#[test]
fn a_part_of_a_block_holds_what_is_in_it_and_nothing_else() {
    let parts =
        [block((5, 50, 500), 0, &[b"5", b"6", b"7"]), block((8, 90, 600), 0, &[b"8", b"9", b"10"])];
    let whole = Block::merge(&parts, |event| ![5, 7, 10].contains(&event.sequence.get()));
    let places = |block: &Block| -> Vec<(u64, u64, u64)> {
        let place = |e: EventRef<'_>| (e.sequence.get(), e.position.get(), e.time.as_ms());
        block.events().map(place).collect()
    };
    for first in 1..13 {
        for end in first..14 {
            let part = whole.part(Sequence::new(first)..Sequence::new(end));
            let span = (first.max(5), end.min(11));
            assert_eq!(part.is_some(), span.0 < span.1, "{first}..{end}");
            let Some(part) = part else { continue };
            let part = Block::decode(part.bytes().clone()).unwrap();
            let spans = (part.first_sequence().get(), part.last_sequence().get() + 1);
            assert_eq!(spans, span);
            let mut expected = places(&whole);
            expected.retain(|(sequence, ..)| (first..end).contains(sequence));
            assert_eq!(places(&part), expected, "{first}..{end}");
            assert!(part.first_position() <= part.last_position());
        }
    }
    let hole = Block::hole(Sequence::new(3)..Sequence::new(9), Position::new(4), whole.last_time());
    assert_eq!((hole.count(), hole.last_sequence().get()), (0, 8));
    Block::decode(hole.bytes().clone()).unwrap();
}

/// Goal: the readings of a clock that was set back stay with their events, whatever is made of the
/// blocks.
#[test]
fn a_block_keeps_what_the_clock_said_of_each_event() {
    let clocks = |block: &Block| -> Vec<(u64, u64)> {
        let clock = |event: EventRef<'_>| (event.time.as_ms(), event.clock.as_ms());
        let read = Block::decode(block.bytes().clone()).unwrap();
        assert_eq!(read.header, block.header);
        read.events().map(clock).collect()
    };
    let right = block((1, 1, 900), 0, &[b"1", b"2"]);
    assert_eq!(right.last_clock().as_ms(), 900);
    let behind = block((3, 3, 900), right.end_bytes(), &[b"3", b"4"]);
    let behind = behind.with_clock(Timestamp::from_ms(500));
    assert_eq!(behind.end_bytes(), right.end_bytes() + behind.bytes().len() as u64);
    assert_eq!(clocks(&behind), [(900, 500); 2]);
    let later = block((5, 5, 950), behind.end_bytes(), &[b"5"]);
    let merged = Block::merge(&[right, behind.clone(), later], |_| true);
    let all = [(900, 900), (900, 900), (900, 500), (900, 500), (950, 950)];
    assert_eq!(clocks(&merged), all);
    assert_eq!(merged.last_clock().as_ms(), 950);
    let part = merged.part(Sequence::new(2)..Sequence::new(5)).unwrap();
    assert_eq!((clocks(&part), part.last_clock().as_ms()), (all[1..4].to_vec(), 500));
    let emptied = Block::merge(&[behind], |_| false);
    assert_eq!((emptied.count(), emptied.last_clock().as_ms()), (0, 500));
    assert_eq!(clocks(&emptied), []);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let whole = block((1, 1, 1), 0, &[b"payload"]).bytes().to_vec();
    for index in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[index / 8] ^= 1 << (index % 8);
        assert!(Block::decode(bytes.into()).is_err(), "bit {index}");
    }
    for length in 0..whole.len() {
        assert!(Block::decode(whole[..length].to_vec().into()).is_err(), "length {length}");
    }
    // The end of a large block is verified as its beginning is.
    let payload = vec![b'x'; 100_000];
    let large = block((1, 1, 1), 0, &[&payload]).bytes().to_vec();
    for index in (HEADER_BYTES..large.len()).step_by(997).chain([large.len() - 1]) {
        let mut bytes = large.clone();
        bytes[index] ^= 1;
        assert!(Block::decode(bytes.into()).is_err(), "byte {index}");
    }
}
