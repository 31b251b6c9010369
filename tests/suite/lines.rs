//! Many events in one body: every media type for lines is known, an error names its place, and a
//! body that is one publish is stored as a whole.

use leftoff::Config;
use serde_json::{Value, json};

use crate::common::{Answer, Server, get, read_all, send, to};

const EVENTS: &str = "/v1/topics/a/events";

async fn post_as(server: &Server, media: &str, query: &str, body: &str) -> Answer {
    let request = to(server.address, "POST", &format!("{EVENTS}{query}"));
    send(request.header("content-type", media), body.to_owned()).await
}

/// Returns the payloads of the topic, as JSON.
async fn payloads(server: &Server) -> Vec<Value> {
    let page = get(server.address, &format!("{EVENTS}?limit=1000")).await.json();
    let events = page["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().map(|mut event| event["data"].take()).collect()
}

/// Goal: a body of lines is never stored as one unreadable event.
#[tokio::test]
async fn lines_are_lines_under_every_name_that_they_go_by() {
    let media = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl; charset=utf-8",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/x-ldjson",
        "application/stream+json",
        "application/json+lines",
        "application/newline-delimited-json",
        "application/x.ndjson",
        "text/x-ndjson",
    ];
    for media in media {
        let server = Server::start().await;
        let body = "\u{feff}{\"data\":1}\r\n\n \t\n{\"data\":[2]}\n\u{feff}{\"data\":null}";
        let answer = post_as(&server, media, "", body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["count"]), (201, &json!(3)), "{media}");
        assert_eq!(payloads(&server).await, [json!(1), json!([2]), json!(null)], "{media}");
        server.stop().await;
    }
    for media in ["application/json-seq", "application/x-json-seq"] {
        let server = Server::start().await;
        let body = "\u{1e}{\"data\":1}\n\u{1e}{\n  \"data\": {\n\"a\": 2}\n}\n\u{1e}\u{1e}{}\n";
        let answer = post_as(&server, media, "", body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["count"]), (201, &json!(3)), "{media}");
        let page = get(server.address, EVENTS).await;
        let raw = String::from_utf8(page.body.to_vec()).unwrap();
        assert!(raw.contains("\"data\":{\n\"a\": 2}"), "the payload was changed: {raw}");
        server.stop().await;
    }
}

/// Goal: a body of many texts in an unknown format is refused, and never stored as one event or
/// many.
#[tokio::test]
async fn many_texts_of_another_format_are_refused_with_what_to_do() {
    let server = Server::start().await;
    for media in [
        "application/geo+json-seq",
        "application/cloudevents+ndjson",
        "application/vnd.x+jsonl; charset=utf-8",
        "application/concatenated-json",
    ] {
        for query in ["", "?atomic=true"] {
            let refused = post_as(&server, media, query, "{\"data\":1}\n{\"data\":2}").await;
            let detail = refused.json()["detail"].as_str().unwrap().to_owned();
            assert_eq!(refused.status, 415, "{media}: {detail}");
            assert!(detail.contains("application/x-ndjson"), "{detail}");
        }
    }
    let twice = to(server.address, "POST", EVENTS).header("content-type", "application/jsonl");
    let refused = send(twice.header("content-type", "text/plain"), "{\"data\":1}").await;
    assert_eq!(refused.status, 400, "{}", refused.json());
    assert!(refused.json()["detail"].as_str().unwrap().starts_with("Content-Type: is given twice"));
    for joined in ["application/x-ndjson, application/json", "text/plain,text/html"] {
        let refused = post_as(&server, joined, "", "{\"data\":1}").await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{joined}: {detail}");
        assert!(detail.ends_with("names several types; a body is of one type"), "{detail}");
    }
    assert_eq!(get(server.address, EVENTS).await.status, 404, "nothing was stored");
    server.stop().await;
}

/// Goal: each media type of JSON is treated as JSON: in an array, in a line, in a page and in a
/// CloudEvent.
#[tokio::test]
async fn json_is_json_under_every_type_that_says_so() {
    let server = Server::start().await;
    let types = ["application/json", "text/json", "Text/JSON; charset=utf-8", "image/x+json"];
    for media in types {
        assert_eq!(post_as(&server, media, "", "{\"a\":1}").await.status, 201, "{media}");
        let line = json!({"content_type": media, "data": {"a": 1}}).to_string();
        let posted = post_as(&server, "application/jsonl", "", &line).await;
        assert_eq!(posted.status, 201, "{media}: {}", posted.json());
    }
    let array = post_as(&server, "text/json", "?atomic=true", "[{\"data\":{\"a\":1}}]").await;
    assert_eq!(array.json()["count"], 1);
    assert_eq!(payloads(&server).await, vec![json!({"a": 1}); 2 * types.len() + 1]);
    server.stop().await;
}

/// Goal: the user of a file with one bad line finds that line. The line number counts from the
/// start of the body, and the column from the start of the line, in every framing, whether the body
/// is stored at once or as it arrives.
#[tokio::test]
async fn an_error_names_the_line_of_the_body_the_column_in_it_and_what_is_wrong() {
    let (lines, records) = ("application/x-ndjson", "application/json-seq");
    let cases = [
        (lines, "{\"data\":1}\n\n{\"data\":1,}\n", 3, Some(11), "trailing comma"),
        (lines, "{\"data\":1}\n{\"dat\":1}", 2, Some(6), "\"dat\" is not a known name"),
        (lines, "{\"data\":1}\n  [1,2]\n", 2, Some(3), "a list is not an event; write an object"),
        (lines, "7", 1, Some(1), "a number is not an event"),
        (lines, "{\"ttl_ms\":-1}\n", 1, Some(12), "-1 is not a whole number from 0"),
        (
            lines,
            "\n{\"headers\":{\"a\":\"1\",\"a\":\"2\"}}",
            2,
            None,
            "headers: \"a\" is given twice",
        ),
        (lines, "{\"id\":\"a\",\"id\":\"b\"}", 1, Some(14), "id is given twice"),
        (lines, "{\"topic\":\"b\"}", 1, None, "names another topic than the path"),
        (lines, "{\"data\":1", 1, Some(9), "the JSON ends before it is complete"),
        (
            records,
            "\u{1e}{\"data\":1}\n\u{1e}{\n \"data\": 1\n x}\n",
            4,
            Some(2),
            "expected `,` or `}`",
        ),
        (records, "\u{1e}{\"data\":1}\n\u{1e}x", 2, Some(2), "there is no JSON value"),
    ];
    for (media, body, line, column, words) in cases {
        for query in ["", "?atomic=true"] {
            let server = Server::start().await;
            let answer = post_as(&server, media, query, body).await;
            let problem = answer.json();
            let place = (&problem["line"], &problem["column"]);
            assert_eq!(answer.status, 400, "{body:?}");
            assert_eq!(place, (&json!(line), &json!(column)), "{body:?}: {problem}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.starts_with(&format!("line {line}: ")), "{detail}");
            assert!(detail.contains(words), "{body:?}: {detail}");
            for rust in ["u64", "struct", "LineJson", "at line"] {
                assert!(!detail.contains(rust), "{detail}");
            }
            // The lines before the bad one are stored, or none is, for a body that is one publish.
            let stored = u64::from(query.is_empty() && line > 1 && body.contains("{\"data\":1}\n"));
            assert_eq!(problem["stored_events"], stored, "{body:?} {query}");
            assert_eq!(payloads(&server).await.len() as u64, stored, "{body:?} {query}");
            server.stop().await;
        }
    }
}

/// Goal: a publisher that needs all or nothing gets it, with a condition, as lines and as an array.
#[tokio::test]
async fn a_body_that_is_one_publish_is_stored_as_a_whole_or_not_at_all() {
    let mut config = Config::default();
    config.limits.max_batch_events = 100;
    let server = Server::with(config).await;
    let (lines, array) = ("application/jsonl", "application/json");
    let forms = [
        (lines, "{\"data\":\"1\"}\n{\"data\":\"2\"}"),
        (array, "[{\"data\":\"1\"},\n {\"data\":\"2\"}]"),
    ];
    for (sequence, (media, body)) in [0, 2].into_iter().zip(forms) {
        let query = format!("?atomic=true&expected_sequence={sequence}");
        let answer = post_as(&server, media, &query, body).await;
        let told = answer.json();
        assert_eq!((answer.status.as_u16(), &told["count"]), (201, &json!(2)), "{told}");
        assert_eq!(told["first"]["sequence"], sequence + 1);
        assert_eq!(told["last"]["sequence"], sequence + 2);
        let refused = post_as(&server, media, &query, body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["actual_sequence"]),
            (412, &json!(sequence + 2))
        );
    }
    let stored = read_all(server.address, "a").await;
    assert_eq!(stored.len(), 4);
    let good = "{\"data\":1}";
    let many = |count: usize| vec![good; count];
    let in_array = |count: usize| format!("[{}]", many(count).join(","));
    let cases = [
        (lines, many(101).join("\n"), 413, "101 is over the limit of 100"),
        (array, in_array(101), 413, "101 is over the limit of 100"),
        (
            array,
            format!("[{good},\n {good},\n\n  {{\"dat\":1}}]"),
            400,
            "line 4: \"dat\" is not a known name",
        ),
        (array, format!("[{good},[1]]"), 400, "a list is not an event"),
        (lines, format!("{good}\n7"), 400, "line 2: a number is not an event"),
        // Lines over the limit are neither parsed nor kept.
        (lines, many(100).join("\n") + &"\n1".repeat(100_000), 413, "101 is over the limit"),
        (array, format!("[{good}"), 400, "the JSON ends before"),
        (array, format!("[{good}] x"), 400, "something follows"),
        (array, good.to_owned(), 400, "line 1: a list is expected"),
        (array, "[]".to_owned(), 400, "holds no event"),
        (lines, "\n \n".to_owned(), 400, "holds no event"),
        ("text/plain", good.to_owned(), 400, "is for lines of JSON"),
    ];
    for (media, body, status, words) in cases {
        let answer = post_as(&server, media, "?atomic=true", &body).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{media} {detail}");
        assert!(detail.contains(words), "{media}: {detail}");
    }
    let problem =
        post_as(&server, array, "?atomic=true", "[{\"data\":1},\n\n  {\"dat\":1}]").await.json();
    assert_eq!((&problem["line"], &problem["column"]), (&json!(3), &json!(8)), "{problem}");
    let refused = post_as(&server, lines, "?expected_sequence=4", good).await.json();
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("with atomic=true they are one publish"), "{detail}");
    let slip = post_as(&server, lines, "?id=1", good).await.json();
    assert_eq!(slip["field"], "id");
    assert_eq!(read_all(server.address, "a").await, stored, "nothing was stored");
    // Without `atomic=true`, an array is one payload, as it always was.
    assert_eq!(post_as(&server, array, "", &in_array(2)).await.status, 201);
    assert_eq!(payloads(&server).await[4], json!([{"data": 1}, {"data": 1}]));
    server.stop().await;
}
