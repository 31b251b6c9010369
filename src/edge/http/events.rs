//! The events of one topic, and the parts that readers of many topics share: a stream or a page, in
//! the form that `Accept` asks for.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use super::accept::{Accepted, accepted};
use super::asked::{self, Asked};
use super::coding::MIN_ENCODED_BYTES;
use super::ignored::Ignored;
use super::inbox::ListedRequest;
use super::offered::Coding;
use super::page_body::{self, PageBody, PageForm};
use super::query::Query;
use super::request::{PathResult, topic};
use super::tag::{self, Tag};
use crate::broker::PageRequest;
use crate::cursor::{Sequence, StartPoint};
use crate::edge::Edge;
use crate::edge::clients::{Peer, share};
use crate::edge::consumers::asking::ReadAs;
use crate::edge::cut_topics::{CUT_HEADER, cut_header};
use crate::edge::effort::Effort;
use crate::edge::following::Following;
use crate::edge::permit::Permit;
use crate::edge::rates::{CallerRates, Rate};
use crate::edge::selection::{self, TopicSelection, Wanted};
use crate::edge::selection_forms::Format;
use crate::edge::{gaps, sse, status};
use crate::error::{Error, Result};

/// The seconds after which a client that has caught up and polls without waiting may ask again.
const POLL_SECONDS: u64 = 1;

/// The parameters of a page.
const PAGE_NAMES: &str = "after, before, from, format, limit, on_gap, strict, wait, type, key, \
                          key_prefix, header, consumer, owner, order, group_by, read, seen, \
                          archived, snoozed";

/// The time for which the head of a page that waits is held back. Until then the answer may still
/// have another status. Browsers do not send a second request for the same URL before they have the
/// head of the first answer, and know that it may not be cached.
const HEAD_AFTER: Duration = Duration::from_millis(250);

/// Events of a page, if the request names no number.
const DEFAULT_PAGE_EVENTS: u64 = 100;

/// Answers `GET` of the events of one topic.
pub(super) async fn read(
    State(edge): State<Edge>,
    path: PathResult,
    headers: HeaderMap,
    caller: (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let (topic, form) = (topic(path)?, accepted(&headers));
    let mut query = asked::query(uri.query(), form)?;
    let asked = Asked::of(TopicSelection::One(topic), form, &headers, caller, &mut query)?;
    edge.answer(form, &headers, asked, query).await
}

impl Edge {
    /// Answers with a stream or a page, as the client asked.
    pub(super) async fn answer(
        &self,
        form: Option<Accepted>,
        headers: &HeaderMap,
        asked: Asked,
        query: Query,
    ) -> Result<Response> {
        let mut response = match form {
            Some(Accepted::Stream) => self.stream(asked, query.into_ignored()).await?,
            Some(Accepted::Page) => self.page(headers, asked, query).await?,
            None => status::plain_problem(
                StatusCode::NOT_ACCEPTABLE,
                "this resource comes as text/event-stream or application/json",
            ),
        };
        tag::vary(&mut response);
        Ok(response)
    }

    /// Follows topics. A browser gives up for good on any status but 200, so a temporary refusal is
    /// sent as a stream.
    async fn stream(&self, asked: Asked, ignored: Ignored) -> Result<Response> {
        match self.opened(asked, ignored).await {
            Err(Error::ShuttingDown) => Ok(sse::come_back(&self.config)),
            Err(error) => sse::refused(&error).ok_or(error),
            opened => opened,
        }
    }

    async fn opened(&self, asked: Asked, mut ignored: Ignored) -> Result<Response> {
        let Asked { topics, is_strict, mut start, on_gap, filter, .. } = asked;
        let Asked { format, consumer, member, peer, permit, .. } = asked;
        CallerRates::of(peer.as_ref()).take(Rate::Subscriptions, 1)?;
        let otherwise = match topics {
            TopicSelection::One(_) => Format::Data,
            TopicSelection::Many(_) => Format::Envelope,
        };
        if let Some(StartPoint::Time(time)) = start
            && let Err(error) = self.broker.check_start(StartPoint::Time(time))
        {
            ignored.add_value("from", &time.to_string(), &error);
            start = Some(StartPoint::Latest); // There are no such events yet.
        }
        let (on_gap, consumer) = (on_gap.unwrap_or_default(), consumer.map(Box::new));
        let wanted = Wanted { topics, start, on_gap, filter, member, is_strict, consumer };
        let following = Following::open(wanted, "sse", self, (peer.as_ref(), permit)).await?;
        if let Some(left_out) = following.left_out() {
            ignored.add_cut(&left_out.cut, following.cut_to());
        }
        Ok(sse::response(following, format.unwrap_or(otherwise), &self.config, ignored))
    }

    async fn page(&self, headers: &HeaderMap, asked: Asked, mut query: Query) -> Result<Response> {
        if let Some(listed) = ListedRequest::take(&mut query, asked.consumer.is_some())? {
            return self.listed(listed, asked, query).await;
        }
        let Asked { mut topics, is_strict, mut start, on_gap, filter, .. } = asked;
        let Asked { format, consumer, member, peer, permit, .. } = asked;
        if member.is_some() {
            let problem = "needs a stream: a member is present while a stream is open";
            return Err(Error::invalid("member", problem));
        }
        let form = PageForm::of(format, self.broker.epoch())?;
        let share = share(peer.as_ref());
        let before = query.take_number("before")?.map(Sequence::new);
        let limit = query.take_number("limit")?.unwrap_or(DEFAULT_PAGE_EVENTS);
        let wait = query.take_wait(self.config.max_wait_ms)?;
        query.finish(PAGE_NAMES)?;
        if limit == 0 || limit > self.config.max_page_events {
            let problem = format!("{limit} is not within 1 to {}", self.config.max_page_events);
            return Err(Error::invalid("limit", problem));
        }
        let mut more_filters = Vec::new();
        if let Some(ReadAs { named, .. }) = consumer {
            let (of_consumer, found) = selection::found(topics, named, &permit, self).await?;
            let info = found.consumers.get(&found.id)?;
            topics = of_consumer;
            more_filters.push(info.settings.filter.clone());
            if before.is_none() {
                start = start.or(info.checkpoint.map(StartPoint::After));
            }
        }
        let otherwise = if before.is_some() { StartPoint::Latest } else { StartPoint::Earliest };
        let request = PageRequest {
            start: start.unwrap_or(otherwise),
            before,
            limit: limit as usize,
            wait,
            on_gap: on_gap.unwrap_or(topics.page_on_gap()),
            filter,
            more_filters,
            ..PageRequest::default()
        };
        let opened = selection::page((topics, is_strict), request, &permit, (&self.broker, &share));
        let (reader, held) = opened.await?;
        let now = (reader.page(), reader.denied().to_vec());
        let has_gap = reader.has_gap();
        let cut = cut_header(reader.cut_to()).map(|topics| (CUT_HEADER, topics));
        let page = async move { page_body::page(reader, form, &share, held).await };
        let mut page = Box::pin(page);
        // The head has the gap, so it is not sent before the page is read.
        let is_head_early = !wait.is_zero() && !has_gap;
        let begun = if is_head_early {
            match tokio::time::timeout(HEAD_AFTER, &mut page).await {
                Ok(begun) => begun?,
                Err(_elapsed) => {
                    let body = page_body::waited_for(page, now);
                    let media = [(header::CONTENT_TYPE, "application/json")];
                    let mut response = (media, body).into_response();
                    response.headers_mut().extend(cut);
                    return Ok(response);
                }
            }
        } else {
            page.await?
        };
        let page_body::Begun { page, held, body } = begun;
        // An incomplete page has no tag, because its body is not known. A page with a gap has none
        // either, so that the gap is told each time.
        let tag = match &body {
            PageBody::Whole(bytes) if page.gaps.is_empty() => {
                let (bytes, is_long) = (bytes.clone(), bytes.len() >= MIN_ENCODED_BYTES);
                let tag = Effort::of_bytes(bytes.len()).spend(move || Tag::of(&bytes)).await;
                Some(tag.coded(Coding::wanted(headers).filter(|_| is_long)))
            }
            _ => None,
        };
        let is_whole = matches!(body, PageBody::Whole(_));
        let mut response = if tag.as_ref().is_some_and(|tag| tag.is_held(headers)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, "application/json")], body.into_body()).into_response()
        };
        response.extensions_mut().insert(held);
        let more = response.headers_mut();
        more.extend(cut);
        if let Some(tag) = tag {
            more.insert(header::ETAG, tag.value());
            more.insert(header::CACHE_CONTROL, tag::ASK_AGAIN);
        }
        if is_whole && page.caught_up {
            // No more events exist now: a client that does not wait need not ask at once.
            more.insert(header::RETRY_AFTER, HeaderValue::from(POLL_SECONDS));
        }
        gaps::tell(&mut response, &page.gaps);
        Ok(response)
    }
}
