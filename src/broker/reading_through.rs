//! Reading all events of the log once, a little at a time, to find those that are damaged.
//!
//! # Why
//!
//! A block that was trimmed or rewritten while it is read is missing there, or looks damaged. So
//! damage is believed only if that is not so: the committer is asked to finish what it does, then
//! nothing of the topic was rewritten since before the read, the damaged events are not trimmed,
//! and a second read finds the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::Queued;
use super::shared::Shared;
use super::topic::entry::Topic;
use super::topic::state::TopicState;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::topic::{TopicId, TopicName};

/// The most topics that are taken from the list of all topics at once.
const MAX_LISTED: usize = 64;

/// The most reads of one place that are made, while its topic changes.
const MAX_TRIES: usize = 10;

/// A place in a reading of all events of all topics. The default is the beginning.
#[derive(Debug, Default)]
pub(crate) struct ReadThrough {
    /// The name of the last topic that was listed; `None` before the first one.
    listed: Option<TopicName>,
    is_all_listed: bool,
    topics: VecDeque<Arc<Topic>>,
    /// The next sequence of the first of the topics.
    next: Option<Sequence>,
}

/// The finding of one step.
#[derive(Debug)]
pub(crate) enum ReadStep {
    /// So many bytes of blocks were read, and are as they should be.
    Read(usize),
    /// Events are damaged. The next step goes on after them.
    Damaged(Error),
    /// All is read.
    End,
}

/// The finding at one place of a topic.
enum FoundThere {
    /// Blocks of so many bytes, and the sequence after them.
    Blocks(usize, Sequence),
    /// Damage, and the sequence after it.
    Damage(Error, Sequence),
    /// Nothing: the topic ends before it, or was deleted.
    Nothing,
}

impl ReadThrough {
    /// Reads the next blocks: at least one, then as many as fit `max_bytes`.
    ///
    /// # Errors
    ///
    /// As `Broker::read_step`.
    pub(super) async fn step(&mut self, shared: &Shared, max_bytes: usize) -> Result<ReadStep> {
        while self.topics.is_empty() {
            if self.is_all_listed {
                return Ok(ReadStep::End);
            }
            tokio::task::yield_now().await; // There may be very many that do not exist any more.
            self.list(shared);
        }
        let Some(topic) = self.topics.front().cloned() else { return Ok(ReadStep::End) };
        let next = self.next.unwrap_or(Sequence::FIRST);
        let (step, next) = match look_at(shared, &topic, next, max_bytes).await? {
            FoundThere::Blocks(bytes, next) => (ReadStep::Read(bytes), Some(next)),
            FoundThere::Damage(error, next) => (ReadStep::Damaged(error), Some(next)),
            FoundThere::Nothing => (ReadStep::Read(0), None),
        };
        self.next = next;
        if next.is_none() {
            self.topics.pop_front();
        }
        Ok(step)
    }

    /// Takes the next topics from the list of all of them.
    fn list(&mut self, shared: &Shared) {
        let (mut found, after) = (Vec::new(), self.listed.as_ref().map(TopicName::as_str));
        let exists = |topic: &Topic| topic.state().exists();
        let listed = shared.topics.some_after(after, MAX_LISTED, exists, &mut found);
        self.is_all_listed = listed.is_none();
        self.listed = listed;
        self.topics = found.into();
    }
}

/// Returns the damage at a place, if it is really there.
///
/// # Errors
///
/// As `Broker::read_step`.
pub(super) async fn damage_at(
    shared: &Shared,
    topic: &TopicName,
    first: Sequence,
) -> Result<Option<Error>> {
    let Some(topic) = shared.topics.known(topic) else { return Ok(None) };
    match look_at(shared, &topic, first, 1).await? {
        FoundThere::Damage(error, _) => Ok(Some(error)),
        FoundThere::Blocks(..) | FoundThere::Nothing => Ok(None),
    }
}

/// Reads the blocks of a topic from `next`, or from its earliest event, on.
async fn look_at(
    shared: &Shared,
    topic: &Arc<Topic>,
    next: Sequence,
    max_bytes: usize,
) -> Result<FoundThere> {
    let (mut last_seen, mut passed) = (None, next.next());
    for _ in 0..MAX_TRIES {
        let seen = Seen::of(topic);
        let TopicState { extent, is_deleted, .. } = topic.state();
        let (from, tail) = (next.max(extent.earliest), extent.tail);
        let Some(id) = seen.id.filter(|_| !is_deleted && from < tail) else {
            return Ok(FoundThere::Nothing);
        };
        let read = shared.turns.read(move |log| log.read(id, from, tail, max_bytes)).await;
        match read {
            Ok(blocks) => {
                let bytes = blocks.iter().map(|block| block.bytes().len()).sum();
                let next = blocks.last().map(|block| block.last_sequence().next());
                return Ok(next.map_or(FoundThere::Nothing, |next| {
                    FoundThere::Blocks(bytes, next.max(from.next()))
                }));
            }
            Err(Error::Damaged { topic: name, first, last, problem }) => {
                let _reached = shared.ask(|reply| Queued::Barrier { reply }).await?;
                passed = last.map_or(tail, Sequence::next).max(from.next());
                // Only blocks below the earliest event are removed, so those that are still there
                // were not being trimmed.
                let earliest = topic.state().extent.earliest;
                let is_there = last.map_or(earliest == extent.earliest, |last| last >= earliest);
                let is_unchanged = seen == Seen::of(topic);
                if is_there && is_unchanged && last_seen.replace(seen) == Some(seen) {
                    let damaged = Error::Damaged { topic: name, first, last, problem };
                    return Ok(FoundThere::Damage(damaged, passed));
                }
            }
            Err(error) => return Err(error),
        }
    }
    // The topic changes all the time. What is damaged there is found the next time.
    Ok(FoundThere::Blocks(0, passed))
}

/// The counts that change when blocks of a topic are rewritten, or the topic is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    id: Option<TopicId>,
    deletions: u32,
    rewrites: u64,
}

impl Seen {
    fn of(topic: &Topic) -> Self {
        let TopicState { id, deletions, .. } = topic.state();
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        Self { id, deletions, rewrites }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::{Broker, OpenConfig};
    use crate::event::NewEvent;
    use crate::testing::{Builder, FaultyLog};
    use crate::{Publish, TopicConfig};

    async fn publish(broker: &Broker, topic: &str, count: usize) {
        for number in 0..count {
            let event = NewEvent::new(format!("{number:0100}"));
            broker.publish(Publish::one(topic.parse().unwrap(), event)).await.unwrap();
        }
    }

    /// Reads all, and returns the bytes, the damaged topics with the first damaged sequence, and
    /// the number of steps.
    async fn all(broker: &Broker, max_bytes: usize) -> (usize, Vec<(String, u64)>, usize) {
        let (mut through, mut bytes, mut damaged) = (ReadThrough::default(), 0, Vec::new());
        for steps in 0.. {
            match broker.read_step(&mut through, max_bytes).await.unwrap() {
                ReadStep::Read(more) => bytes += more,
                ReadStep::Damaged(Error::Damaged { topic, first, .. }) => {
                    damaged.push((topic.to_string(), first.get()));
                }
                ReadStep::Damaged(error) => panic!("{error}"),
                ReadStep::End => return (bytes, damaged, steps),
            }
        }
        unreachable!()
    }

    /// Goal: all events of all topics are read once, in steps of bounded size, however many topics
    /// there are; deleted ones and trimmed events are passed over.
    #[tokio::test]
    async fn all_topics_are_read_through_in_small_steps() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        assert_eq!(all(&broker, 1).await, (0, vec![], 0));
        for number in 0..MAX_LISTED * 2 + 5 {
            let name = format!("t{number}").parse().unwrap();
            broker.set_topic(&name, TopicConfig::default()).await.unwrap();
        }
        for topic in ["a", "b", "z"] {
            publish(&broker, topic, 50).await;
        }
        let (bytes, damaged, _) = all(&broker, 1 << 20).await;
        assert!(bytes > 15_000 && damaged.is_empty(), "{bytes}");
        let (same, _, steps) = all(&broker, 1).await;
        assert!(same == bytes && steps >= 150, "{same} {steps}");
        broker.purge(&"a".parse().unwrap(), Sequence::new(25)).await.unwrap();
        broker.delete_topic(&"z".parse().unwrap()).await.unwrap();
        let (less, ..) = all(&broker, 1).await;
        assert!(less > bytes / 3 && less < bytes * 2 / 3, "{less} of {bytes}");
    }

    /// Goal: damaged events are told, those after them are read all the same, and what a reader has
    /// met is found again only if it is really there.
    #[tokio::test]
    async fn damage_is_told_once_it_is_sure_and_the_rest_is_read() {
        let log = Arc::new(FaultyLog::default());
        let broker = Builder::default().log(log.clone()).open().unwrap();
        publish(&broker, "a", 30).await;
        publish(&broker, "b", 5).await;
        let (whole, ..) = all(&broker, 1).await;
        log.damage(Sequence::new(20));
        let (bytes, damaged, _) = all(&broker, 1).await;
        assert_eq!(damaged, [("a".to_owned(), 20)]);
        assert!(bytes > whole * 9 / 10 && bytes < whole, "{bytes} of {whole}");
        let topic = "a".parse().unwrap();
        let found = async |first| broker.damage_at(&topic, Sequence::new(first)).await.unwrap();
        assert!(found(20).await.is_some());
        assert!(found(19).await.is_none() && found(31).await.is_none());
        broker.purge(&topic, Sequence::new(25)).await.unwrap();
        assert!(found(20).await.is_none(), "it was trimmed");
        assert!(
            broker.damage_at(&"none".parse().unwrap(), Sequence::FIRST).await.unwrap().is_none()
        );
    }
}
