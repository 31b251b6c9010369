//! The registry: every topic by its name, and what its readers watch.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::dedup::Recall;
use super::tail::Tail;
use crate::error::{Error, Result};
use crate::log::{Extent, StoredTopic};
use crate::topic::{TopicId, TopicName};

/// What is known of a topic, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicState {
    /// Its id in the log; `None` until its first event is durable.
    pub(super) id: Option<TopicId>,
    /// What is readable. Everything below its tail is durable.
    pub(super) extent: Extent,
}

impl TopicState {
    const NONE: TopicState = TopicState { id: None, extent: Extent::EMPTY };
}

/// One topic. A topic that somebody follows or publishes to may not exist in the log yet.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) tail: Arc<Tail>,
    /// Whether the window knows the ids from before the start.
    pub(super) recall: Recall,
    state: watch::Sender<TopicState>,
    /// How many hold a [`TopicRef`].
    refs: AtomicUsize,
}

impl Topic {
    fn new(name: TopicName, state: TopicState) -> Arc<Self> {
        let recall = Recall::of(&state.extent);
        let state = watch::Sender::new(state);
        Arc::new(Self { name, tail: Arc::default(), recall, state, refs: AtomicUsize::new(0) })
    }

    /// What is readable now.
    pub(super) fn state(&self) -> TopicState {
        *self.state.borrow()
    }

    /// Watches what is readable.
    pub(super) fn watch(&self) -> watch::Receiver<TopicState> {
        self.state.subscribe()
    }

    /// Lets readers see a new state. Called by the committer alone.
    pub(super) fn set_state(&self, state: TopicState) {
        self.state.send_replace(state);
    }
}

/// All topics.
#[derive(Debug)]
pub(super) struct Topics {
    max_topics: usize,
    by_name: RwLock<HashMap<TopicName, Arc<Topic>>>,
}

impl Topics {
    /// The topics that the log holds.
    pub(super) fn new(stored: &[StoredTopic], max_topics: usize) -> Arc<Self> {
        let topic = |stored: &StoredTopic| {
            let state = TopicState { id: Some(stored.id), extent: stored.extent };
            (stored.name.clone(), Topic::new(stored.name.clone(), state))
        };
        let by_name = RwLock::new(stored.iter().map(topic).collect());
        Arc::new(Self { max_topics, by_name })
    }

    /// The topic with this name, which need not exist in the log.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`] when it is new, and there are as many as there may be.
    pub(super) fn open(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        if let Some(topic) = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(TopicRef::new(topic, self));
        }
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if by_name.len() >= self.max_topics && !by_name.contains_key(name) {
            return Err(Error::over("topics", by_name.len() + 1, self.max_topics));
        }
        let new = || Topic::new(name.clone(), TopicState::NONE);
        let topic = by_name.entry(name.clone()).or_insert_with(new);
        Ok(TopicRef::new(topic, self)) // While the lock is held: nobody removes it in between.
    }

    /// The topic with this name, if it exists in the log.
    pub(super) fn existing(&self, name: &TopicName) -> Result<Arc<Topic>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let topic = by_name.get(name).filter(|topic| topic.state().id.is_some());
        topic.cloned().ok_or_else(|| Error::UnknownTopic(name.clone()))
    }

    /// Up to `limit` topics that exist, in the order of their names, after `after`.
    pub(super) fn list(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Topic>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let mut first = BTreeMap::new();
        for (name, topic) in by_name.iter().filter(|(_, topic)| topic.state().id.is_some()) {
            if after.is_none_or(|after| name.as_str() > after) {
                first.insert(name.as_str(), topic);
            }
            if first.len() > limit {
                first.pop_last();
            }
        }
        first.into_values().cloned().collect()
    }

    fn forget_if_unused(&self, topic: &Arc<Topic>) {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        // By the time the lock is held, the name may be that of a newer topic, which is in use.
        let is_current = by_name.get(&topic.name).is_some_and(|known| Arc::ptr_eq(known, topic));
        if is_current && topic.refs.load(Ordering::Acquire) == 0 && topic.state().id.is_none() {
            by_name.remove(&topic.name);
        }
    }
}

/// A topic in use. A topic that never came to exist is forgotten with its last reference, so names
/// that are asked for and not published to take no memory.
#[derive(Debug)]
pub(super) struct TopicRef {
    topic: Arc<Topic>,
    topics: Arc<Topics>,
}

impl TopicRef {
    fn new(topic: &Arc<Topic>, topics: &Arc<Topics>) -> Self {
        topic.refs.fetch_add(1, Ordering::AcqRel);
        Self { topic: topic.clone(), topics: topics.clone() }
    }
}

impl Deref for TopicRef {
    type Target = Arc<Topic>;

    fn deref(&self) -> &Arc<Topic> {
        &self.topic
    }
}

impl Drop for TopicRef {
    fn drop(&mut self) {
        let was_last = self.topic.refs.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last && self.topic.state().id.is_none() {
            self.topics.forget_if_unused(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_never_came_to_exist_is_forgotten_with_its_last_reference() {
        let topics = Topics::new(&[], 2);
        let name = TopicName::new("a").unwrap();
        let (one, two) = (topics.open(&name).unwrap(), topics.open(&name).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        drop(one);
        assert_eq!(topics.by_name.read().unwrap().len(), 1);
        drop(two);
        assert_eq!(topics.by_name.read().unwrap().len(), 0);
    }

    #[test]
    fn a_topic_that_is_forgotten_late_takes_no_newer_one_of_its_name_with_it() {
        let topics = Topics::new(&[], 2);
        let name = TopicName::new("a").unwrap();
        let late = topics.open(&name).unwrap().topic.clone();
        let newer = topics.open(&name).unwrap();
        topics.forget_if_unused(&late);
        assert!(Arc::ptr_eq(&newer, &topics.open(&name).unwrap()));
    }

    #[test]
    fn a_topic_that_exists_stays_and_the_number_of_topics_is_bounded() {
        let topics = Topics::new(&[], 2);
        let name = |text| TopicName::new(text).unwrap();
        let born = topics.open(&name("b")).unwrap();
        born.set_state(TopicState { id: Some(TopicId::FIRST), ..TopicState::NONE });
        drop(born);
        let _unborn = topics.open(&name("a")).unwrap();
        let error = topics.open(&name("c")).unwrap_err().to_string();
        assert!(error.contains("topics: 3 is over the limit of 2"), "{error}");
        let listed: Vec<_> = topics.list(None, 10).iter().map(|t| t.name.to_string()).collect();
        assert_eq!(listed, ["b"]);
        assert_eq!(topics.list(Some("b"), 10).len(), 0);
        topics.existing(&name("b")).unwrap();
        assert!(matches!(topics.existing(&name("a")), Err(Error::UnknownTopic(_))));
    }
}
