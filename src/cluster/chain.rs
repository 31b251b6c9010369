//! The chain of records: which record may follow which, for those who write and those who read.
//!
//! ```text
//! stream     1       2         3       4       5         6          7        8 …
//! record     found   announce  group   group   announce  heartbeat  group    group
//! term       0       1         1       1       2         2          2        2
//! number     0       0         1       2       0         1          2        3
//! part                         1 of 2  2 of 2                       1 of 1   1 of 3
//! chain      0       ◀─ the checksum of the record before, in each ─▶
//! ```
//!
//! - The first record founds the fleet. Each other record is in the term of the record before, with
//!   the next number, or it announces the next term, with the number 0.
//! - Each record has the checksum of the record before. Announcements name the fleet's epoch.
//! - The parts of a group follow one another. A group counts when its last part is there. If an
//!   announcement comes in between, the parts before it count for nobody: their leader is no leader
//!   any more, so the rest never comes.
//!
//! [`StreamPlace::following`] makes the next record, and [`Assembler`] reads the records one by
//! one. Any other record breaks the chain: somebody wrote to the stream without the fence, or the
//! engine lost a record, or has another stream. Then a node stops, and says so, because it cannot
//! know any more what the others hold.

use bytes::Bytes;
use thiserror::Error;

use super::group_form::{self, MAX_GROUP_BYTES};
use super::record::{self, FleetLeader, MAX_PART_BYTES, RecordBody, RecordHead, RecordProblem};
use super::stream::StreamSequence;
use crate::cursor::Epoch;
use crate::log::{Applied, Group};

/// The most parts of a group.
const MAX_PARTS: usize = u16::MAX as usize;
const _: () = assert!(MAX_GROUP_BYTES.div_ceil(MAX_PART_BYTES) <= MAX_PARTS, "a group has room");

/// A place in the chain: that of a record, with what the next record must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StreamPlace {
    /// The sequence of the record; 0 before the first one.
    pub stream: StreamSequence,
    /// The term of the record.
    pub term: u64,
    /// The number of the record in its term.
    pub number: u64,
    /// The checksum of the record.
    pub chain: u32,
    /// The epoch of the logs of all nodes; `None` before the first record, which says it.
    pub epoch: Option<Epoch>,
}

impl StreamPlace {
    /// The place before the first record of a fleet.
    pub const START: Self =
        Self { stream: StreamSequence::BEFORE_ALL, term: 0, number: 0, chain: 0, epoch: None };

    /// Returns the head of the record that follows, if it has this body.
    fn next_head(&self, body: &RecordBody) -> RecordHead {
        let (term, number) = match body {
            RecordBody::Found(_) => (0, 0),
            RecordBody::Announce { .. } => (self.term + 1, 0),
            _ => (self.term, self.number + 1),
        };
        RecordHead { term, number, chain: self.chain }
    }

    /// Returns the record with this body that follows, and its place.
    pub(super) fn following(&self, body: &RecordBody) -> (Bytes, Self) {
        let head = self.next_head(body);
        let record = record::encode(&head, body);
        let [a, b, c, d, ..] = record[..] else { unreachable!("a record has a checksum") };
        (record, self.after(&head, body, u32::from_be_bytes([a, b, c, d])))
    }

    fn after(&self, head: &RecordHead, body: &RecordBody, crc: u32) -> Self {
        let RecordHead { term, number, .. } = *head;
        let epoch = if let RecordBody::Found(epoch) = body { Some(*epoch) } else { self.epoch };
        Self { stream: self.stream.next(), term, number, chain: crc, epoch }
    }
}

impl From<Applied> for StreamPlace {
    fn from(applied: Applied) -> Self {
        let Applied { stream, term, number, chain, epoch } = applied;
        Self { stream: StreamSequence::new(stream), term, number, chain, epoch: Some(epoch) }
    }
}

impl StreamPlace {
    /// Returns the place for a log; `None` before the first record.
    pub fn applied(self) -> Option<Applied> {
        let Self { stream, term, number, chain, epoch } = self;
        Some(Applied { stream: stream.get(), term, number, chain, epoch: epoch? })
    }
}

/// Returns the bodies of the records in which a group is sent.
pub(super) fn parts_of(group: &Bytes, part_bytes: usize) -> Vec<RecordBody> {
    let count = group.len().div_ceil(part_bytes).max(1);
    let parts = u16::try_from(count).expect("a group has few parts");
    let part = |part: u16| {
        let start = usize::from(part - 1) * part_bytes;
        let bytes = group.slice(start..group.len().min(start + part_bytes));
        RecordBody::Part { part, parts, bytes }
    };
    (1..=parts).map(part).collect()
}

/// What a record of the stream is.
#[derive(Debug, Clone)]
pub enum TakenRecord {
    /// The fleet is founded. All its logs have this epoch.
    Founded(Epoch),
    /// A new term begins.
    Announced {
        /// The node that leads from here on.
        leader: FleetLeader,
        /// The parts before this record that count for nobody.
        skipped_parts: usize,
    },
    /// The leader is there.
    Heartbeat,
    /// The leader leads no longer: nobody needs to wait for the end of its lease.
    Resigned,
    /// A part of a group, and not the last one.
    Part,
    /// A group, whose last part this record was. [`Assembler::place`] is its place.
    Group(Box<Group>),
    /// A record of a later version, which only informs.
    Skipped,
}

/// A break of the chain. Nothing that follows can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the stream breaks at its record {at}: {problem}")]
pub struct ChainBreak {
    /// The record that does not belong there.
    pub at: StreamSequence,
    /// The reason.
    pub problem: RecordProblem,
}

/// A reader of the chain, which is given the records one by one, in order.
#[derive(Debug)]
pub struct Assembler {
    place: StreamPlace,
    parts: Vec<Bytes>,
    broken: Option<ChainBreak>,
}

impl Assembler {
    /// Returns a reader of the records after `place`, which is [`StreamPlace::START`], or a place
    /// up to which a log has applied all groups.
    pub fn after(place: StreamPlace) -> Self {
        Self { place, parts: Vec::new(), broken: None }
    }

    /// Returns the place of the record that was taken last.
    pub fn place(&self) -> StreamPlace {
        self.place
    }

    /// Whether no group has begun that has not ended. Only then may a log that has applied all
    /// groups go on from here when it is opened again.
    pub fn is_between_groups(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes the next record.
    ///
    /// # Errors
    ///
    /// [`ChainBreak`]: the record does not follow the one before. Nothing was taken, and each later
    /// call fails alike.
    pub fn take(&mut self, at: StreamSequence, record: &Bytes) -> Result<TakenRecord, ChainBreak> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        self.read(at, record).map_err(|problem| {
            let broken = ChainBreak { at, problem };
            self.broken = Some(broken.clone());
            broken
        })
    }

    fn read(&mut self, at: StreamSequence, record: &Bytes) -> Result<TakenRecord, RecordProblem> {
        let place = self.place;
        let next = place.stream.next();
        if at != next {
            return Err(format!("the record {next} is missing before it").into());
        }
        let record = record::decode(record)?;
        let expected = place.next_head(&record.body);
        if record.head.chain != expected.chain {
            return Err("it does not follow the record before it".into());
        }
        let is_first = place.stream == StreamSequence::BEFORE_ALL;
        if is_first != matches!(record.body, RecordBody::Found(_)) {
            return Err("a stream begins with the record that founds the fleet".into());
        }
        // In term 0 nobody leads.
        if record.head != expected || (expected.term == 0 && !is_first) {
            let (RecordHead { term, number, .. }, other) = (expected, record.head);
            let problem = format!(
                "it is number {} of term {}, where number {number} of term {term} belongs",
                other.number, other.term
            );
            return Err(problem.into());
        }
        let next = place.after(&record.head, &record.body, record.crc);
        let taken = self.assemble(record.body)?;
        self.place = next;
        Ok(taken)
    }

    fn assemble(&mut self, body: RecordBody) -> Result<TakenRecord, RecordProblem> {
        let waits_for_part = !self.parts.is_empty();
        Ok(match body {
            RecordBody::Found(epoch) => TakenRecord::Founded(epoch),
            RecordBody::Announce { epoch, .. } if self.place.epoch != Some(epoch) => {
                let known = self.place.epoch.map_or("none".to_owned(), |epoch| epoch.to_string());
                let problem = format!("it is of a fleet with the epoch {epoch}, and not {known}");
                return Err(problem.into());
            }
            RecordBody::Announce { leader, .. } => {
                let skipped_parts = std::mem::take(&mut self.parts).len();
                TakenRecord::Announced { leader, skipped_parts }
            }
            RecordBody::Part { part, parts, bytes } => self.add_part(part, parts, bytes)?,
            _ if waits_for_part => return Err("the rest of a group is missing".into()),
            RecordBody::Heartbeat => TakenRecord::Heartbeat,
            RecordBody::Resigned => TakenRecord::Resigned,
            RecordBody::Skipped => TakenRecord::Skipped,
        })
    }

    /// Returns the bytes of the parts whose group is not whole yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn add_part(
        &mut self,
        part: u16,
        parts: u16,
        bytes: Bytes,
    ) -> Result<TakenRecord, RecordProblem> {
        let expected = self.parts.len() + 1;
        let whole_bytes = bytes.len() + self.pending_bytes();
        if usize::from(part) != expected {
            let problem = format!("it is part {part} of a group, where part {expected} belongs");
            return Err(problem.into());
        }
        if whole_bytes > MAX_GROUP_BYTES {
            return Err(format!("its group has more than {MAX_GROUP_BYTES} bytes").into());
        }
        if part < parts {
            self.parts.push(bytes);
            return Ok(TakenRecord::Part);
        }
        let group = match self.parts.is_empty() {
            true => bytes,
            false => {
                let mut whole = Vec::with_capacity(whole_bytes);
                let parts = self.parts.drain(..).chain([bytes]);
                parts.for_each(|part| whole.extend_from_slice(&part));
                whole.into()
            }
        };
        group_form::decode(&group).map(|group| TakenRecord::Group(Box::new(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::{appending, resealed, topic};

    fn announce(node: &str) -> RecordBody {
        announce_in(node, Epoch::new(9))
    }

    fn announce_in(node: &str, epoch: Epoch) -> RecordBody {
        let (node, address) = (node.to_owned(), "http://n:1".to_owned());
        RecordBody::Announce { leader: FleetLeader { node, incarnation: 7, address }, epoch }
    }

    fn group(first: u64) -> Bytes {
        group_form::encode(&appending(&topic(1), first, 0, b"an event")).unwrap()
    }

    /// A writer of a chain, and its reader.
    struct Pair {
        place: StreamPlace,
        assembler: Assembler,
    }

    impl Pair {
        /// Returns a pair in the first term.
        fn begun() -> Self {
            let place = StreamPlace::START;
            let mut pair = Self { place, assembler: Assembler::after(place) };
            let epoch = Epoch::new(9);
            let founded = pair.add(&RecordBody::Found(epoch)).unwrap();
            assert!(matches!(founded, TakenRecord::Founded(found) if found == epoch));
            pair.add(&announce("n1")).unwrap();
            pair
        }

        fn add(&mut self, body: &RecordBody) -> Result<TakenRecord, ChainBreak> {
            let (record, place) = self.place.following(body);
            let taken = self.assembler.take(place.stream, &record)?;
            self.place = place;
            assert_eq!(self.assembler.place(), place);
            Ok(taken)
        }
    }

    #[test]
    fn what_is_written_is_read_in_any_number_of_parts() {
        let mut pair = Pair::begun();
        assert_eq!((pair.place.stream.get(), pair.place.term, pair.place.number), (2, 1, 0));
        for part_bytes in [1 << 20, 1_000, 37, 1] {
            let group = group(5);
            let parts = parts_of(&group, part_bytes);
            assert_eq!(parts.len(), group.len().div_ceil(part_bytes));
            for part in &parts[..parts.len() - 1] {
                assert!(matches!(pair.add(part), Ok(TakenRecord::Part)));
                assert!(!pair.assembler.is_between_groups());
            }
            let Ok(TakenRecord::Group(read)) = pair.add(&parts[parts.len() - 1]) else { panic!() };
            assert_eq!(group_form::encode(&read).unwrap(), group);
            assert!(pair.assembler.is_between_groups());
            assert!(matches!(pair.add(&RecordBody::Heartbeat), Ok(TakenRecord::Heartbeat)));
            assert!(matches!(pair.add(&RecordBody::Resigned), Ok(TakenRecord::Resigned)));
            assert!(matches!(pair.add(&RecordBody::Skipped), Ok(TakenRecord::Skipped)));
        }
        // A reader that begins after a group goes on alike.
        let mut later = Assembler::after(pair.place.applied().unwrap().into());
        let (record, place) = pair.place.following(&RecordBody::Heartbeat);
        assert!(matches!(later.take(place.stream, &record), Ok(TakenRecord::Heartbeat)));
    }

    #[test]
    fn the_parts_of_a_former_leader_are_skipped() {
        let mut pair = Pair::begun();
        let parts = parts_of(&group(1), 40);
        assert!(parts.len() > 3);
        pair.add(&parts[0]).unwrap();
        pair.add(&parts[1]).unwrap();
        let Ok(TakenRecord::Announced { leader, skipped_parts }) = pair.add(&announce("n2")) else {
            panic!("a new term")
        };
        let expected = ("n2", "http://n:1", 7, 2);
        let FleetLeader { node, address, incarnation } = &leader;
        assert_eq!((&**node, &**address, *incarnation, skipped_parts), expected);
        assert_eq!((pair.place.term, pair.place.number), (2, 0));
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            assert_eq!(matches!(pair.add(part), Ok(TakenRecord::Group(_))), is_last);
        }
    }

    /// Goal: whatever else comes than the next record, the reader stops there for good.
    #[test]
    fn a_record_that_does_not_follow_breaks_the_chain_for_good() {
        let parts = parts_of(&group(1), 40);
        let begun = |with_part: bool| {
            let mut pair = Pair::begun();
            if with_part {
                pair.add(&parts[0]).unwrap();
            }
            pair
        };
        let heartbeat = RecordBody::Heartbeat;
        let elsewhere = announce_in("n1", Epoch::new(8));
        let other = |change: fn(&mut StreamPlace)| {
            let mut place = begun(false).place;
            change(&mut place);
            place.following(&RecordBody::Heartbeat).0
        };
        let after = |with_part: bool, body: &RecordBody| begun(with_part).place.following(body).0;
        let cases = [
            (false, other(|place| place.chain ^= 1), "it does not follow the record before it"),
            (false, other(|place| place.number += 1), "it is number 2 of term 1, where number 1"),
            (false, other(|place| place.term += 1), "it is number 1 of term 2, where number 1"),
            (false, after(false, &RecordBody::Found(Epoch::new(1))), "a stream begins with"),
            (false, after(false, &elsewhere), "it is of a fleet with the epoch 00000008"),
            (false, after(false, &parts[1]), "it is part 2 of a group, where part 1 belongs"),
            (true, after(true, &parts[2]), "it is part 3 of a group, where part 2 belongs"),
            (true, after(true, &parts[0]), "it is part 1 of a group, where part 2 belongs"),
            (true, after(true, &heartbeat), "the rest of a group is missing"),
            (true, after(true, &RecordBody::Skipped), "the rest of a group is missing"),
            (false, Bytes::from_static(b"of somebody else"), "it is too short to be a record"),
        ];
        for (with_part, record, problem) in cases {
            let mut pair = begun(with_part);
            let (at, place) = (pair.place.stream.next(), pair.place);
            let broken = pair.assembler.take(at, &record).unwrap_err();
            assert!(broken.at == at && broken.problem.to_string().starts_with(problem), "{broken}");
            assert!(matches!(broken.problem, RecordProblem::Unfit(_)), "{broken:?}");
            assert_eq!(pair.assembler.place(), place);
            assert_eq!(pair.add(&heartbeat).unwrap_err(), broken, "it stays broken");
        }
        let mut announced_late = begun(false);
        announced_late.place.term += 1;
        announced_late.add(&announce("n3")).unwrap_err();
        let mut missing = begun(false);
        let (record, _) = missing.place.following(&heartbeat);
        let broken = missing.assembler.take(StreamSequence::new(4), &record).unwrap_err();
        assert_eq!(broken.problem.to_string(), "the record 3 is missing before it");
        let (record, place) = StreamPlace::START.following(&announce("n1"));
        Assembler::after(StreamPlace::START).take(place.stream, &record).unwrap_err();
    }

    /// Goal: a node is told to be updated for what a later version writes, in a record or in the
    /// group of one, and for nothing else, whatever words the reason has.
    #[test]
    fn a_record_of_a_later_version_is_told_from_one_that_does_not_fit() {
        let pair = Pair::begun();
        let (format_at, kind_at) = (4, 5);
        let heartbeat = pair.place.following(&RecordBody::Heartbeat).0;
        let of_group = |group: Bytes| {
            pair.place.following(&RecordBody::Part { part: 1, parts: 1, bytes: group }).0
        };
        let entry_at = 6;
        for (record, is_later) in [
            (resealed(&heartbeat, format_at, record::FORMAT + 1), true),
            (resealed(&heartbeat, kind_at, 77), true),
            (of_group(resealed(&group(1), format_at, group_form::FORMAT + 1)), true),
            (of_group(resealed(&group(1), entry_at, 77)), true),
            (of_group(group(1).slice(1..)), false),
            (Bytes::from_static(b"update this node"), false),
        ] {
            let mut assembler = Assembler::after(pair.place);
            let problem = assembler.take(pair.place.stream.next(), &record).unwrap_err().problem;
            assert_eq!(matches!(problem, RecordProblem::LaterVersion(_)), is_later, "{problem}");
            assert_eq!(problem.to_string().ends_with(": update this node"), is_later, "{problem}");
        }
    }
}
