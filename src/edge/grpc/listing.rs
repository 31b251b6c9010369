//! Pages of lists as messages: topics, and members of a topic.

use super::super::budget::{Held, Share};
use super::super::proto;
use crate::broker::{Present, TopicInfo};
use crate::edge::grpc::messages::{self, EncodedList};
use crate::error::{Error, Result};
use crate::polls;

/// The most entries of one page, and the number if the request names none.
const MAX_LISTED: usize = 10_000;
const DEFAULT_LISTED: usize = 1_000;

/// The room that a page needs to continue, in bytes: a step of a list takes less.
const STEP_BYTES: usize = 128 << 10;

/// An entry of a list.
pub(super) trait Listed {
    /// The message of an entry.
    type Message: prost::Message;

    /// Returns the entry as a message.
    fn message(&self) -> Self::Message;

    /// Returns the token after which the next page begins.
    fn token(&self) -> &str;
}

impl Listed for TopicInfo {
    type Message = proto::Topic;

    fn message(&self) -> proto::Topic {
        messages::topic(self)
    }

    fn token(&self) -> &str {
        self.name.as_str()
    }
}

impl Listed for Present {
    type Message = proto::Present;

    fn message(&self) -> proto::Present {
        messages::present(self)
    }

    fn token(&self) -> &str {
        &self.member.id
    }
}

/// A page of a list.
pub(super) struct ListPage {
    /// The entries, encoded.
    pub(super) entries: Vec<bytes::Bytes>,
    /// The token after which the next page begins; empty after the last page.
    pub(super) next_page_token: String,
    /// The memory of the page.
    pub(super) held: Held,
}

/// Returns how many entries a page may have: `page_size`, or the default for 0.
///
/// # Errors
///
/// [`Error::OverLimit`].
pub(crate) fn limit(page_size: u32) -> Result<usize> {
    match page_size as usize {
        0 => Ok(DEFAULT_LISTED),
        limit if limit > MAX_LISTED => Err(Error::over("page_size", limit, MAX_LISTED)),
        limit => Ok(limit),
    }
}

/// Returns a page of up to `limit` entries. They are encoded step by step, because all of them at
/// once would hold a worker for tens of milliseconds. The page ends before it takes more than
/// `max_bytes`, and when the memory for clients has no room for more.
///
/// # Errors
///
/// [`Error::NoRoom`] for the first entries.
pub(super) async fn page<T: Listed>(
    steps: impl Iterator<Item = Vec<T>>,
    limit: usize,
    max_bytes: usize,
    share: &Share,
) -> Result<ListPage> {
    let (mut list, mut held) = (EncodedList::default(), share.nothing());
    let mut last = String::new();
    let mut is_full = false;
    for some in steps {
        let (is_first, before) = (list.is_empty(), list.size_bytes());
        for entry in &some {
            is_full = !list.push_within(&entry.message(), max_bytes);
            if is_full {
                break;
            }
            entry.token().clone_into(&mut last);
        }
        // The entries are in memory twice: one by one, and in the answer.
        let added_bytes = 2 * (list.size_bytes() - before);
        if is_first {
            held.grow(added_bytes)?;
        } else {
            held.count(added_bytes);
        }
        // A step may have no entries. An empty page would say that there are no more.
        let is_room_short = added_bytes > 0 && !share.has_room(STEP_BYTES);
        is_full |= list.len() >= limit || is_room_short;
        if is_full {
            break;
        }
        polls::rest().await;
    }
    let next_page_token = if is_full { last } else { String::new() };
    Ok(ListPage { entries: list.into_entries(), next_page_token, held })
}

#[cfg(test)]
mod tests {
    use super::super::super::budget::Budget;
    use super::*;

    struct Named(&'static str);

    impl Listed for Named {
        type Message = proto::Topic;

        fn message(&self) -> proto::Topic {
            proto::Topic { name: self.0.to_owned(), ..Default::default() }
        }

        fn token(&self) -> &str {
            self.0
        }
    }

    /// Returns steps of which the first ones have no entries.
    fn steps() -> impl Iterator<Item = Vec<Named>> {
        [vec![], vec![], vec![Named("a")], vec![Named("b")]].into_iter()
    }

    #[tokio::test]
    async fn a_list_never_seems_to_be_over_where_there_was_no_room_for_it() {
        let least = Budget::new(STEP_BYTES as u64).address(); // Room for entries, not for a step.
        let share = least.connection();
        let page_of = async |share| page(steps(), 10, 1 << 20, share).await;
        let begun = page_of(&share).await.unwrap();
        assert_eq!((begun.entries.len(), &*begun.next_page_token), (1, "a"));

        let _all = least.connection().count(STEP_BYTES);
        let refused = page_of(&share).await.map(|page| page.next_page_token);
        assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");

        let whole = page_of(&Share::default()).await.unwrap();
        assert_eq!((whole.entries.len(), &*whole.next_page_token), (2, ""));
    }
}
