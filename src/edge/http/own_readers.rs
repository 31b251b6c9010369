//! Answers for readers that a host has opened itself, in its own handlers.

use axum::response::{IntoResponse, Response};
use http::{Extensions, header};

use super::ignored::Ignored;
use super::page_body::{self, Begun, PageForm};
use crate::broker::{PageReader, Reader};
use crate::edge::Edge;
use crate::edge::clients::{Peer, share};
use crate::edge::following::Following;
use crate::edge::permit::Permit;
use crate::edge::permitted_page::PermittedPage;
use crate::edge::selection::Kept;
use crate::edge::selection_forms::Format;
use crate::edge::{gaps, sse as event_stream};
use crate::error::Result;

/// The options of an answer for a reader of the host's own.
#[derive(Debug, Clone, Default)]
pub struct AnswerOptions {
    format: Option<Format>,
    peer: Option<Peer>,
}

impl AnswerOptions {
    /// Returns the options for the client whose request has these extensions. In a
    /// [`Server`](crate::server::Server), or with a [`HostGuard`](crate::server::HostGuard), the
    /// reader is then counted as the client's, and shown in the list of connections.
    pub fn of(extensions: &Extensions) -> Self {
        Self { format: None, peer: extensions.get().cloned() }
    }

    /// Sets the format of the events. By default a stream of one topic has payloads alone, and all
    /// else has envelopes.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }
}

/// Returns the answer that streams what `reader` delivers, as the broker's own event streams do:
/// with ids to resume from, gaps, heartbeats, and a last block when the broker stops. The client's
/// `Last-Event-ID` is the host's to read: parse it as a [`Cursor`](crate::Cursor).
///
/// The hooks of `edge` are not asked: the host has chosen the reader.
///
/// ```
/// use axum::extract::State;
/// use axum::http::request::Parts;
/// use axum::response::Response;
/// use leftoff::edge::http::{AnswerOptions, sse};
/// use leftoff::{Edge, OnGap, StartPoint};
///
/// /// Streams the orders of the customer whom the host's middleware has found.
/// async fn orders(State(edge): State<Edge>, head: Parts) -> leftoff::Result<Response> {
///     let last_id = head.headers.get("last-event-id").and_then(|id| id.to_str().ok());
///     let start = match last_id {
///         Some(id) => id.parse().map(StartPoint::After)?,
///         None => StartPoint::Latest,
///     };
///     let topic = "orders.of-42".parse()?;
///     let reader = edge.broker().subscribe(&topic, start, OnGap::Resume).await?;
///     Ok(sse(&edge, reader, AnswerOptions::of(&head.extensions)))
/// }
/// # let _: axum::Router<Edge> = axum::Router::new().route("/orders", axum::routing::get(orders));
/// ```
pub fn sse(edge: &Edge, reader: Reader, options: AnswerOptions) -> Response {
    let AnswerOptions { format, peer } = options;
    let otherwise = if reader.is_of_many() { Format::Envelope } else { Format::Data };
    let kept = match Kept::of(&reader, &share(peer.as_ref())) {
        Ok(kept) => kept,
        Err(error) => {
            return event_stream::refused(&error).unwrap_or_else(|| error.into_response());
        }
    };
    let caller = (peer.as_ref(), Permit::default());
    let following = Following::new((reader, kept), "sse", edge.config.patience(), caller);
    event_stream::response(following, format.unwrap_or(otherwise), &edge.config, Ignored::default())
}

/// Returns the answer with the page of `reader`, as JSON, as the broker's own pages are. A long
/// page is read while the client takes it.
///
/// The hooks of `edge` are not asked: the host has chosen the reader.
///
/// # Errors
///
/// As [`PageReader::next`]; [`Error::NoRoom`](crate::Error::NoRoom); and
/// [`Error::Invalid`](crate::Error::Invalid) for [`Format::Data`], which is no JSON.
///
/// # Cancel safety
///
/// Dropped before it returns, nothing is left of the reader.
pub async fn page(edge: &Edge, reader: PageReader, options: AnswerOptions) -> Result<Response> {
    let AnswerOptions { format, peer } = options;
    let form = PageForm::of(format, edge.broker.epoch())?;
    let share = share(peer.as_ref());
    let reader = PermittedPage::new(reader, Default::default(), Default::default());
    let begun = page_body::page(reader, form, &share, Default::default()).await?;
    let Begun { page, held, body } = begun;
    let media = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (media, body.into_body()).into_response();
    response.extensions_mut().insert(held);
    gaps::tell(&mut response, &page.gaps);
    Ok(response)
}
