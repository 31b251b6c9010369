//! Ephemeral events reach the readers at all nodes: each node tells the others what is published to
//! it, as messages that may be lost.
//!
//! `name: 8` is a field of 8 bytes; numbers are big-endian.
//!
//! ```text
//! message | form: 1 | incarnation: 8 | topic_bytes: 2 | topic | a block with one event |
//! ```
//!
//! The block has a checksum and the time of the event (`log/block.rs`); its sequence and its
//! position say nothing. `incarnation` is the number of the process that tells it: a node skips
//! what it has told itself.
//!
//! # Why
//!
//! An ephemeral event promises nothing but to be given at most once, so nothing is told twice, and
//! nothing waits: what the engine does not take at once is lost for the other nodes. That is
//! counted ([`RelayCounts`]), and only what never could pass, an event that is too large, is
//! refused.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use serde::Serialize;

use super::messages::{
    FleetMessages, ListenedMessage, MAX_MESSAGE_BYTES, MessageKind, MessageListener, NotTold,
};
use crate::broker::{Broker, EphemeralRelay};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::log::{Block, BlockBuilder, NewRecords};
use crate::topic::TopicName;

/// The number of the form that is written; messages of another form are skipped.
const FORM: u8 = 1;

/// The ephemeral events that went between nodes since this one was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RelayCounts {
    /// The events that were told to the other nodes.
    pub told: u64,
    /// The events that could not be told, because the engine was away, or too much waited for it.
    pub not_told: u64,
    /// The events that came from other nodes.
    pub heard: u64,
    /// The messages from other nodes that were lost here, because too many came at once.
    pub lost: u64,
}

/// The counters of [`RelayCounts`].
#[derive(Debug, Default)]
struct RelayCounters {
    told: AtomicU64,
    not_told: AtomicU64,
    heard: AtomicU64,
    lost: AtomicU64,
}

/// What hands ephemeral events on to the other nodes, and takes theirs. Cheap to clone.
#[derive(Clone)]
pub(super) struct FleetRelay {
    messages: Arc<dyn FleetMessages>,
    incarnation: u64,
    counters: Arc<RelayCounters>,
}

impl fmt::Debug for FleetRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRelay").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl FleetRelay {
    pub(super) fn new(messages: Arc<dyn FleetMessages>, incarnation: u64) -> Self {
        Self { messages, incarnation, counters: Arc::default() }
    }

    /// Returns the counts up to now.
    pub(super) fn counts(&self) -> RelayCounts {
        let RelayCounters { told, not_told, heard, lost } = &*self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (told, not_told) = (count(told), count(not_told));
        RelayCounts { told, not_told, heard: count(heard), lost: count(lost) }
    }

    /// Gives the followers at this node what is published at others, for ever.
    pub(super) async fn run(self, broker: Broker, pause: Duration) -> Infallible {
        loop {
            match self.messages.listen(MessageKind::Ephemeral).await {
                Ok(listener) => self.hear(listener, &broker).await,
                Err(error) => tracing::debug!(%error, "ephemeral events of other nodes are missed"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Hears until the connection has ended for good.
    async fn hear(&self, mut listener: MessageListener, broker: &Broker) {
        while let Some(heard) = listener.next().await {
            match heard {
                ListenedMessage::OfStranger(_counted) => {}
                ListenedMessage::Lost(lost) => {
                    self.counters.lost.fetch_add(lost, Ordering::Relaxed);
                    tracing::warn!(lost, "ephemeral events of other nodes were lost here");
                }
                ListenedMessage::Message(message) => {
                    let Some((incarnation, topic, time, event)) = decode(message) else { continue };
                    let is_own = incarnation == self.incarnation;
                    if !is_own && broker.deliver_relayed(&topic, time, event).is_ok() {
                        self.counters.heard.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

impl EphemeralRelay for FleetRelay {
    fn hand_on(&self, topic: &TopicName, time: Timestamp, event: &NewEvent) -> Result<()> {
        let message = encode(self.incarnation, topic, time, event);
        let counter = match self.messages.tell(MessageKind::Ephemeral, message) {
            Ok(()) => &self.counters.told,
            Err(NotTold::TooLarge(size)) => {
                let what = "bytes of an ephemeral event in a fleet";
                return Err(Error::over(what, size, MAX_MESSAGE_BYTES));
            }
            Err(NotTold::Away(_) | NotTold::Busy) => &self.counters.not_told,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the message for an event.
fn encode(incarnation: u64, topic: &TopicName, time: Timestamp, event: &NewEvent) -> Bytes {
    let mut block = BlockBuilder::new(Sequence::FIRST);
    block.push(NewRecords::encode([event]).record(0), false, false);
    let block = block.finish(Position::new(1), time, 0);
    let name = topic.as_str().as_bytes();
    let mut message = Vec::with_capacity(1 + 8 + 2 + name.len() + block.bytes().len());
    message.put_u8(FORM);
    message.put_u64(incarnation);
    message.put_u16(u16::try_from(name.len()).expect("the name of a topic is short"));
    message.put_slice(name);
    message.put_slice(block.bytes());
    message.into()
}

/// Reads a message; `None` if it is none that this version knows.
fn decode(mut message: Bytes) -> Option<(u64, TopicName, Timestamp, NewEvent)> {
    if message.try_get_u8().ok()? != FORM {
        return None;
    }
    let incarnation = message.try_get_u64().ok()?;
    let name_bytes = usize::from(message.try_get_u16().ok()?);
    if message.len() < name_bytes {
        return None;
    }
    let name = message.split_to(name_bytes);
    let topic = TopicName::new(std::str::from_utf8(&name).ok()?).ok()?;
    let block = Block::decode_foreign(message).ok()?;
    let event = block.to_event(&block.events().next()?);
    Some((incarnation, topic, event.time, event.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_one_that_is_cut_or_altered_is_skipped() {
        let topic: TopicName = "rooms.7".parse().unwrap();
        let time = Timestamp::from_ms(1_234_567);
        let event = NewEvent::new("is typing")
            .with_id("an id")
            .with_key("ann")
            .with_header("source", "a page");
        let message = encode(u64::MAX, &topic, time, &event);
        assert_eq!(decode(message.clone()), Some((u64::MAX, topic, time, event)));
        for end in 0..message.len() {
            assert_eq!(decode(message.slice(..end)), None, "cut at {end}");
        }
        let mut altered = message.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        assert_eq!(decode(altered.into()), None);
        let later = [&[FORM + 1], &message[1..]].concat();
        assert_eq!(decode(later.into()), None);
    }
}
