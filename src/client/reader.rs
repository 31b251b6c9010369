//! A client's reader: a stream that reconnects, and goes on after the last event that came.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::time::Instant;
use tonic::Streaming;

use crate::broker::Filter;
use crate::cursor::{Cursor, OnGap, Place, StartPoint};
use crate::edge::proto::subscribe_response::Message;
use crate::edge::proto::subscriber_service_client::SubscriberServiceClient;
use crate::edge::proto::{self, SubscribeRequest, SubscribeResponse};
use crate::topic::{TopicName, TopicPattern};

use super::backoff::Backoff;
use super::connection::{Connection, Link};
use super::error::ClientError;
use super::messages::{self, ClientDelivery, FollowedTopics};

/// Largest message that is taken from the broker, in bytes: a block with a large event.
const MAX_MESSAGE_BYTES: usize = 96 << 20;

/// The time after which a connection counts as good, even if no event came over it.
const HEALTHY: Duration = Duration::from_secs(10);

/// A reader of topics, from [`Client::subscribe`](super::Client::subscribe): a `Stream` of
/// deliveries, without end.
///
/// Each event comes once and in order, over all connections, or a gap is told. An error is the last
/// item: what another try can mend is tried again, as long as
/// [`ClientConfig::retry_for`](super::ClientConfig::retry_for) says. [`ClientReader::cursor`] is
/// the place to begin at next time.
///
/// # Cancel safety
///
/// A dropped `next` loses nothing. A reader that is not polled takes no more from the broker than a
/// bounded amount, and the broker ends a stream that is not read for long; the reader then comes
/// back by its cursor.
pub struct ClientReader {
    /// The settings, until the first poll.
    beginning: Option<Unopened>,
    deliveries: Option<Pin<Box<dyn Stream<Item = DeliveryAt> + Send>>>,
    cursor: Option<Cursor>,
}

type DeliveryAt = Result<(ClientDelivery, Option<Cursor>), ClientError>;

struct Unopened {
    connection: Arc<Connection>,
    topics: FollowedTopics,
    start: StartPoint,
    on_gap: OnGap,
    filter: Filter,
}

impl ClientReader {
    pub(super) fn new(
        connection: Arc<Connection>,
        topics: FollowedTopics,
        start: StartPoint,
    ) -> Self {
        let (on_gap, filter) = (OnGap::Resume, Filter::default());
        let beginning = Unopened { connection, topics, start, on_gap, filter };
        let cursor = match start {
            StartPoint::After(cursor) => Some(cursor),
            _ => None,
        };
        Self { beginning: Some(beginning), deliveries: None, cursor }
    }

    /// Returns this reader with the events that it wants. Has no effect after the first poll.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        if let Some(beginning) = &mut self.beginning {
            beginning.filter = filter;
        }
        self
    }

    /// Returns this reader with the place at which it goes on after a gap. Has no effect after the
    /// first poll.
    #[must_use]
    pub fn with_on_gap(mut self, on_gap: OnGap) -> Self {
        if let Some(beginning) = &mut self.beginning {
            beginning.on_gap = on_gap;
        }
        self
    }

    /// Returns the place after the last item of the stream. `None` if no item came yet, and the
    /// start was no cursor. Keep it, and begin with [`StartPoint::After`] next time.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }
}

impl fmt::Debug for ClientReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientReader").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Stream for ClientReader {
    type Item = Result<ClientDelivery, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(beginning) = this.beginning.take() {
            let following = beginning.follow();
            // The stream keeps the future of the next item: a dropped `next` drops none of it.
            this.deliveries = Some(Box::pin(stream::unfold(following, |mut following| async {
                let placed = following.next().await?;
                Some((placed, following))
            })));
        }
        let Some(deliveries) = &mut this.deliveries else { return Poll::Ready(None) };
        Poll::Ready(match ready!(deliveries.as_mut().poll_next(cx)) {
            None => {
                this.deliveries = None;
                None
            }
            Some(Err(error)) => Some(Err(error)),
            Some(Ok((delivery, cursor))) => {
                this.cursor = cursor.or(this.cursor);
                Some(Ok(delivery))
            }
        })
    }
}

impl Unopened {
    fn follow(self) -> Followable {
        let mut request = SubscribeRequest {
            from: self.start.to_string(),
            on_gap: messages::on_gap(self.on_gap).into(),
            filter: (self.filter != Filter::default()).then(|| messages::filter(self.filter)),
            ..SubscribeRequest::default()
        };
        let only = match self.topics {
            FollowedTopics::One(topic) => {
                request.topic = topic.to_string();
                Some(topic)
            }
            FollowedTopics::Matching(patterns) => {
                request.topics = patterns.iter().map(TopicPattern::to_string).collect();
                None
            }
        };
        let by_time = matches!(self.start, StartPoint::Time(_));
        let backoff = self.connection.backoff();
        let place = Reached { request, only, by_time, since: None, denied: Vec::new() };
        let buffered = VecDeque::new();
        let connection = self.connection;
        Followable { connection, place, backoff, buffered, open: None, is_over: false }
    }
}

/// A subscription over all of its connections.
struct Followable {
    connection: Arc<Connection>,
    place: Reached,
    backoff: Backoff,
    /// The deliveries that came and were not taken yet: those of one message at most.
    buffered: VecDeque<(ClientDelivery, Option<Cursor>)>,
    open: Option<Opened>,
    is_over: bool,
}

/// A subscription on one connection.
struct Opened {
    link: Link,
    responses: Streaming<SubscribeResponse>,
    since: Instant,
}

impl Followable {
    async fn next(&mut self) -> Option<DeliveryAt> {
        loop {
            if let Some(placed) = self.buffered.pop_front() {
                return Some(Ok(placed));
            }
            if self.is_over {
                return None;
            }
            let mut link = self.open.as_ref().map(|open| open.link.clone());
            let Err(error) = self.fill(&mut link).await else { continue };
            if self.open.take().is_some_and(|open| open.since.elapsed() >= HEALTHY) {
                self.backoff.progressed();
            }
            let again = self.connection.after(link.as_ref(), error, &mut self.backoff).await;
            if let Err(error) = again {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }

    /// Takes one message of the broker. Connects and subscribes first, if need be; `link` is then
    /// the connection that is used.
    async fn fill(&mut self, link: &mut Option<Link>) -> Result<(), ClientError> {
        if self.open.is_none() {
            let link = link.insert(self.connection.link().await?).clone();
            let mut client = SubscriberServiceClient::new(link.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            // A cursor since the start stands for the time at which the reader began.
            self.place.by_time &= self.place.request.from.starts_with("time:");
            let responses = client.subscribe(self.place.request.clone()).await?.into_inner();
            self.open = Some(Opened { link, responses, since: Instant::now() });
        }
        let Some(open) = &mut self.open else { return Err(ClientError::Ended) };
        let response = open.responses.message().await?.ok_or(ClientError::Ended)?;
        self.backoff.reached();
        if matches!(response.message, Some(Message::Events(_))) {
            self.backoff.progressed();
        }
        match response.message {
            Some(message) => self.place.take(message, &mut self.buffered),
            None => Ok(()), // A newer broker's message, which this client does not know.
        }
    }
}

/// The place of a subscription: the request with which it comes back.
struct Reached {
    /// `from` is the broker's own text of the last cursor, unchanged.
    request: SubscribeRequest,
    /// The topic of a reader of one.
    only: Option<TopicName>,
    /// Whether the reader began at a time, and has no other place yet.
    by_time: bool,
    /// The drops that are no loss to the reader, of the last cursor.
    since: Option<u64>,
    /// The denied topics that were told last.
    denied: Vec<String>,
}

impl Reached {
    /// Moves the place to that of a message, and appends what the reader is told.
    fn take(
        &mut self,
        message: Message,
        told: &mut VecDeque<(ClientDelivery, Option<Cursor>)>,
    ) -> Result<(), ClientError> {
        match message {
            Message::Events(batch) => self.take_events(batch, told)?,
            Message::Gap(gap) => {
                let delivery = messages::gap(&gap, self.only.as_ref(), self.by_time)?;
                let cursor = self.move_to(gap.cursor)?;
                self.by_time = false;
                told.push_back((ClientDelivery::Gap(delivery), Some(cursor)));
            }
            Message::CaughtUp(proto::CaughtUp { cursor }) => {
                let cursor = self.move_to(cursor)?;
                told.push_back((ClientDelivery::CaughtUp, Some(cursor)));
            }
            Message::Started(proto::Started { cursor, .. })
            | Message::Heartbeat(proto::Heartbeat { cursor }) => {
                self.move_to(cursor)?;
            }
            Message::Ephemeral(proto::Ephemeral { topic, time_ms, event }) => {
                let delivery = ClientDelivery::Ephemeral {
                    topic: messages::topic(&topic)?,
                    time: crate::event::Timestamp::from_ms(time_ms),
                    event: event.unwrap_or_default().into(),
                };
                told.push_back((delivery, None));
            }
            Message::Denied(proto::Denied { topics }) => {
                if topics != self.denied {
                    let names = topics.iter().map(|topic| messages::topic(topic));
                    let names = names.collect::<Result<Vec<_>, _>>()?;
                    told.push_back((ClientDelivery::Denied(names), None));
                    self.denied = topics;
                }
            }
            Message::Marked(_) | Message::Counts(_) => {} // Of consumers, as which none reads here.
        }
        Ok(())
    }

    fn take_events(
        &mut self,
        batch: proto::EventBatch,
        told: &mut VecDeque<(ClientDelivery, Option<Cursor>)>,
    ) -> Result<(), ClientError> {
        let before = self.since;
        let end = messages::cursor(&batch.cursor)?;
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            events.push(messages::event(event, self.only.as_ref())?);
        }
        let last = events.len().saturating_sub(1);
        for (index, event) in events.into_iter().enumerate() {
            let after = match end.after {
                Place::Sequence(_) => Place::Sequence(event.event.sequence),
                Place::Position(_) => Place::Position(event.event.position),
            };
            let within = Cursor { after, since: end.since.or(before), epoch: end.epoch };
            let cursor = if index == last { end } else { within };
            told.push_back((ClientDelivery::Event(event), Some(cursor)));
        }
        self.move_to(batch.cursor)?;
        self.by_time = false;
        Ok(())
    }

    /// Moves the place to the broker's cursor.
    fn move_to(&mut self, text: String) -> Result<Cursor, ClientError> {
        let cursor = messages::cursor(&text)?;
        (self.since, self.request.from) = (cursor.since, text);
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(topics: FollowedTopics, start: StartPoint) -> Reached {
        let config = crate::client::config::ClientConfig::new("http://127.0.0.1:4280");
        let connection = Arc::new(Connection::new(config).unwrap());
        ClientReader::new(connection, topics, start).beginning.unwrap().follow().place
    }

    fn event(sequence: u64, position: u64) -> proto::Event {
        let topic = "orders".to_owned();
        proto::Event { sequence, position, topic, ..proto::Event::default() }
    }

    #[test]
    fn a_reader_comes_back_after_what_came_and_each_event_has_its_own_cursor() {
        let orders: TopicName = "orders".parse().unwrap();
        let mut one = reached(orders.into(), StartPoint::Earliest);
        assert_eq!((&one.request.from[..], &one.request.topic[..]), ("earliest", "orders"));
        let mut told = VecDeque::new();
        let cursor = "0~4-9f3c2a1b".to_owned();
        let started = proto::Started { cursor, ..proto::Started::default() };
        one.take(Message::Started(started), &mut told).unwrap();
        assert_eq!((told.len(), &one.request.from[..]), (0, "0~4-9f3c2a1b"));
        let events = vec![event(1, 11), event(2, 15), event(3, 16)];
        let batch = proto::EventBatch { events, cursor: "7-9f3c2a1b".to_owned() };
        one.take(Message::Events(batch), &mut told).unwrap();
        let cursors: Vec<String> =
            told.iter().map(|(_, cursor)| cursor.unwrap().to_string()).collect();
        assert_eq!(cursors, ["1~4-9f3c2a1b", "2~4-9f3c2a1b", "7-9f3c2a1b"]);
        assert_eq!(one.request.from, "7-9f3c2a1b");

        let all: TopicPattern = ">".parse().unwrap();
        let mut many = reached(all.into(), StartPoint::Latest);
        told.clear();
        let events = vec![event(1, 11), event(2, 15)];
        let batch = proto::EventBatch { events, cursor: "@15-9f3c2a1b".to_owned() };
        many.take(Message::Events(batch), &mut told).unwrap();
        assert_eq!(told[0].1.unwrap().to_string(), "@11-9f3c2a1b");
        assert_eq!(many.request.from, "@15-9f3c2a1b");
        let ClientDelivery::Event(first) = &told[0].0 else { panic!("{told:?}") };
        assert_eq!((first.topic.as_str(), first.event.sequence.get()), ("orders", 1));
    }

    #[test]
    fn gaps_move_the_place_and_denied_topics_are_told_once() {
        let all: TopicPattern = ">".parse().unwrap();
        let mut many = reached(all.into(), StartPoint::Latest);
        let mut told = VecDeque::new();
        let denied = proto::Denied { topics: vec!["secret".to_owned()] };
        for _ in 0..2 {
            many.take(Message::Denied(denied.clone()), &mut told).unwrap();
        }
        assert_eq!(told.len(), 1, "{told:?}");
        let cursor = "@9-9f3c2a1b".to_owned();
        let gap = proto::Gap { cursor, reason: "epoch".to_owned(), ..proto::Gap::default() };
        many.take(Message::Gap(gap), &mut told).unwrap();
        assert_eq!(many.request.from, "@9-9f3c2a1b");
        let wrong = proto::CaughtUp { cursor: "somewhere".to_owned() };
        assert!(many.take(Message::CaughtUp(wrong), &mut told).is_err());
        assert_eq!(many.request.from, "@9-9f3c2a1b", "what cannot be read moves nothing");
    }
}
