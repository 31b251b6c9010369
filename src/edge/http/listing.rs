//! Lists of topics, members and connections, as the text of a JSON object.
//!
//! ```text
//! {"topics":[   {…},{…},{…}   ,   {…},{…}   …   ]}      a few entries at a time, read as they are
//!               one step          the next               written
//! ```
//!
//! A list is in order, and each step begins where the previous one ended. So an entry that exists
//! all the time is in the list exactly once. An entry that is added or removed meanwhile is in it
//! at most once. Each entry is as it was when it was read.

use std::iter::{self, once};
use std::sync::Arc;

use serde::Serialize;

use crate::broker::{Broker, MemberList, TopicList};
use crate::edge::clients::{Clients, Followed, KnownClient};
use crate::edge::http::page_body;
use crate::edge::json;

/// Returns the topics of `list`.
pub(in crate::edge) fn topics(list: TopicList) -> impl Iterator<Item = Vec<u8>> {
    let some = list.map(|some| entries(some.iter().map(json::topic)));
    page_body::list(b"{\"topics\":[".to_vec(), some, b"]}".to_vec())
}

/// Returns the members of `list`.
pub(in crate::edge) fn members(list: MemberList) -> impl Iterator<Item = Vec<u8>> {
    page_body::list(b"{\"members\":[".to_vec(), list.map(entries), b"]}".to_vec())
}

/// Returns up to `limit` connections with ids above `after`, in the order in which they were
/// accepted.
pub(in crate::edge) fn connections(
    clients: &Arc<Clients>,
    broker: Broker,
    after: u64,
    limit: usize,
) -> impl Iterator<Item = Vec<u8>> + use<> {
    let begin = format!("{{\"count\":{},\"connections\":[", clients.count()).into_bytes();
    let (clients, mut last) = (clients.clone(), after);
    let next = move || {
        let (id, client) = clients.next(last)?;
        last = id;
        Some(client)
    };
    let listed = iter::from_fn(next).take(limit).enumerate();
    let texts = listed.flat_map(move |(index, client)| {
        let comma = if index > 0 { "," } else { "" };
        connection(comma, &client, broker.clone())
    });
    once(begin).chain(texts).chain(once(b"]}".to_vec()))
}

/// Returns one connection, one stream at a time: it may have hundreds, each with a thousand
/// patterns.
fn connection(
    comma: &str,
    client: &KnownClient,
    broker: Broker,
) -> impl Iterator<Item = Vec<u8>> + use<> {
    let head = client.json().to_string();
    let begin = format!("{comma}{},\"streams\":[", head.trim_end_matches('}'));
    let stream = move |followed: Arc<Followed>| entries([followed.json(&broker)]);
    let streams = client.followed().into_iter().map(stream);
    page_body::list(begin.into_bytes(), streams, b"]}".to_vec())
}

/// Returns entries, separated by commas.
fn entries<T: Serialize>(some: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in some {
        if !text.is_empty() {
            text.push(b',');
        }
        text.extend(serde_json::to_vec(&entry).unwrap_or_default());
    }
    text
}
