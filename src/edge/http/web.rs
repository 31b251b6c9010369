//! The pages that the broker serves, and the client for pages of others: files of `src/web`, which
//! are part of the program.
//!
//! ```text
//! src/web/inbox/…     /examples/inbox/…   a page
//! src/web/client/…    /web/…              modules, which pages of any origin may import
//! ```
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
const TEXT: &str = "text/plain; charset=utf-8";

/// What a page may load and do. Source: W3C Content Security Policy Level 3.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The headers of every page, besides its own.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The files of the client, by their paths below its folder. `build.rs` lists the folder, so that a
/// new file is served without another word.
static CLIENT: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_client.rs"));

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
static FILES: [WebFile; 5] = [
    inbox!("/examples/inbox", "index.html", HTML),
    inbox!("/examples/inbox/inbox.css", "inbox.css", CSS),
    inbox!("/examples/inbox/bell.svg", "bell.svg", "image/svg+xml"),
    inbox!("/examples/inbox/main.js", "main.js", JAVASCRIPT),
    inbox!("/examples/inbox/view.js", "view.js", JAVASCRIPT),
];

/// Returns the routes of all files. They show nothing of the broker by themselves, so that nobody
/// is asked who it is; what their scripts ask for is checked as every request is.
pub(super) fn routes() -> Router<Edge> {
    let of_pages = FILES.iter().map(|file| {
        let WebFile { path, content_type, content } = file;
        (path.to_string(), *content_type, *content, false)
    });
    let of_client = CLIENT
        .iter()
        .map(|(path, content)| (format!("/web/{path}"), content_type(path), *content, true));
    let all = of_pages.chain(of_client);
    all.fold(Router::new(), |routes, (path, content_type, content, is_for_all)| {
        let tag = Tag::of(content);
        let answer = async move |headers: HeaderMap| {
            answer((content_type, content), &tag, &headers, is_for_all)
        };
        routes.route(&path, get(answer))
    })
}

/// Returns the content type of a file of the client. No browser knows that of a declaration.
fn content_type(path: &str) -> &'static str {
    match path {
        path if path.ends_with(".js") => JAVASCRIPT,
        path if path.ends_with(".css") => CSS,
        _ => TEXT,
    }
}

fn answer(
    (content_type, content): (&'static str, &'static [u8]),
    tag: &Tag,
    headers: &HeaderMap,
    is_for_all: bool,
) -> Response {
    let mut response = match tag.is_held(headers) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, content_type)], content).into_response(),
    };
    let more = response.headers_mut();
    more.extend(HEADERS);
    if is_for_all {
        // A script is read without a credential, and is the same for everybody.
        more.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    more.insert(header::ETAG, tag.value());
    more.insert(header::CACHE_CONTROL, ASK_AGAIN);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_client_are_for_all_pages_and_files_of_a_page_are_for_itself() {
        let content: &'static [u8] = b"export const a = 1;";
        let (tag, none) = (Tag::of(content), HeaderMap::new());
        let of_client = answer((content_type("a/b.js"), content), &tag, &none, true);
        let of_page = answer((JAVASCRIPT, content), &tag, &none, false);
        let open = |answer: &Response| answer.headers().get("access-control-allow-origin").cloned();
        assert_eq!(open(&of_client), Some(HeaderValue::from_static("*")));
        assert_eq!(open(&of_page), None);
        for answer in [&of_client, &of_page] {
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["content-type"], JAVASCRIPT);
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        }
        let held = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag.value())]);
        let same = answer((JAVASCRIPT, content), &tag, &held, true);
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(open(&same), Some(HeaderValue::from_static("*")));
        let types = ["leftoff.js", "leftoff.d.ts", "elements/inbox.css"].map(content_type);
        assert_eq!(types, [JAVASCRIPT, TEXT, CSS]);
    }
}
