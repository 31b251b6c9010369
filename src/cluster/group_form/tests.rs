//! Tests of the form of groups.

use super::*;
use crate::cluster::samples::{block, resealed, topic};
use crate::log::{PlacedId, StoredTopic, blocks_of_ids};
use crate::topic_config::TopicConfig;

/// Returns a group with something of everything.
fn full() -> Group {
    let mut settings = topic(2);
    settings.config = TopicConfig::with(|config| config.max_events = Some(7));
    settings.is_deleted = true;
    settings.extent.dropped_events = 5;
    let known = StoredBlock::of(&block(3, 0, &[b"a", b"b"]));
    let damaged = StoredBlock { has_ids: true, has_ttl: true, last: None, parts: 300, ..known };
    let (time, clock) = (Timestamp::from_ms(900), Timestamp::from_ms(890));
    let (sequence, position) = (Sequence::new(4), Position::new(9));
    let placed = PlacedId { id: "an id", sequence, position, time, clock };
    let mut ids = blocks_of_ids([placed].into_iter());
    let id = |number| topic(number).id;
    Group {
        topics: vec![topic(1), settings],
        removed: vec![(id(2), known), (id(2), damaged)],
        rewritten: vec![(id(2), block(5, 100, &[b"c"]))],
        appended: vec![
            (id(1), block(1, 0, &[b"one", b"two"])),
            (id(2), block(7, 0, &[b"three"])),
            (id(1), block(3, 50, &[b"four"])),
        ],
        ids: vec![(id(1), ids.remove(0))],
        forgotten: vec![(id(1), Sequence::new(2)), (id(2), Sequence::new(8))],
        durability: Durability::Process,
        applied: None,
    }
}

/// Returns `bytes` with the checksum made right.
fn sealed(mut bytes: Vec<u8>) -> Bytes {
    if let Some((checksum, covered)) = bytes.split_first_chunk_mut::<4>() {
        *checksum = crc32fast::hash(covered).to_be_bytes();
    }
    bytes.into()
}

fn shown(group: &Group) -> String {
    format!("{group:?}")
}

#[test]
fn a_group_reads_back_whole() {
    for group in [full(), Group::default(), Group::noting(topic(3))] {
        let bytes = encode(&group).unwrap();
        let read = decode(&bytes).unwrap();
        assert_eq!(shown(&read), shown(&group));
        assert_eq!(encode(&read).unwrap(), bytes);
    }
    let all = [Durability::Memory, Durability::Process, Durability::Fsync, Durability::Replicated];
    for durability in all {
        let bytes = encode(&Group { durability, ..Group::default() }).unwrap();
        assert_eq!(decode(&bytes).unwrap().durability, durability);
    }
}

#[test]
fn a_group_that_is_cut_or_altered_is_refused() {
    let whole = encode(&full()).unwrap();
    for length in 0..whole.len() {
        decode(&whole.slice(..length)).unwrap_err();
    }
    for bit in 0..whole.len() * 8 {
        let mut altered = whole.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        decode(&altered.into()).unwrap_err();
    }
}

/// Goal: a group that somebody forged, with a right checksum, is refused with a sentence, or is a
/// group that a log can be given. It takes no more memory than a multiple of its bytes.
#[test]
fn a_forged_group_is_refused_or_reads_back_and_takes_little_memory() {
    let whole = encode(&full()).unwrap();
    let mut accepted = 0;
    let mut check = |bytes: Bytes| {
        let mut read = Ok(Group::default());
        let taken = allocation_counter::measure(|| read = decode(&bytes));
        assert!(taken.bytes_max < (64 << 10) + 64 * bytes.len() as u64, "{taken:?}");
        match read {
            Ok(group) => {
                let again = encode(&group).unwrap();
                assert_eq!(shown(&decode(&again).unwrap()), shown(&group));
                accepted += 1;
            }
            Err(problem) => assert!(!problem.to_string().is_empty()),
        }
    };
    for length in 4..whole.len() {
        check(sealed(whole[..length].to_vec()));
    }
    for at in 4..whole.len() {
        for byte in [0, 1, 2, 7, 127, 128, 255, whole[at] ^ 1, whole[at].wrapping_add(1)] {
            let mut altered = whole.to_vec();
            altered[at] = byte;
            check(sealed(altered));
        }
    }
    assert!(accepted > 100, "some bytes may be others");
}

/// Goal: an older node never stores other bytes than the leader, and skips what only informs.
#[test]
fn what_a_later_version_adds_is_refused_or_skipped_as_its_kind_says() {
    let whole = encode(&full()).unwrap();
    let with_entry = |kind: u8, topic: TopicId, content: &[u8]| {
        let mut bytes = whole.to_vec();
        put_entry(&mut bytes, kind, topic, content);
        decode(&sealed(bytes))
    };
    let first = TopicId::FIRST;
    let read = with_entry(200, first, b"to inform").unwrap();
    assert_eq!(shown(&read), shown(&full()));
    let refused = with_entry(7, first, b"").unwrap_err();
    assert_eq!(refused.to_string(), "an entry's kind 7 is not known: update this node");
    let mut later = whole.to_vec();
    later[4] = 2;
    let refused = decode(&sealed(later)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the group's format is 2; this version reads 1: update this node"
    );
    // A topic's record with one number more.
    let record = encode_topic(&topic(5));
    let (numbers_at, numbers) = (4 + 1 + 2, record[4 + 1 + 2]);
    let end = numbers_at + 1 + 8 * usize::from(numbers);
    let mut longer = [&record[..end], &[0; 8], &record[end..]].concat();
    longer[numbers_at] += 1;
    let refused = with_entry(TOPIC, first, &sealed(longer)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a topic's record has more than this version knows: update this node"
    );
    // A form, settings, and a reason for trimming that this version does not know.
    let mut stored = topic(5);
    stored.config = TopicConfig::with(|config| config.max_events = Some(7));
    let with_setting = encode_topic(&stored);
    let at = with_setting.windows(10).position(|bytes| bytes == b"max_events").unwrap();
    let (format_at, trim_reason_at) = (4, 4 + 1 + 1);
    for (at, byte) in [(format_at, 200), (trim_reason_at, 200), (at, b'w')] {
        let refused = with_entry(TOPIC, first, &resealed(&with_setting, at, byte)).unwrap_err();
        assert!(matches!(refused, RecordProblem::LaterVersion(_)), "{refused:?}");
    }
    // One with a number less, as an older leader writes it.
    let mut shorter = [&record[..end - 8], &record[end..]].concat();
    shorter[numbers_at] -= 1;
    assert_eq!(with_entry(TOPIC, topic(5).id, &sealed(shorter)).unwrap().topics[2], topic(5));
}

#[test]
fn a_group_that_no_leader_writes_is_refused() {
    let id = topic(1).id;
    let refused = |group: &Group, problem: &str| {
        let error = decode(&encode(group).unwrap()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    };
    let appended = vec![(id, block(1, 0, &[b"a"])), (id, block(3, 0, &[b"b"]))];
    refused(&Group { appended, ..Group::default() }, "after the block up to 2 comes one from 3");
    let removed = StoredBlock::of(&block(3, 0, &[b"a"]));
    for removed in [
        StoredBlock { end: Sequence::new(3), ..removed },
        StoredBlock { parts: MAX_BLOCK_PARTS + 1, ..removed },
    ] {
        let removed = vec![(id, removed)];
        refused(&Group { removed, ..Group::default() }, "a removed block cannot be 3..");
    }
    let settings = TopicConfig::with(|config| config.max_events_per_key = Some(0));
    let noting = Group::noting(StoredTopic { config: settings, ..topic(1) });
    refused(&noting, "max_events_per_key: is 0");
}

#[test]
fn a_group_that_is_too_large_is_not_written() {
    let block = block(1, 0, &[&vec![7; MAX_GROUP_BYTES / 64]]);
    let ids = vec![(TopicId::FIRST, block); 64];
    let error = encode(&Group { ids, ..Group::default() }).unwrap_err();
    assert!(error.to_string().contains("bytes of a group"), "{error}");
}
