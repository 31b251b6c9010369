//! A file that is part of the program, as it is served: with a tag, and compressed for those who
//! ask for that.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::offered::Coding;
use super::tag::{ASK_AGAIN, Tag};

/// What a page may load and do. Source: W3C Content Security Policy Level 3.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The headers of every page, besides its own.
pub(super) const PAGE_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The content of a file in one coding.
struct CodedFile {
    content: Bytes,
    tag: Tag,
}

/// One file. It is compressed when it is first asked for in that way, which takes a millisecond or
/// two.
pub(super) struct StaticFile {
    content_type: &'static str,
    content: &'static [u8],
    tag: Tag,
    compressed: LazyLock<CodedFile, Box<dyn FnOnce() -> CodedFile + Send>>,
    /// Whether scripts of pages of other origins may read it.
    is_for_all: bool,
}

impl StaticFile {
    /// Returns a file with this content.
    pub(super) fn new(
        (content_type, content): (&'static str, &'static [u8]),
        is_for_all: bool,
    ) -> Self {
        let compressed = LazyLock::new(Box::new(move || CodedFile::of(content)) as Box<_>);
        Self { content_type, content, tag: Tag::of(content), compressed, is_for_all }
    }

    /// Answers a request for the file.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let is_compressed = Coding::accepts_gzip(headers);
        let (content, tag) = match is_compressed {
            true => (self.compressed.content.clone(), &self.compressed.tag),
            false => (Bytes::from_static(self.content), &self.tag),
        };
        let mut response = match tag.is_held(headers) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => ([(header::CONTENT_TYPE, self.content_type)], content).into_response(),
        };
        let more = response.headers_mut();
        more.extend(PAGE_HEADERS);
        if is_compressed {
            let coding = HeaderValue::from_static(Coding::Gzip.name());
            more.insert(header::CONTENT_ENCODING, coding);
        }
        if self.is_for_all {
            // A script is read without a credential, and is the same for everybody.
            more.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        more.insert(header::ETAG, tag.value());
        more.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        more.insert(header::CACHE_CONTROL, ASK_AGAIN);
        response
    }
}

impl CodedFile {
    fn of(content: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(content).and_then(|()| encoder.finish());
        let content = written.expect("memory takes what is written");
        Self { tag: Tag::of(&content), content: content.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: (&str, &[u8]) = ("text/javascript; charset=utf-8", b"export const a = 1;");

    #[test]
    fn modules_of_the_client_are_for_all_pages_and_files_of_a_page_are_for_itself() {
        let (of_client, of_page) = (StaticFile::new(SCRIPT, true), StaticFile::new(SCRIPT, false));
        let none = HeaderMap::new();
        let open = |answer: &Response| answer.headers().get("access-control-allow-origin").cloned();
        assert_eq!(open(&of_client.answer(&none)), Some(HeaderValue::from_static("*")));
        assert_eq!(open(&of_page.answer(&none)), None);
        for answer in [of_client.answer(&none), of_page.answer(&none)] {
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["content-type"], SCRIPT.0);
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        }
        let held = HeaderMap::from_iter([(header::IF_NONE_MATCH, of_client.tag.value())]);
        let same = of_client.answer(&held);
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(open(&same), Some(HeaderValue::from_static("*")));
    }

    #[test]
    fn a_file_is_compressed_for_those_who_ask_and_has_another_tag_then() {
        let file = StaticFile::new(SCRIPT, true);
        for (accepted, is_compressed) in
            [("gzip, deflate, br, zstd", true), ("gzip;q=0", false), ("br", false), ("*", true)]
        {
            let value = HeaderValue::from_static(accepted);
            let asked = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
            let headers = file.answer(&asked).headers().clone();
            let coding = headers.get("content-encoding").map(|it| it.to_str().unwrap());
            assert_eq!(coding, is_compressed.then_some("gzip"), "{accepted}");
            assert_eq!(headers["etag"] == file.tag.value(), !is_compressed, "{accepted}");
            assert_eq!(headers["vary"], "accept-encoding");
        }
    }
}
