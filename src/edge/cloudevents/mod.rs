//! CloudEvents 1.0, in and out: the map between their attributes and the broker's events. Knows no
//! routes.
//!
//! | CloudEvents | the event |
//! |---|---|
//! | `source` and `id` | id: `{source} {id}`; if that is too long, its SHA-256 |
//! | `type` | type |
//! | `subject` | key |
//! | `datacontenttype` | content type |
//! | `time` | publisher time, cut to the millisecond |
//! | every attribute but `type` and `datacontenttype` | header `ce-{attribute}`, unchanged |
//! | `data` or `data_base64` | payload |
//!
//! Headers are text. One more header lists the attributes that are a boolean or an integer:
//! `ce-types: count:integer ok:boolean`. So no publisher may have an attribute `types`.
//!
//! An event with a subject and no data is a tombstone, as is any event with a key and no payload.
//!
//! Source: CloudEvents 1.0.2: spec.md, bindings/http-protocol-binding.md, formats/json-format.md,
//! formats/protobuf-format.md.
//!
//! # Why
//!
//! Attributes are kept unchanged, beside the fields of the event, because the fields cannot hold
//! all of them: two spellings of one time are one `Timestamp`, and an id may have become a hash. A
//! reader must get exactly the attributes that the publisher gave, because signatures may cover
//! them.

mod attributes;
mod carried;
pub(in crate::edge) mod mode;
mod protobuf;
mod read;
#[cfg(feature = "webhooks")]
mod sent;
#[cfg(test)]
mod tests;
mod write;

pub(in crate::edge) use carried::{carried, read};
pub(in crate::edge) use mode::Mode;
#[cfg(feature = "webhooks")]
pub(crate) use sent::{binary_headers, structured};
pub(in crate::edge) use write::append;
#[cfg(any(test, fuzzing))]
pub(in crate::edge) use write::{EventPlace, Stored};
