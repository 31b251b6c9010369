//! Fields and lists in protobuf messages, counted before a message is decoded. Knows field numbers.
//!
//! # Why
//!
//! An entry takes two bytes on the wire, and up to two hundred when it is decoded: a message of a
//! few MiB would become hundreds. An unknown or repeated field takes two bytes, too, and a few MiB
//! of them hold a worker. The decoder has no limits. So the bytes are scanned before, without
//! allocating, up to the first entry or field too many.

use crate::error::Result;
use crate::lists::{MAX_ENTRIES, check};

/// A field that is a list, or a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// The name of the list; `None` for a field that is no list.
    pub(super) list: Option<&'static str>,
    /// The fields of the message, or of each message in the list; `None` for other fields, and for
    /// messages that are checked separately.
    pub(super) within: Option<&'static [Field]>,
}

pub(super) const fn list(number: u32, name: &'static str) -> Field {
    Field { number, list: Some(name), within: None }
}

/// Returns a list of messages without lists, which is the form of a map.
pub(super) const fn map(number: u32, name: &'static str) -> Field {
    Field { number, list: Some(name), within: Some(&[]) }
}

/// Returns a list of messages with lists of their own.
pub(super) const fn messages(number: u32, name: &'static str, within: &'static [Field]) -> Field {
    Field { number, list: Some(name), within: Some(within) }
}

pub(super) const fn message(number: u32, within: &'static [Field]) -> Field {
    Field { number, list: None, within: Some(within) }
}

/// The list whose limit is a setting; the limit of all others is [`MAX_ENTRIES`].
pub(super) const EVENTS: &str = "events in a batch";

/// Most fields of a message, with those of nested messages, besides its events: more than all lists
/// of a message together.
pub(super) const MAX_FIELDS: usize = 16 * MAX_ENTRIES;

/// A published event.
pub(super) const NEW_EVENT: &[Field] = &[map(HEADERS, "headers")];
const HEADERS: u32 = 4;
const CONTENT_TYPE: u32 = 5;
const PAYLOAD: u32 = 6;
/// A CloudEvent.
pub(super) const CLOUDEVENT: &[Field] = &[map(5, "attributes")];
/// A batch of CloudEvents.
pub(super) const CLOUDEVENTS: &[Field] = &[list(1, EVENTS)];

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
