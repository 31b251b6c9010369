//! The selection of a reader, in any protocol: its topics, its start, and its filter.

use std::sync::Arc;

use super::budget::{Held, Share};
use super::hooks::Grant;
use super::permit::{LeftOut, Permit};
use super::permitted_page::{NotRead, PermittedPage};
use crate::broker::{Broker, Filter, MAX_PATTERNS, Member, PageRequest, Presence, Reader};
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
    pub(super) start: StartPoint,
    pub(super) on_gap: OnGap,
    pub(super) filter: Filter,
    /// The member to be present in the named topics. A pattern with a wildcard names no topic.
    pub(super) member: Option<Member>,
    /// Whether the reader is refused if the caller may not read all of the topics.
    pub(super) is_strict: bool,
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
    request.permitted = grant.as_ref().map(|it| it.read_filter().clone()).unwrap_or_default();
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
        broker: &Broker,
        share: &Share,
    ) -> Result<(Reader, Kept)> {
        let Self { topics, start, on_gap, filter, member, is_strict } = self;
        permit.check_current().await?;
        let grant = permit.grant();
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
        let reader = reader.filtered(filter)?.filtered(permitted)?;
        // Only a renewal looks at the topics again.
        let present_in = present_in.into_iter().filter(|_| grant.is_some()).collect();
        let left_out = left_out.first().is_some().then(|| Box::new(left_out));
        Ok((reader, Kept { _presence: presence, _held: held, left_out, present_in, grant }))
    }
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
