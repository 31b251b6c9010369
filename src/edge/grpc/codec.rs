//! The encoding of protobuf messages, as in tonic's own codec, with two differences: a message that
//! cannot be decoded is reported as the client's mistake, and a message with too many fields or too
//! long lists is not decoded.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::edge::grpc::requests;
use crate::edge::wire::Field;
use crate::error::Error;

/// A codec that encodes `T`, a response, and decodes `U`, a request.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder { lists: requests::lists_of::<U>(), decoded: PhantomData }
    }
}

/// An encoder of messages.
#[derive(Debug)]
pub(in crate::edge) struct MessageEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Reserved at once: otherwise a page of some MiB would be copied each time the buffer
        // doubles.
        bytes.reserve(message.encoded_len());
        message.encode_raw(bytes);
        Ok(())
    }
}

/// A decoder of messages.
#[derive(Debug)]
pub(in crate::edge) struct MessageDecoder<U> {
    lists: &'static [Field],
    decoded: PhantomData<U>,
}

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The buffer has the message as one contiguous slice.
        requests::check_request(bytes.chunk(), self.lists)?;
        U::decode(bytes)
            .map(Some)
            .map_err(|error| Error::invalid("message", error.to_string()).into())
    }
}

/// Replaces tonic's status for a message that is too large: its code `OUT_OF_RANGE` means here that
/// a cursor is gone.
pub(in crate::edge) fn mend(status: Status) -> Status {
    let is_too_large = status.code() == tonic::Code::OutOfRange
        && status.message().contains("message length too large");
    if is_too_large { Error::invalid("message", status.message()).into() } else { status }
}
