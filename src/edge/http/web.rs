//! The pages that the broker serves, and the client for pages of others: files of `src/web`, which
//! are part of the program.
//!
//! ```text
//! src/web/inbox/…     /examples/inbox/…   a page
//! src/web/console/…   /console/…          the console, unless `server.console` is false
//! src/web/client/…    /web/…              modules, which pages of any origin may import
//!                     /                   leads a browser to the console, and tells others what
//!                                         to try
//! ```
//!
//! Pages load nothing from elsewhere, and have no code within them: their policy says so, so that a
//! browser runs no script that anybody else could have brought in.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::accept::weighted;
use super::static_file::{PAGE_HEADERS, StaticFile};
use crate::edge::Edge;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files of the client and of the console, by their paths below their folders. `build.rs` lists
/// the folders, so that a new file is served without another word.
static CLIENT: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_client.rs"));
static CONSOLE: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_console.rs"));

/// The path of the first page, and that of the console.
const ROOT: &str = "/";
const CONSOLE_PAGE: &str = "/console";

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
static FILES: [WebFile; 4] = [
    inbox!("/examples/inbox", "index.html", HTML),
    inbox!("/examples/inbox/inbox.css", "inbox.css", CSS),
    inbox!("/examples/inbox/bell.svg", "bell.svg", SVG),
    inbox!("/examples/inbox/main.js", "main.js", JAVASCRIPT),
];

/// Returns the routes of all files. They show nothing of the broker by themselves, so that nobody
/// is asked who it is; what their scripts ask for is checked as every request is.
pub(super) fn routes(edge: &Edge) -> Router<Edge> {
    let of_pages = FILES.iter().map(|file| {
        let WebFile { path, content_type, content } = file;
        (path.to_string(), *content_type, *content, false)
    });
    let of_client = CLIENT
        .iter()
        .map(|(path, content)| (format!("/web/{path}"), content_type(path), *content, true));
    let console = if edge.has_console() { CONSOLE } else { &[] };
    let of_console = console.iter().map(|(path, content)| {
        let url = match *path {
            "index.html" => CONSOLE_PAGE.to_owned(),
            path => format!("{CONSOLE_PAGE}/{path}"),
        };
        (url, content_type(path), *content, false)
    });
    let first = match edge.has_console() {
        true => Router::new().route(ROOT, get(first)),
        false => Router::new(),
    };
    let all = of_pages.chain(of_client).chain(of_console);
    all.fold(first, |routes, (path, content_type, content, is_for_all)| {
        let file = Arc::new(StaticFile::new((content_type, content), is_for_all));
        routes.route(&path, get(async move |headers: HeaderMap| file.answer(&headers)))
    })
}

/// Leads a browser to the console, and tells others what this is and what to try. The console is
/// named from here, so that a proxy may have put a path before all of the broker's.
async fn first(headers: HeaderMap) -> Response {
    let ranges = weighted(headers.get_all(header::ACCEPT));
    let is_browser = ranges.iter().any(|(range, weight)| range == "text/html" && *weight > 0);
    let mut response = match is_browser {
        true => (StatusCode::SEE_OTHER, [(header::LOCATION, "console")]).into_response(),
        false => ([(header::CONTENT_TYPE, TEXT)], words(&headers)).into_response(),
    };
    response.headers_mut().extend(PAGE_HEADERS);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Returns what this is, and what to try.
fn words(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("127.0.0.1:4280");
    format!(
        "Leftoff {version}: an event log with replay.

Store an event:      curl -d hello {host}/v1/topics/greetings/events
Read from the start: curl '{host}/v1/topics/greetings/events?from=earliest'
Follow as it goes:   curl -N -H 'Accept: text/event-stream' {host}/v1/topics/greetings/events

/console             topics, connections and problems, in a browser
/openapi.json        every operation over HTTP
/healthz, /metrics   for those who watch the broker
",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Returns the content type of a file by its name. No browser knows that of a declaration.
fn content_type(path: &str) -> &'static str {
    match path {
        path if path.ends_with(".js") => JAVASCRIPT,
        path if path.ends_with(".css") => CSS,
        path if path.ends_with(".html") => HTML,
        path if path.ends_with(".svg") => SVG,
        _ => TEXT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_type_of_its_name() {
        let names = ["leftoff.js", "leftoff.d.ts", "elements/inbox.css", "index.html", "icon.svg"];
        assert_eq!(names.map(content_type), [JAVASCRIPT, TEXT, CSS, HTML, SVG]);
    }

    #[tokio::test]
    async fn a_browser_is_led_to_the_console_and_others_are_told_what_to_try() {
        let asked = async |accept: &'static str| {
            let accept = (header::ACCEPT, HeaderValue::from_static(accept));
            let host = (header::HOST, HeaderValue::from_static("broker.example:80"));
            first(HeaderMap::from_iter([accept, host])).await
        };
        let led = asked("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8").await;
        assert_eq!(led.status(), StatusCode::SEE_OTHER);
        assert_eq!(led.headers()["location"], "console");
        for accept in ["*/*", "application/json", "text/html;q=0"] {
            let told = asked(accept).await;
            assert_eq!(told.status(), StatusCode::OK);
            assert_eq!(told.headers()["vary"], "accept");
            let body = axum::body::to_bytes(told.into_body(), 9_999).await.unwrap();
            let words = String::from_utf8(body.to_vec()).unwrap();
            assert!(words.contains("curl -d hello broker.example:80/v1/topics/"), "{words}");
        }
    }
}
