//! The lists in the messages that calls bring, and the check before such a message is decoded.

use std::any::TypeId;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::edge::wire::{EVENTS, Field, check_lists, list, map, message, messages};
use crate::edge::{proto, served};
use crate::error::Result;
use crate::lists::check;

/// Largest message that publishes nothing, in bytes: 1,024 patterns and as many values of a filter.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

const PUBLISH: &[Field] = &[list(2, EVENTS), list(5, "topics")];
const FILTER: &[Field] = &[
    list(1, "filter types"),
    list(2, "filter keys"),
    list(3, "filter key_prefixes"),
    map(4, "filter headers"),
];
const SUBSCRIBE: &[Field] =
    &[list(4, "topics"), message(5, FILTER), message(6, &[map(2, "member info")])];
const READ: &[Field] = &[message(7, FILTER), list(8, "topics")];
const CREATE_TOPIC: &[Field] = &[message(2, &[])];
const UPDATE_TOPIC: &[Field] = &[message(2, &[]), message(3, &[list(1, "update_mask")])];

const OF_CONSUMER: &[Field] = &[message(1, &[])];
const PUT_CONSUMER: &[Field] = &[message(1, &[]), message(2, FILTER), message(4, &[])];
const UPDATE_CONSUMER: &[Field] = &[message(1, &[]), message(2, FILTER), message(3, &[])];
const SETTLE: &[Field] =
    &[message(1, &[]), list(2, "ack"), map(3, "nack"), map(4, "extend"), list(5, "release")];
const WORK: &[Field] = &[message(1, OF_CONSUMER), message(2, SETTLE)];
const WEBHOOK_SETTINGS: &[Field] = &[message(2, FILTER)];
const PUT_WEBHOOK: &[Field] = &[message(2, WEBHOOK_SETTINGS)];
const UPDATE_WEBHOOK: &[Field] =
    &[message(2, WEBHOOK_SETTINGS), message(3, &[list(1, "update_mask")])];
const MARK_EVENTS: &[Field] = &[
    message(1, &[]),
    list(2, "mark"),
    list(3, "unmark"),
    map(5, "events"),
    message(7, FILTER),
    message(8, &[]),
];
const CHECKPOINT_STREAM: &[Field] = &[message(1, OF_CONSUMER), message(2, MARK_EVENTS)];
const COUNT_EVENTS: &[Field] =
    &[messages(1, "consumers", &[message(1, &[]), messages(2, "filters", FILTER)])];
const READ_INBOX: &[Field] = &[message(1, &[]), message(2, &[]), message(3, FILTER)];
const READ_GROUPS: &[Field] = &[message(1, &[]), message(4, &[]), message(5, FILTER)];

/// Returns the lists of the messages that clients send.
pub(super) fn lists_of<T: 'static>() -> &'static [Field] {
    let lists = [
        (TypeId::of::<served::PublishRequest>(), PUBLISH),
        (TypeId::of::<served::PublishStreamRequest>(), PUBLISH),
        (TypeId::of::<proto::SubscribeRequest>(), SUBSCRIBE),
        (TypeId::of::<proto::ReadRequest>(), READ),
        (TypeId::of::<proto::CreateTopicRequest>(), CREATE_TOPIC),
        (TypeId::of::<proto::UpdateTopicRequest>(), UPDATE_TOPIC),
        (TypeId::of::<proto::PutConsumerRequest>(), PUT_CONSUMER),
        (TypeId::of::<proto::UpdateConsumerRequest>(), UPDATE_CONSUMER),
        (TypeId::of::<proto::GetConsumerRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::DeleteConsumerRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::SetCheckpointRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::CheckpointStreamRequest>(), CHECKPOINT_STREAM),
        (TypeId::of::<proto::MarkEventsRequest>(), MARK_EVENTS),
        (TypeId::of::<proto::GetMarksRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::CountEventsRequest>(), COUNT_EVENTS),
        (TypeId::of::<proto::ReadInboxRequest>(), READ_INBOX),
        (TypeId::of::<proto::ReadGroupsRequest>(), READ_GROUPS),
        (TypeId::of::<proto::PullRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::SettleRequest>(), SETTLE),
        (TypeId::of::<proto::WorkRequest>(), WORK),
        (TypeId::of::<proto::GetWorkRequest>(), OF_CONSUMER),
        (TypeId::of::<proto::PutWebhookRequest>(), PUT_WEBHOOK),
        (TypeId::of::<proto::UpdateWebhookRequest>(), UPDATE_WEBHOOK),
    ];
    let found = lists.into_iter().find(|(message, _)| *message == TypeId::of::<T>());
    found.map_or(&[], |(_, lists)| lists)
}

/// The most events per message that any broker of this process accepts: a message is decoded before
/// its broker is known.
static MOST_EVENTS: AtomicUsize = AtomicUsize::new(0);

/// Allows messages of up to `max_events` from now on.
pub(super) fn allow_events(max_events: u64) {
    let max_events = usize::try_from(max_events).unwrap_or(usize::MAX);
    MOST_EVENTS.fetch_max(max_events, Ordering::Relaxed);
}

/// Checks the fields of `message` and the entries of its lists, by the bounds of all brokers of
/// this process. Checks its size, too, if it publishes nothing.
///
/// # Errors
///
/// As [`check_lists`].
pub(super) fn check_request(message: &[u8], lists: &'static [Field]) -> Result<()> {
    check_lists(message, lists, MOST_EVENTS.load(Ordering::Relaxed))?;
    let publishes = lists.iter().any(|field| field.list == Some(EVENTS));
    if publishes { Ok(()) } else { check("message bytes", message.len(), MAX_MESSAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::super::DESCRIPTORS;
    use super::*;
    use crate::edge::wire::{MAX_FIELDS, NEW_EVENT};
    use crate::lists::MAX_ENTRIES;

    /// Collects the fields of a message of the proto that are lists or messages: the path of each
    /// field's numbers, and whether the field is a list.
    fn declared(
        set: &FileDescriptorSet,
        name: &str,
        path: &[i32],
        found: &mut Vec<(Vec<i32>, bool)>,
    ) {
        let files = set.file.iter();
        let messages: Vec<(String, &DescriptorProto)> = files
            .flat_map(|file| file.message_type.iter().map(|m| (file.package(), m)))
            .flat_map(|(package, message)| {
                let name = format!(".{package}.{}", message.name());
                let nested = message.nested_type.iter();
                let nested: Vec<_> =
                    nested.map(|inner| (format!("{name}.{}", inner.name()), inner)).collect();
                std::iter::once((name, message)).chain(nested)
            })
            .collect();
        let Some((_, message)) = messages.iter().find(|(known, _)| known == name) else { return };
        for field in &message.field {
            let path = [path, &[field.number()]].concat();
            let is_list = field.label() == Label::Repeated;
            if is_list || field.r#type() == Type::Message {
                found.push((path.clone(), is_list));
            }
            declared(set, field.type_name(), &path, found);
        }
    }

    fn listed(fields: &[Field], path: &[i32], found: &mut Vec<(Vec<i32>, bool)>) {
        for field in fields {
            let path = [path, &[field.number as i32]].concat();
            found.push((path.clone(), field.list.is_some()));
            listed(field.within.unwrap_or_default(), &path, found);
            if field.list == Some(EVENTS) {
                listed(NEW_EVENT, &path, found); // Each event is checked by itself.
            }
        }
    }

    /// Goal: no request gets a list or a message that is not counted.
    #[test]
    fn every_list_and_every_message_of_every_request_is_counted() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let requests = set.file.iter().flat_map(|file| &file.message_type);
        let requests = requests.filter(|message| message.name().ends_with("Request"));
        let mut count = 0;
        for request in requests {
            let lists = match request.name() {
                "PublishRequest" => lists_of::<served::PublishRequest>(),
                "PublishStreamRequest" => lists_of::<served::PublishStreamRequest>(),
                "SubscribeRequest" => lists_of::<proto::SubscribeRequest>(),
                "ReadRequest" => lists_of::<proto::ReadRequest>(),
                "CreateTopicRequest" => lists_of::<proto::CreateTopicRequest>(),
                "UpdateTopicRequest" => lists_of::<proto::UpdateTopicRequest>(),
                "PutConsumerRequest" => lists_of::<proto::PutConsumerRequest>(),
                "UpdateConsumerRequest" => lists_of::<proto::UpdateConsumerRequest>(),
                "GetConsumerRequest" => lists_of::<proto::GetConsumerRequest>(),
                "DeleteConsumerRequest" => lists_of::<proto::DeleteConsumerRequest>(),
                "SetCheckpointRequest" => lists_of::<proto::SetCheckpointRequest>(),
                "CheckpointStreamRequest" => lists_of::<proto::CheckpointStreamRequest>(),
                "MarkEventsRequest" => lists_of::<proto::MarkEventsRequest>(),
                "GetMarksRequest" => lists_of::<proto::GetMarksRequest>(),
                "CountEventsRequest" => lists_of::<proto::CountEventsRequest>(),
                "ReadInboxRequest" => lists_of::<proto::ReadInboxRequest>(),
                "ReadGroupsRequest" => lists_of::<proto::ReadGroupsRequest>(),
                "PullRequest" => lists_of::<proto::PullRequest>(),
                "SettleRequest" => lists_of::<proto::SettleRequest>(),
                "WorkRequest" => lists_of::<proto::WorkRequest>(),
                "GetWorkRequest" => lists_of::<proto::GetWorkRequest>(),
                "PutWebhookRequest" => lists_of::<proto::PutWebhookRequest>(),
                "UpdateWebhookRequest" => lists_of::<proto::UpdateWebhookRequest>(),
                _ => &[],
            };
            let (mut declares, mut counts) = (Vec::new(), Vec::new());
            let name = format!(".leftoff.v1.{}", request.name());
            declared(&set, &name, &[], &mut declares);
            listed(lists, &[], &mut counts);
            assert_eq!(declares, counts, "{name}");
            count += usize::from(!declares.is_empty());
        }
        assert_eq!(count, 21, "requests with lists or messages");
    }

    #[test]
    fn lists_are_counted_wherever_they_stand_and_one_that_is_too_long_is_refused() {
        let event = |headers: usize| {
            let headers = (0..headers).map(|number| (number.to_string(), String::new())).collect();
            proto::NewEvent { headers, ..proto::NewEvent::default() }
        };
        let publish = |events: usize| {
            let events = vec![event(0); events];
            proto::PublishRequest { events, ..proto::PublishRequest::default() }.encode_to_vec()
        };
        let check = |message: &[u8], lists| check_lists(message, lists, 10);
        check(&publish(10), PUBLISH).unwrap();
        let refused = check(&publish(11), PUBLISH).unwrap_err().to_string();
        assert_eq!(refused, "events in a batch: 11 is over the limit of 10");
        check(&event(MAX_ENTRIES).encode_to_vec(), NEW_EVENT).unwrap();
        let refused = check(&event(MAX_ENTRIES + 1).encode_to_vec(), NEW_EVENT).unwrap_err();
        assert_eq!(refused.to_string(), "headers: 1025 is over the limit of 1024");

        let filter = proto::Filter {
            keys: vec![String::new(); 600],
            types: vec![String::new(); MAX_ENTRIES],
            ..proto::Filter::default()
        };
        let read = proto::ReadRequest { filter: Some(filter), ..proto::ReadRequest::default() };
        let (once, lists) = (read.encode_to_vec(), lists_of::<proto::ReadRequest>());
        check_lists(&once, lists, 0).unwrap();
        // A message that occurs twice is one message with the entries of both. A group precedes it.
        let twice = [&[0x7b, 0x08, 0x01, 0x7c][..], &once, &once].concat();
        let refused = check_lists(&twice, lists, 0).unwrap_err().to_string();
        assert!(refused.contains("filter types: 1025 is over the limit of 1024"), "{refused}");
    }

    #[test]
    fn fields_are_counted_whatever_they_are_and_wherever_they_stand() {
        let fields = |count: usize| [0x78, 0x01].repeat(count); // No message has this number.
        let within = |number: u8, content: &[u8]| {
            let mut message = vec![number << 3 | 2];
            prost::encode_length_delimiter(content.len(), &mut message).unwrap();
            [&message, content].concat()
        };
        let lists = lists_of::<proto::ReadRequest>();
        let check = |message: &[u8]| check_lists(message, lists, 10).map_err(|e| e.to_string());
        let limit = MAX_FIELDS + 10;
        check(&fields(limit)).unwrap();
        let refused = Err(format!("fields: {} is over the limit of {limit}", limit + 1));
        assert_eq!(check(&fields(limit + 1)), refused);
        assert_eq!(check(&within(7, &fields(limit))), refused, "in the filter");
        assert_eq!(check(&within(7, &within(4, &fields(limit - 1)))), refused, "in its headers");
    }

    #[test]
    fn messages_that_publish_nothing_are_bounded_in_bytes() {
        let topic = |size_bytes: usize| {
            let topic = "x".repeat(size_bytes);
            proto::GetTopicRequest { topic }.encode_to_vec()
        };
        let head_bytes = 4; // The field, and the length of the text.
        let check =
            |message: &[u8], lists| check_request(message, lists).map_err(|e| e.to_string());
        check(&topic(MAX_MESSAGE_BYTES - head_bytes), &[]).unwrap();
        let refused = check(&topic(MAX_MESSAGE_BYTES - head_bytes + 1), READ).unwrap_err();
        assert_eq!(refused, "message bytes: 1048577 is over the limit of 1048576");
        check(&topic(MAX_MESSAGE_BYTES), PUBLISH).unwrap();
    }

    #[test]
    fn whatever_is_no_message_is_left_to_the_decoder() {
        let lists = lists_of::<proto::SubscribeRequest>();
        for bytes in [&[0xff; 30][..], &[0x22, 0xff, 0xff, 0xff, 0x7f], &[0x22], &[0x27], &[]] {
            check_lists(bytes, lists, 0).unwrap();
        }
    }
}
