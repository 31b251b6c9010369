//! The mode in which a request, or an event, carries CloudEvents.

use http::HeaderMap;

use crate::edge::media::essence;

/// The header that marks an event in binary mode.
pub(super) const VERSION_HEADER: &str = "ce-specversion";

/// The mode in which a request carries CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Mode {
    /// One event: attributes are headers, and the body is the data. `read::binary` reads it.
    Binary,
    /// One event, in JSON. `read::structured` reads it.
    Structured,
    /// Many events, in JSON. `read::batched` reads them.
    Batched,
    /// One event, in protobuf. `protobuf::protobuf` reads it.
    Protobuf,
    /// Many events, in protobuf. `protobuf::protobuf_batch` reads them.
    ProtobufBatch,
}

impl Mode {
    /// Returns the mode of a request with this content type and these headers; `None` without
    /// CloudEvents.
    ///
    /// The content type decides first: beside a whole event in the body, headers may repeat its
    /// attributes.
    pub(in crate::edge) fn of(content_type: &str, headers: &HeaderMap) -> Option<Self> {
        match essence(content_type).as_str() {
            "application/cloudevents+json" => Some(Self::Structured),
            "application/cloudevents-batch+json" => Some(Self::Batched),
            "application/cloudevents+protobuf" => Some(Self::Protobuf),
            "application/cloudevents-batch+protobuf" => Some(Self::ProtobufBatch),
            _ => headers.contains_key(VERSION_HEADER).then_some(Self::Binary),
        }
    }
}
