//! Conversions between protobuf messages and the broker's types.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tonic::Status;

use crate::broker::{
    Ack, Dropped, Ephemeral, EventRef, Filter, LimitsConfig, MaintenanceReport, Member, Page,
    PageRequest, Present, Receipt, Run, TopicInfo,
};
use crate::cursor::{OnGap, Sequence, StartPoint};
use crate::edge::config::FollowConfig;
use crate::edge::grpc::status::details;
use crate::edge::proto;
use crate::edge::proto::publish_stream_response::Outcome;
use crate::edge::publishing::{Acknowledged, PublishTopics};
use crate::edge::selection::TopicSelection;
use crate::edge::{cloudevents, gaps, served, wire};
use crate::error::{Error, Result};
use crate::event::{Durability, Event, NewEvent, Timestamp};
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// Events in a page, if the request names no number.
const DEFAULT_PAGE_EVENTS: usize = 100;

impl From<proto::NewEvent> for NewEvent {
    fn from(event: proto::NewEvent) -> Self {
        Self {
            id: event.id,
            event_type: event.r#type,
            key: event.key,
            headers: event.headers,
            content_type: event.content_type,
            payload: event.payload,
            publisher_time: event.publisher_time_ms.map(Timestamp::from_ms),
            ttl_ms: event.ttl_ms,
        }
    }
}

impl From<NewEvent> for proto::NewEvent {
    fn from(event: NewEvent) -> Self {
        Self {
            id: event.id,
            r#type: event.event_type,
            key: event.key,
            headers: event.headers,
            content_type: event.content_type,
            payload: event.payload,
            publisher_time_ms: event.publisher_time.map(Timestamp::as_ms),
            ttl_ms: event.ttl_ms,
        }
    }
}

/// Returns the events of a publish request, unary or on a stream. Each event is decoded when the
/// iterator reaches it.
pub(in crate::edge) fn new_events(
    events: &[Bytes],
) -> impl ExactSizeIterator<Item = Result<NewEvent>> {
    events.iter().map(|bytes| {
        wire::check_lists(bytes, wire::NEW_EVENT, 0)?;
        let event = proto::NewEvent::decode(bytes.clone());
        let event = event.map_err(|error| Error::invalid("message", error.to_string()))?;
        cloudevents::carried(event.into())
    })
}

/// Returns the one topic, or the patterns of many.
pub(in crate::edge) fn topics(topic: &str, topics: Vec<String>) -> Result<TopicSelection> {
    match (topic, topics.is_empty()) {
        (topic, true) => TopicName::new(topic).map(TopicSelection::One),
        ("", false) => TopicSelection::many(&topics),
        _ => Err(Error::invalid("topic", "is given with topics; give one")),
    }
}

/// Returns the filter of a reader.
pub(crate) fn filter(filter: Option<proto::Filter>) -> Filter {
    let proto::Filter { types, keys, key_prefixes, headers } = filter.unwrap_or_default();
    Filter {
        types: types.into_iter().collect(),
        keys: keys.into_iter().collect(),
        key_prefixes: key_prefixes.into_iter().collect(),
        headers: headers.into_iter().collect(),
    }
}

/// Returns the events of a run, each with its topic if the run is one of many topics.
pub(in crate::edge) fn events(run: &Run, is_one_of_many: bool) -> Vec<proto::Event> {
    let topic = if is_one_of_many { run.topic().as_str() } else { "" };
    let events = run.events();
    events.map(|found| proto::Event { topic: topic.to_owned(), ..event(run, &found) }).collect()
}

/// Returns an event of `run`. The payload is shared, not copied.
pub(in crate::edge) fn event(run: &Run, event: &EventRef<'_>) -> proto::Event {
    let text = str::to_owned;
    proto::Event {
        sequence: event.sequence.get(),
        position: event.position.get(),
        time_ms: event.time.as_ms(),
        id: text(event.id),
        r#type: text(event.event_type),
        key: text(event.key),
        headers: event.headers().map(|(name, value)| (text(name), text(value))).collect(),
        content_type: text(event.content_type),
        payload: run.share(event.payload),
        publisher_time_ms: event.publisher_time.map(Timestamp::as_ms),
        ttl_ms: event.ttl_ms,
        topic: String::new(),
    }
}

fn receipt(receipt: Receipt) -> proto::Receipt {
    proto::Receipt {
        sequence: receipt.sequence.get(),
        position: receipt.position.get(),
        time_ms: receipt.time.as_ms(),
    }
}

fn durability(durability: Durability) -> proto::Durability {
    match durability {
        Durability::Fsync => proto::Durability::Fsync,
        Durability::Process => proto::Durability::Process,
        Durability::Memory => proto::Durability::Memory,
        Durability::Replicated => proto::Durability::Replicated,
    }
}

pub(in crate::edge) fn ack(ack: &Ack) -> proto::Ack {
    let duplicates = ack.duplicates.iter().map(|duplicate| proto::Duplicate {
        index: duplicate.index as u32,
        receipt: Some(receipt(duplicate.receipt)),
    });
    proto::Ack {
        first: Some(receipt(ack.first())),
        last: Some(receipt(ack.last())),
        count: ack.count as u32,
        duplicates: duplicates.collect(),
        durability: durability(ack.durability).into(),
        first_appended: ack.first_appended.map(receipt),
    }
}

/// Returns the topics of a publish, which has either `topic` or `topics`.
///
/// # Errors
///
/// As [`PublishTopics::of`].
pub(in crate::edge) fn publish_topics(
    topic: String,
    topics: Vec<String>,
    limits: &LimitsConfig,
) -> Result<PublishTopics> {
    let topics = (!topics.is_empty()).then_some(topics);
    let topic = (!topic.is_empty() || topics.is_none()).then(|| TopicName::new(&topic));
    PublishTopics::of(topic.transpose()?, topics, limits)
}

/// Returns the acknowledgements of a list of topics.
pub(in crate::edge) fn topic_acks(acks: &[(TopicName, Ack)]) -> Vec<proto::TopicAck> {
    let of_topic = |(topic, acknowledged): &(TopicName, Ack)| proto::TopicAck {
        topic: topic.to_string(),
        ack: Some(ack(acknowledged)),
    };
    acks.iter().map(of_topic).collect()
}

/// Returns the answer to one request on a stream of publishes.
pub(in crate::edge) fn stream_response(
    outcome: &Result<Acknowledged>,
) -> proto::PublishStreamResponse {
    let outcome = match outcome {
        Ok(Acknowledged::One(acknowledged)) => Outcome::Ack(ack(acknowledged)),
        Ok(Acknowledged::Each(acks)) => Outcome::Acks(proto::TopicAcks { acks: topic_acks(acks) }),
        Err(error) => {
            let status = Status::from(error.clone());
            Outcome::Error(proto::PublishError {
                code: status.code().into(),
                message: status.message().to_owned(),
                outcome_unknown: error.outcome_unknown(),
                actual_sequence: match error {
                    Error::UnexpectedSequence { actual, .. } => Some(*actual),
                    _ => None,
                },
                details: details(&status),
            })
        }
    };
    proto::PublishStreamResponse { outcome: Some(outcome) }
}

/// Converts the enum of the wire; `None` stands for the default of the call.
pub(in crate::edge) fn on_gap(number: i32) -> Result<Option<OnGap>> {
    match proto::OnGap::try_from(number) {
        Ok(proto::OnGap::Unspecified) => Ok(None),
        Ok(proto::OnGap::Resume) => Ok(Some(OnGap::Resume)),
        Ok(proto::OnGap::Earliest) => Ok(Some(OnGap::Earliest)),
        Ok(proto::OnGap::Latest) => Ok(Some(OnGap::Latest)),
        Ok(proto::OnGap::Fail) => Ok(Some(OnGap::Fail)),
        Err(_) => Err(Error::invalid("on_gap", format!("{number} is not known"))),
    }
}

/// Converts the request of a page's reader.
pub(in crate::edge) fn page_request(
    request: proto::ReadRequest,
    topics: &TopicSelection,
    config: &FollowConfig,
) -> Result<PageRequest> {
    let limit = match request.page_size as usize {
        0 => DEFAULT_PAGE_EVENTS,
        limit if limit as u64 > config.max_page_events => {
            return Err(Error::over("page_size", limit, config.max_page_events as usize));
        }
        limit => limit,
    };
    if u64::from(request.wait_ms) > config.max_wait_ms {
        return Err(Error::over("wait_ms", request.wait_ms as usize, config.max_wait_ms as usize));
    }
    let start = match (request.from.as_str(), request.before) {
        ("", Some(_)) => StartPoint::Latest, // The page ends before that sequence.
        ("", None) => StartPoint::Earliest,
        (from, _) => from.parse()?,
    };
    Ok(PageRequest {
        start,
        before: request.before.map(Sequence::new),
        limit,
        wait: Duration::from_millis(request.wait_ms.into()),
        on_gap: on_gap(request.on_gap)?.unwrap_or(topics.page_on_gap()),
        filter: filter(request.filter),
        ..PageRequest::default()
    })
}

/// Returns a page with these events.
pub(in crate::edge) fn page(page: &Page, events: Vec<Bytes>) -> served::ReadResponse {
    served::ReadResponse {
        events,
        cursor: page.cursor.to_string(),
        earliest: page.earliest.number(),
        tail: page.tail.number(),
        caught_up: page.caught_up,
        gaps: page.gaps.iter().map(|found| gaps::message(found, page.begin)).collect(),
        denied: Vec::new(),
    }
}

/// A list of events or other entries, each encoded when it is added, so that at most one of them is
/// in memory in another form.
#[derive(Debug, Default)]
pub(in crate::edge) struct EncodedList {
    entries: Vec<Bytes>,
    /// The buffer for the next entries.
    room: BytesMut,
    size_bytes: usize,
}

impl EncodedList {
    /// The least size of a new buffer, in bytes.
    const ROOM_BYTES: usize = 64 << 10;

    /// The size of the head of each entry in a message, in bytes: its field, and a length below 2
    /// MiB.
    const HEAD_BYTES: usize = 4;

    /// Adds an entry.
    pub(in crate::edge) fn push(&mut self, entry: &impl Message) {
        let size_bytes = entry.encoded_len();
        if self.room.capacity() < size_bytes {
            self.room = BytesMut::with_capacity(size_bytes.max(Self::ROOM_BYTES));
        }
        entry.encode(&mut self.room).expect("the buffer has room");
        self.entries.push(self.room.split().freeze());
        self.size_bytes += size_bytes;
    }

    /// Adds an entry, unless the list would then take more than `max_bytes` in a message. The first
    /// entry of the list is always added. Returns whether `entry` was added.
    pub(in crate::edge) fn push_within(&mut self, entry: &impl Message, max_bytes: usize) -> bool {
        let heads_bytes = (self.entries.len() + 1) * Self::HEAD_BYTES;
        let fits = self.size_bytes + entry.encoded_len() + heads_bytes <= max_bytes;
        let is_added = fits || self.is_empty();
        if is_added {
            self.push(entry);
        }
        is_added
    }

    /// Whether the list has no entries.
    pub(in crate::edge) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of entries.
    pub(in crate::edge) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the memory of the entries, in bytes.
    pub(in crate::edge) fn size_bytes(&self) -> usize {
        self.size_bytes + self.entries.len() * size_of::<Bytes>()
    }

    /// Returns the entries, in their order.
    pub(in crate::edge) fn into_entries(self) -> Vec<Bytes> {
        self.entries
    }
}

/// Upper bounds for the numbers and field tags of one event in its message, and for those of one
/// header, in bytes.
const FIELDS_BYTES: usize = 128;
const HEADER_BYTES: usize = 16;

/// Returns an upper bound for the messages of the events of a run, in bytes.
pub(in crate::edge) fn max_encoded_bytes(run: &Run) -> usize {
    let topic_bytes = run.topic().as_str().len();
    let of_event = |event: EventRef<'_>| {
        let headers_bytes = HEADER_BYTES * event.headers().count();
        topic_bytes + event.size_bytes() + headers_bytes + FIELDS_BYTES
    };
    run.events().map(of_event).sum()
}

/// Encodes the events of a run, each with its topic if the run is one of many topics.
pub(in crate::edge) fn encode_run(run: &Run, is_one_of_many: bool, list: &mut EncodedList) {
    let topic = if is_one_of_many { run.topic().as_str() } else { "" };
    for found in run.events() {
        list.push(&proto::Event { topic: topic.to_owned(), ..event(run, &found) });
    }
}

/// Converts a member that is present.
pub(in crate::edge) fn present(present: &Present) -> proto::Present {
    let Present { member, since_ms, subscriptions } = present;
    let Member { id, info } = member.clone();
    let info = info.into_iter().map(|(name, info)| (name, info.into_text())).collect();
    let member = Some(proto::Member { id, info });
    proto::Present { member, since_ms: *since_ms, subscriptions: *subscriptions }
}

pub(in crate::edge) fn topic(topic: &TopicInfo) -> proto::Topic {
    proto::Topic {
        name: topic.name.to_string(),
        earliest: topic.extent.earliest.get(),
        tail: topic.extent.tail.get(),
        last_position: topic.extent.last_position.get(),
        last_time_ms: topic.extent.last_time.as_ms(),
        size_bytes: topic.extent.size_bytes(),
        events: topic.extent.events(),
        config: Some(topic_config(&topic.config)),
        effective_config: Some(topic_config(&topic.effective_config)),
    }
}

fn topic_config(config: &TopicConfig) -> proto::TopicConfig {
    proto::TopicConfig {
        max_age_ms: config.max_age_ms,
        max_events: config.max_events,
        max_bytes: config.max_bytes,
        compact: config.compact,
        max_events_per_key: config.max_events_per_key,
        tombstone_grace_ms: config.tombstone_grace_ms,
        durability: config.durability.map_or(0, |it| durability(it).into()),
        stamp_publisher: config.stamp_publisher,
    }
}

/// Converts a topic's settings from a client.
pub(in crate::edge) fn config_of(config: Option<proto::TopicConfig>) -> Result<TopicConfig> {
    let config = config.unwrap_or_default();
    let durability = match proto::Durability::try_from(config.durability) {
        Ok(proto::Durability::Unspecified) => None,
        Ok(proto::Durability::Fsync) => Some(Durability::Fsync),
        Ok(proto::Durability::Process) => Some(Durability::Process),
        Ok(proto::Durability::Memory) => Some(Durability::Memory),
        Ok(proto::Durability::Replicated) => Some(Durability::Replicated),
        Err(_) => {
            return Err(Error::invalid(
                "durability",
                format!("{} is not known", config.durability),
            ));
        }
    };
    Ok(TopicConfig {
        max_age_ms: config.max_age_ms,
        max_events: config.max_events,
        max_bytes: config.max_bytes,
        compact: config.compact,
        max_events_per_key: config.max_events_per_key,
        tombstone_grace_ms: config.tombstone_grace_ms,
        durability,
        stamp_publisher: config.stamp_publisher,
    })
}

pub(in crate::edge) fn maintained(report: &MaintenanceReport) -> proto::MaintainResponse {
    let dropped = |Dropped { events, bytes }| Some(proto::Dropped { events, bytes });
    proto::MaintainResponse {
        topics: report.topics,
        retention: dropped(report.retention),
        expired: dropped(report.expired),
        compacted: dropped(report.compacted),
        purged: dropped(report.purged),
        merged_blocks: report.merged_blocks,
        reclaimed_bytes: report.reclaimed_bytes,
    }
}

/// Converts an event that is not stored.
pub(in crate::edge) fn ephemeral(ephemeral: &Ephemeral) -> proto::Ephemeral {
    let Ephemeral { topic, time, event, .. } = ephemeral;
    let event = Some(event.clone().into());
    proto::Ephemeral { topic: topic.to_string(), time_ms: time.as_ms(), event }
}

/// Converts an event that is not part of a block.
pub(in crate::edge) fn own_event(event: Event) -> proto::Event {
    let Event { sequence, position, time, content } = event;
    proto::Event {
        sequence: sequence.get(),
        position: position.get(),
        time_ms: time.as_ms(),
        id: content.id,
        r#type: content.event_type,
        key: content.key,
        headers: content.headers,
        content_type: content.content_type,
        payload: content.payload,
        publisher_time_ms: content.publisher_time.map(Timestamp::as_ms),
        ttl_ms: content.ttl_ms,
        topic: String::new(),
    }
}

/// Returns the deadline that a call carries. Source: the gRPC protocol over HTTP/2, `grpc-timeout`.
pub(crate) fn deadline(
    metadata: &tonic::metadata::MetadataMap,
) -> Result<Option<Duration>, Status> {
    let Some(value) = metadata.get("grpc-timeout") else { return Ok(None) };
    let refused =
        || Status::from(Error::invalid("grpc-timeout", format!("{value:?} is not a timeout")));
    let text = value.to_str().map_err(|_| refused())?;
    let Some((at, unit)) = text.char_indices().next_back() else { return Err(refused()) };
    let digits = &text[..at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    let amount: u64 = digits.parse().map_err(|_| refused())?;
    Ok(Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return Err(refused()),
    }))
}
