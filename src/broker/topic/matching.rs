//! The search for the topics that match the patterns of a feed. The patterns are one tree, and the
//! search walks over the names in their order with it.
//!
//! ```text
//! names     a.x   b.1.in   b.1.out   b.2.in   c   d.e   ...   z
//! patterns        b.*.in                                      z
//!           └────▶ fits ──▶ no ──────▶ fits ─▶└───────────────▶ fits
//! ```
//!
//! # Why
//!
//! With a hundred thousand topics and a thousand patterns of one feed, comparing each pattern with
//! each name takes seconds. The names are in order, so names with the same first tokens are
//! together. For a name that does not fit, the tree gives the next name that may fit, and all names
//! in between are skipped. The cost of a walk is about the number of patterns and of names that
//! fit, and each name is met once, however many patterns it fits. The map of names itself is the
//! index: a second index would take memory for each topic.

use std::ops::Bound;
use std::sync::Arc;

use super::topics::{Names, Topics};
use crate::broker::topic::entry::Topic;
use crate::topic::{OWN_PREFIX, TopicName, TopicPattern};

/// The number of names that a walk looks at while it holds the lock of the names, which publishes
/// need, too: some microseconds.
const LOOKS_PER_LOCK: usize = 48;

/// The cost of finding a name among all names. The unit is the cost of going on to the next name.
const LOOKS_PER_SEEK: usize = 4;

/// The names that are looked at before other tasks get their turn: tens of microseconds.
const LOOKS_PER_TURN: usize = 256;

/// The first text that sorts after all names of the broker's own topics.
const AFTER_OWN: &str = "%";

/// The patterns of a feed, as one tree by tokens.
#[derive(Debug)]
pub(crate) struct PatternSet {
    /// The nodes of the tree; the root is the first.
    nodes: Vec<PatternNode>,
}

#[derive(Debug, Default)]
struct PatternNode {
    /// The nodes below each token, in the order of the tokens.
    tokens: Vec<(Box<str>, u32)>,
    /// The node below any token.
    any: Option<u32>,
    /// Whether a pattern ends here.
    ends: bool,
    /// Whether a pattern ends here with `>`.
    has_rest: bool,
}

impl PatternNode {
    fn below(&self, token: &str) -> Option<u32> {
        let found = self.tokens.binary_search_by(|(other, _)| (**other).cmp(token));
        found.ok().map(|index| self.tokens[index].1)
    }

    /// Returns the smallest text with which names go on that have a token of this node next, and
    /// that come after the names that go on with `rest`. `token` is the first token of `rest`.
    ///
    /// Some characters sort before the `.`: `a-b` is between `a` and `a.b`. So a shorter token with
    /// which `token` begins may still have names after it.
    fn next_token(&self, rest: &str, token: &str) -> Option<String> {
        let after = self.tokens.partition_point(|(other, _)| **other < *rest);
        let after = self.tokens.get(after).map(|(token, _)| token.to_string());
        let ends = token.bytes().enumerate().filter(|(_, byte)| *byte < b'.');
        let shorter = ends.map(|(end, _)| &token[..end]).filter(|t| self.below(t).is_some());
        let shorter = shorter.map(|token| format!("{token}."));
        after.into_iter().chain(shorter).min()
    }
}

/// The relation of a name to the patterns.
#[derive(Debug, PartialEq, Eq)]
enum PatternLook {
    /// The name fits at least one pattern.
    Fits,
    /// The name does not fit; the next name may.
    PassProgress,
    /// The name does not fit, and no other name before this text does.
    Skip(String),
    /// The name does not fit, and no name after it does.
    Over,
}

/// The nodes to which the tokens of a name lead. The value is used again for the next name, to save
/// allocations.
#[derive(Debug, Default)]
struct Levels {
    /// For each token, the offset of the token in the name, and the index of its first node in
    /// `nodes`.
    starts: Vec<(usize, usize)>,
    nodes: Vec<u32>,
}

impl Levels {
    fn nodes_of(&self, level: usize) -> &[u32] {
        let end = self.starts.get(level + 1).map_or(self.nodes.len(), |(_, start)| *start);
        &self.nodes[self.starts[level].1..end]
    }
}

fn first_token(rest: &str) -> &str {
    rest.split_once('.').map_or(rest, |(token, _)| token)
}

impl Default for PatternSet {
    fn default() -> Self {
        Self { nodes: vec![PatternNode::default()] }
    }
}

impl<'a> FromIterator<&'a TopicPattern> for PatternSet {
    fn from_iter<I: IntoIterator<Item = &'a TopicPattern>>(patterns: I) -> Self {
        let mut set = Self::default();
        patterns.into_iter().for_each(|pattern| set.insert(pattern));
        set
    }
}

impl PatternSet {
    /// Adds a pattern.
    pub(crate) fn insert(&mut self, pattern: &TopicPattern) {
        let mut at = 0;
        for token in pattern.tokens() {
            let new = self.nodes.len() as u32; // A feed has about a thousand patterns at the most.
            let node = &mut self.nodes[at];
            let below = match token {
                ">" => {
                    node.has_rest = true;
                    return;
                }
                "*" => *node.any.get_or_insert(new),
                token => match node.tokens.binary_search_by(|(other, _)| (**other).cmp(token)) {
                    Ok(index) => node.tokens[index].1,
                    Err(index) => {
                        node.tokens.insert(index, (token.into(), new));
                        new
                    }
                },
            };
            if below == new {
                self.nodes.push(PatternNode::default());
            }
            at = below as usize;
        }
        self.nodes[at].ends = true;
    }

    /// Whether `name` fits one of the patterns.
    pub(crate) fn matches(&self, name: &TopicName) -> bool {
        self.look(name.as_str(), &mut Levels::default()) == PatternLook::Fits
    }

    fn look(&self, name: &str, levels: &mut Levels) -> PatternLook {
        levels.starts.clear();
        levels.nodes.clear();
        levels.starts.push((0, 0));
        levels.nodes.push(0);
        loop {
            let level = levels.starts.len() - 1;
            let (at, first) = levels.starts[level];
            let (last, token) = (levels.nodes.len(), first_token(&name[at..]));
            let has_wildcards = level > 0 || !name.starts_with(OWN_PREFIX);
            for index in first..last {
                let node = &self.nodes[levels.nodes[index] as usize];
                if node.has_rest && has_wildcards {
                    return PatternLook::Fits;
                }
                let any = node.any.filter(|_| has_wildcards);
                levels.nodes.extend(node.below(token).into_iter().chain(any));
            }
            let below = &levels.nodes[last..];
            if below.is_empty() {
                return self.skip(name, levels);
            }
            let end = at + token.len();
            if end == name.len() {
                let fits = below.iter().any(|node| self.nodes[*node as usize].ends);
                return if fits { PatternLook::Fits } else { PatternLook::PassProgress };
            }
            levels.starts.push((end + 1, last));
        }
    }

    /// Returns where the walk goes on after a name whose last token leads to no node.
    fn skip(&self, name: &str, levels: &Levels) -> PatternLook {
        let deepest = levels.starts.len() - 1;
        for level in (0..=deepest).rev() {
            let at = levels.starts[level].0;
            let (begin, rest) = name.split_at(at);
            let token = first_token(rest);
            let nodes = || levels.nodes_of(level).iter().map(|node| &self.nodes[*node as usize]);
            // Above the deepest level, the next name must come after all names that go on with this
            // token and a `.`: `/` is the character after the `.`.
            let past = format!("{token}/");
            if level < deepest && nodes().any(|node| node.any.is_some()) {
                return PatternLook::Skip(format!("{begin}{past}"));
            }
            let rest = if level == deepest { rest } else { &past };
            // The wildcards of the root match again after the broker's own topics.
            let is_own = level == 0 && name.starts_with(OWN_PREFIX);
            let after_own = is_own.then(|| AFTER_OWN.to_owned());
            let next = nodes().filter_map(|node| node.next_token(rest, token)).chain(after_own);
            if let Some(next) = next.min() {
                return PatternLook::Skip(format!("{begin}{next}"));
            }
        }
        PatternLook::Over
    }
}

/// A walk over the topics that fit the patterns of a feed, each once, in the order of their names.
///
/// Topics that are created during the walk may be left out.
#[derive(Debug)]
pub(crate) struct PatternWalk {
    patterns: Arc<PatternSet>,
    levels: Levels,
    /// The place at which the walk goes on; `None` at its end.
    next: Option<Bound<String>>,
    /// The number of names that were looked at since other tasks last had their turn.
    looks: usize,
}

impl PatternWalk {
    pub(crate) fn new(patterns: &Arc<PatternSet>) -> Self {
        let next = Some(Bound::Unbounded);
        Self { patterns: patterns.clone(), levels: Levels::default(), next, looks: 0 }
    }

    /// Returns the next topics, some hundreds at the most; `None` if there are no more. Other tasks
    /// get their turn in between.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: topics that were not returned are returned by the next call.
    pub(crate) async fn next(&mut self, topics: &Topics) -> Option<Vec<Arc<Topic>>> {
        let mut found = Vec::new();
        while self.next.is_some() && found.is_empty() {
            if self.looks >= LOOKS_PER_TURN {
                self.looks = 0;
                tokio::task::yield_now().await; // Nothing is found yet: nothing can be lost here.
            }
            while self.looks < LOOKS_PER_TURN && self.next.is_some() {
                self.looks += topics.with_names(|names| self.step(names, &mut found));
            }
        }
        (!found.is_empty()).then_some(found)
    }

    /// Looks at a few names, which takes microseconds: publishes wait for it. Returns the number of
    /// names.
    fn step(&mut self, names: &Names, found: &mut Vec<Arc<Topic>>) -> usize {
        let mut looks = 0;
        while looks < LOOKS_PER_LOCK
            && let Some(next) = self.next.take()
        {
            looks += LOOKS_PER_SEEK;
            let next = (next.as_ref().map(String::as_str), Bound::Unbounded);
            for (name, topic) in names.range::<str, _>(next) {
                looks += 1;
                match self.patterns.look(name.as_str(), &mut self.levels) {
                    PatternLook::Fits => found.push(topic.clone()),
                    PatternLook::PassProgress => {}
                    PatternLook::Skip(to) => {
                        self.next = Some(Bound::Included(to));
                        break;
                    }
                    PatternLook::Over => return looks,
                }
                if looks >= LOOKS_PER_LOCK {
                    self.next = Some(Bound::Excluded(name.as_str().to_owned()));
                    break;
                }
            }
        }
        looks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;

    fn topics<'a>(names: impl IntoIterator<Item = &'a str>) -> Arc<Topics> {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        for name in names {
            let topic = topics.open(&name.parse().unwrap()).unwrap();
            std::mem::forget(topic); // The topic stays known, though nobody publishes to it.
        }
        topics
    }

    fn patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Vec<TopicPattern> {
        patterns.into_iter().map(|pattern| pattern.parse().unwrap()).collect()
    }

    /// Returns the topics that a walk finds, in its order, and the number of names that it looked
    /// at.
    fn walk(topics: &Topics, patterns: &[TopicPattern]) -> (Vec<String>, usize) {
        let mut walk = PatternWalk::new(&Arc::new(patterns.iter().collect()));
        let (mut found, mut looks) = (Vec::new(), 0);
        while walk.next.is_some() {
            let looked = topics.with_names(|names| walk.step(names, &mut found));
            assert!(looked <= LOOKS_PER_LOCK + LOOKS_PER_SEEK, "publishing waits for {looked}");
            looks += looked;
        }
        (found.iter().map(|topic| topic.name.to_string()).collect(), looks)
    }

    /// Tokens with characters that sort before the `.` and after it, some with the same beginning.
    fn token() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["#", "$", "$a", "%", "a", "a-b", "a/b", "aa", "b", "b!", "ü"])
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(token(), 1..4).prop_map(|tokens| tokens.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![3 => token(), 1 => Just("*")];
        (prop::collection::vec(token, 1..4), prop::bool::weighted(0.2)).prop_map(
            |(mut tokens, has_rest)| {
                if has_rest {
                    tokens.push(">");
                }
                tokens.join(".")
            },
        )
    }

    proptest! {
        /// Goal: skipping leaves no topic out, whatever the names and the patterns are.
        #[test]
        fn a_walk_finds_each_topic_that_fits_any_pattern_once_in_order(
            names in prop::collection::btree_set(name(), 0..40),
            wanted in prop::collection::vec(pattern(), 1..8),
        ) {
            let topics = topics(names.iter().map(String::as_str));
            let wanted = patterns(wanted.iter().map(String::as_str));
            let fits = |name: &&String| {
                let name = name.parse().unwrap();
                wanted.iter().any(|pattern| pattern.matches(&name))
            };
            let expected: Vec<_> = names.iter().filter(fits).cloned().collect();
            prop_assert_eq!(&walk(&topics, &wanted).0, &expected);
            let set: PatternSet = wanted.iter().collect();
            for name in &names {
                prop_assert_eq!(set.matches(&name.parse().unwrap()), expected.contains(name));
            }
        }
    }

    /// Goal: the cost of a walk grows with the number of patterns and of names that fit, not with
    /// their product, and each lock is held for a few names.
    #[test]
    fn a_walk_looks_at_about_as_many_names_as_there_are_patterns_and_names_that_fit() {
        const USERS: usize = 10_000;
        let names: Vec<_> = (0..USERS)
            .flat_map(|user| ["inbox", "outbox", "a.b"].map(|box_| format!("users.{user}.{box_}")))
            .chain((0..USERS).map(|order| format!("orders.{order}")))
            .collect();
        let topics = topics(names.iter().map(String::as_str));
        let numbered = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect();
        let cases: [(Vec<String>, usize); 7] = [
            (numbered(1_000, |n| format!("users.{}.*", n * 7)), 2_000),
            (numbered(1_000, |n| format!("users.{n}.outbox")), 1_000),
            (numbered(1_000, |n| format!("users.{n}.none")), 0),
            (numbered(1_000, |n| format!("nobody.{n}.>")), 0),
            (numbered(1_000, |n| format!("users.*.{n}")), 0),
            (numbered(1_000, |n| format!("orders.{n}{n}")), 99),
            (numbered(1_000, |n| ["orders.>", "orders.*", "*.*"][n % 3].to_owned()), USERS),
        ];
        for (wanted, fitting) in cases {
            let (found, looks) = walk(&topics, &patterns(wanted.iter().map(String::as_str)));
            assert_eq!(found.len(), fitting, "{}", wanted[0]);
            // Some patterns lead to one node for each user; there are not more nodes than names.
            let nodes = if wanted[0].starts_with("users.*") { USERS } else { 0 };
            let bound = 16 * (wanted.len() + fitting + nodes);
            assert!(looks < bound, "{}: {looks} looks, bound {bound}", wanted[0]);
        }
    }
}
