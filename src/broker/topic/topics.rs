//! The registry: every topic by its name, and what is known of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::chunks::Chunks;
use crate::broker::dedup::Recall;
use crate::broker::ephemeral::Ring;
use crate::broker::limits::{LimitsConfig, at_most};
use crate::broker::maintenance::Upkeep;
use crate::broker::presence::Members;
use crate::broker::tail::newest::Tail;
use crate::broker::wake::waker::Signal;
use crate::error::{Error, Result};
use crate::log::{Extent, StoredTopic};
use crate::topic::{TopicId, TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

/// Combinations of patterns whose settings are held once.
const MAX_SHARED_DEFAULTS: usize = 64;

/// Names that are looked at while their lock is held: some microseconds.
const NAMES_PER_LOCK: usize = 64;

/// What is known of a topic, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::broker) struct TopicState {
    /// Its id in the log; `None` until its first event is durable.
    pub(in crate::broker) id: Option<TopicId>,
    /// What is readable. Everything below its tail is durable.
    pub(in crate::broker) extent: Extent,
    /// Its own settings.
    pub(in crate::broker) config: TopicConfig,
    /// Whether it was deleted; its places are kept, for when it is created again.
    pub(in crate::broker) is_deleted: bool,
    /// How often it was deleted since the start: its readers end with it, also where it is created
    /// again before they see it.
    pub(in crate::broker) deletions: u32,
}

impl TopicState {
    /// Whether it exists.
    pub(in crate::broker) fn exists(&self) -> bool {
        self.id.is_some() && !self.is_deleted
    }
}

/// A topic's state as it is kept: settings of its own, which few topics have, apart.
#[derive(Debug)]
struct Kept {
    id: Option<TopicId>,
    extent: Extent,
    config: Option<Box<TopicConfig>>,
    is_deleted: bool,
    deletions: u32,
}

impl From<TopicState> for Kept {
    fn from(state: TopicState) -> Self {
        let TopicState { id, extent, config, is_deleted, deletions } = state;
        let config = (config != TopicConfig::default()).then(|| Box::new(config));
        Self { id, extent, config, is_deleted, deletions }
    }
}

impl Kept {
    fn state(&self) -> TopicState {
        let Self { id, extent, ref config, is_deleted, deletions } = *self;
        let config = config.as_deref().copied().unwrap_or_default();
        TopicState { id, extent, config, is_deleted, deletions }
    }
}

/// How many topics there are of each kind, and may be.
///
/// # Why
///
/// Each kind has a bound of its own: what readers merely name, and what was deleted, must not keep
/// publishers from creating topics. The committer alone has topics come to exist and deletes them,
/// so it keeps those two bounds exactly.
#[derive(Debug)]
struct Counts {
    limits: LimitsConfig,
    existing: AtomicUsize,
    deleted: AtomicUsize,
    /// Those that are known by their names alone, and are in nobody's way but their readers'.
    unborn: AtomicUsize,
}

impl Counts {
    fn new(limits: &LimitsConfig) -> Self {
        let [existing, deleted, unborn] = [0; 3].map(AtomicUsize::new);
        Self { limits: limits.clone(), existing, deleted, unborn }
    }

    /// The number of those that are as `state` says.
    fn of(&self, state: &TopicState) -> &AtomicUsize {
        match (state.id, state.is_deleted) {
            (None, _) => &self.unborn,
            (Some(_), false) => &self.existing,
            (Some(_), true) => &self.deleted,
        }
    }

    fn add(&self, state: &TopicState) {
        self.of(state).fetch_add(1, Ordering::AcqRel);
    }

    fn remove(&self, state: &TopicState) {
        self.of(state).fetch_sub(1, Ordering::AcqRel);
    }

    /// Refuses one more, where there are as many as there may be.
    fn check(name: &str, count: usize, limit: u64) -> Result<()> {
        at_most(name, count + 1, limit)
    }

    fn check_existing(&self, more: isize) -> Result<()> {
        let count = self.existing.load(Ordering::Acquire).saturating_add_signed(more);
        Self::check("topics", count, self.limits.max_topics)
    }

    fn check_deleted(&self, more: isize) -> Result<()> {
        let count = self.deleted.load(Ordering::Acquire).saturating_add_signed(more);
        Self::check("deleted topics", count, self.limits.max_deleted_topics)
    }

    fn check_unborn(&self) -> Result<()> {
        let count = self.unborn.load(Ordering::Acquire);
        let name = "topics that do not exist yet and are followed";
        Self::check(name, count, self.limits.max_unborn_topics)
    }
}

/// What is known of all topics together.
#[derive(Debug)]
struct Roll {
    counts: Counts,
    chunks: Chunks,
}

/// One topic. A topic that somebody follows or publishes to may not exist in the log yet.
///
/// # Why
///
/// There may be hundreds of thousands, of which nearly all are idle: what only a topic needs that
/// is followed, or has settings or members of its own, is allocated when it is needed.
#[derive(Debug)]
pub(in crate::broker) struct Topic {
    pub(in crate::broker) name: TopicName,
    pub(in crate::broker) tail: Arc<Tail>,
    /// Whether the window knows the ids from before the start.
    pub(in crate::broker) recall: Recall,
    pub(in crate::broker) upkeep: Upkeep,
    /// The settings that it has where its own say nothing.
    defaults: Arc<TopicConfig>,
    roll: Arc<Roll>,
    state: Mutex<Kept>,
    /// Tells those who follow it that there is something new. Made for the first of them: of a
    /// hundred thousand topics few are followed, and it takes more than all the rest.
    pub(in crate::broker) signal: OnceLock<Box<Signal>>,
    /// What is for who is there, and not stored.
    pub(in crate::broker) ephemera: Ring,
    /// Who is there.
    pub(in crate::broker) members: Members,
    /// How often some of its blocks were written again.
    pub(in crate::broker) rewrites: AtomicU64,
    /// Whether the waker knows that there is something new.
    pub(in crate::broker) is_due: AtomicBool,
    /// How many hold a [`TopicRef`].
    refs: AtomicUsize,
}

impl Topic {
    fn new(
        name: TopicName,
        state: TopicState,
        defaults: Arc<TopicConfig>,
        roll: &Arc<Roll>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            tail: Arc::new(Tail::after(state.extent.last_position)),
            recall: Recall::of(&state.extent),
            upkeep: Upkeep::of(&state.extent),
            defaults,
            roll: roll.clone(),
            state: Mutex::new(state.into()),
            signal: OnceLock::new(),
            ephemera: Ring::default(),
            members: Members::default(),
            rewrites: AtomicU64::new(0),
            is_due: AtomicBool::new(false),
            refs: AtomicUsize::new(0),
        })
    }

    /// The settings that hold for it.
    pub(in crate::broker) fn effective_config(&self) -> TopicConfig {
        self.state().config.over(*self.defaults)
    }

    /// What is readable now.
    pub(in crate::broker) fn state(&self) -> TopicState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).state()
    }

    /// Follows it: the signal is given after each change of its state from now on.
    pub(in crate::broker) fn follow(&self) -> watch::Receiver<()> {
        self.signal.get_or_init(Box::default).follow()
    }

    /// How many follow it alone.
    pub(in crate::broker) fn followers(&self) -> usize {
        self.signal.get().map_or(0, |signal| signal.followers())
    }

    /// Sets what is readable. Called by the committer alone, which has followers woken.
    pub(in crate::broker) fn set_state(self: &Arc<Self>, state: TopicState) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.roll.counts.add(&state);
        let before = current.state();
        self.roll.counts.remove(&before);
        *current = state.into();
        drop(current);
        match state.id {
            Some(id) if before.id.is_none() => self.roll.chunks.add(self, id, &state.extent),
            Some(id) if state.extent.dropped_position() > before.extent.dropped_position() => {
                self.roll.chunks.note_dropped(id, &state.extent);
            }
            _ => {}
        }
    }

    /// Refuses to have it come to exist, beside `more` others that are going to, where there are as
    /// many topics as there may be.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(in crate::broker) fn check_existing(&self, more: isize) -> Result<()> {
        self.roll.counts.check_existing(more)
    }

    /// Refuses to delete it, beside `more` others that are going to be, where there are as many
    /// deleted topics as there may be.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(in crate::broker) fn check_deleted(&self, more: isize) -> Result<()> {
        self.roll.counts.check_deleted(more)
    }
}

/// Settings by patterns of names, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicDefaults(BTreeMap<TopicPattern, TopicConfig>);

impl TopicDefaults {
    /// The settings of a pattern; they take the place of those it had.
    pub fn set(&mut self, pattern: TopicPattern, config: TopicConfig) {
        self.0.insert(pattern, config);
    }

    /// The settings of a topic where its own say nothing: of each setting that of the most special
    /// pattern that says it.
    pub fn of(&self, name: &TopicName) -> TopicConfig {
        let mut matching: Vec<_> = self.0.iter().filter(|(p, _)| p.matches(name)).collect();
        matching.sort_by_cached_key(|(pattern, _)| Reverse(pattern.specificity()));
        matching.iter().fold(TopicConfig::default(), |config, (_, next)| config.over(**next))
    }

    /// Checks each pattern, which must be able to match a new topic, and its settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the pattern.
    pub fn validate(&self) -> Result<()> {
        for (pattern, config) in &self.0 {
            pattern.check_new().and_then(|()| config.validate()).map_err(|error| {
                Error::invalid(format!("topics.{:?}", pattern.as_str()), error.to_string())
            })?;
        }
        Ok(())
    }
}

/// Settings by patterns, held once for all topics that they are the same for.
#[derive(Debug)]
struct SharedDefaults {
    patterns: TopicDefaults,
    known: Mutex<Vec<Arc<TopicConfig>>>,
}

impl SharedDefaults {
    fn new(patterns: TopicDefaults) -> Self {
        Self { patterns, known: Mutex::default() }
    }

    fn of(&self, name: &TopicName) -> Arc<TopicConfig> {
        let config = self.patterns.of(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|other| ***other == config) {
            return same.clone();
        }
        let config = Arc::new(config);
        if known.len() < MAX_SHARED_DEFAULTS {
            known.push(config.clone());
        }
        config
    }
}

/// Topics by their names.
pub(in crate::broker) type Names = BTreeMap<TopicName, Arc<Topic>>;

/// All topics.
///
/// # Why
///
/// Each publish looks its topic up, and one to a new topic adds it: so nobody holds the lock of the
/// names for more than a few of them. Whoever goes through all of them does so in steps, each from
/// the name where the one before it ended.
#[derive(Debug)]
pub(in crate::broker) struct Topics {
    roll: Arc<Roll>,
    defaults: SharedDefaults,
    by_name: RwLock<Names>,
}

impl Topics {
    /// The topics that the log holds.
    pub(in crate::broker) fn new(
        stored: &[StoredTopic],
        limits: &LimitsConfig,
        defaults: TopicDefaults,
    ) -> Arc<Self> {
        let roll = Arc::new(Roll { counts: Counts::new(limits), chunks: Chunks::default() });
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

    /// Those that have an id, by their ids.
    pub(in crate::broker) fn chunks(&self) -> &Chunks {
        &self.roll.chunks
    }

    /// Calls `look` with the names. Publishing waits for it, so it takes some microseconds at most.
    pub(in crate::broker) fn with_names<T>(&self, look: impl FnOnce(&Names) -> T) -> T {
        look(&self.by_name.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn names_mut(&self) -> RwLockWriteGuard<'_, Names> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic with this name, which need not exist in the log, for a publisher.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`] when it is new, and there are as many topics as there may be.
    pub(in crate::broker) fn open(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || name.check_new().and_then(|()| self.roll.counts.check_existing(0)))
    }

    /// As [`Self::open`], for a reader, who need not have it come to exist.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`] when it is new, and readers follow as many topics that do not exist yet
    /// as they may.
    pub(in crate::broker) fn follow(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || name.check_new().and_then(|()| self.roll.counts.check_unborn()))
    }

    /// Checks that a pattern can match a topic: one with characters of which no new name is made
    /// matches those alone that have such names from before.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where there is no topic that begins like it.
    pub(in crate::broker) fn check_pattern(&self, pattern: &TopicPattern) -> Result<()> {
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

    /// As [`Self::open`], for what is not stored: it holds the topic for a moment alone.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is new, and its name cannot be one of a new topic.
    pub(in crate::broker) fn open_briefly(self: &Arc<Self>, name: &TopicName) -> Result<TopicRef> {
        self.open_if(name, || name.check_new())
    }

    /// The topic with this name, which is taken in if `check` allows it.
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
        Ok(TopicRef::new(topic, self)) // While the lock is held: nobody removes it in between.
    }

    /// The topic with this name, if anybody knows of it.
    pub(in crate::broker) fn known(self: &Arc<Self>, name: &TopicName) -> Option<TopicRef> {
        self.with_names(|names| names.get(name).map(|topic| TopicRef::new(topic, self)))
    }

    /// The topic with this name, if it exists in the log.
    pub(in crate::broker) fn existing(&self, name: &TopicName) -> Result<Arc<Topic>> {
        let topic = self.with_names(|names| names.get(name).cloned());
        let topic = topic.filter(|topic| topic.state().exists());
        topic.ok_or_else(|| Error::UnknownTopic(name.clone()))
    }

    /// The topics for which `wanted` holds, in the order of their names. Topics that come to be
    /// meanwhile may be left out.
    pub(in crate::broker) fn filtered(&self, wanted: impl Fn(&Topic) -> bool) -> Vec<Arc<Topic>> {
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
    /// for which `wanted` holds, up to `limit`. Returns the name after which there may be more.
    pub(in crate::broker) fn some_after(
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

    /// Signals everybody who follows any.
    pub(in crate::broker) fn signal_all(&self) {
        let followed = self.filtered(|topic| topic.signal.get().is_some());
        followed.iter().filter_map(|topic| topic.signal.get()).for_each(|s| s.give());
    }

    fn forget_if_unused(&self, topic: &Arc<Topic>) {
        let mut by_name = self.names_mut();
        // By the time the lock is held, the name may be that of a newer topic, which is in use.
        let is_current = by_name.get(&topic.name).is_some_and(|known| Arc::ptr_eq(known, topic));
        if is_current && topic.refs.load(Ordering::Acquire) == 0 && topic.state().id.is_none() {
            by_name.remove(&topic.name);
            self.roll.counts.remove(&topic.state());
        }
    }
}

/// A topic in use. A topic that never came to exist is forgotten with its last reference, so names
/// that are asked for and not published to take no memory.
#[derive(Debug)]
pub(in crate::broker) struct TopicRef {
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

    #[test]
    fn the_most_special_pattern_says_what_a_topic_does_not() {
        let mut defaults = TopicDefaults::default();
        let limits =
            |max_events, max_bytes| TopicConfig { max_events, max_bytes, ..TopicConfig::default() };
        defaults.set(">".parse().unwrap(), limits(Some(1), Some(1)));
        defaults.set("users.>".parse().unwrap(), limits(Some(2), None));
        defaults.set("users.*.inbox".parse().unwrap(), limits(None, Some(3)));
        let of = |name: &str| {
            let config = defaults.of(&TopicName::new(name).unwrap());
            (config.max_events, config.max_bytes)
        };
        assert_eq!(of("orders"), (Some(1), Some(1)));
        assert_eq!(of("users.7"), (Some(2), Some(1)));
        assert_eq!(of("users.7.inbox"), (Some(2), Some(3)));
    }

    /// Goal: a hundred thousand idle topics take less than 1 KiB each, the log's share included.
    #[test]
    fn an_idle_topic_is_small() {
        let size_bytes = size_of::<Topic>() + size_of::<Tail>();
        assert!(size_bytes <= 512, "{size_bytes} bytes");
    }
}
