//! `leftoff check --against`: compares the events of all topics with those of a running broker, by
//! hashes of parts of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use leftoff::client::ClientChannel;
use leftoff::cursor::Sequence;
use leftoff::log::{DIGEST_EVENTS, DigestedTopic, digest_start};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::asking::get_json;
use super::failure::{CliError, CliResult, ExitReason};

/// A topic, without its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ComparedTopic {
    earliest: u64,
    settings: Value,
}

/// The events with neighbouring sequences: the first one that there may be, how many there are, and
/// their hash.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ComparedPart {
    first: u64,
    events: u64,
    sha256: String,
}

/// One of the two logs that are compared.
#[derive(Debug)]
pub(super) enum ComparedLog {
    /// A data directory, whose topics are in memory.
    Directory(BTreeMap<String, DigestedTopic>),
    Broker {
        url: String,
        channel: ClientChannel,
    },
}

/// The outcome for one topic.
#[derive(Debug, PartialEq, Eq)]
enum TopicVerdict {
    Equal {
        events: u64,
        from: u64,
    },
    Differs(String),
    /// Neither has events of it up to the position.
    Nothing,
}

impl ComparedLog {
    pub(super) fn of_topics(topics: Vec<DigestedTopic>) -> Self {
        let topics = topics.into_iter().map(|topic| (topic.name.to_string(), topic));
        Self::Directory(topics.collect())
    }

    /// Returns the position of the newest event of a broker.
    pub(super) async fn last_position(channel: &ClientChannel) -> CliResult<u64> {
        let told = get_json(channel, "/v1/overview").await?;
        told["last_position"].as_u64().ok_or_else(|| odd("/v1/overview"))
    }

    async fn topics(&self) -> CliResult<BTreeMap<String, ComparedTopic>> {
        let channel = match self {
            Self::Broker { channel, .. } => channel,
            Self::Directory(topics) => {
                let compared = topics.iter().map(|(name, topic)| {
                    let settings = serde_json::to_value(topic.config)?;
                    let earliest = topic.earliest.get();
                    Ok((name.clone(), ComparedTopic { earliest, settings }))
                });
                return compared.collect();
            }
        };
        let mut topics = BTreeMap::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/topics?limit=100&after={}", encoded(&after));
            let told = get_json(channel, &path).await?;
            let listed = told["topics"].as_array().ok_or_else(|| odd("/v1/topics"))?;
            let Some(last) = listed.last() else { return Ok(topics) };
            after = last["name"].as_str().ok_or_else(|| odd("/v1/topics"))?.to_owned();
            for topic in listed {
                let name = topic["name"].as_str().ok_or_else(|| odd("/v1/topics"))?;
                let earliest = topic["earliest"].as_u64().ok_or_else(|| odd("/v1/topics"))?;
                let compared = ComparedTopic { earliest, settings: topic["config"].clone() };
                topics.insert(name.to_owned(), compared);
            }
        }
    }

    /// Returns some parts of a topic from `from` on, and where the next ones begin, if there are
    /// more.
    async fn parts(
        &self,
        topic: &str,
        from: u64,
        through: u64,
    ) -> CliResult<(Vec<ComparedPart>, Option<u64>)> {
        let channel = match self {
            Self::Broker { channel, .. } => channel,
            Self::Directory(topics) => {
                let digests = topics.get(topic).map(|topic| &*topic.digests).unwrap_or_default();
                let parts = digests.iter().filter(|digest| digest.first.get() >= from);
                let parts = parts.map(|digest| ComparedPart {
                    first: digest.first.get(),
                    events: digest.events,
                    sha256: digest.hexadecimal(),
                });
                return Ok((parts.collect(), None));
            }
        };
        let topic = encoded(topic);
        let path = format!("/v1/digests?topic={topic}&from={from}&through={through}");
        let told = get_json(channel, &path).await?;
        let listed = told["digests"].as_array().ok_or_else(|| odd("/v1/digests"))?;
        let part = |it: &Value| {
            Some(ComparedPart {
                first: it["first"].as_u64()?,
                events: it["events"].as_u64()?,
                sha256: it["sha256"].as_str()?.to_owned(),
            })
        };
        let parts: Option<Vec<_>> = listed.iter().map(part).collect();
        Ok((parts.ok_or_else(|| odd("/v1/digests"))?, told["next"].as_u64()))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Directory(_) => "the directory",
            Self::Broker { url, .. } => url,
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn odd(path: &str) -> CliError {
    let problem = format!("the answer to GET {path} has not what it should: update the server");
    CliError::new(ExitReason::Other, problem)
}

/// Takes the parts of a log one by one.
struct PartReader<'a> {
    log: &'a ComparedLog,
    topic: &'a str,
    through: u64,
    read: std::vec::IntoIter<ComparedPart>,
    next: Option<u64>,
}

impl PartReader<'_> {
    async fn next(&mut self) -> CliResult<Option<ComparedPart>> {
        loop {
            if let Some(part) = self.read.next() {
                return Ok(Some(part));
            }
            let Some(next) = self.next.take() else { return Ok(None) };
            let (parts, next) = self.log.parts(self.topic, next, self.through).await?;
            (self.read, self.next) = (parts.into_iter(), next);
        }
    }
}

/// Compares all topics of two logs up to a position. Returns lines for people, and the number of
/// topics that differ.
///
/// # Errors
///
/// One of the logs cannot be read.
pub(super) async fn compare(
    one: &ComparedLog,
    other: &ComparedLog,
    through: u64,
) -> CliResult<(String, usize)> {
    let (ours, theirs) = (one.topics().await?, other.topics().await?);
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    let (mut text, mut differing) = (String::new(), 0);
    for name in names {
        let topics = (ours.get(name), theirs.get(name));
        let told = match compare_topic(one, other, name, topics, through).await? {
            TopicVerdict::Nothing => continue,
            TopicVerdict::Equal { events, from: 1 } => format!("equal    {name}: {events} events"),
            TopicVerdict::Equal { events, from } => {
                format!("equal    {name}: {events} events, from sequence {from} on")
            }
            TopicVerdict::Differs(why) => {
                differing += 1;
                format!("differs  {name}: {why}")
            }
        };
        let _infallible = writeln!(text, "{told}");
    }
    Ok((text, differing))
}

async fn compare_topic(
    one: &ComparedLog,
    other: &ComparedLog,
    name: &str,
    topics: (Option<&ComparedTopic>, Option<&ComparedTopic>),
    through: u64,
) -> CliResult<TopicVerdict> {
    let earliest = |topic: Option<&ComparedTopic>| topic.map_or(1, |topic| topic.earliest);
    let (ours, theirs) = (earliest(topics.0), earliest(topics.1));
    // Events that one of the two has trimmed are left out, with the rest of their part.
    let from = match (topics, ours.max(theirs)) {
        ((Some(_), Some(_)), latest) if ours != theirs && !begins_part(latest) => {
            digest_start(Sequence::new(latest)).get() + DIGEST_EVENTS
        }
        (_, latest) => latest,
    };
    let reader = |log, is_there: bool| PartReader {
        log,
        topic: name,
        through,
        read: Vec::new().into_iter(),
        next: is_there.then_some(digest_start(Sequence::new(from)).get()),
    };
    let (mut left, mut right) =
        (reader(one, topics.0.is_some()), reader(other, topics.1.is_some()));
    let mut events = 0;
    loop {
        match (left.next().await?, right.next().await?) {
            (None, None) => break,
            (Some(ours), Some(theirs)) if ours == theirs => events += ours.events,
            (ours, theirs) => {
                let (first, why) = difference(one, other, ours, theirs);
                let last = first + DIGEST_EVENTS - 1;
                let why = format!("its first difference is in sequences {first} to {last}: {why}");
                return Ok(TopicVerdict::Differs(why));
            }
        }
    }
    match topics {
        (Some(ours), Some(theirs)) if ours.settings != theirs.settings => {
            Ok(TopicVerdict::Differs(format!(
                "its settings are {} in {}, and {} in {}",
                ours.settings,
                one.name(),
                theirs.settings,
                other.name()
            )))
        }
        (Some(_), Some(_)) => Ok(TopicVerdict::Equal { events, from }),
        _ => Ok(TopicVerdict::Nothing),
    }
}

fn begins_part(sequence: u64) -> bool {
    digest_start(Sequence::new(sequence)).get() == sequence
}

/// Returns the first sequence of the earlier one of two parts that are not equal, and what is
/// different.
fn difference(
    one: &ComparedLog,
    other: &ComparedLog,
    ours: Option<ComparedPart>,
    theirs: Option<ComparedPart>,
) -> (u64, String) {
    let firsts = [&ours, &theirs].into_iter().flatten().map(|part| part.first);
    let first = firsts.min().unwrap_or(1);
    let count = |part: Option<ComparedPart>| {
        part.filter(|part| part.first == first).map_or(0, |part| part.events)
    };
    let (ours, theirs) = (count(ours), count(theirs));
    let why = match ours == theirs {
        true => format!("{ours} events in both, and they are not the same"),
        false => format!("{ours} events in {}, and {theirs} in {}", one.name(), other.name()),
    };
    (first, why)
}
