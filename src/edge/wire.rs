//! Lists in protobuf messages: counted before a message is decoded. Knows field numbers.
//!
//! # Why
//!
//! An entry takes two bytes on the wire, and up to two hundred when it is decoded: a message of a
//! few MiB would become hundreds. Decoding knows no limits, so the bytes are walked before it,
//! which allocates nothing and ends with the first entry that is too many.

use std::any::TypeId;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::proto;
use crate::error::Result;
use crate::lists::{MAX_ENTRIES, check};

/// A field that is a list, or a message that has some.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    /// What the list is called; `None` for a message that is no entry of one.
    list: Option<&'static str>,
    /// The fields of the message that it is.
    within: &'static [Field],
}

const fn list(number: u32, name: &'static str) -> Field {
    Field { number, list: Some(name), within: &[] }
}

const fn message(number: u32, within: &'static [Field]) -> Field {
    Field { number, list: None, within }
}

const fn messages(number: u32, name: &'static str, within: &'static [Field]) -> Field {
    Field { number, list: Some(name), within }
}

/// The list whose limit is a setting; the limit of all others is [`MAX_ENTRIES`].
const EVENTS: &str = "events in a batch";

const PUBLISH: &[Field] = &[messages(2, EVENTS, &[list(4, "headers")])];
const FILTER: &[Field] = &[
    list(1, "filter types"),
    list(2, "filter keys"),
    list(3, "filter key_prefixes"),
    list(4, "filter headers"),
];
const SUBSCRIBE: &[Field] =
    &[list(4, "topics"), message(5, FILTER), message(6, &[list(2, "member info")])];
const READ: &[Field] = &[message(7, FILTER)];
const UPDATE_TOPIC: &[Field] = &[message(3, &[list(1, "update_mask")])];

/// A CloudEvent.
pub(super) const CLOUDEVENT: &[Field] = &[list(5, "attributes")];
/// A batch of CloudEvents.
pub(super) const CLOUDEVENTS: &[Field] = &[messages(1, EVENTS, CLOUDEVENT)];

/// The lists of the messages that clients send.
pub(super) fn lists_of<T: 'static>() -> &'static [Field] {
    let lists = [
        (TypeId::of::<proto::PublishRequest>(), PUBLISH),
        (TypeId::of::<proto::PublishStreamRequest>(), PUBLISH),
        (TypeId::of::<proto::SubscribeRequest>(), SUBSCRIBE),
        (TypeId::of::<proto::ReadRequest>(), READ),
        (TypeId::of::<proto::UpdateTopicRequest>(), UPDATE_TOPIC),
    ];
    let found = lists.into_iter().find(|(message, _)| *message == TypeId::of::<T>());
    found.map_or(&[], |(_, lists)| lists)
}

/// The most events in one message that any broker of this process takes: a message is decoded
/// before it is known whose it is.
static MOST_EVENTS: AtomicUsize = AtomicUsize::new(0);

/// Has messages of so many events decoded from now on.
pub(super) fn allow_events(max_events: u64) {
    let max_events = usize::try_from(max_events).unwrap_or(usize::MAX);
    MOST_EVENTS.fetch_max(max_events, Ordering::Relaxed);
}

/// Counts the entries of the lists in `message`, for any broker of this process.
///
/// # Errors
///
/// As [`check_lists`].
pub(super) fn check_request(message: &[u8], lists: &'static [Field]) -> Result<()> {
    check_lists(message, lists, MOST_EVENTS.load(Ordering::Relaxed))
}

/// Counts the entries of the lists in `message`. Whatever is no such message has none.
///
/// # Errors
///
/// [`Error::OverLimit`](crate::Error::OverLimit): the first list with an entry too many.
pub(super) fn check_lists(
    message: &[u8],
    lists: &'static [Field],
    max_events: usize,
) -> Result<()> {
    let limit = |name| if name == EVENTS { max_events } else { MAX_ENTRIES };
    count(message, lists, &mut Vec::new(), &limit)
}

/// Adds to `counts`, one for each list.
fn count(
    mut message: &[u8],
    lists: &'static [Field],
    counts: &mut Vec<(&'static str, usize)>,
    limit: &impl Fn(&'static str) -> usize,
) -> Result<()> {
    while !lists.is_empty()
        && let Some((number, content)) = next_field(&mut message)
    {
        let Some(field) = lists.iter().find(|field| u64::from(field.number) == number) else {
            continue;
        };
        let Some(name) = field.list else {
            count(content, field.within, counts, limit)?; // One that comes again adds to it.
            continue;
        };
        let index = counts.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            counts.push((name, 0));
            counts.len() - 1
        });
        counts[index].1 += 1;
        check(name, counts[index].1, limit(name))?;
        count(content, field.within, &mut Vec::new(), limit)?;
    }
    Ok(())
}

/// Takes the next field off `message`: its number, and its content if that has a length. `None` at
/// the end, and where there is no field. Source: Protocol Buffers, encoding.
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
        // Groups, which none of our messages has: what is in one counts as if it stood outside.
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
    use prost_types::field_descriptor_proto::Label;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::super::grpc::DESCRIPTORS;
    use super::*;

    /// The fields that are lists, or have some, each as a path of numbers, in a message of the
    /// proto.
    fn declared(set: &FileDescriptorSet, name: &str, path: &[i32], found: &mut Vec<Vec<i32>>) {
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
            if field.label() == Label::Repeated {
                found.push(path.clone());
            }
            declared(set, field.type_name(), &path, found);
        }
    }

    fn listed(fields: &[Field], path: &[i32], found: &mut Vec<Vec<i32>>) {
        for field in fields {
            let path = [path, &[field.number as i32]].concat();
            if field.list.is_some() {
                found.push(path.clone());
            }
            listed(field.within, &path, found);
        }
    }

    /// Goal: no request comes to have a list that nobody counts.
    #[test]
    fn every_list_of_every_request_is_counted() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let requests = set.file.iter().flat_map(|file| &file.message_type);
        let requests = requests.filter(|message| message.name().ends_with("Request"));
        let mut count = 0;
        for request in requests {
            let lists = match request.name() {
                "PublishRequest" => lists_of::<proto::PublishRequest>(),
                "PublishStreamRequest" => lists_of::<proto::PublishStreamRequest>(),
                "SubscribeRequest" => lists_of::<proto::SubscribeRequest>(),
                "ReadRequest" => lists_of::<proto::ReadRequest>(),
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
        assert_eq!(count, 5, "requests with lists");
    }

    #[test]
    fn lists_are_counted_wherever_they_stand_and_one_that_is_too_long_is_refused() {
        let publish = |events: usize, headers: usize| {
            let headers = (0..headers).map(|number| (number.to_string(), String::new())).collect();
            let event = proto::NewEvent { headers, ..proto::NewEvent::default() };
            let events = vec![event; events];
            proto::PublishRequest { events, ..proto::PublishRequest::default() }.encode_to_vec()
        };
        let lists = lists_of::<proto::PublishRequest>();
        let check = |message: &[u8]| check_lists(message, lists, 10).map_err(|e| e.to_string());
        check(&publish(10, MAX_ENTRIES)).unwrap();
        let refused = check(&publish(11, 0)).unwrap_err();
        assert_eq!(refused, "events in a batch: 11 is over the limit of 10");
        let refused = check(&publish(1, MAX_ENTRIES + 1)).unwrap_err();
        assert_eq!(refused, "headers: 1025 is over the limit of 1024");

        let filter = proto::Filter {
            keys: vec![String::new(); 600],
            types: vec![String::new(); MAX_ENTRIES],
            ..proto::Filter::default()
        };
        let read = proto::ReadRequest { filter: Some(filter), ..proto::ReadRequest::default() };
        let (once, lists) = (read.encode_to_vec(), lists_of::<proto::ReadRequest>());
        check_lists(&once, lists, 0).unwrap();
        // A message that comes twice is one with the entries of both. A group stands before them.
        let twice = [&[0x7b, 0x08, 0x01, 0x7c][..], &once, &once].concat();
        let refused = check_lists(&twice, lists, 0).unwrap_err().to_string();
        assert!(refused.contains("filter types: 1025 is over the limit of 1024"), "{refused}");
    }

    #[test]
    fn whatever_is_no_message_is_left_to_the_decoder() {
        let lists = lists_of::<proto::SubscribeRequest>();
        for bytes in [&[0xff; 30][..], &[0x22, 0xff, 0xff, 0xff, 0x7f], &[0x22], &[0x27], &[]] {
            check_lists(bytes, lists, 0).unwrap();
        }
    }
}
