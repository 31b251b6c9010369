//! Payloads as readers get them, in every form: unchanged, or in a form that says what it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use leftoff::NewEvent;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::common::{Frame, Server, Sse, get, leftoff, output_of, publish, soon, text, to};
use crate::websocket::Client;

const JSON: &str = "application/json";

/// Payloads with their content types: line ends of all kinds, and types that would end a data URL
/// early.
const CASES: [(&[u8], &str); 18] = [
    (b"{\"a\":[1,2]}", JSON),
    (b"{\n  \"a\": [1,\n 2]\n}", JSON),
    (b"{\"a\": 1}\n", JSON),
    (b" [1] ", JSON),
    (b"{\r\n  \"a\": [1,\r\n 2]\r\n}\r\n", JSON),
    (b"[1,\r2,\r\n3]", "application/geo+json"),
    (b"\"a\"", JSON),
    (b"12345678901234567890.10", JSON),
    (b"no json\r\n", JSON),
    (b"a", JSON),
    (b"one\ntwo", "text/plain"),
    (b"one\r\ntwo\r", "text/csv; header=present"),
    (b"{\"a\":\r\n1}", ""),
    (b"data:,x", "text/plain"),
    (b"\xff\x00", "application/octet-stream"),
    (b"\xff\r\n", "x/y; a=\"b,c\"; d=#e"),
    (b"\xff", ""),
    (b"", ""),
];

async fn broker() -> Server {
    let server = Server::start().await;
    for (payload, content_type) in CASES {
        let event =
            NewEvent { content_type: content_type.to_owned(), ..NewEvent::new(payload.to_vec()) };
        publish(&server.broker, "a", event).await;
    }
    server
}

async fn frames(server: &Server, format: &str) -> Vec<Frame> {
    let path = format!("/v1/topics/a/events?from=earliest&format={format}");
    let mut stream = Sse::open(to(server.address, "GET", &path)).await.unwrap();
    let mut frames = Vec::new();
    while frames.len() < CASES.len() {
        frames.push(soon(stream.find(Frame::is_event)).await);
    }
    frames
}

fn value(payload: &[u8], content_type: &str) -> Option<Value> {
    let is_json = content_type.ends_with("json");
    serde_json::from_slice(payload).ok().filter(|_| is_json)
}

/// Returns the payload in an event's JSON: `data_base64` if there is one; otherwise `data`, as JSON
/// text for a JSON payload, and as a string for any other.
fn payload_of(event: &str, content_type: &str) -> Vec<u8> {
    let fields: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"));
    let string = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).unwrap();
    match (fields.get("data_base64"), fields.get("data")) {
        (Some(encoded), _) => BASE64.decode(string(encoded)).unwrap(),
        (None, Some(data)) if content_type.ends_with("json") => data.get().as_bytes().to_vec(),
        (None, Some(data)) => string(data).into_bytes(),
        (None, None) => panic!("no data: {event}"),
    }
}

/// Checks the JSON of each event: its payload has the published bytes, and `data` of a JSON payload
/// is that JSON.
fn check_envelopes(events: &[String], way: &str) {
    assert_eq!(events.len(), CASES.len(), "{way}");
    for (event, (payload, content_type)) in events.iter().zip(CASES) {
        let (shown, got) = (text(payload), payload_of(event, content_type));
        assert_eq!(text(&got), shown, "{way}: {event}");
        assert_eq!(got, payload, "{way}: {event}");
        if let Some(value) = value(payload, content_type) {
            assert_eq!(serde_json::from_str::<Value>(event).unwrap()["data"], value, "{way}");
        }
    }
}

/// Goal: a reader that checks a signature gets the payload's bytes, in each form that has events as
/// JSON.
#[tokio::test]
async fn the_json_of_an_event_has_its_payload_to_the_byte_or_says_so() {
    let server = broker().await;
    let streamed = frames(&server, "envelope").await;
    let events: Vec<String> = streamed.into_iter().map(|frame| frame.data.unwrap()).collect();
    check_envelopes(&events, "a stream");
    let page = get(server.address, "/v1/topics/a/events").await;
    #[derive(serde::Deserialize)]
    struct Page {
        events: Vec<Box<RawValue>>,
    }
    let page: Page = serde_json::from_slice(&page.body).unwrap();
    let events: Vec<String> = page.events.iter().map(|event| event.get().to_owned()).collect();
    check_envelopes(&events, "a page");
    let mut client = Client::connect(server.address).await;
    let ask = json!({"type": "subscribe", "subscription": "s", "topic": "a", "from": "earliest"});
    client.say(ask).await;
    #[derive(serde::Deserialize)]
    struct Message {
        event: Option<Box<RawValue>>,
    }
    let mut events = Vec::new();
    while events.len() < CASES.len() {
        let message: Message = serde_json::from_str(&client.hear_text().await).unwrap();
        events.extend(message.event.map(|event| event.get().to_owned()));
    }
    check_envelopes(&events, "a WebSocket");
    let mut tail = leftoff();
    let server_url = format!("http://{}", server.grpc_address);
    tail.args(["tail", "a", "--from", "earliest", "--no-follow", "--format", "json"]);
    tail.args(["--server", &server_url]);
    let output = tokio::task::spawn_blocking(move || output_of(&mut tail)).await.unwrap();
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    check_envelopes(&lines, "leftoff tail");
}

/// Goal: `JSON.parse(event.data)` works for each payload that was published as JSON. Other data is
/// the payload, or a URL that contains it.
#[tokio::test]
async fn the_data_of_a_stream_is_the_payload_or_the_same_json_or_a_url_that_says_what_it_is() {
    let server = broker().await;
    for (frame, (payload, content_type)) in frames(&server, "data").await.into_iter().zip(CASES) {
        let data = frame.data.unwrap();
        if let Some(value) = value(payload, content_type) {
            let parsed = serde_json::from_str::<Value>(&data);
            assert_eq!(parsed.unwrap_or_else(|error| panic!("{error}: {data}")), value);
            let line_feeds = text(payload).replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(data, line_feeds, "more than the line ends was changed");
        } else if let Some(url) = data.strip_prefix("data:") {
            let (head, encoded) = url.split_once(',').unwrap();
            assert_eq!(BASE64.decode(encoded).unwrap(), payload, "{data}");
            assert!(!head.contains(['#', ' ']), "a fragment: {data}");
            let media = head.strip_suffix(";base64").unwrap();
            let media = percent_encoding::percent_decode_str(media).decode_utf8().unwrap();
            let otherwise = "application/octet-stream";
            let expected = if content_type.is_empty() { otherwise } else { content_type };
            assert_eq!(media, expected);
        } else {
            assert_eq!(data.as_bytes(), payload);
        }
    }
}

#[tokio::test]
async fn a_cloud_event_of_a_stream_has_the_json_that_was_published_or_its_bytes() {
    let server = broker().await;
    let frames = frames(&server, "cloudevents").await;
    for (frame, (payload, content_type)) in frames.into_iter().zip(CASES) {
        let event = frame.json();
        let both = event.get("data").is_some() && event.get("data_base64").is_some();
        assert!(!both, "the specification permits one of both: {event}");
        if let Some(value) = value(payload, content_type) {
            assert_eq!(event["data"], value, "{event}");
        } else if let Some(encoded) = event["data_base64"].as_str() {
            assert_eq!(BASE64.decode(encoded).unwrap(), payload, "{event}");
        } else {
            let data = event["data"].as_str().unwrap_or_default();
            assert_eq!(data.as_bytes(), payload, "{event}");
        }
    }
}
