//! Who follows which topics by pattern: asked for each topic that gets something new.
//!
//! ```text
//! orders ─┬─ * ──────── feed 1            orders.*
//!         └─ eu ─┬───── feed 2            orders.eu
//!                └─ > ─ feed 3            orders.eu.>
//! ```
//!
//! # Why
//!
//! A tree by tokens, so that a topic finds its followers in as many steps as its name has tokens,
//! however many others follow something else.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::announced::Announced;
use super::topics::Topic;
use crate::topic::{TopicName, TopicPattern};

/// Topics that are marked for a feed one by one; with more it asks the journal.
const MAX_MARKED: usize = 256;

/// Marked topics among which another one is looked for one by one.
const MAX_SEARCHED: usize = 8;

/// Patterns that are added or taken out while the tree is locked: some microseconds.
const PATTERNS_PER_LOCK: usize = 16;

/// What a feed is told by the waker.
#[derive(Debug, Default)]
pub(super) struct FeedSignal {
    pub(super) notify: Notify,
    /// Whether it is going to be told. The waker's own.
    pub(super) is_planned: AtomicBool,
    marked: Mutex<Marked>,
}

/// Topics with something new since a feed looked last.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) topics: Vec<Arc<Topic>>,
    /// Where these are in memory, once there are so many that it takes too long to look.
    known: HashSet<usize>,
    /// Whether there were more.
    pub(super) is_over: bool,
}

impl Marked {
    /// Whether `topic` is among them; notes that it is going to be.
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
    /// Notes that there is something new in `topic`.
    pub(super) fn mark(&self, topic: &Arc<Topic>) {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if marked.is_over || marked.is_repeated(topic) {
            return;
        }
        if marked.topics.len() >= MAX_MARKED {
            *marked = Marked { is_over: true, ..Marked::default() };
        } else {
            marked.topics.push(topic.clone());
        }
    }

    /// What was marked since it was asked last.
    pub(super) fn take(&self) -> Marked {
        std::mem::take(&mut self.marked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All feeds by their patterns.
#[derive(Debug)]
pub(super) struct Interests {
    root: RwLock<Node>,
    announced: Arc<Announced>,
}

#[derive(Debug, Default)]
struct Node {
    tokens: HashMap<Box<str>, Node>,
    /// Below any token.
    any: Option<Box<Node>>,
    /// Feeds of patterns that end here.
    here: Feeds,
    /// Feeds of patterns that end here with `>`.
    rest: Feeds,
}

/// Feeds of one pattern, in the order of their addresses, so that one is found among many.
#[derive(Debug, Default)]
struct Feeds(Vec<Arc<FeedSignal>>);

impl Feeds {
    fn index_of(&self, feed: &Arc<FeedSignal>) -> usize {
        self.0.partition_point(|other| Arc::as_ptr(other) < Arc::as_ptr(feed))
    }

    fn add(&mut self, feed: &Arc<FeedSignal>) {
        self.0.insert(self.index_of(feed), feed.clone());
    }

    /// Takes `feed` out, once if it is in it several times.
    fn remove(&mut self, feed: &Arc<FeedSignal>) {
        let index = self.index_of(feed);
        if self.0.get(index).is_some_and(|found| Arc::ptr_eq(found, feed)) {
            self.0.remove(index);
        }
    }
}

impl Node {
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

    /// Calls `found` with the feeds of each pattern that fits a name which goes on with `name`;
    /// `None`: the name ends here.
    fn each(&self, name: Option<&str>, found: &mut impl FnMut(&[Arc<FeedSignal>])) {
        let Some(name) = name else { return found(&self.here.0) };
        found(&self.rest.0);
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

    fn each_of_all(&self, found: &mut impl FnMut(&Arc<FeedSignal>)) {
        self.here.0.iter().chain(&self.rest.0).for_each(&mut *found);
        let below = self.tokens.values().chain(self.any.as_deref());
        below.for_each(|node| node.each_of_all(found));
    }
}

impl Interests {
    /// None yet; they are counted in `announced`.
    pub(super) fn new(announced: Arc<Announced>) -> Self {
        Self { root: RwLock::default(), announced }
    }

    /// Whether there is any feed.
    pub(super) fn is_any(&self) -> bool {
        self.announced.has_feeds()
    }

    pub(super) fn add(&self, patterns: &[TopicPattern], feed: &Arc<FeedSignal>) {
        for some in patterns.chunks(PATTERNS_PER_LOCK) {
            let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
            some.iter().for_each(|pattern| root.insert(pattern.as_str().split('.'), feed));
        }
        self.announced.join();
    }

    pub(super) fn remove(&self, patterns: &[TopicPattern], feed: &Arc<FeedSignal>) {
        for some in patterns.chunks(PATTERNS_PER_LOCK) {
            let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
            some.iter().for_each(|pattern| root.remove(pattern.as_str().split('.'), feed));
        }
        self.announced.leave();
    }

    /// Calls `found` for each feed that follows `name`; more than once for one that follows it by
    /// several patterns.
    pub(super) fn each(&self, name: &TopicName, mut found: impl FnMut(&Arc<FeedSignal>)) {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each(Some(name.as_str()), &mut |feeds| feeds.iter().for_each(&mut found));
    }

    /// How many feeds follow `name`, each once for each of its patterns that does. Counts without
    /// looking at each of them, for publishers ask.
    pub(super) fn count_of(&self, name: &TopicName) -> usize {
        let mut count = 0;
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each(Some(name.as_str()), &mut |feeds| count += feeds.len());
        count
    }

    /// Wakes every feed.
    pub(super) fn signal_all(&self) {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.each_of_all(&mut |feed| feed.notify.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = TopicPattern> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        let tokens = proptest::collection::vec(token, 1..4);
        (tokens, any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                *tokens.last_mut().unwrap() = ">";
            }
            tokens.join(".").parse().unwrap()
        })
    }

    proptest! {
        /// Goal: the tree finds what the patterns say, and nothing is left of who is gone.
        #[test]
        fn a_topic_finds_those_whose_patterns_match_it(
            feeds in proptest::collection::vec(proptest::collection::vec(pattern(), 1..4), 0..6),
            gone in 0..6_usize,
        ) {
            let interests = Interests::new(Arc::new(Announced::new(0)));
            let signals: Vec<Arc<FeedSignal>> = feeds.iter().map(|_| Arc::default()).collect();
            for (patterns, signal) in feeds.iter().zip(&signals) {
                interests.add(patterns, signal);
            }
            for (patterns, signal) in feeds.iter().zip(&signals).take(gone) {
                interests.remove(patterns, signal);
            }
            for name in ["a", "b", "a.a", "a.b", "b.a", "a.b.a", "b.b.b", "a.a.a.a"] {
                let name: TopicName = name.parse().unwrap();
                let mut found = vec![0; feeds.len()];
                let count = interests.count_of(&name);
                interests.each(&name, |signal| {
                    let index = signals.iter().position(|other| Arc::ptr_eq(other, signal));
                    found[index.unwrap()] += 1;
                });
                for (index, patterns) in feeds.iter().enumerate() {
                    let expected = patterns.iter().filter(|pattern| pattern.matches(&name)).count();
                    let expected = if index < gone { 0 } else { expected };
                    prop_assert_eq!(found[index], expected, "{} {:?}", name, patterns);
                }
                prop_assert_eq!(count, found.iter().sum::<usize>());
            }
            for (patterns, signal) in feeds.iter().zip(&signals).skip(gone) {
                interests.remove(patterns, signal);
            }
            prop_assert!(interests.root.read().unwrap().is_empty() && !interests.is_any());
        }
    }
}
