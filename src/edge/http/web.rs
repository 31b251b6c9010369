//! The pages that the broker serves: files of `src/web`, which are part of the program.
//!
//! Pages load nothing from elsewhere, and have no code within them: their policy says so, so that a
//! browser runs no script that anybody else could have brought in.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::tag::{ASK_AGAIN, Tag};
use crate::edge::Edge;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What a page may load and do. Source: W3C Content Security Policy Level 3.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The headers of every page, besides its own.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// A file of a page.
struct WebFile {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

/// Names a file of the inbox, and includes its content.
macro_rules! inbox {
    ($path:literal, $file:literal, $content_type:expr) => {
        WebFile {
            path: $path,
            content_type: $content_type,
            content: include_bytes!(concat!("../../web/inbox/", $file)),
        }
    };
}

/// The files of all pages.
static FILES: [WebFile; 8] = [
    inbox!("/examples/inbox", "index.html", HTML),
    inbox!("/examples/inbox/inbox.css", "inbox.css", CSS),
    inbox!("/examples/inbox/bell.svg", "bell.svg", "image/svg+xml"),
    inbox!("/examples/inbox/main.js", "main.js", JAVASCRIPT),
    inbox!("/examples/inbox/broker.js", "broker.js", JAVASCRIPT),
    inbox!("/examples/inbox/inbox.js", "inbox.js", JAVASCRIPT),
    inbox!("/examples/inbox/marks.js", "marks.js", JAVASCRIPT),
    inbox!("/examples/inbox/view.js", "view.js", JAVASCRIPT),
];

/// Returns the routes of all pages. They show nothing of the broker by themselves, so that nobody
/// is asked who it is; what their scripts ask for is checked as every request is.
pub(super) fn routes() -> Router<Edge> {
    FILES.iter().fold(Router::new(), |routes, file| {
        let tag = Tag::of(file.content);
        routes.route(file.path, get(async move |headers: HeaderMap| answer(file, &tag, &headers)))
    })
}

fn answer(file: &'static WebFile, tag: &Tag, headers: &HeaderMap) -> Response {
    let mut response = match tag.is_held(headers) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, file.content_type)], file.content).into_response(),
    };
    let more = response.headers_mut();
    more.extend(HEADERS);
    more.insert(header::ETAG, tag.value());
    more.insert(header::CACHE_CONTROL, ASK_AGAIN);
    response
}
