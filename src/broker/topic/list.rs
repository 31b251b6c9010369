//! A list of topics that is read in small steps.

use std::sync::Arc;

use super::topics::Topics;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::info::TopicInfo;
use crate::topic::TopicName;

/// The place at which a list goes on reading.
#[derive(Debug)]
enum Next {
    /// After this name; at the first name, if it is `None`.
    After(Option<String>),
    /// Nowhere: the list has come to the end of the names.
    End,
}

/// A list of topics in the order of their names, in small steps.
///
/// # Why
///
/// There may be hundreds of thousands of topics, and finding all of them must not hold the lock of
/// the names, or a thread, for long. Each step begins at the name at which the one before it ended.
/// So a topic that exists all the time is found by exactly one step, whatever topics come and go
/// meanwhile.
#[derive(Debug)]
pub struct TopicList {
    topics: Arc<Topics>,
    next: Next,
    left: usize,
    shown: Shown,
}

/// The topics that a list shows, of those that exist.
#[derive(Default)]
struct Shown(Option<Box<IsShown>>);

type IsShown = dyn Fn(&TopicName) -> bool + Send + Sync;

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "All" })
    }
}

impl TopicList {
    /// Returns a list of up to `limit` existing topics after `after`.
    pub(crate) fn new(topics: &Arc<Topics>, after: Option<&str>, limit: usize) -> Self {
        let next = Next::After(after.map(str::to_owned));
        Self { topics: topics.clone(), next, left: limit, shown: Shown::default() }
    }

    /// Returns this list with only the topics that `is_shown` names. Others do not count.
    pub fn only(mut self, is_shown: impl Fn(&TopicName) -> bool + Send + Sync + 'static) -> Self {
        self.shown = Shown(Some(Box::new(is_shown)));
        self
    }
}

impl Iterator for TopicList {
    type Item = Vec<TopicInfo>;

    /// Returns the next topics; an empty list if a step found only names of topics that do not
    /// exist. `None` if there are no more.
    fn next(&mut self) -> Option<Vec<TopicInfo>> {
        let Next::After(after) = &self.next else { return None };
        if self.left == 0 {
            return None;
        }
        let mut found = Vec::new();
        let exists = |topic: &Topic| topic.state().exists();
        let last = self.topics.some_after(after.as_deref(), self.left, exists, &mut found);
        self.next = last.map_or(Next::End, |last| Next::After(Some(last.into())));
        if let Shown(Some(is_shown)) = &self.shown {
            found.retain(|topic| is_shown(&topic.name)); // Not under the lock of the names.
        }
        self.left -= found.len();
        Some(found.iter().map(|topic| TopicInfo::of(topic)).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::{Broker, OpenConfig};
    use crate::cursor::{OnGap, StartPoint};
    use crate::topic::TopicName;
    use crate::topic_config::TopicConfig;

    fn name(number: usize) -> TopicName {
        format!("t.{number:04}").parse().unwrap()
    }

    /// Goal: a list that is read in steps has each topic that exists all the time exactly once, in
    /// the order of names, whatever is created and deleted between two steps. No step looks at more
    /// than a few names, also if none of these topics exists.
    #[tokio::test]
    async fn a_list_has_each_topic_that_stays_once_while_others_come_and_go() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let create = async |number| {
            broker.create_topic(&name(number), TopicConfig::default()).await.unwrap();
        };
        for number in (0..300).filter(|number| number % 3 != 0) {
            create(number).await;
        }
        let mut followed = Vec::new();
        for number in 300..600 {
            let (topic, start) = (name(number), StartPoint::Latest);
            followed.push(broker.subscribe(&topic, start, OnGap::Resume).await.unwrap());
        }
        let (mut listed, mut steps) = (Vec::new(), 0);
        for some in broker.list_topics(Some("t.0004"), usize::MAX) {
            steps += 1;
            assert!(some.len() <= 64);
            listed.extend(some.into_iter().map(|topic| topic.name));
            create(3 * steps).await; // Before the place of the list, or after it.
            create(297 - 3 * steps).await;
            broker.delete_topic(&name(3 * steps + 1)).await.unwrap();
            broker.delete_topic(&name(3 * (90 - steps) + 1)).await.unwrap();
        }
        assert!(steps > 7, "{steps} steps for 500 names");
        let mut sorted = listed.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, listed, "in order, and none twice");
        let stays = |number: &usize| number % 3 == 2 || number / 3 > 90;
        let stayed: Vec<_> = (5..300).filter(|n| n % 3 != 0 && stays(n)).map(name).collect();
        assert_eq!(listed.into_iter().filter(|n| stayed.contains(n)).collect::<Vec<_>>(), stayed);
        let few: Vec<_> = broker.topics(Some("t.0290"), 2).into_iter().map(|t| t.name).collect();
        assert_eq!(few, [name(291), name(292)]);
    }
}
