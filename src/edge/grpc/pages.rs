//! Pages of history as messages: of one topic, or of many.

use std::sync::Arc;

use super::super::budget::{Held, Share};
use super::super::messages::{self, EncodedList};
use super::super::selection::{self, Topics};
use super::super::served;
use crate::broker::{Broker, PageRequest, Run};
use crate::error::{Error, Result};
use crate::polls;

/// Room that there has to be, in bytes, for a page to read on: as much as a block, and more.
const PAGE_STEP_BYTES: usize = 64 << 10;

/// Reads a page, and takes what it holds in memory. Where there is no room for more, it ends.
///
/// # Errors
///
/// As [`Broker::page`] and [`Broker::page_of_many`]; [`Error::Invalid`] for many topics with
/// `before`; [`Error::NoRoom`].
pub(super) async fn read(
    broker: &Broker,
    topics: Topics,
    request: PageRequest,
    share: &Share,
) -> Result<(served::ReadResponse, Held)> {
    let of_reader = Arc::new(share.take(selection::reader_bytes(&topics, &request.filter))?);
    let is_of_many = matches!(topics, Topics::Many(_));
    let mut reader = match topics {
        Topics::One(topic) => broker.page(&topic, request).await?,
        Topics::Many(_) if request.before.is_some() => {
            return Err(Error::invalid("before", "is for one topic alone"));
        }
        Topics::Many(patterns) => {
            // Of a reader of many topics the broker knows something for a while after it.
            broker.page_of_many_with(patterns, request, Some(of_reader.clone())).await?
        }
    };
    let (mut events, mut held, mut refused) = (EncodedList::default(), share.nothing(), None);
    while events.is_empty() || share.has_room(PAGE_STEP_BYTES) {
        let (counted_bytes, before) = (held.size_bytes(), events.size_bytes());
        let has_room = |run: &Run| match held.grow(2 * messages::max_encoded_bytes(run)) {
            Ok(()) => true,
            Err(no_room) => {
                refused = Some(no_room);
                false
            }
        };
        let Some(run) = reader.next_if(has_room).await? else { break };
        messages::encode_run(&run, is_of_many, &mut events);
        // Each by itself, and all of them in the answer.
        held.keep(counted_bytes + 2 * (events.size_bytes() - before));
        polls::rest().await;
    }
    if let Some(no_room) = refused.filter(|_| events.is_empty()) {
        return Err(no_room);
    }
    Ok((messages::page(&reader.page(), events.into_entries()), held))
}
