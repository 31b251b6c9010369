//! In which way a request, or an event, carries CloudEvents.

use http::HeaderMap;

use crate::edge::media::essence;

/// The header that tells an event in binary mode from any other body.
pub(super) const VERSION_HEADER: &str = "ce-specversion";

/// How a request carries CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Mode {
    /// One: attributes are headers, and the body is the data. `read::binary` reads it.
    Binary,
    /// One, in JSON. `read::structured` reads it.
    Structured,
    /// Many, in JSON. `read::batched` reads them.
    Batched,
    /// One, in protobuf. `protobuf::protobuf` reads it.
    Protobuf,
    /// Many, in protobuf. `protobuf::protobuf_batch` reads them.
    ProtobufBatch,
}

impl Mode {
    /// What a request with this content type and these headers is; `None` if no CloudEvent.
    ///
    /// The content type decides first: next to a whole event, headers may repeat its attributes.
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
