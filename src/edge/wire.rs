//! Fields and lists in protobuf messages, counted before a message is decoded. Knows field numbers.
//!
//! # Why
//!
//! An entry takes two bytes on the wire, and up to two hundred when it is decoded: a message of a
//! few MiB would become hundreds. An unknown or repeated field takes two bytes, too, and a few MiB
//! of them hold a worker. The decoder has no limits. So the bytes are scanned before, without
//! allocating, up to the first entry or field too many.

use std::any::TypeId;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{proto, served};
use crate::error::Result;
use crate::lists::{MAX_ENTRIES, check};

/// A field that is a list, or a message.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    /// The name of the list; `None` for a field that is no list.
    list: Option<&'static str>,
    /// The fields of the message, or of each message in the list; `None` for other fields, and for
    /// messages that are checked separately.
    within: Option<&'static [Field]>,
}

const fn list(number: u32, name: &'static str) -> Field {
    Field { number, list: Some(name), within: None }
}

/// Returns a list of messages without lists, which is the form of a map.
const fn map(number: u32, name: &'static str) -> Field {
    Field { number, list: Some(name), within: Some(&[]) }
}

const fn message(number: u32, within: &'static [Field]) -> Field {
    Field { number, list: None, within: Some(within) }
}

/// The list whose limit is a setting; the limit of all others is [`MAX_ENTRIES`].
const EVENTS: &str = "events in a batch";

/// Most fields of a message, with those of nested messages, besides its events: more than all lists
/// of a message together.
const MAX_FIELDS: usize = 16 * MAX_ENTRIES;

/// Largest message that publishes nothing, in bytes: 1,024 patterns and as many values of a filter.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

const PUBLISH: &[Field] = &[list(2, EVENTS)];
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

/// A published event.
pub(super) const NEW_EVENT: &[Field] = &[map(HEADERS, "headers")];
const HEADERS: u32 = 4;
const CONTENT_TYPE: u32 = 5;
const PAYLOAD: u32 = 6;
/// A CloudEvent.
pub(super) const CLOUDEVENT: &[Field] = &[map(5, "attributes")];
/// A batch of CloudEvents.
pub(super) const CLOUDEVENTS: &[Field] = &[list(1, EVENTS)];

/// Returns the lists of the messages that clients send.
pub(super) fn lists_of<T: 'static>() -> &'static [Field] {
    let lists = [
        (TypeId::of::<served::PublishRequest>(), PUBLISH),
        (TypeId::of::<served::PublishStreamRequest>(), PUBLISH),
        (TypeId::of::<proto::SubscribeRequest>(), SUBSCRIBE),
        (TypeId::of::<proto::ReadRequest>(), READ),
        (TypeId::of::<proto::CreateTopicRequest>(), CREATE_TOPIC),
        (TypeId::of::<proto::UpdateTopicRequest>(), UPDATE_TOPIC),
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

/// Checks the fields of `message` and the entries of its lists. Bytes that are not such a message
/// pass.
///
/// # Errors
///
/// [`Error::OverLimit`](crate::Error::OverLimit): names the first list with an entry too many, or
/// all fields.
pub(super) fn check_lists(
    message: &[u8],
    lists: &'static [Field],
    max_events: usize,
) -> Result<()> {
    Walk { fields: 0, max_events }.count(message, lists, &mut Vec::new())
}

/// A scan of a message.
struct Walk {
    /// The number of fields so far.
    fields: usize,
    max_events: usize,
}

impl Walk {
    /// Counts the entries of `message` into `counts`, which has one count per list.
    fn count(
        &mut self,
        mut message: &[u8],
        known: &'static [Field],
        counts: &mut Vec<(&'static str, usize)>,
    ) -> Result<()> {
        while let Some((number, content)) = next_field(&mut message) {
            self.fields += 1;
            check("fields", self.fields, MAX_FIELDS.saturating_add(self.max_events))?;
            let found = known.iter().find(|field| u64::from(field.number) == number);
            let Some(Field { list, within, .. }) = found else { continue };
            match (list, within) {
                (Some(name), within) => {
                    self.add_entry(name, counts)?;
                    within.map_or(Ok(()), |within| self.count(content, within, &mut Vec::new()))?;
                }
                // A repeated message adds to the first one.
                (None, Some(within)) => self.count(content, within, counts)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn add_entry(&self, name: &'static str, counts: &mut Vec<(&'static str, usize)>) -> Result<()> {
        let index = counts.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            counts.push((name, 0));
            counts.len() - 1
        });
        counts[index].1 += 1;
        check(name, counts[index].1, if name == EVENTS { self.max_events } else { MAX_ENTRIES })
    }
}

/// A field of a published event, by the kind of its cost.
pub(super) enum EventField<'a> {
    Header(&'a [u8]),
    ContentType(&'a [u8]),
    Payload(&'a [u8]),
    Other(&'a [u8]),
}

/// Returns the fields of a published event, without decoding it.
pub(super) fn fields(mut event: &[u8]) -> impl Iterator<Item = EventField<'_>> {
    let fields = std::iter::from_fn(move || next_field(&mut event));
    fields.map(|(number, content)| match u32::try_from(number) {
        Ok(HEADERS) => EventField::Header(content),
        Ok(CONTENT_TYPE) => EventField::ContentType(content),
        Ok(PAYLOAD) => EventField::Payload(content),
        _ => EventField::Other(content),
    })
}

/// Takes the next field off `message`: its number, and its content if that has a length. `None` at
/// the end, and if there is no valid field. Source: Protocol Buffers, encoding.
fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = varint(message)?;
    let content = match key & 7 {
        0 => {
            varint(message)?;
            &[]
        }
        1 => take(message, 8)?,
        2 => {
            let length = varint(message)?;
            take(message, usize::try_from(length).ok()?)?
        }
        5 => take(message, 4)?,
        // Groups occur in none of the messages. The fields in a group count as if they were
        // outside.
        3 | 4 => &[],
        _ => return None,
    };
    Some((key >> 3, content))
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (content, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(content)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::super::grpc::DESCRIPTORS;
    use super::*;

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
                _ => &[],
            };
            let (mut declares, mut counts) = (Vec::new(), Vec::new());
            let name = format!(".leftoff.v1.{}", request.name());
            declared(&set, &name, &[], &mut declares);
            listed(lists, &[], &mut counts);
            assert_eq!(declares, counts, "{name}");
            count += usize::from(!declares.is_empty());
        }
        assert_eq!(count, 6, "requests with lists or messages");
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
