//! The patterns of a feed, as the waker knows them: added and removed in small steps.

use std::collections::HashSet;
use std::sync::Arc;

use crate::broker::arrivals::{Arrival, Deposit, Leftover};
use crate::broker::shared::Shared;
use crate::broker::topic::matching::{PatternSet, PatternWalk};
use crate::broker::wake::interest::{FeedSignal, Interests, tokens_of};
use crate::broker::wake::waker::Waker;
use crate::error::Result;
use crate::topic::TopicPattern;

/// The patterns of a feed, for which the waker marks topics as long as this is held.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) shared: Arc<Shared>,
    pub(super) patterns: Arc<[TopicPattern]>,
    /// The number of patterns that the waker knows: the first ones.
    known: usize,
    pub(super) set: Arc<PatternSet>,
    pub(super) signal: Arc<FeedSignal>,
    deposit: Option<Deposit>,
}

impl Interest {
    /// Registers all patterns with the waker, each once however often it is named.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`](crate::Error::ShuttingDown).
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the waker forgets what it knows by then.
    pub(super) async fn new(
        shared: &Arc<Shared>,
        patterns: Vec<TopicPattern>,
        deposit: Option<Deposit>,
    ) -> Result<Self> {
        let patterns = without_repeats(patterns);
        // The feed is counted first, because it is uncounted when this is dropped.
        shared.waker.interests().join();
        let interest = Self {
            shared: shared.clone(),
            patterns: patterns.into(),
            known: 0,
            set: Arc::default(),
            signal: Arc::default(),
            deposit,
        };
        shared.arrivals.arrive(interest).await
    }

    /// Begins a walk through the topics that exist and fit the patterns, each once.
    pub(super) fn walk(&self) -> PatternWalk {
        PatternWalk::new(&self.set)
    }
}

impl Arrival for Interest {
    fn put_in(&mut self, entries: usize) -> Result<bool> {
        let (interests, mut tokens) = (self.shared.waker.interests(), 0);
        while self.known < self.patterns.len() && tokens < entries {
            let some = Interests::some_first(&self.patterns[self.known..]);
            let set = Arc::get_mut(&mut self.set).expect("the set is not shared yet");
            some.iter().for_each(|pattern| set.insert(pattern));
            interests.add(some, &self.signal);
            self.known += some.len();
            tokens += tokens_of(some);
        }
        Ok(self.known < self.patterns.len())
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.shared.arrivals.leave(GoneFeed {
            waker: self.shared.waker.clone(),
            patterns: self.patterns.clone(),
            count: self.known,
            signal: self.signal.clone(),
            _set: self.set.clone(),
            _deposit: self.deposit.take(),
        });
    }
}

/// Returns the patterns without repeats, in the order in which they come first: a repeated pattern
/// finds no more topics.
fn without_repeats(mut patterns: Vec<TopicPattern>) -> Vec<TopicPattern> {
    let mut seen = HashSet::new();
    patterns.retain(|pattern| seen.insert(pattern.clone()));
    patterns
}

/// The patterns of a feed that is gone, while the waker still knows some of them.
#[derive(Debug)]
struct GoneFeed {
    waker: Waker,
    patterns: Arc<[TopicPattern]>,
    /// The number of patterns that the waker knows: the first ones.
    count: usize,
    signal: Arc<FeedSignal>,
    /// The set is dropped here, because that takes long with many patterns.
    _set: Arc<PatternSet>,
    _deposit: Option<Deposit>,
}

impl Leftover for GoneFeed {
    fn take_out(&mut self, entries: usize) -> bool {
        let (interests, mut tokens) = (self.waker.interests(), 0);
        while self.count > 0 && tokens < entries {
            let some = Interests::some_last(&self.patterns[..self.count]);
            interests.remove(some, &self.signal);
            self.count -= some.len();
            tokens += tokens_of(some);
        }
        if self.count == 0 {
            interests.leave();
        }
        self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::poll;

    use super::*;
    use crate::broker::{Broker, OpenConfig};
    use crate::cursor::{OnGap, StartPoint};
    use crate::topic::TopicName;

    const PATTERNS: usize = 1_024;

    fn patterns(of: impl Fn(usize) -> String) -> Vec<TopicPattern> {
        (0..PATTERNS).map(|number| of(number).parse().unwrap()).collect()
    }

    /// Returns the number of feeds that the waker knows to follow the topics that `patterns` name.
    fn followers(broker: &Broker, patterns: &[TopicPattern]) -> usize {
        let interests = broker.0.waker.interests();
        let name = |pattern: &TopicPattern| pattern.as_str().parse::<TopicName>().unwrap();
        patterns.iter().map(|pattern| interests.count_of(&name(pattern))).sum()
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect(what);
    }

    /// Goal: nothing is left of a feed of a thousand patterns that is given up at any step of its
    /// beginning, or dropped later, and the caller has its deposit back.
    #[tokio::test]
    async fn a_feed_that_is_given_up_anywhere_while_it_begins_leaves_nothing_behind() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let patterns = patterns(|number| format!("n{number}.b.c"));
        let deposit: Deposit = Arc::new(());
        for wanted in [0, 1, PATTERNS / 4, PATTERNS / 2, PATTERNS, PATTERNS + 1] {
            let start = StartPoint::Latest;
            let deposited = Some(deposit.clone());
            let feed = broker.feed_with(patterns.clone(), start, OnGap::Resume, deposited);
            let mut feed = Box::pin(feed);
            if wanted > PATTERNS {
                let feed = feed.await.unwrap();
                assert_eq!(followers(&broker, &patterns), PATTERNS);
                drop(feed);
            } else {
                // The usher's thread may be done before the poll returns.
                let begun = if wanted > 0 { Some(poll!(feed.as_mut())) } else { None };
                until("too few are known", || followers(&broker, &patterns) >= wanted).await;
                drop((feed, begun));
            }
            until("the feed does not leave", || Arc::strong_count(&deposit) == 1).await;
            assert_eq!(followers(&broker, &patterns), 0);
            assert!(!broker.0.waker.interests().is_any());
        }
    }

    /// Goal: a pattern that is named several times is known to the waker once.
    #[tokio::test]
    async fn a_feed_that_repeats_its_patterns_is_known_once_for_each() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let repeated = patterns(|number| ["b", "a", "b"][number % 3].to_owned());
        let start = StartPoint::Latest;
        let feed = broker.feed(repeated.clone(), start, OnGap::Resume).await.unwrap();
        assert_eq!(
            feed.patterns().iter().map(TopicPattern::as_str).collect::<Vec<_>>(),
            ["b", "a"]
        );
        assert_eq!(followers(&broker, &repeated[..2]), 2);
        drop(feed);
        assert_eq!(followers(&broker, &repeated[..2]), 0, "a few patterns leave at once");
        assert!(!broker.0.waker.interests().is_any());
    }
}
