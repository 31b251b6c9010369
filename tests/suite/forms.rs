//! The form of an answer is the one that its client prefers, and event streams state their charset.

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::common::{Server, soon, to};

const EVENTS: &str = "/v1/topics/a/events";
const STREAM: &str = "text/event-stream; charset=utf-8";
const PAGE: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// Returns the status and the media type of the answer to a reader with this `Accept` header, from
/// a page of another site if `is_foreign`. The body is not awaited.
async fn form(server: &Server, accept: &str, is_foreign: bool) -> (u16, String) {
    let mut request = to(server.address, "GET", EVENTS).header("accept", accept);
    if is_foreign {
        request = request.header("origin", "http://evil.example");
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Empty::<bytes::Bytes>::new().boxed()).unwrap();
    let answer = soon(client.request(request)).await.unwrap();
    let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), media)
}

/// Goal: weights, wildcards and refusals in `Accept` mean what RFC 9110 says.
#[tokio::test]
async fn the_form_of_an_answer_is_the_one_that_its_client_wants_most() {
    let server = Server::start().await;
    server.publish("a", "one").await;
    let cases = [
        ("", 200, PAGE),
        ("*/*", 200, PAGE),
        ("text/event-stream", 200, STREAM),
        ("text/*", 200, STREAM),
        ("text/event-stream;q=0.5, application/json", 200, PAGE),
        ("text/event-stream;q=0, */*", 200, PAGE),
        ("application/json;q=0, */*;q=0.1", 200, STREAM),
        ("text/event-stream;q=0", 406, PROBLEM),
        ("application/json;q=0.0, text/html", 406, PROBLEM),
    ];
    for (accept, status, media) in cases {
        assert_eq!(form(&server, accept, false).await, (status, media.to_owned()), "{accept:?}");
    }
    server.stop().await;
}

/// Goal: no spelling of `Accept` opens a stream for a page of another site, which could hold as
/// many streams open as it likes.
#[tokio::test]
async fn a_page_of_another_site_opens_no_stream_by_any_spelling() {
    let server = Server::start().await;
    server.publish("a", "one").await;
    for accept in ["text/event-stream", "text/*", "application/json;q=0.1, */*"] {
        assert_eq!(form(&server, accept, true).await, (403, PROBLEM.to_owned()), "{accept}");
    }
    assert_eq!(form(&server, "*/*", true).await, (200, PAGE.to_owned()));
    server.stop().await;
}
