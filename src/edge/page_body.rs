//! Pages as bodies: JSON that is written a piece at a time, as the client takes it.
//!
//! # Why
//!
//! Ten thousand events are 20 ms of writing JSON. A worker that writes them in one go serves nobody
//! else meanwhile, and a client that reads slowly would have all of it wait in memory.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::json;
use crate::broker::{Page, Run, StatePage};
use crate::cursor::Cursor;
use crate::event::Event;
use crate::topic::TopicName;

/// The length of a piece, in bytes, and up to a block or an event more: less than a millisecond of
/// writing.
const PIECE_BYTES: usize = 64 << 10;

/// A page of history.
pub(super) fn page(page: Page) -> Body {
    let end = json::page_end(&page);
    body(page.runs.into_iter().map(|run: Run| json::events(&run)), end)
}

/// A page of the state of `topic`.
pub(super) fn state(topic: TopicName, page: StatePage, cursor: &Cursor, next: &str) -> Body {
    let end = json::state_end(cursor, next);
    body(page.events.into_iter().map(move |event: Event| json::event(&topic, &event)), end)
}

/// The body of lists of events, none of them empty, and what ends it. One that is a single piece
/// has a length.
fn body(lists: impl Iterator<Item = Vec<u8>> + Send + 'static, end: Vec<u8>) -> Body {
    let mut pieces = Pieces { lists, end: Some(end), is_begun: false };
    let first = pieces.next();
    match pieces.end {
        None => Body::from(first.unwrap_or_default()),
        Some(_) => {
            let pieces = first.into_iter().chain(pieces);
            Body::from_stream(stream::iter(pieces).map(Ok::<_, Infallible>))
        }
    }
}

struct Pieces<L> {
    lists: L,
    /// What comes after the last event; `None` when that is written.
    end: Option<Vec<u8>>,
    is_begun: bool,
}

impl<L: Iterator<Item = Vec<u8>>> Iterator for Pieces<L> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let end = self.end.take()?;
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES {
            let Some(list) = self.lists.next() else {
                if !self.is_begun {
                    piece.extend(json::PAGE_BEGIN);
                }
                piece.extend(end);
                return Some(piece.into());
            };
            piece.extend(if self.is_begun { &b","[..] } else { json::PAGE_BEGIN });
            self.is_begun = true;
            piece.extend(list);
        }
        self.end = Some(end);
        Some(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    /// The pieces of a body of `count` lists of `bytes` each, and all of it.
    async fn written(count: usize, bytes: usize) -> (Vec<usize>, Option<u64>, String) {
        let list = format!("\"{}\"", "x".repeat(bytes)).into_bytes();
        let mut body = body((0..count).map(move |_| list.clone()), b"]}".to_vec());
        let length = body.size_hint().exact();
        let (mut lengths, mut all) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            lengths.push(piece.len());
            all.extend(piece);
        }
        (lengths, length, String::from_utf8(all).unwrap())
    }

    #[tokio::test]
    async fn a_page_is_one_list_however_many_pieces_it_comes_in() {
        for (count, bytes) in [(0, 0), (1, 10), (3, PIECE_BYTES / 3), (1_000, 1_000), (2, 1 << 20)]
        {
            let (lengths, length, all) = written(count, bytes).await;
            let page: serde_json::Value = serde_json::from_str(&all).unwrap();
            assert_eq!(page["events"].as_array().map(Vec::len), Some(count));
            let most = PIECE_BYTES + bytes + 3;
            assert!(lengths.iter().all(|length| *length <= most), "{lengths:?}");
            assert_eq!(length.is_some(), lengths.len() == 1, "{lengths:?}");
            assert!(length.is_none_or(|length| length == all.len() as u64));
            assert!(lengths.len() > 1 || all.len() <= most, "{lengths:?}");
        }
    }
}
