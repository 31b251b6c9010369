//! Pages of history as messages: of one topic, or of many.

use http::HeaderValue;

use super::super::budget::{Held, Share};
use super::super::cut_topics::cut_header;
use super::super::selection::{self, TopicSelection};
use super::super::served;
use crate::broker::{Broker, PageRequest, Run};
use crate::edge::grpc::messages::{self, EncodedList};
use crate::edge::permit::Permit;
use crate::error::Result;
use crate::polls;

/// The room that a page needs to continue, in bytes: a block takes less.
const PAGE_STEP_BYTES: usize = 64 << 10;

/// Reads a page, and takes its memory. The page ends when there is no room for more. Returns the
/// page, its memory, and the names of the topics if they are less than the client asked for.
///
/// # Errors
///
/// As [`selection::page`]; [`Error::NoRoom`](crate::Error::NoRoom).
pub(super) async fn read(
    (broker, permit): (&Broker, &Permit),
    (topics, is_strict): (TopicSelection, bool),
    request: PageRequest,
    share: &Share,
) -> Result<(served::ReadResponse, Held, Option<HeaderValue>)> {
    let is_of_many = matches!(topics, TopicSelection::Many(_));
    let (mut reader, _of_reader) =
        selection::page((topics, is_strict), request, permit, (broker, share)).await?;
    let cut = cut_header(reader.cut_to());
    let (mut events, mut held) = (EncodedList::default(), share.nothing());
    while events.is_empty() || share.has_room(PAGE_STEP_BYTES) {
        let (counted_bytes, before) = (held.size_bytes(), events.size_bytes());
        let take_room = |run: &Run| {
            held.keep(counted_bytes); // The run before was passed over, if there was one.
            held.grow(2 * messages::max_encoded_bytes(run))
        };
        let Some(run) = reader.next_with(take_room).await? else { break };
        messages::encode_run(&run, is_of_many, &mut events);
        // The events are in memory twice: one by one, and in the answer.
        held.keep(counted_bytes + 2 * (events.size_bytes() - before));
        polls::rest().await;
    }
    let mut page = messages::page(&reader.page(), events.into_entries());
    page.denied = reader.denied().iter().map(ToString::to_string).collect();
    Ok((page, held, cut))
}
