//! The registry: all topics by their names.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use super::chunks::TopicChunks;
use super::counts::Counts;
use super::defaults::{SharedDefaults, TopicDefaults};
use super::entry::{Roll, Topic};
use super::state::TopicState;
use crate::broker::limits::LimitsConfig;
use crate::error::{Error, Result};
use crate::log::StoredTopic;
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

/// The names that are looked at while their lock is held: some microseconds.
const NAMES_PER_LOCK: usize = 64;

/// The map of all topics by their names.
pub(crate) type Names = BTreeMap<TopicName, Arc<Topic>>;

/// The registry of all topics.
///
/// # Why
///
/// Each publish looks its topic up, and a publish to a new topic adds it. So nobody holds the lock
/// of the names for more than a few names. A search through all names goes in steps, each from the
/// name at which the one before it ended.
#[derive(Debug)]
pub(crate) struct Topics {
    roll: Arc<Roll>,
    defaults: SharedDefaults,
    by_name: RwLock<Names>,
}

impl Topics {
    /// Returns a registry of the topics that the log holds.
    pub(crate) fn new(
        stored: &[StoredTopic],
        limits: &LimitsConfig,
        defaults: TopicDefaults,
    ) -> Arc<Self> {
        let roll = Arc::new(Roll { counts: Counts::new(limits), chunks: TopicChunks::default() });
        let defaults = SharedDefaults::new(defaults);
        let topic = |stored: &StoredTopic| {
            let StoredTopic { id, name, extent, config, is_deleted } = stored.clone();
            let state = TopicState { id: Some(id), extent, config, is_deleted, deletions: 0 };
            roll.counts.add(&state);
            let topic = Topic::new(name.clone(), state, defaults.of(&name), &roll);
            roll.chunks.add(&topic, id, &extent);
            (name, topic)
        };
        let by_name = RwLock::new(stored.iter().map(topic).collect());
        Arc::new(Self { roll, defaults, by_name })
    }

    /// Returns the topics that have an id, in chunks by their ids.
    pub(crate) fn chunks(&self) -> &TopicChunks<Topic> {
        &self.roll.chunks
    }

    /// Returns the number of topics that exist.
    pub(crate) fn count(&self) -> usize {
        self.roll.counts.existing()
    }

    /// Calls `look` with the names. Publishes wait for it, so it must take some microseconds at the
    /// most.
    pub(crate) fn with_names<T>(&self, look: impl FnOnce(&Names) -> T) -> T {
        look(&self.by_name.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn names_mut(&self) -> RwLockWriteGuard<'_, Names> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the topic with this name for a publisher. The topic need not exist in the log.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`] if the topic is new, and no more topics may be created.
    /// [`Error::Invalid`] if it is new, and no new topic may have its name.
    pub(crate) fn open(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || {
            name.check_new()?;
            // Clients cannot make own topics, and must not keep them out by making all others.
            if name.is_own() { Ok(()) } else { self.roll.counts.check_existing(0) }
        })
    }

    /// As [`Self::open`], for a reader. A reader does not create the topic.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`] if the topic is new, and readers follow the most topics that do not
    /// exist yet. [`Error::Invalid`] as for [`Self::open`].
    pub(crate) fn follow(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || name.check_new().and_then(|()| self.roll.counts.check_unborn()))
    }

    /// Checks that a pattern can match a topic. A pattern with characters that new names may not
    /// have can only match topics from before that rule.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the pattern has such characters, and no topic begins with its literal
    /// prefix.
    pub(crate) fn check_pattern(&self, pattern: &TopicPattern) -> Result<()> {
        let prefix = pattern.literal_prefix();
        let refused = |error| {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let first = |names: &Names| {
                let first = names.range::<str, _>(from).next();
                first.is_some_and(|(name, _)| name.as_str().starts_with(prefix))
            };
            if !prefix.is_empty() && self.with_names(first) { Ok(()) } else { Err(error) }
        };
        pattern.check_new().or_else(refused)
    }

    /// As [`Self::open`], for ephemeral events: these hold the topic only for a moment, so no limit
    /// is checked.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the topic is new, and no new topic may have its name.
    pub(crate) fn open_briefly(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || name.check_new())
    }

    /// Returns the topic with this name, of which the log is going to have a record that another
    /// node has decided. No limit is checked.
    pub(crate) fn of_log(self: &Arc<Self>, name: &TopicName) -> TopicRef {
        self.open_if(name, || Ok(())).expect("nothing is refused")
    }

    /// Returns the topic with this name. A new topic is added if `check` allows it.
    fn open_if(
        self: &Arc<Self>,
        name: &TopicName,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<TopicRef> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        let state = TopicState::default();
        let new = Topic::new(name.clone(), state, self.defaults.of(name), &self.roll);
        let mut by_name = self.names_mut();
        if !by_name.contains_key(name) {
            check()?;
            self.roll.counts.add(&state);
        }
        let topic = by_name.entry(name.clone()).or_insert(new);
        Ok(TopicRef::new(topic, self)) // Under the lock: nobody removes it in between.
    }

    /// Returns the topic with this name, if the registry has it. It need not exist in the log.
    pub(crate) fn known(self: &Arc<Self>, name: &TopicName) -> Option<TopicRef> {
        self.with_names(|names| names.get(name).map(|topic| TopicRef::new(topic, self)))
    }

    /// Returns the topic with this name, if it exists in the log.
    pub(crate) fn existing(&self, name: &TopicName) -> Result<Arc<Topic>> {
        let topic = self.with_names(|names| names.get(name).cloned());
        let topic = topic.filter(|topic| topic.state().exists());
        topic.ok_or_else(|| Error::UnknownTopic(name.clone()))
    }

    /// Returns the settings that the configuration has for the topic with this name.
    pub(crate) fn default_config(&self, name: &TopicName) -> TopicConfig {
        *self.defaults.of(name)
    }

    /// Returns the settings that hold for the topic with this name, whether or not it exists.
    pub(crate) fn effective_config(&self, name: &TopicName) -> TopicConfig {
        let topic = self.with_names(|names| names.get(name).cloned());
        topic.map_or_else(|| *self.defaults.of(name), |topic| topic.effective_config())
    }

    /// Returns the topics for which `wanted` is true, in the order of their names. Topics that are
    /// added meanwhile may be left out.
    pub(crate) fn filtered(&self, wanted: impl Fn(&Topic) -> bool) -> Vec<Arc<Topic>> {
        let (mut found, mut last): (_, Option<TopicName>) = (Vec::new(), None);
        loop {
            let after = last.as_ref().map(TopicName::as_str);
            last = self.some_after(after, usize::MAX, &wanted, &mut found);
            if last.is_none() {
                return found;
            }
        }
    }

    /// Looks at a few topics after the name `after`, in the order of their names, and adds those
    /// for which `wanted` is true to `found`, up to `limit`. Returns the name after which there may
    /// be more.
    pub(crate) fn some_after(
        &self,
        after: Option<&str>,
        limit: usize,
        wanted: impl Fn(&Topic) -> bool,
        found: &mut Vec<Arc<Topic>>,
    ) -> Option<TopicName> {
        let full = found.len().saturating_add(limit);
        self.with_names(|names| {
            let after = after.map_or(Bound::Unbounded, Bound::Excluded);
            let names = names.range::<str, _>((after, Bound::Unbounded));
            for (looks, (name, topic)) in (1..).zip(names) {
                if wanted(topic) {
                    found.push(topic.clone());
                }
                if looks >= NAMES_PER_LOCK || found.len() >= full {
                    return Some(name.clone());
                }
            }
            None
        })
    }

    /// Gives the signals of all topics that are followed.
    pub(crate) fn signal_all(&self) {
        let followed = self.filtered(|topic| topic.signal.get().is_some());
        followed.iter().filter_map(|topic| topic.signal.get()).for_each(|s| s.give());
    }

    fn forget_if_unused(&self, topic: &Arc<Topic>) {
        let mut by_name = self.names_mut();
        // Meanwhile the name may belong to a newer topic, which is in use.
        let is_current = by_name.get(&topic.name).is_some_and(|known| Arc::ptr_eq(known, topic));
        if is_current && topic.refs.load(Ordering::Acquire) == 0 && topic.state().id.is_none() {
            by_name.remove(&topic.name);
            self.roll.counts.remove(&topic.state());
        }
    }
}

/// A topic in use. A topic that was never created is forgotten with its last reference, so names
/// that are only asked for take no memory.
#[derive(Debug)]
pub(crate) struct TopicRef {
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
    use super::super::list::TopicList;
    use super::*;
    use crate::broker::tail::newest::Tail;
    use crate::topic::TopicId;

    fn limits(max_topics: u64) -> LimitsConfig {
        LimitsConfig { max_topics, ..LimitsConfig::default() }
    }

    #[test]
    fn a_topic_that_never_came_to_exist_is_forgotten_with_its_last_reference() {
        let topics = Topics::new(&[], &limits(2), TopicDefaults::default());
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
        let topics = Topics::new(&[], &limits(2), TopicDefaults::default());
        let name = TopicName::new("a").unwrap();
        let late = topics.open(&name).unwrap().topic.clone();
        let newer = topics.open(&name).unwrap();
        topics.forget_if_unused(&late);
        assert!(Arc::ptr_eq(&newer, &topics.open(&name).unwrap()));
    }

    #[test]
    fn a_topic_that_exists_stays_and_the_number_of_topics_is_bounded() {
        let topics = Topics::new(&[], &limits(2), TopicDefaults::default());
        let name = |text| TopicName::new(text).unwrap();
        let born = topics.open(&name("b")).unwrap();
        born.set_state(TopicState { id: Some(TopicId::FIRST), ..TopicState::default() });
        drop(born);
        let _unborn = topics.open(&name("a")).unwrap();
        let second = topics.open(&name("d")).unwrap();
        second.set_state(TopicState {
            id: TopicId::FIRST.next(),
            is_deleted: false,
            ..TopicState::default()
        });
        let error = topics.open(&name("c")).unwrap_err().to_string();
        assert!(error.contains("topics: 3 is over the limit of 2"), "{error}");
        second.set_state(TopicState { is_deleted: true, ..second.state() });
        drop(topics.open(&name("c")).unwrap());
        let listed: Vec<_> = TopicList::new(&topics, None, 10).flatten().collect();
        assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(TopicList::new(&topics, Some("b"), 10).flatten().count(), 0);
        topics.existing(&name("b")).unwrap();
        assert!(matches!(topics.existing(&name("a")), Err(Error::UnknownTopic(_))));
    }

    /// Goal: an idle topic takes no more than 512 bytes, so that a hundred thousand of them take
    /// less than 1 KiB each with the log's share.
    #[test]
    fn an_idle_topic_is_small() {
        let size_bytes = size_of::<Topic>() + size_of::<Tail>();
        assert!(size_bytes <= 512, "{size_bytes} bytes");
    }
}
