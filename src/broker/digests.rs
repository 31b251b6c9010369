//! Digests of the events of a topic, read from the log in small steps.

use std::ops::ControlFlow;

use super::backup::stored_blocks;
use super::{Broker, TopicInfo};
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{EventsDigest, Log, TopicDigester, digest_start};
use crate::topic::TopicName;

/// The digests after which a call ends; the step that makes them is done.
const MAX_DIGESTS: usize = 256;

/// The bytes of blocks after which a call ends with the next digest that is complete.
const ENOUGH_BYTES: usize = 16 << 20;

/// About the bytes of one step: hashing them takes a millisecond or two.
const STEP_BYTES: usize = 256 << 10;

/// The digests of a part of a topic.
#[derive(Debug, Clone)]
pub(crate) struct DigestsPart {
    /// The topic as it was when the part was begun.
    pub(crate) topic: TopicInfo,
    pub(crate) digests: Vec<EventsDigest>,
    /// Where the next part begins; `None` if no event follows that counts.
    pub(crate) next: Option<Sequence>,
}

impl Broker {
    /// Returns digests of the events of a topic from `from` on, up to the position `through`: a
    /// part of them, in order. Reads the log, also events that have expired and are not dropped
    /// yet, and lets others read in between.
    ///
    /// `from` counts from the beginning of the digest that it is in. Events that were trimmed do
    /// not count.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`](crate::Error::UnknownTopic); an event is damaged, or cannot be read.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, reading ends soon.
    pub(crate) async fn digests(
        &self,
        name: &TopicName,
        from: Sequence,
        through: Position,
    ) -> Result<DigestsPart> {
        self.0.admit()?;
        let topic = TopicInfo::of(&*self.0.topics.existing(name)?);
        let state = self.0.topics.existing(name)?.state();
        let (tail, first) = (state.extent.tail, digest_start(from).max(state.extent.earliest));
        let part = |digests, next| DigestsPart { topic: topic.clone(), digests, next };
        let Some(id) = state.id else { return Ok(part(Vec::new(), None)) };
        let mut digester = TopicDigester::new(first, through);
        let (mut next, mut read_bytes) = (first, 0);
        let step = move |log: &dyn Log| {
            let blocks = stored_blocks(log, id, next..tail, STEP_BYTES)?;
            let is_last = blocks.is_empty();
            let mut is_end = is_last;
            for block in &blocks {
                is_end |= block.last_position() > through;
                block.events().for_each(|event| digester.take(&event));
                next = block.last_sequence().next();
                read_bytes += block.bytes().len();
            }
            is_end |= next >= tail;
            let is_enough = digester.done() >= MAX_DIGESTS
                || (read_bytes >= ENOUGH_BYTES && digester.done() > 0);
            if !is_end && !is_enough {
                return Ok(ControlFlow::Continue(()));
            }
            Ok(ControlFlow::Break((digester.clone(), is_end)))
        };
        let (digester, is_end) = self.0.turns.read_long(step).await?;
        let (digests, next) = digester.finish(is_end);
        Ok(part(digests, (!is_end).then_some(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::OpenConfig;
    use crate::event::NewEvent;
    use crate::{Publish, TopicConfig};

    async fn all(broker: &Broker, name: &TopicName, through: u64) -> (Vec<EventsDigest>, usize) {
        let (mut digests, mut parts) = (Vec::new(), 0);
        let mut next = Some(Sequence::FIRST);
        while let Some(from) = next {
            let part = broker.digests(name, from, Position::new(through)).await.unwrap();
            digests.extend(part.digests);
            (next, parts) = (part.next, parts + 1);
        }
        (digests, parts)
    }

    /// Goal: the parts of a topic together are what one reading of it all would give, also up to a
    /// position in the middle, and trimmed events do not count.
    #[tokio::test]
    async fn a_topic_is_digested_in_parts_that_fit_together() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let name: TopicName = "a".parse().unwrap();
        let unknown = broker.digests(&name, Sequence::FIRST, Position::new(9)).await;
        assert!(matches!(unknown, Err(crate::Error::UnknownTopic(_))), "{unknown:?}");
        broker.set_topic(&name, TopicConfig::default()).await.unwrap();
        assert_eq!(all(&broker, &name, u64::MAX).await, (vec![], 1));
        for batch in 0..140_u64 {
            let events = (0..1_000).map(|n| NewEvent::new(format!("{batch} {n}"))).collect();
            broker.publish(Publish::new(name.clone(), events)).await.unwrap();
        }
        let (digests, parts) = all(&broker, &name, u64::MAX).await;
        assert_eq!(digests.iter().map(|it| it.events).sum::<u64>(), 140_000);
        assert!(digests.len() == 547 && (2..4).contains(&parts), "{parts}");
        assert!(digests.iter().zip(0..).all(|(it, n)| it.first.get() == n * 256 + 1));
        let (through, _) = all(&broker, &name, 1_000).await;
        assert_eq!(through[..3], digests[..3]);
        assert_eq!(through.iter().map(|it| it.events).sum::<u64>(), 1_000);
        broker.purge(&name, Sequence::new(300)).await.unwrap();
        let (left, _) = all(&broker, &name, u64::MAX).await;
        let earliest = broker.topic(&name).unwrap().extent.earliest;
        assert_eq!(left[0].first, digest_start(earliest));
        assert!(left[1..] == digests[digests.len() - left.len() + 1..]);
    }
}
