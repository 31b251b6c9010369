//! Pages and lists as bodies: JSON that is written in pieces, as the client takes it.
//!
//! # Why
//!
//! Writing ten thousand events as JSON takes 20 ms, and as many topics take longer. A worker that
//! writes them in one go serves nobody else meanwhile. And for a client that reads slowly, the
//! whole body would wait in memory.

use std::convert::Infallible;
use std::iter::{Peekable, once};
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header;
use tracing::warn;

use crate::broker::{Page, Run, StatePage};
use crate::cursor::{Cursor, Epoch};
use crate::edge::bounds::PIECE_BYTES;
use crate::edge::budget::{Held, Share};
use crate::edge::effort::Effort;
use crate::edge::permitted_page::PermittedPage;
use crate::edge::selection_forms::Format;
use crate::edge::{cloudevents, json};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::polls;
use crate::topic::{TopicName, TopicPattern};

/// The memory of a page that is read as the client takes it, in bytes: the events of a piece, the
/// piece, and the previous one, which is being sent.
const READING_BYTES: usize = 3 * PIECE_BYTES;

/// A page of history whose first piece is read.
pub(in crate::edge) struct Begun {
    /// The page after its first piece, without events.
    pub(in crate::edge) page: Page,
    /// The memory that the page takes until it is sent.
    pub(in crate::edge) held: Arc<Held>,
    pub(in crate::edge) body: PageBody,
}

/// The body of a page.
pub(in crate::edge) enum PageBody {
    /// The whole body.
    Whole(Bytes),
    /// A body that is read as the client takes it.
    Begun(Body),
}

impl PageBody {
    /// Returns the body for an answer.
    pub(in crate::edge) fn into_body(self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes),
            Self::Begun(body) => body,
        }
    }
}

/// The form in which a page writes its events.
#[derive(Debug, Clone, Copy)]
pub(in crate::edge) enum PageForm {
    /// The whole event as JSON.
    Envelope,
    /// CloudEvents of a log with this epoch.
    CloudEvents(Epoch),
}

impl PageForm {
    /// Returns the form for a format.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for `data`: payloads alone would not be JSON.
    pub(in crate::edge) fn of(format: Option<Format>, epoch: Epoch) -> Result<Self> {
        match format {
            None | Some(Format::Envelope) => Ok(Self::Envelope),
            Some(Format::CloudEvents) => Ok(Self::CloudEvents(epoch)),
            Some(Format::Data) => {
                let problem = "data is for streams; write envelope or cloudevents";
                Err(Error::invalid("format", problem))
            }
        }
    }

    /// Returns the events of a run, separated by commas.
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

/// Returns the body of a page that is still waited for. The answer begins at once, so that proxies
/// on the way see it. If the broker stops or the caller's grant is over meanwhile, the body is an
/// empty page at the place of `now`, which does not claim to be caught up: the next request is told
/// why. On any other error the answer breaks off, so that nobody takes it for complete. `denied`
/// are the topics that were named, and are not permitted.
pub(in crate::edge) fn waited_for(
    page: impl Future<Output = Result<Begun>> + Send + 'static,
    (now, denied): (Page, Vec<TopicPattern>),
) -> Body {
    let end = json::page_end(&Page { caught_up: false, ..now }, &denied);
    let empty = [json::PAGE_BEGIN, &end].concat();
    let pieces = async move {
        let (body, held) = match page.await {
            Ok(Begun { body, held, .. }) => (body.into_body(), Some(held)),
            Err(Error::ShuttingDown | Error::Unauthenticated { .. }) => (Body::from(empty), None),
            Err(error) => {
                warn!(%error, "a long poll failed after its head was sent");
                (Body::from_stream(stream::once(async { Err::<Bytes, _>(error) })), None)
            }
        };
        body.into_data_stream().inspect(move |_piece| {
            let _until_the_last = &held;
        })
    };
    Body::from_stream(stream::once(pieces).flatten())
}

/// Begins a page: reads its first piece. The rest is read as the client takes it, or is left to the
/// next page if there is no room. `of_reader` is held as long as the reader exists.
///
/// # Errors
///
/// As [`PageReader::next`]; [`NoRoom`](crate::Error::NoRoom) for the first events.
pub(in crate::edge) async fn page(
    mut reader: PermittedPage,
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
        let take_room = |run: &Run| {
            held.keep(counted_bytes); // The run before was passed over, if there was one.
            held.grow(json::max_written_bytes(run))
        };
        let Some(run) = reader.next_with(take_room).await? else { break true };
        let list = events(run, form).await;
        held.keep(counted_bytes + list.len());
        add_list(&mut piece, &list);
    };
    is_whole |= held.grow(if is_whole { 0 } else { READING_BYTES }).is_err();
    let page = reader.page();
    let body = if is_whole {
        piece.splice(..0, json::PAGE_BEGIN.iter().copied());
        piece.extend(json::page_end(&page, reader.denied()));
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

/// The part of a page after its first piece.
struct Rest {
    reader: PermittedPage,
    form: PageForm,
    share: Share,
    /// The bytes of the last two pieces beyond [`PIECE_BYTES`] each, which [`READING_BYTES`] does
    /// not include. These pieces may not be sent yet.
    sent: [Held; 2],
}

impl Rest {
    /// Returns the next piece, and whether the page ends with it. Without room for events the page
    /// ends.
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
            // After the first piece errors end the page; the next page reports them.
            let Ok(Some(run)) = self.reader.next_with(take_room).await else {
                piece.extend(json::page_end(&self.reader.page(), self.reader.denied()));
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

/// Writes the events of a run, separated by commas. A large event is written away from the workers.
/// Yields before and after if the turn is over, because the steps around this may be long.
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

/// Returns the body of a page of the state of `topic`.
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

/// Returns the answer for a JSON text that is produced a few bytes at a time, as the client takes
/// it.
///
/// # Errors
///
/// [`NoRoom`](crate::Error::NoRoom), if the text is longer than a piece and there is no room.
pub(crate) async fn answer(
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

/// Returns the answer as [`answer`] does, for a text whose content takes the memory `held` until it
/// is sent.
pub(in crate::edge) async fn answer_holding(
    text: impl Iterator<Item = Vec<u8>> + Send + 'static,
    held: Held,
) -> Response {
    let (body, _) = body(text).await;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.extensions_mut().insert(Arc::new(held));
    response
}

/// Returns the text of an object with a list, whose entries come a few at a time, separated by
/// commas. A step may have no entries.
pub(crate) fn list(
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

/// Returns the body of a text that is produced a few bytes at a time, and whether the first piece
/// is the whole text. Then the body has a known length.
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

/// Returns the next piece of a text.
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

    use crate::cursor::{Place, Sequence};

    use super::*;

    /// Returns the sizes of the pieces of a body of `count` lists of `bytes` each, its length, and
    /// its text.
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
            assert!(!piece.is_empty(), "an empty piece would end the answer");
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
            let [earliest, tail] = [1, 4].map(|place| Place::Sequence(Sequence::new(place)));
            let caught_up = true;
            let now = Page { runs, gaps, begin: cursor, cursor, earliest, tail, caught_up };
            waited_for(async { Err(error) }, (now, Vec::new())).collect()
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
