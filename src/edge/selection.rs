//! The selection of a reader, in any protocol: its topics, its start, and its filter.

use std::sync::Arc;

use super::budget::{Held, Share};
use super::consumers::asking::{ConsumerUse, Found, Named, ReadAs};
use super::consumers::telling::StateTelling;
use super::hooks::Grant;
use super::mounting::Edge;
use super::permit::{LeftOut, Permit};
use super::permitted_page::{NotRead, PermittedPage};
use crate::broker::{
    Broker, Filter, MAX_PATTERNS, Member, NewestPage, NewestRequest, PageRequest, Presence, Reader,
};
use crate::cursor::{OnGap, StartPoint};
use crate::error::{Error, Result};
use crate::lists;
use crate::permission::Action;
use crate::topic::{TopicName, TopicPattern};

/// One topic, or many.
#[derive(Debug)]
pub(super) enum TopicSelection {
    /// A topic by its name. Places are sequences.
    One(TopicName),
    /// Topics by patterns. Places are positions.
    Many(Vec<TopicPattern>),
}

impl TopicSelection {
    /// Returns the topics whose names match one of `patterns`.
    ///
    /// # Errors
    ///
    /// - [`Error::OverLimit`]: there are too many; no pattern is looked at.
    /// - [`Error::Invalid`]: names the first invalid pattern.
    pub(super) fn many(patterns: &[String]) -> Result<Self> {
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        let patterns = patterns.iter().map(|pattern| TopicPattern::new(pattern));
        patterns.collect::<Result<_>>().map(Self::Many)
    }

    /// Returns the topics of a consumer's selection.
    ///
    /// # Errors
    ///
    /// As [`TopicName::new`].
    pub(super) fn of(selection: TopicPattern) -> Result<Self> {
        match selection.is_name() {
            true => TopicName::new(selection.as_str()).map(Self::One),
            false => Ok(Self::Many(vec![selection])),
        }
    }

    /// Returns the selection of the consumer that is named beside these topics.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: there are several.
    pub(super) fn of_consumer(self) -> Result<TopicPattern> {
        match self {
            Self::One(topic) => TopicPattern::new(topic.as_str()),
            Self::Many(mut patterns) if patterns.len() == 1 => Ok(patterns.remove(0)),
            Self::Many(patterns) => {
                let problem = format!(
                    "a consumer has one topic or one pattern, and {} are given",
                    patterns.len()
                );
                Err(Error::invalid("topic", problem))
            }
        }
    }

    /// Returns the part of the topics that the caller may read, and what was left out. If
    /// `is_strict`, nothing may be left out.
    ///
    /// # Errors
    ///
    /// As [`Permit::check`] and [`Permit::readable`]; [`Error::Invalid`] for [`OnGap::Fail`] if
    /// each topic that matches a pattern must be asked about: the refusal would tell a gap of
    /// another's topic.
    async fn permitted(
        self,
        permit: &Permit,
        on_gap: OnGap,
        is_strict: bool,
    ) -> Result<(Self, LeftOut)> {
        match self {
            Self::Many(patterns)
                if on_gap == OnGap::Fail
                    && permit.asks_about_each()
                    && !patterns.iter().all(TopicPattern::is_name) =>
            {
                let problem = "fail is not possible for a pattern of which each topic is asked \
                               about; name the topics, or write resume";
                Err(Error::invalid("on_gap", problem))
            }
            Self::One(topic) => {
                permit.check(Action::Subscribe, &topic).await?;
                Ok((Self::One(topic), LeftOut::default()))
            }
            Self::Many(patterns) => {
                let readable = permit.readable(patterns, is_strict).await?;
                Ok((Self::Many(readable.patterns), readable.left_out))
            }
        }
    }

    /// Returns the one topic whose places are sequences.
    pub(super) fn one(&self) -> Option<&TopicName> {
        match self {
            Self::One(topic) => Some(topic),
            Self::Many(_) => None,
        }
    }

    /// Returns the reaction of a page to a gap, if its reader does not say.
    pub(super) fn page_on_gap(&self) -> OnGap {
        match self {
            Self::One(_) => OnGap::Fail,
            // A gap in one topic is no reason to withhold the events of the others.
            Self::Many(_) => OnGap::Resume,
        }
    }

    /// Returns the topics that are named without a wildcard. A member is present in each of them.
    fn names(&self) -> Result<Vec<TopicName>> {
        match self {
            Self::One(topic) => Ok(vec![topic.clone()]),
            Self::Many(patterns) => {
                let literal = patterns.iter().filter(|pattern| pattern.is_name());
                literal.map(|pattern| TopicName::new(pattern.as_str())).collect()
            }
        }
    }
}

/// The request of a live reader.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) topics: TopicSelection,
    /// The place to begin at; `None` for the checkpoint of the consumer, or else the newest event.
    pub(super) start: Option<StartPoint>,
    pub(super) on_gap: OnGap,
    pub(super) filter: Filter,
    /// The member to be present in the named topics. A pattern with a wildcard names no topic.
    pub(super) member: Option<Member>,
    /// Whether the reader is refused if the caller may not read all of the topics.
    pub(super) is_strict: bool,
    /// The consumer as which the reader reads. Boxed, because most readers have none.
    pub(super) consumer: Option<Box<ReadAs>>,
}

/// The resources that a live reader holds as long as it exists: its presence and its memory.
#[derive(Debug, Default)]
pub(super) struct Kept {
    _presence: Option<Presence>,
    _held: Arc<Held>,
    /// What the caller may not read, of the topics that it asked for. Boxed, because most readers
    /// have none.
    pub(super) left_out: Option<Box<LeftOut>>,
    /// The topics in which the caller is present as a member.
    pub(super) present_in: Box<[TopicName]>,
    /// The grant with which the reader was opened; `None` without hooks.
    pub(super) grant: Option<Grant>,
    /// The state of the consumer as which the reader reads.
    pub(super) telling: Option<Box<StateTelling>>,
}

impl Kept {
    /// Takes the memory of a reader that a host has opened itself.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`].
    pub(super) fn of(reader: &Reader, share: &Share) -> Result<Self> {
        let patterns = reader.patterns().iter().map(pattern_bytes).sum::<usize>();
        Ok(Self { _held: Arc::new(share.take(READER_BYTES + patterns)?), ..Self::default() })
    }
}

/// The memory of a waiting reader of one topic, and that of each pattern of a reader of many
/// without its text and its tokens, in bytes. Source: `hostile::memory` measures both.
const READER_BYTES: usize = 2 << 10;
const PATTERN_BYTES: usize = 256;

/// The memory of one token of a pattern, if no other pattern begins with the same tokens, in bytes.
/// Source: `hostile::patterns` measures it, with 1 to 100 tokens.
const WORD_BYTES: usize = 576;
const WILDCARD_BYTES: usize = 160;

/// Returns the approximate memory of a waiting reader, in bytes.
fn reader_bytes(topics: &TopicSelection, filter: &Filter) -> usize {
    let patterns = match topics {
        TopicSelection::One(_) => 0,
        TopicSelection::Many(patterns) => patterns.iter().map(pattern_bytes).sum::<usize>(),
    };
    READER_BYTES + patterns + filter.size_bytes()
}

/// Begins to read a page of `topics`; if `is_strict`, of all of them or of none. The reader's
/// memory is taken from `share` until the returned [`Held`] is dropped.
///
/// # Errors
///
/// As [`Broker::page`] and [`Broker::page_of_many`]; [`Error::Invalid`] for many topics with
/// `before`; [`Error::NoRoom`]; as [`Permit::check`].
pub(super) async fn page(
    (topics, is_strict): (TopicSelection, bool),
    mut request: PageRequest,
    permit: &Permit,
    (broker, share): (&Broker, &Share),
) -> Result<(PermittedPage, Arc<Held>)> {
    permit.check_current().await?;
    let grant = permit.grant();
    let (topics, left_out) = topics.permitted(permit, request.on_gap, is_strict).await?;
    let cut_to = match &topics {
        TopicSelection::Many(patterns) if left_out.first().is_some() => patterns.clone(),
        _ => Vec::new(),
    };
    request.more_filters.extend(grant.as_ref().map(|it| it.read_filter().clone()));
    let held = Arc::new(share.take(reader_bytes(&topics, &request.filter))?);
    let reader = match topics {
        TopicSelection::One(topic) => broker.page(&topic, request).await?,
        TopicSelection::Many(_) if request.before.is_some() => {
            return Err(Error::invalid("before", "is for one topic alone"));
        }
        TopicSelection::Many(patterns) => {
            // The broker remembers a reader of many topics for a while after it has gone.
            broker.page_of_many_with(patterns, request, Some(held.clone())).await?
        }
    };
    let not_read = NotRead { cut_to, denied: left_out.denied };
    Ok((PermittedPage::new(reader, (permit.clone(), grant), not_read), held))
}

/// Reads a page of the newest events of `topics`; if `is_strict`, of all of them or of none. The
/// hooks are not told of its events.
///
/// # Errors
///
/// As [`Broker::newest`] and [`Broker::newest_of_many`]; as [`Permit::check`].
pub(super) async fn newest(
    (topics, is_strict): (TopicSelection, bool),
    mut request: NewestRequest,
    permit: &Permit,
    broker: &Broker,
) -> Result<(NewestPage, NotRead)> {
    permit.check_current().await?;
    let (topics, left_out) = topics.permitted(permit, OnGap::Resume, is_strict).await?;
    request.permitted = permit.filter();
    let patterns = match topics {
        TopicSelection::One(topic) => {
            return Ok((broker.newest(&topic, request).await?, NotRead::default()));
        }
        TopicSelection::Many(patterns) => patterns,
    };
    let cut_to = if left_out.first().is_some() { patterns.clone() } else { Vec::new() };
    let mut page = broker.newest_of_many(&patterns, request).await?;
    if permit.asks_about_each() {
        let mut shown = Vec::with_capacity(page.events.len());
        for event in page.events {
            if permit.permits(Action::Subscribe, &event.topic).await? {
                shown.push(event);
            }
        }
        page.events = shown;
    }
    Ok((page, NotRead { cut_to, denied: left_out.denied }))
}

fn pattern_bytes(pattern: &TopicPattern) -> usize {
    let token_bytes = |token| if matches!(token, "*" | ">") { WILDCARD_BYTES } else { WORD_BYTES };
    let tokens = pattern.tokens().map(token_bytes).sum::<usize>();
    PATTERN_BYTES + 2 * pattern.as_str().len() + tokens
}

impl Wanted {
    /// Begins to read. The reader's memory is taken from `share` until the returned [`Kept`] is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`Broker::join`], [`Broker::subscribe`] and [`Broker::feed`]; [`Error::NoRoom`]; as
    /// [`Permit::check`].
    pub(super) async fn open(
        self,
        permit: &Permit,
        edge: &Edge,
        share: &Share,
    ) -> Result<(Reader, Kept)> {
        let Self { topics, start, on_gap, filter, member, is_strict, consumer } = self;
        let broker = &edge.broker;
        permit.check_current().await?;
        let grant = permit.grant();
        let (topics, consumed) = match consumer {
            // Boxed, because most readers need no memory for it.
            Some(consumer) => Box::pin(consumed(topics, consumer, permit, edge)).await?,
            None => (topics, None),
        };
        let start = start.or(consumed.as_ref().map(StateTelling::start)).unwrap_or_default();
        let (topics, left_out) = topics.permitted(permit, on_gap, is_strict).await?;
        let member = permit.member(member)?;
        let present_in = if member.is_some() { topics.names()? } else { Vec::new() };
        let member_bytes = member.as_ref().map_or(0, Member::size_bytes) * present_in.len();
        let held = Arc::new(share.take(reader_bytes(&topics, &filter) + member_bytes)?);
        let presence = join(broker, &present_in, (member, permit), &held).await?;
        let reader = match topics {
            TopicSelection::One(topic) => broker.subscribe(&topic, start, on_gap).await?,
            TopicSelection::Many(patterns) => {
                // The broker remembers a reader of many topics for a while after it has gone.
                let feed = broker.feed_with(patterns, start, on_gap, Some(held.clone()));
                feed.await?
            }
        };
        let permitted = grant.as_ref().map(|it| it.read_filter().clone()).unwrap_or_default();
        let telling = consumed.map(|it| Box::new(it.counting(filter.clone(), permitted.clone())));
        let mut reader = reader.filtered(filter)?.filtered(permitted)?;
        if let Some(telling) = &telling {
            reader = reader.filtered(telling.filter().clone())?;
        }
        // Only a renewal looks at the topics again.
        let present_in = present_in.into_iter().filter(|_| grant.is_some()).collect();
        let left_out = left_out.first().is_some().then(|| Box::new(left_out));
        let kept = Kept { _presence: presence, _held: held, left_out, present_in, grant, telling };
        Ok((reader, kept))
    }
}

/// Returns the topics of a consumer, and its state.
///
/// # Errors
///
/// As [`found`] and [`StateTelling::new`].
async fn consumed(
    topics: TopicSelection,
    consumer: Box<ReadAs>,
    permit: &Permit,
    edge: &Edge,
) -> Result<(TopicSelection, Option<StateTelling>)> {
    let ReadAs { named, counts, marks_after } = *consumer;
    let (topics, found) = found(topics, named, permit, edge).await?;
    let telling = StateTelling::new(found, counts, marks_after, edge.broker.epoch())?;
    Ok((topics, Some(telling)))
}

/// Returns the topics of the consumer as which somebody reads, and the consumer. Places in one
/// topic are sequences, as those of the consumer.
///
/// # Errors
///
/// As [`TopicSelection::of_consumer`] and [`Named::find`].
pub(super) async fn found(
    topics: TopicSelection,
    named: Named,
    permit: &Permit,
    edge: &Edge,
) -> Result<(TopicSelection, Found)> {
    let selection = topics.of_consumer()?;
    let found =
        named.find(selection.clone(), ConsumerUse::Read, permit, edge.consumers_if_any()).await?;
    Ok((TopicSelection::of(selection)?, found))
}

/// Makes `member`, if there is one, present in the topics with these names.
///
/// # Errors
///
/// As [`Broker::join`]; as [`Permit::check`].
async fn join(
    broker: &Broker,
    names: &[TopicName],
    (member, permit): (Option<Member>, &Permit),
    held: &Arc<Held>,
) -> Result<Option<Presence>> {
    let Some(member) = member else { return Ok(None) };
    for name in names {
        permit.check(Action::Presence, name).await?;
    }
    broker.join_with(names, member, Some(held.clone())).await.map(Some)
}
