//! The feeds by the patterns that they follow. For each topic with something new, the waker looks
//! up the feeds here.
//!
//! ```text
//! orders ─┬─ * ──────── feed 1            orders.*
//!         └─ eu ─┬───── feed 2            orders.eu
//!                └─ > ─ feed 3            orders.eu.>
//! ```
//!
//! # Why
//!
//! The patterns are a tree by tokens. So the feeds of a topic are found in about as many steps as
//! its name has tokens, however many feeds follow other topics.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::broker::announced::Announced;
use crate::broker::topic::entry::Topic;
use crate::topic::{TopicName, TopicPattern};

/// The most topics that are marked for a feed one by one. With more, the feed asks the journal.
const MAX_MARKED: usize = 256;

/// The number of marked topics up to which a topic is searched among them one by one.
const MAX_SEARCHED: usize = 8;

/// The tokens of patterns that are added or removed while the tree is locked: some microseconds.
const TOKENS_PER_LOCK: usize = 48;

/// The feeds that are looked up while the tree is locked: some microseconds. A feed that comes or
/// goes waits for the lock, and publishers wait behind it.
const FEEDS_PER_LOCK: usize = 64;

/// The signal of one feed, with the marks that the waker leaves for it.
#[derive(Debug, Default)]
pub(crate) struct FeedSignal {
    pub(crate) notify: Notify,
    /// Whether the waker is going to signal the feed. Only the waker uses this.
    pub(crate) is_planned: AtomicBool,
    marked: Mutex<MarkedTopics>,
}

/// The topics with something new since a feed last looked.
#[derive(Debug, Default)]
pub(crate) struct MarkedTopics {
    pub(crate) topics: Vec<Arc<Topic>>,
    /// The addresses of these topics, once there are so many that a search takes too long.
    known: HashSet<usize>,
    /// Whether there were more topics than can be marked. The list is empty then.
    pub(crate) is_over: bool,
}

impl MarkedTopics {
    /// Whether `topic` is marked already. The caller must add a topic that is not.
    fn is_repeated(&mut self, topic: &Arc<Topic>) -> bool {
        if self.topics.len() < MAX_SEARCHED {
            return self.topics.iter().any(|other| Arc::ptr_eq(other, topic));
        }
        let address = |topic: &Arc<Topic>| Arc::as_ptr(topic).addr();
        if self.known.is_empty() {
            self.known = self.topics.iter().map(address).collect();
        }
        !self.known.insert(address(topic))
    }
}

impl FeedSignal {
    /// Marks `topic` as one with something new.
    pub(crate) fn mark(&self, topic: &Arc<Topic>) {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if marked.is_over || marked.is_repeated(topic) {
            return;
        }
        if marked.topics.len() >= MAX_MARKED {
            *marked = MarkedTopics { is_over: true, ..MarkedTopics::default() };
        } else {
            marked.topics.push(topic.clone());
        }
    }

    /// Takes the topics that were marked since the last call.
    pub(crate) fn take(&self) -> MarkedTopics {
        std::mem::take(&mut self.marked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All feeds by their patterns.
#[derive(Debug)]
pub(crate) struct Interests {
    root: RwLock<InterestNode>,
    announced: Arc<Announced>,
}

#[derive(Debug, Default)]
struct InterestNode {
    /// The nodes below, by their tokens. Ordered, because a node among a hundred thousand is then
    /// found without rehashing all of them when they grow. Boxed, because most nodes have one node
    /// below them, and the map has room for several.
    tokens: BTreeMap<Box<str>, Box<InterestNode>>,
    /// The node below any token.
    any: Option<Box<InterestNode>>,
    /// The feeds of patterns that end here.
    here: Feeds,
    /// The feeds of patterns that end here with `>`.
    rest: Feeds,
}

/// The feeds of one pattern, in the order of their addresses, so that a feed is found fast among
/// many.
#[derive(Debug, Default)]
struct Feeds(Vec<Arc<FeedSignal>>);

/// Returns the address of a feed, which stays the same while the feed is in the tree.
fn address_of(feed: &Arc<FeedSignal>) -> usize {
    Arc::as_ptr(feed).addr()
}

impl Feeds {
    /// Adds to `some` the feeds after this address, each once, up to [`FEEDS_PER_LOCK`].
    fn add_after(&self, mut address: usize, some: &mut Vec<Arc<FeedSignal>>) {
        let mut rest = &self.0[..];
        for _ in 0..FEEDS_PER_LOCK {
            rest = &rest[rest.partition_point(|feed| address_of(feed) <= address)..];
            let Some(feed) = rest.first() else { return };
            address = address_of(feed);
            some.push(feed.clone());
        }
    }

    fn index_of(&self, feed: &Arc<FeedSignal>) -> usize {
        self.0.partition_point(|other| Arc::as_ptr(other) < Arc::as_ptr(feed))
    }

    fn add(&mut self, feed: &Arc<FeedSignal>) {
        self.0.insert(self.index_of(feed), feed.clone());
    }

    /// Takes `feed` out. If it is there several times, takes it out once.
    fn remove(&mut self, feed: &Arc<FeedSignal>) {
        let index = self.index_of(feed);
        if self.0.get(index).is_some_and(|found| Arc::ptr_eq(found, feed)) {
            self.0.remove(index);
        }
    }
}

impl InterestNode {
    fn is_empty(&self) -> bool {
        let Self { tokens, any, here, rest } = self;
        tokens.is_empty() && any.is_none() && here.0.is_empty() && rest.0.is_empty()
    }

    fn insert<'a>(&mut self, mut tokens: impl Iterator<Item = &'a str>, feed: &Arc<FeedSignal>) {
        match tokens.next() {
            None => self.here.add(feed),
            Some(">") => self.rest.add(feed),
            Some("*") => self.any.get_or_insert_default().insert(tokens, feed),
            Some(token) => self.tokens.entry(token.into()).or_default().insert(tokens, feed),
        }
    }

    fn remove<'a>(&mut self, mut tokens: impl Iterator<Item = &'a str>, feed: &Arc<FeedSignal>) {
        match tokens.next() {
            None => self.here.remove(feed),
            Some(">") => self.rest.remove(feed),
            Some("*") => {
                if let Some(any) = &mut self.any {
                    any.remove(tokens, feed);
                    self.any.take_if(|any| any.is_empty());
                }
            }
            Some(token) => {
                if let Some(node) = self.tokens.get_mut(token) {
                    node.remove(tokens, feed);
                    if node.is_empty() {
                        self.tokens.remove(token);
                    }
                }
            }
        }
    }

    /// Calls `found` with the feeds of each pattern below this node that fits `name`, the rest of a
    /// topic's name; `None` if the name ends here.
    fn each(&self, name: Option<&str>, found: &mut impl FnMut(&Feeds)) {
        let Some(name) = name else { return found(&self.here) };
        found(&self.rest);
        let (token, rest) = match name.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (name, None),
        };
        if let Some(node) = self.tokens.get(token) {
            node.each(rest, found);
        }
        if let Some(any) = &self.any {
            any.each(rest, found);
        }
    }

    /// As [`Self::each`], for the root and a whole name: a wildcard there matches no topic of the
    /// broker's own.
    fn each_from_root(&self, name: &TopicName, found: &mut impl FnMut(&Feeds)) {
        if !name.is_own() {
            return self.each(Some(name.as_str()), found);
        }
        let (token, rest) = match name.as_str().split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (name.as_str(), None),
        };
        if let Some(node) = self.tokens.get(token) {
            node.each(rest, found);
        }
    }

    fn each_of_all(&self, found: &mut impl FnMut(&Arc<FeedSignal>)) {
        self.here.0.iter().chain(&self.rest.0).for_each(&mut *found);
        let below = self.tokens.values().chain(&self.any);
        below.for_each(|node| node.each_of_all(found));
    }
}

impl Interests {
    /// Returns an empty tree. Feeds are counted in `announced`.
    pub(crate) fn new(announced: Arc<Announced>) -> Self {
        Self { root: RwLock::default(), announced }
    }

    /// Whether any feed is counted.
    pub(crate) fn is_any(&self) -> bool {
        self.announced.has_feeds()
    }

    /// Counts a feed. Call this before the feed's patterns are added.
    pub(crate) fn join(&self) {
        self.announced.join();
    }

    /// Counts a feed no more. Call this after the feed's patterns are removed.
    pub(crate) fn leave(&self) {
        self.announced.leave();
    }

    /// Returns the first of `patterns`: as many as are added while the tree is locked, at least
    /// one.
    pub(crate) fn some_first(patterns: &[TopicPattern]) -> &[TopicPattern] {
        &patterns[..some(patterns.iter())]
    }

    /// Returns the last of `patterns`: as many as are removed while the tree is locked, at least
    /// one.
    pub(crate) fn some_last(patterns: &[TopicPattern]) -> &[TopicPattern] {
        &patterns[patterns.len() - some(patterns.iter().rev())..]
    }

    /// Adds a few patterns of a feed that is counted.
    pub(crate) fn add(&self, some: &[TopicPattern], feed: &Arc<FeedSignal>) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        some.iter().for_each(|pattern| root.insert(pattern.tokens(), feed));
    }

    /// Removes a few patterns of a feed.
    pub(crate) fn remove(&self, some: &[TopicPattern], feed: &Arc<FeedSignal>) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        some.iter().for_each(|pattern| root.remove(pattern.tokens(), feed));
    }

    /// Calls `found` once for each feed that follows `name`, however many of its patterns fit.
    /// Feeds that come meanwhile may be left out.
    pub(crate) fn each(&self, name: &TopicName, mut found: impl FnMut(&Arc<FeedSignal>)) {
        let mut last = 0;
        loop {
            let some = self.some_after(name, last);
            some.iter().for_each(&mut found);
            match some.last() {
                Some(feed) if some.len() == FEEDS_PER_LOCK => last = address_of(feed),
                _ => return,
            }
        }
    }

    /// Returns the first feeds after `address` that follow `name`, in order of addresses, up to
    /// [`FEEDS_PER_LOCK`].
    fn some_after(&self, name: &TopicName, address: usize) -> Vec<Arc<FeedSignal>> {
        let (mut some, mut lists) = (Vec::new(), 0);
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each_from_root(name, &mut |feeds| {
            let before = some.len();
            feeds.add_after(address, &mut some);
            lists += usize::from(some.len() > before);
        });
        drop(root);
        if lists > 1 {
            some.sort_unstable_by_key(address_of);
            some.dedup_by(|feed, before| Arc::ptr_eq(feed, before));
            some.truncate(FEEDS_PER_LOCK);
        }
        some
    }

    /// Returns the number of feeds that follow `name`; a feed counts once for each of its patterns
    /// that matches. The feeds are not looked at one by one, because publishers ask.
    pub(crate) fn count_of(&self, name: &TopicName) -> usize {
        let mut count = 0;
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each_from_root(name, &mut |feeds| count += feeds.0.len());
        count
    }

    /// Signals every feed.
    pub(crate) fn signal_all(&self) {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each_of_all(&mut |feed| feed.notify.notify_one());
    }
}

/// Returns the number of tokens of all these patterns: the number of steps that adding them takes.
pub(crate) fn tokens_of(patterns: &[TopicPattern]) -> usize {
    patterns.iter().map(|pattern| pattern.tokens().count()).sum()
}

/// Returns how many of these patterns are added or removed while the tree is locked: at least one.
fn some<'a>(patterns: impl Iterator<Item = &'a TopicPattern>) -> usize {
    let mut tokens = 0;
    let has_room = |pattern: &&TopicPattern| {
        tokens += pattern.tokens().count();
        tokens <= TOKENS_PER_LOCK
    };
    patterns.take_while(has_room).count().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Interests {
        /// Adds all patterns of a feed, and counts it.
        fn add_all(&self, patterns: &[TopicPattern], feed: &Arc<FeedSignal>) {
            self.join();
            self.add(patterns, feed);
        }

        fn remove_all(&self, patterns: &[TopicPattern], feed: &Arc<FeedSignal>) {
            self.remove(patterns, feed);
            self.leave();
        }
    }

    fn pattern() -> impl Strategy<Value = TopicPattern> {
        let token = prop_oneof![Just("a"), Just("b"), Just("$a"), Just("*")];
        let tokens = proptest::collection::vec(token, 1..4);
        (tokens, any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                *tokens.last_mut().unwrap() = ">";
            }
            tokens.join(".").parse().unwrap()
        })
    }

    proptest! {
        /// Goal: the tree finds exactly the feeds whose patterns match a name, and keeps nothing of
        /// a feed that is gone.
        #[test]
        fn a_topic_finds_those_whose_patterns_match_it(
            feeds in proptest::collection::vec(proptest::collection::vec(pattern(), 1..4), 0..6),
            gone in 0..6_usize,
        ) {
            let interests = Interests::new(Arc::new(Announced::new(0)));
            let signals: Vec<Arc<FeedSignal>> = feeds.iter().map(|_| Arc::default()).collect();
            for (patterns, signal) in feeds.iter().zip(&signals) {
                interests.add_all(patterns, signal);
            }
            for (patterns, signal) in feeds.iter().zip(&signals).take(gone) {
                interests.remove_all(patterns, signal);
            }
            for name in ["a", "b", "a.a", "a.b", "$a", "$a.a", "a.$a", "b.b.b", "a.a.a.a"] {
                let name: TopicName = name.parse().unwrap();
                let mut found = vec![0; feeds.len()];
                let count = interests.count_of(&name);
                interests.each(&name, |signal| {
                    let index = signals.iter().position(|other| Arc::ptr_eq(other, signal));
                    found[index.unwrap()] += 1;
                });
                let mut expected_count = 0;
                for (index, patterns) in feeds.iter().enumerate() {
                    let expected = patterns.iter().filter(|pattern| pattern.matches(&name)).count();
                    let expected = if index < gone { 0 } else { expected };
                    prop_assert_eq!(found[index], expected.min(1), "{} {:?}", name, patterns);
                    expected_count += expected;
                }
                prop_assert_eq!(count, expected_count);
            }
            for (patterns, signal) in feeds.iter().zip(&signals).skip(gone) {
                interests.remove_all(patterns, signal);
            }
            prop_assert!(interests.root.read().unwrap().is_empty() && !interests.is_any());
        }
    }

    #[test]
    fn a_step_has_few_tokens_or_a_single_pattern() {
        let short: Vec<TopicPattern> = vec!["a.*.c".parse().unwrap(); 20];
        assert_eq!(Interests::some_first(&short).len(), TOKENS_PER_LOCK / 3);
        assert_eq!(Interests::some_last(&short[..5]).len(), 5);
        let long: TopicPattern = ["a"; 128].join(".").parse().unwrap();
        let mixed = [short, vec![long]].concat();
        assert_eq!(Interests::some_first(&mixed[18..]).len(), 2);
        assert_eq!(Interests::some_last(&mixed), &mixed[20..]);
    }

    /// Goal: however many feeds follow a topic, a feed that comes or goes does not wait until all
    /// are told, and each feed is told once.
    #[test]
    fn the_tree_is_free_while_any_number_of_followers_is_told() {
        let interests = Interests::new(Arc::new(Announced::new(0)));
        let patterns: [TopicPattern; 3] = ["a.*", "a.b", ">"].map(|p| p.parse().unwrap());
        let followers = 10 * FEEDS_PER_LOCK + 1;
        let signals: Vec<Arc<FeedSignal>> = (0..followers).map(|_| Arc::default()).collect();
        for (index, signal) in signals.iter().enumerate() {
            let times = if index % 100 == 0 { 2 * FEEDS_PER_LOCK } else { 1 };
            let patterns = vec![patterns[index % 3..].to_vec(); times].concat();
            interests.add_all(&patterns, signal);
        }
        let mut told = HashSet::new();
        interests.each(&"a.b".parse().unwrap(), |signal| {
            assert!(interests.root.try_write().is_ok(), "a feed that comes now would wait");
            assert!(told.insert(address_of(signal)), "told twice");
        });
        assert_eq!(told.len(), followers);
    }
}
