//! A backup that is made while the broker runs, consistent at one position. The format of its bytes
//! is in `log/backup.rs`.
//!
//! # Why
//!
//! Topics are read one after another, each up to the position at which the backup began. Events
//! that are appended meanwhile are beyond that position, and are left out. Compaction must not drop
//! an event because of one beyond that position, so it looks no further as long as the backup
//! lasts. Events that are trimmed meanwhile are missing in the backup, as they are in the log: a
//! topic whose front was trimmed while it was read begins later in the backup, too.
//!
//! A backup of everything from a node of a fleet is also for a node that joins: it has the records
//! of all topics exactly as they are at its place in the stream, and the blocks as they are in the
//! log, also those of events that are trimmed and not removed yet. Blocks that later records of the
//! stream remove or rewrite may be missing, or be as they are after it: whoever applies the stream
//! from the place on ends up with the same blocks.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::broker::maintenance::horizon::Horizon;
use crate::broker::queue::Queued;
use crate::broker::report::LogReached;
use crate::broker::shared::Shared;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Cursor, Place, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::backup::{BackupEncoder, BackupHeader, Frame};
use crate::log::{Applied, Block, Extent, Log, Seek, StoredTopic};
use crate::topic::TopicId;

/// A backup on its way to a caller, who takes its bytes in order.
#[derive(Debug)]
pub struct Backup {
    shared: Arc<Shared>,
    /// The encoder; `None` once the end is encoded.
    encoder: Option<BackupEncoder>,
    /// Bytes that are encoded and not returned yet: a call that is given up leaves them here.
    encoded: Vec<u8>,
    header: BackupHeader,
    /// The place in the fleet's stream up to which all is in the backup.
    applied: Option<Applied>,
    /// The blocks of ids that are not encoded yet, for a node that joins the fleet.
    ids: std::vec::IntoIter<(TopicId, Block)>,
    is_begun: bool,
    /// The topics that are not read yet. No event of a topic up to the backup's position has a
    /// later time than the one beside it.
    topics: std::vec::IntoIter<(Arc<Topic>, Timestamp)>,
    /// The records of the topics that are not read yet, in a backup for a node that joins the
    /// fleet.
    stored: std::vec::IntoIter<StoredTopic>,
    current: Option<TopicReading>,
    expected_bytes: u64,
    horizon: Horizon,
}

/// A backup that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupDone {
    /// The position at which the backup is consistent. The next backup may begin after it.
    pub cursor: Cursor,
    /// The size of the backup, in bytes.
    pub size_bytes: u64,
}

/// The topic that is read.
#[derive(Debug)]
struct TopicReading {
    /// The topic; `None` in a backup for a node that joins the fleet.
    topic: Option<Arc<Topic>>,
    /// The last record of the topic in the backup.
    told: StoredTopic,
    next: Sequence,
    /// The end of the topic in the backup.
    end: BackupEnd,
    /// Whether the whole topic is read, with the events that an earlier backup holds.
    is_whole: bool,
}

/// The end of a topic in a backup.
#[derive(Debug, Clone, Copy)]
struct BackupEnd {
    /// The first sequence that is not in the backup.
    tail: Sequence,
    /// The position at which the backup is consistent.
    position: Position,
    /// A time after which no event up to the end was appended.
    time: Timestamp,
}

/// Who reads a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackupTaker {
    /// Somebody who keeps it, to restore it as a log of its own.
    Operator,
    /// A node of the same fleet, which goes on from there with the fleet's stream: what changes
    /// while the backup is read, the stream tells it.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet read it"))]
    Node,
}

/// Begins a backup, as `Broker::backup` says.
pub(super) async fn start(
    shared: Arc<Shared>,
    from: Option<Cursor>,
    reader: BackupTaker,
) -> Result<Backup> {
    shared.admit()?;
    let epoch_now = shared.log.epoch();
    let invalid = |problem: String| Err(Error::invalid("from", problem));
    let from = match from {
        None => Position::new(0),
        Some(Cursor { after: Place::Sequence(_), .. }) => {
            return invalid("is a sequence; write a position like @1042-9f3c2a1b".to_owned());
        }
        Some(Cursor { epoch: Some(epoch), .. }) if epoch != epoch_now => {
            return invalid(format!("is of epoch {epoch}, but the log is of {}", epoch_now));
        }
        Some(Cursor { after: Place::Position(position), .. }) => position,
    };
    let horizon = shared.horizons.hold(None, || Position::new(shared.last_position()));
    // At the moment of the answer, every topic's state has all events up to this position, and a
    // log in a fleet has applied exactly the records up to this place. The horizon is no later.
    let LogReached { position, applied, topics: stored } =
        shared.ask(|reply| Queued::Barrier { reply }).await?;
    if from > position {
        return invalid(format!("is ahead of the log, which ends at {position}"));
    }
    let applied = match reader {
        BackupTaker::Operator => None,
        BackupTaker::Node => applied?,
    };
    let is_for_node = applied.is_some() && from == Position::BEFORE_ALL;
    let stored = if is_for_node { stored } else { Vec::new() };
    let topics = shared.topics.filtered(|topic| topic.state().id.is_some());
    let expected_bytes = topics.iter().map(|t| t.state().extent.size_bytes()).sum();
    let topics = if is_for_node { Vec::new() } else { topics };
    let topics: Vec<_> = topics
        .into_iter()
        .map(|topic| {
            let last_time = topic.state().extent.last_time;
            (topic, last_time)
        })
        .collect();
    // Read after the place: what changed in between, a node that joins is told by the stream.
    let ids = match applied {
        Some(_) => shared.turns.read(|log| log.ids()).await?,
        None => Vec::new(),
    };
    let header = BackupHeader { epoch: epoch_now, from, position, time: (shared.now)() };
    Ok(Backup {
        shared,
        encoder: Some(BackupEncoder::default()),
        encoded: Vec::new(),
        header,
        ids: ids.into_iter(),
        applied,
        is_begun: false,
        topics: topics.into_iter(),
        stored: stored.into_iter(),
        current: None,
        expected_bytes,
        horizon,
    })
}

impl Backup {
    /// Returns about how many bytes a backup of all topics has.
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Returns the place in the fleet's stream at which the backup is; `None` outside of a fleet.
    #[cfg(feature = "fleet")]
    pub(crate) fn applied(&self) -> Option<Applied> {
        self.applied
    }

    /// Returns the position at which the backup is consistent.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] and [`Error::ReadFailed`]; [`Error::DeadlineExceeded`] if the last call
    /// was more than a minute ago; [`Error::ShuttingDown`] once the broker is closed. The bytes so
    /// far are then no backup. After [`Error::ReadFailed`] the next call goes on where this one
    /// failed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is in the bytes of the next call.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.shared.log.check()?;
        self.horizon.touch()?;
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        if !std::mem::replace(&mut self.is_begun, true) {
            self.encoded = encoder.header(&self.header);
            if let Some(applied) = self.applied {
                self.encoded.extend_from_slice(&encoder.frame(&Frame::Applied(applied)));
            }
        }
        let limit = self.shared.max_read_bytes;
        while self.encoded.len() < limit {
            self.horizon.touch()?; // Other reads may take long.
            if let Some((id, block)) = self.ids.next() {
                self.encoded.extend_from_slice(&encoder.frame(&Frame::Ids(id, block)));
                continue;
            }
            if let Some(reading) = &mut self.current {
                for frame in read(&self.shared, reading).await? {
                    self.encoded.extend_from_slice(&encoder.frame(&frame));
                }
                if reading.next >= reading.end.tail {
                    self.current = None;
                }
                continue;
            }
            if let Some(stored) = self.stored.next() {
                let frame = Frame::WholeTopic(stored.clone());
                self.encoded.extend_from_slice(&encoder.frame(&frame));
                self.current = Some(TopicReading::for_node(stored, &self.header));
                continue;
            }
            let Some(topic) = self.topics.as_slice().first().cloned() else {
                if let Some(encoder) = self.encoder.take() {
                    self.encoded.extend_from_slice(&encoder.end());
                }
                break;
            };
            let begun = begin(&self.shared, &self.header, topic).await?;
            self.topics.next(); // Not before: a call that is given up must not lose the topic.
            let Some(reading) = begun else { continue };
            let stored = reading.told.clone();
            let is_whole = self.header.from == Position::BEFORE_ALL || reading.is_whole;
            let frame = if is_whole { Frame::WholeTopic(stored) } else { Frame::Topic(stored) };
            self.encoded.extend_from_slice(&encoder.frame(&frame));
            self.current = Some(reading);
        }
        Ok(Some(std::mem::take(&mut self.encoded).into()))
    }
}

/// Returns the reading of a topic, with its record at the position of the backup; `None` for a
/// topic that the log has no record of.
async fn begin(
    shared: &Shared,
    header: &BackupHeader,
    (topic, time): (Arc<Topic>, Timestamp),
) -> Result<Option<TopicReading>> {
    loop {
        let TopicState { id, extent, config, is_deleted, deletions: _ } = topic.state();
        let Some(id) = id else { return Ok(None) };
        // Deletions that are dropped by now may have superseded events of an earlier backup.
        let is_whole = extent.buried_position > header.from;
        let from = if is_whole { Position::BEFORE_ALL } else { header.from };
        let position = header.position;
        let places = async {
            let after = async |position| after(shared, id, extent, position).await;
            Ok((after(from).await?, after(position).await?))
        };
        let places: Result<_> = places.await;
        let (next, tail) = match places {
            Ok(places) => places,
            // The blocks were trimmed meanwhile; they are not damaged.
            Err(_) if topic.state().extent.earliest > extent.earliest => continue,
            Err(error) => return Err(error),
        };
        let end = BackupEnd { tail, position, time };
        let extent = end.cut(extent);
        let told = StoredTopic { id, name: topic.name.clone(), extent, config, is_deleted };
        let topic = Some(topic);
        return Ok(Some(TopicReading { topic, told, next, end, is_whole }));
    }
}

impl BackupEnd {
    /// Returns the extent of a topic in the backup, made of its extent now: without events after
    /// the end, and without drops of such events.
    fn cut(self, extent: Extent) -> Extent {
        let Self { tail, position, time } = self;
        Extent {
            earliest: extent.earliest.min(tail),
            tail,
            last_position: extent.last_position.min(position),
            last_time: extent.last_time.min(time),
            last_clock: extent.last_clock.min(time),
            trimmed_position: extent.trimmed_position.min(position),
            trimmed_time: extent.trimmed_time.min(time),
            buried_position: extent.buried_position.min(position),
            buried_sequence: extent.buried_sequence.min(tail.previous()),
            first_position: extent.first_position.min(position),
            purged: extent.purged.min(tail),
            ..extent
        }
    }
}

impl TopicReading {
    /// Returns the reading of a topic for a node that joins the fleet.
    fn for_node(told: StoredTopic, header: &BackupHeader) -> Self {
        let Extent { tail, last_time: time, .. } = told.extent;
        let end = BackupEnd { tail, position: header.position, time };
        Self { topic: None, told, next: Sequence::FIRST, end, is_whole: true }
    }

    /// Returns the topic's record once more, if its front was trimmed since the last record. The
    /// topic then begins later in the backup: otherwise the trimmed events would be a hole that no
    /// reader is told of.
    fn retold(&mut self, topic: &Topic) -> Option<Frame> {
        let extent = self.end.cut(topic.state().extent);
        if extent.earliest <= self.told.extent.earliest {
            return None;
        }
        self.told.extent = extent;
        Some(Frame::Topic(self.told.clone()))
    }
}

/// Returns the first sequence of a topic after `position`.
async fn after(
    shared: &Shared,
    id: TopicId,
    extent: Extent,
    position: Position,
) -> Result<Sequence> {
    match position {
        position if position >= extent.last_position => Ok(extent.tail),
        Position::BEFORE_ALL => Ok(extent.earliest),
        position => {
            let (seek, Extent { earliest, tail, .. }) = (Seek::AfterPosition(position), extent);
            shared.turns.read(move |log| log.seek(id, seek, earliest, tail)).await
        }
    }
}

/// Returns the next blocks of a topic, cut to the sequences that the backup holds.
async fn read(shared: &Shared, reading: &mut TopicReading) -> Result<Vec<Frame>> {
    let Some(topic) = reading.topic.clone() else { return read_stored(shared, reading).await };
    loop {
        let earliest = topic.state().extent.earliest;
        reading.next = reading.next.max(earliest);
        if reading.next >= reading.end.tail {
            return Ok(reading.retold(&topic).into_iter().collect());
        }
        let (id, next, end) = (reading.told.id, reading.next, reading.end.tail);
        let limit = shared.max_read_bytes;
        let blocks = shared.turns.read(move |log| log.read(id, next, end, limit)).await;
        let blocks = match blocks {
            Ok(blocks) => blocks,
            // The blocks were trimmed meanwhile; they are not damaged.
            Err(_) if topic.state().extent.earliest > earliest => continue,
            Err(error) => return Err(error),
        };
        reading.next = blocks.last().map_or(end, |block| block.last_sequence().next()).min(end);
        let parts = blocks.iter().filter_map(|block| block.part(next..end));
        let parts = parts.map(|part| Frame::Block(id, part));
        return Ok(reading.retold(&topic).into_iter().chain(parts).collect());
    }
}

/// Returns the next blocks of a topic as they are in the log, for a node that joins the fleet. Only
/// a block that reaches beyond the end of the topic in the backup is cut there.
async fn read_stored(shared: &Shared, reading: &mut TopicReading) -> Result<Vec<Frame>> {
    let (id, next, end) = (reading.told.id, reading.next, reading.end.tail);
    let limit = shared.max_read_bytes;
    let blocks = shared.turns.read(move |log| stored_blocks(log, id, next..end, limit)).await?;
    reading.next = blocks.last().map_or(end, |block| block.last_sequence().next()).min(end);
    let parts = blocks.iter().filter_map(|block| block.part(Sequence::FIRST..end));
    Ok(parts.map(|part| Frame::Block(id, part)).collect())
}

/// Returns the blocks that hold some of `sequences`, in order, up to about `max_bytes`: at least
/// one, if there is one.
pub(super) fn stored_blocks(
    log: &dyn Log,
    id: TopicId,
    sequences: Range<Sequence>,
    max_bytes: usize,
) -> Result<Vec<Block>> {
    let Range { start: mut next, end } = sequences;
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    while next < end && bytes < max_bytes {
        let listed = log.stored_blocks(id, next..end, 1)?.first().map(|block| block.first);
        // A block that was rewritten meanwhile may begin before `next`.
        let from =
            if listed == Some(next) || next == Sequence::FIRST { listed } else { Some(next) };
        let Some(from) = from else { break };
        let block = match log.read(id, from, end, 1) {
            Ok(blocks) => blocks.into_iter().next(),
            // It was removed meanwhile, or is damaged.
            Err(error) => match log.stored_blocks(id, from..end, 1)?.first() {
                Some(block) if block.first == from => return Err(error),
                Some(block) => {
                    next = block.first;
                    continue;
                }
                None => None,
            },
        };
        let Some(block) = block else { break };
        bytes += block.bytes().len();
        next = block.last_sequence().next();
        blocks.push(block);
    }
    Ok(blocks)
}
