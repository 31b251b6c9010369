//! Pages and lists as bodies: JSON that is written a piece at a time, as the client takes it.
//!
//! # Why
//!
//! Ten thousand events are 20 ms of writing JSON, and as many topics are more. A worker that writes
//! them in one go serves nobody else meanwhile, and a client that reads slowly would have all of it
//! wait in memory.

use std::convert::Infallible;
use std::iter::{Peekable, once};
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header;
use tracing::warn;

use crate::broker::{Page, PageReader, Run, StatePage};
use crate::cursor::{Cursor, Epoch};
use crate::edge::budget::{Held, Share};
use crate::edge::effort::Effort;
use crate::edge::selection::Format;
use crate::edge::{cloudevents, json};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::polls;
use crate::topic::TopicName;

/// The length of a piece, in bytes, and up to a block or an event more: less than a millisecond of
/// writing.
pub(in crate::edge) const PIECE_BYTES: usize = 64 << 10;

/// What a page takes that is read as the client takes it, in bytes: the events of a piece, the
/// piece, and the one before it that is being sent.
const READING_BYTES: usize = 3 * PIECE_BYTES;

/// A page of history whose first piece is read.
pub(in crate::edge) struct Begun {
    /// As it is after that piece, without events.
    pub(in crate::edge) page: Page,
    /// What the page takes in memory as long as it is not sent.
    pub(in crate::edge) held: Arc<Held>,
    pub(in crate::edge) body: PageBody,
}

/// The body of a page.
pub(in crate::edge) enum PageBody {
    /// All of it.
    Whole(Bytes),
    /// One that is read as the client takes it.
    Begun(Body),
}

impl PageBody {
    /// As what is sent.
    pub(in crate::edge) fn into_body(self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes),
            Self::Begun(body) => body,
        }
    }
}

/// How the events of a page are written.
#[derive(Debug, Clone, Copy)]
pub(in crate::edge) enum PageForm {
    /// With all that is known of each.
    Envelope,
    /// As CloudEvents of a log with this epoch.
    CloudEvents(Epoch),
}

impl PageForm {
    /// The form of a page that is asked for in this format.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a page of payloads alone would be no JSON.
    pub(in crate::edge) fn of(format: Option<Format>, epoch: Epoch) -> Result<Self> {
        match format {
            None | Some(Format::Envelope) => Ok(Self::Envelope),
            Some(Format::CloudEvents) => Ok(Self::CloudEvents(epoch)),
            Some(Format::Data) => {
                let problem = "data is for streams; a page is envelope or cloudevents";
                Err(Error::invalid("format", problem))
            }
        }
    }

    /// The events of a run, with commas between them.
    fn events(self, run: &Run) -> Vec<u8> {
        let Self::CloudEvents(epoch) = self else { return json::events(run) };
        let mut bytes = Vec::new();
        for event in run.events() {
            if !bytes.is_empty() {
                bytes.push(b',');
            }
            cloudevents::append(run.topic().as_str(), epoch, &(&event).into(), &mut bytes);
        }
        bytes
    }
}

/// A page that is waited for, as a body: its answer has begun, so that what is between the broker
/// and the client knows of it. Where the broker stops meanwhile it is an empty page at the place
/// of `now`, which does not say that there is no more. Where the page fails otherwise the answer
/// breaks off, so that nobody takes it for a whole one.
pub(in crate::edge) fn waited_for(
    page: impl Future<Output = Result<Begun>> + Send + 'static,
    now: Page,
) -> Body {
    let empty = [json::PAGE_BEGIN, &json::page_end(&Page { caught_up: false, ..now })].concat();
    let pieces = async move {
        let (body, held) = match page.await {
            Ok(Begun { body, held, .. }) => (body.into_body(), Some(held)),
            Err(Error::ShuttingDown) => (Body::from(empty), None),
            Err(error) => {
                warn!(%error, "a page that was waited for breaks off");
                (Body::from_stream(stream::once(async { Err::<Bytes, _>(error) })), None)
            }
        };
        body.into_data_stream().inspect(move |_piece| {
            let _until_the_last = &held;
        })
    };
    Body::from_stream(stream::once(pieces).flatten())
}

/// Begins a page: reads its first piece. The rest is read as the client takes it, or left to the
/// next page where there is no room for more. `of_reader` is held for as long as the reader is.
///
/// # Errors
///
/// As [`PageReader::next`]; [`NoRoom`](crate::Error::NoRoom) for the first events.
pub(in crate::edge) async fn page(
    mut reader: PageReader,
    form: PageForm,
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
        let counted_bytes = held.size_bytes();
        let take_room = |run: &Run| held.grow(json::max_written_bytes(run));
        let Some(run) = reader.next_with(take_room).await? else { break true };
        let list = events(run, form).await;
        held.keep(counted_bytes + list.len());
        add_list(&mut piece, &list);
    };
    is_whole |= held.grow(if is_whole { 0 } else { READING_BYTES }).is_err();
    let page = reader.page();
    let body = if is_whole {
        piece.splice(..0, json::PAGE_BEGIN.iter().copied());
        piece.extend(json::page_end(&page));
        PageBody::Whole(piece.into())
    } else {
        let begun = [json::PAGE_BEGIN, &piece].concat();
        let rest =
            Rest { reader, form, share: share.clone(), sent: [(); 2].map(|()| share.nothing()) };
        let rest = stream::unfold(Some((rest, of_reader)), |rest| async move {
            let (mut rest, of_reader) = rest?;
            let (piece, is_end) = rest.next().await;
            Some((piece, Some((rest, of_reader)).filter(|_| !is_end)))
        });
        let pieces = stream::iter([Bytes::from(begun)]).chain(rest);
        PageBody::Begun(Body::from_stream(pieces.map(Ok::<_, Infallible>)))
    };
    Ok(Begun { page, held: Arc::new(held), body })
}

/// What comes after the first piece of a page.
struct Rest {
    reader: PageReader,
    form: PageForm,
    share: Share,
    /// What the last two pieces have beyond [`PIECE_BYTES`], which are counted as a part of
    /// [`READING_BYTES`]: they may not be sent yet.
    sent: [Held; 2],
}

impl Rest {
    /// The next piece, and whether it is the last one. Without room for its events the page ends.
    async fn next(&mut self) -> (Bytes, bool) {
        let (mut piece, mut held) = (Vec::new(), self.share.nothing());
        let is_end = loop {
            if piece.len() >= PIECE_BYTES {
                break false;
            }
            let beyond = |size_bytes: usize| size_bytes.saturating_sub(PIECE_BYTES);
            let written_bytes = piece.len();
            let take_room = |run: &Run| {
                let most_bytes = beyond(written_bytes + json::max_written_bytes(run));
                held.grow(most_bytes.saturating_sub(held.size_bytes()))
            };
            // After the first events there are no errors: the next page tells them.
            let Ok(Some(run)) = self.reader.next_with(take_room).await else {
                piece.extend(json::page_end(&self.reader.page()));
                break true;
            };
            piece.push(b',');
            piece.extend(events(run, self.form).await);
            held.keep(beyond(piece.len()));
        };
        self.sent.rotate_left(1);
        self.sent[1] = held;
        (piece.into(), is_end)
    }
}

/// The events of a run, with commas between them: a large event is written away from the workers.
/// With a rest before and after: what was done before, or comes next, may have been a lot of work.
async fn events(run: Run, form: PageForm) -> Vec<u8> {
    polls::rest().await;
    let effort = Effort::of_written_json(json::max_written_bytes(&run));
    let events = effort.spend(move || form.events(&run)).await;
    polls::rest().await;
    events
}

fn add_list(piece: &mut Vec<u8>, list: &[u8]) {
    if !piece.is_empty() {
        piece.push(b',');
    }
    piece.extend_from_slice(list);
}

/// A page of the state of `topic`.
pub(in crate::edge) async fn state(
    topic: TopicName,
    page: StatePage,
    cursor: &Cursor,
    next: &str,
) -> Body {
    let end = json::state_end(cursor, next);
    let lists = page.events.into_iter().map(move |event: Event| json::event(&topic, &event));
    body(list(json::PAGE_BEGIN.to_vec(), lists, end)).await.0
}

/// The answer that is a JSON text, which comes a few bytes at a time, and is read as the client
/// takes it.
///
/// # Errors
///
/// [`NoRoom`](crate::Error::NoRoom), where the text is longer than a piece.
pub(in crate::edge) async fn answer(
    text: impl Iterator<Item = Vec<u8>> + Send + 'static,
    share: &Share,
) -> Result<Response> {
    let (body, is_whole) = body(text).await;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    if !is_whole {
        response.extensions_mut().insert(Arc::new(share.take(READING_BYTES)?));
    }
    Ok(response)
}

/// The text of an object with a list, whose entries come a few at a time, with commas between them.
/// A step may find none.
pub(in crate::edge) fn list(
    begin: Vec<u8>,
    some: impl Iterator<Item = Vec<u8>>,
    end: Vec<u8>,
) -> impl Iterator<Item = Vec<u8>> {
    let mut is_first = true;
    let parted = some.flat_map(move |entries| {
        let comma = if is_first || entries.is_empty() { &b""[..] } else { b"," };
        is_first &= entries.is_empty();
        [comma.to_vec(), entries]
    });
    once(begin).chain(parted).chain(once(end))
}

/// The body of a text that comes a few bytes at a time, and whether its first piece is all of it:
/// that has a length.
async fn body(text: impl Iterator<Item = Vec<u8>> + Send + 'static) -> (Body, bool) {
    let mut text = text.peekable();
    let first = next_text(&mut text).await;
    if text.peek().is_none() {
        return (Body::from(first), true);
    }
    let rest = stream::unfold(text, |mut text| async move {
        text.peek()?;
        Some((next_text(&mut text).await, text))
    });
    let pieces = stream::iter([first]).chain(rest);
    (Body::from_stream(pieces.map(Ok::<_, Infallible>)), false)
}

/// The next piece of a text.
async fn next_text(text: &mut Peekable<impl Iterator<Item = Vec<u8>>>) -> Bytes {
    let mut piece = Vec::new();
    while piece.len() < PIECE_BYTES
        && let Some(more) = text.next()
    {
        piece.extend(more);
        polls::rest().await;
    }
    piece.into()
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    /// The pieces of a body of `count` lists of `bytes` each, and all of it.
    async fn written(count: usize, bytes: usize) -> (Vec<usize>, Option<u64>, String) {
        let list = format!("\"{}\"", "x".repeat(bytes)).into_bytes();
        let lists = (0..count).flat_map(move |_| [vec![], list.clone(), vec![]]);
        let text =
            crate::edge::http::page_body::list(json::PAGE_BEGIN.to_vec(), lists, b"]}".to_vec());
        let (mut body, is_whole) = body(text).await;
        let length = body.size_hint().exact();
        let (mut lengths, mut all) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(!piece.is_empty(), "an empty piece ends an answer");
            lengths.push(piece.len());
            all.extend(piece);
        }
        assert_eq!(is_whole, length.is_some());
        (lengths, length, String::from_utf8(all).unwrap())
    }

    #[tokio::test]
    async fn a_page_that_fails_while_it_is_waited_for_breaks_off_and_never_says_caught_up() {
        let body = |error| {
            let cursor: Cursor = "3-9f3c2a1b".parse().unwrap();
            let (runs, gaps) = (Vec::new(), Vec::new());
            let (earliest, tail, caught_up) = (1, 4, true);
            let now = Page { runs, gaps, begin: cursor, cursor, earliest, tail, caught_up };
            waited_for(async { Err(error) }, now).collect()
        };
        let no_room = Error::NoRoom { needed_bytes: 2, limit_bytes: 1 };
        let told = body(no_room).await.map(|body| body.to_bytes()).unwrap_err().to_string();
        assert!(told.contains("memory"), "{told}");

        let stopped = body(Error::ShuttingDown).await.unwrap().to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&stopped).unwrap();
        assert_eq!((&page["caught_up"], &page["tail"]), (&false.into(), &4.into()), "{page}");
    }

    #[tokio::test]
    async fn a_page_is_one_list_however_many_pieces_it_comes_in() {
        let exactly = PIECE_BYTES - json::PAGE_BEGIN.len() - 2 - 2; // The end fills the piece.
        for (count, bytes) in
            [(0, 0), (1, 10), (1, exactly), (3, PIECE_BYTES / 3), (1_000, 1_000), (2, 1 << 20)]
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
