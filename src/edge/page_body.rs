//! Pages as bodies: JSON that is written a piece at a time, as the client takes it.
//!
//! # Why
//!
//! Ten thousand events are 20 ms of writing JSON. A worker that writes them in one go serves nobody
//! else meanwhile, and a client that reads slowly would have all of it wait in memory.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::budget::{Held, Share};
use super::json;
use crate::broker::{Page, PageReader, StatePage};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::event::Event;
use crate::topic::TopicName;

/// The length of a piece, in bytes, and up to a block or an event more: less than a millisecond of
/// writing.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// What a page takes that is read as the client takes it, in bytes: the events of a piece, the
/// piece, and the one before it that is being sent.
const READING_BYTES: usize = 3 * PIECE_BYTES;

/// A page of history whose first piece is read.
pub(super) struct Begun {
    /// As it is after that piece, without events.
    pub(super) page: Page,
    /// What the page takes in memory as long as it is not sent.
    pub(super) held: Arc<Held>,
    /// Whether the first piece has events.
    pub(super) has_events: bool,
    /// Whether that is all of it.
    pub(super) is_whole: bool,
    pub(super) body: Body,
}

/// Begins a page: reads its first piece. The rest is read as the client takes it, or left to the
/// next page where there is no room for more. `of_reader` is held for as long as the reader is.
///
/// # Errors
///
/// As [`PageReader::next`]; [`NoRoom`](crate::Error::NoRoom) for the first events.
pub(super) async fn page(
    mut reader: PageReader,
    share: &Share,
    of_reader: Arc<Held>,
) -> Result<Begun> {
    let (mut piece, mut held) = (Vec::new(), share.nothing());
    let mut is_whole = loop {
        if piece.len() >= PIECE_BYTES {
            break false;
        }
        if !piece.is_empty() && !share.has_room(PIECE_BYTES) {
            break true;
        }
        let Some(run) = reader.next().await? else { break true };
        let list = json::events(&run);
        if piece.is_empty() {
            held.grow(list.len())?;
        } else {
            held.count(list.len()); // The reader is beyond them already.
        }
        add_list(&mut piece, &list);
    };
    is_whole |= held.grow(if is_whole { 0 } else { READING_BYTES }).is_err();
    let (page, has_events) = (reader.page(), !piece.is_empty());
    let body = if is_whole {
        piece.splice(..0, json::PAGE_BEGIN.iter().copied());
        piece.extend(json::page_end(&page));
        Body::from(piece)
    } else {
        let begun = [json::PAGE_BEGIN, &piece].concat();
        let rest = stream::unfold(Some((reader, of_reader)), |reader| async move {
            let (mut reader, of_reader) = reader?;
            let (piece, is_end) = next_piece(&mut reader).await;
            Some((piece, Some((reader, of_reader)).filter(|_| !is_end)))
        });
        let pieces = stream::iter([Bytes::from(begun)]).chain(rest);
        Body::from_stream(pieces.map(Ok::<_, Infallible>))
    };
    Ok(Begun { page, held: Arc::new(held), has_events, is_whole, body })
}

/// What comes after the first piece of a page, and whether that is its end.
async fn next_piece(reader: &mut PageReader) -> (Bytes, bool) {
    let mut piece = Vec::new();
    while piece.len() < PIECE_BYTES {
        // After the first events there are no errors: the next page tells them.
        let Ok(Some(run)) = reader.next().await else {
            piece.extend(json::page_end(&reader.page()));
            return (piece.into(), true);
        };
        piece.push(b',');
        piece.extend(json::events(&run));
    }
    (piece.into(), false)
}

fn add_list(piece: &mut Vec<u8>, list: &[u8]) {
    if !piece.is_empty() {
        piece.push(b',');
    }
    piece.extend_from_slice(list);
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
