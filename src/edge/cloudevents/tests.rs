//! Promises of the module: every attribute is read back unchanged, however the event was published.
//!
//! The file is long, because the tests of all five modes share their examples.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::attributes::*;
use super::protobuf::v1;
use super::protobuf::v1::cloud_event::cloud_event_attribute_value::Attr;
use super::protobuf::v1::cloud_event::{CloudEventAttributeValue, Data};
use super::read::{binary, structured};
use super::write::Stored;
use super::{Mode, append};
use crate::broker::LimitsConfig;
use crate::cursor::{Epoch, Position, Sequence};
use crate::edge::media::is_json;
use crate::error::Result;
use crate::event::{Event, NewEvent, Timestamp};

/// More than the batches of these tests have.
const MAX_EVENTS: usize = 100;

/// Returns the example of the JSON format, 3.2, with the members that it shares with others.
fn example(rest: &str) -> String {
    format!(
        r#"{{ "specversion" : "1.0", "type" : "com.example.someevent", "source" : "/mycontext",
        "id" : "A234-1234-1234", "time" : "2018-04-05T17:31:00Z", "subject": null,
        "comexampleextension1" : "value", "comexampleothervalue" : 5{rest} }}"#
    )
}

/// Returns the event of [`example`].
fn example_event(content_type: &str, payload: &str) -> NewEvent {
    let headers = [
        ("ce-comexampleextension1", "value"),
        ("ce-comexampleothervalue", "5"),
        ("ce-id", "A234-1234-1234"),
        ("ce-source", "/mycontext"),
        ("ce-specversion", "1.0"),
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-types", "comexampleothervalue:integer"),
    ];
    NewEvent {
        id: "/mycontext A234-1234-1234".into(),
        event_type: "com.example.someevent".into(),
        headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
        content_type: content_type.into(),
        payload: payload.to_owned().into(),
        publisher_time: Some(Timestamp::from_ms(1_522_949_460_000)),
        ..NewEvent::default()
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

const REQUIRED: [(&str, &str); 4] =
    [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

/// Returns the required attributes, and others.
fn with(others: &[(&str, &str)]) -> HeaderMap {
    headers(&[&REQUIRED[..], others].concat())
}

/// Returns the event as it is written once it is stored as the seventh of its topic.
fn written(topic: &str, content: NewEvent) -> Map<String, Json> {
    let event = Event {
        sequence: Sequence::new(7),
        position: Position::new(9),
        time: Timestamp::from_ms(1_000),
        content,
    };
    let mut bytes = Vec::new();
    append(topic, Epoch::new(0x9f3c_2a1b), &Stored::from(&event), &mut bytes);
    let Json::Object(object) = serde_json::from_slice(&bytes).unwrap() else { panic!("no object") };
    object
}

#[test]
fn the_examples_of_the_json_format_are_read_as_they_are_meant() {
    let cases = [
        (
            r#", "datacontenttype" : "application/vnd.apache.thrift.binary",
               "data_base64" : "AGE=""#,
            ("application/vnd.apache.thrift.binary", "\0a"),
        ),
        (
            r#", "unsetextension": null, "datacontenttype" : "application/xml",
               "data" : "<much wow=\"xml\"/>""#,
            ("application/xml", "<much wow=\"xml\"/>"),
        ),
        (
            r#", "datacontenttype" : "text/json;a=b", "data" : { "appinfoA" : "abc", "c":[1.50] }"#,
            ("text/json;a=b", r#"{ "appinfoA" : "abc", "c":[1.50] }"#),
        ),
        (r#", "data" : "I'm just a string""#, ("application/json", "\"I'm just a string\"")),
        (r#", "data" : null"#, ("application/json", "null")),
        (r#", "data_base64" : null"#, ("", "")),
        (r#", "datacontenttype": "text/plain""#, ("text/plain", "")),
    ];
    for (rest, (content_type, payload)) in cases {
        let event = structured(example(rest).as_bytes());
        assert_eq!(event.unwrap(), example_event(content_type, payload), "{rest}");
    }
    let batch = format!("[{}, {}]", example(""), example(r#", "data":1"#));
    let expected = vec![example_event("", ""), example_event("application/json", "1")];
    assert_eq!(batched(batch.as_bytes(), MAX_EVENTS).unwrap(), expected);
    assert_eq!(batched(b"[]", MAX_EVENTS).unwrap(), []);
}

/// Goal: whoever reads CloudEvents is told the publisher that the broker has named, and never one
/// that a publisher has named, as an extension or as a header.
#[test]
fn the_publisher_in_a_cloudevent_is_the_one_that_the_broker_has_named() {
    let claimed = r#", "leftoffpublisher": "somebody else""#;
    let mut event = structured(example(claimed).as_bytes()).unwrap();
    event.headers.insert("leftoffpublisher".into(), "somebody else".into());
    assert_eq!(written("t", event.clone()).get("leftoffpublisher"), None);
    event.headers.insert("leftoff-publisher".into(), "user 42".into());
    assert_eq!(written("t", event)["leftoffpublisher"], "user 42");
}

#[test]
fn the_examples_of_the_http_binding_are_read_as_they_are_meant() {
    let message = headers(&[
        ("ce-specversion", "1.0"),
        ("Ce-Type", "com.example.someevent"),
        ("ce-source", "/mycontext"),
        ("ce-id", "A234-1234-1234"),
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-comexampleextension1", "value"),
        ("ce-comexampleothervalue", "5"),
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "*/*"),
    ]);
    let mut expected = example_event("application/json; charset=utf-8", "{ }");
    expected.headers.remove("ce-types"); // HTTP headers are texts.
    assert_eq!(binary(&message, "{ }".into()).unwrap(), Some(expected));
    assert_eq!(binary(&headers(&[("ce-id", "1")]), Bytes::new()).unwrap(), None);

    let subjects = [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("Euro%20%e2%82%ac", "Euro €"),
        ("€", "€"),
        (r#""a \"b\" \\ c%20""#, r#"a "b" \ c "#),
        ("%41%2525", "A%25"),
        ("100%", "100%"),
    ];
    for (value, subject) in subjects {
        let event = binary(&with(&[("ce-subject", value)]), Bytes::new()).unwrap().unwrap();
        assert_eq!(event.key, subject);
        assert_eq!(event.headers["ce-subject"], subject);
    }
}

#[test]
fn a_request_is_told_by_its_content_type_first_and_then_by_its_headers() {
    let (none, event) = (HeaderMap::new(), with(&[]));
    let cases = [
        ("application/cloudevents+json", Some(Mode::Structured)),
        ("Application/CloudEvents+JSON; charset=UTF-8", Some(Mode::Structured)),
        ("application/cloudevents-batch+json", Some(Mode::Batched)),
        ("application/cloudevents+protobuf", Some(Mode::Protobuf)),
        ("application/cloudevents-batch+protobuf", Some(Mode::ProtobufBatch)),
        ("application/cloudevents+avro", None),
        ("application/json", None),
        ("", None),
    ];
    for (content_type, mode) in cases {
        assert_eq!(Mode::of(content_type, &none), mode, "{content_type}");
        let expected = mode.or(Some(Mode::Binary));
        assert_eq!(Mode::of(content_type, &event), expected, "{content_type}");
    }
}

#[test]
fn a_structured_event_that_is_wrong_is_refused_with_the_reason() {
    let full = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;
    let refusals = [
        ("[]".to_owned(), "event: a list is not an object"),
        ("{".to_owned(), "event: the JSON ends before"),
        (r#"{"id":"1","source":"/s","type":"t"}"#.to_owned(), "specversion: is missing"),
        (r#"{"specversion":"0.3"}"#.to_owned(), "specversion: \"0.3\" is not supported"),
        (r#"{"specversion":1.0}"#.to_owned(), "specversion: 1.0 is not an integer"),
        (r#"{"specversion":1}"#.to_owned(), "specversion: must be a string"),
        (r#"{"specversion":"1.0","source":"/s","type":"t"}"#.to_owned(), "id: is missing"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#.to_owned(), "source: is missing"),
        (r#"{"specversion":"1.0","id":"1","source":"/s"}"#.to_owned(), "type: is missing"),
        (r#"{"specversion":"1.0","id":null,"source":"/s"}"#.to_owned(), "id: is missing"),
        (r#"{"id":""}"#.to_owned(), "id: is empty"),
        (r#"{"source":""}"#.to_owned(), "source: is empty"),
        (r#"{"type":""}"#.to_owned(), "type: is empty"),
        (r#"{"specversion":"1.0","id":"1","source":"a b"}"#.to_owned(), "source: holds ' '"),
        (format!(r#"{{{full},"subject":""}}"#), "subject: is empty"),
        (format!(r#"{{{full},"subject":5}}"#), "subject: must be a string"),
        (format!(r#"{{{full},"id":"2"}}"#), "id: is given twice"),
        (format!(r#"{{{full},"time":"5"}}"#), "time: \"5\" is not RFC 3339"),
        (format!(r#"{{{full},"Foo":"a"}}"#), "attributes: \"Foo\" is not a valid name"),
        (format!(r#"{{{full},"a_b":"a"}}"#), "attributes: \"a_b\" is not a valid name"),
        (format!(r#"{{{full},"":"a"}}"#), "attributes: \"\" is not a valid name"),
        (format!(r#"{{{full},"types":"a:integer"}}"#), "types: is an attribute that the broker"),
        (format!(r#"{{{full},"ext":[1]}}"#), "ext: must be a string, an integer or a boolean"),
        (format!(r#"{{{full},"ext":5.0}}"#), "ext: 5.0 is not an integer of 32 bits"),
        (format!(r#"{{{full},"ext":2147483648}}"#), "ext: 2147483648 is not an integer of 32 bits"),
        (format!(r#"{{{full},"ext":"a\nb"}}"#), "ext: holds the control character '\\n'"),
        (format!(r#"{{{full},"ext":"\udead"}}"#), "ext: "),
        (format!(r#"{{{full},"data":1,"data_base64":""}}"#), "data: is given with data_base64"),
        (format!(r#"{{{full},"data":1,"data":2}}"#), "data: is given twice"),
        (format!(r#"{{{full},"data_base64":"?"}}"#), "data_base64: is not base64 of RFC 4648"),
        (format!(r#"{{{full},"data_base64":1}}"#), "data_base64: 1 is not a string"),
        (
            format!(r#"{{{full},"datacontenttype":"text/plain","data":1}}"#),
            "data: must be a string, as datacontenttype is \"text/plain\"",
        ),
    ];
    for (body, reason) in refusals {
        let message = structured(body.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(reason), "{body}: {message}");
        let batch = format!("[{},{body}]", example(""));
        let message = batched(batch.as_bytes(), MAX_EVENTS).unwrap_err().to_string();
        let is_located = message.starts_with("events[1].") || body == "{";
        assert!(is_located, "{batch}: {message}");
    }
    let message = batched(b"{}", MAX_EVENTS).unwrap_err().to_string();
    assert!(message.starts_with("events: an object is not"), "{message}");
}

#[test]
fn a_binary_event_that_is_wrong_is_refused_with_the_reason() {
    let refusals = [
        (headers(&[("ce-specversion", "0.3")]), "specversion: \"0.3\" is not supported"),
        (headers(&REQUIRED[..3]), "type: is missing"),
        (with(&[("ce-id", "2")]), "id: is given twice"),
        (with(&[("ce-a-b", "2")]), "attributes: \"a-b\" is not a valid name"),
        (with(&[("ce-data", "2")]), "data: is the payload"),
        (with(&[("ce-types", "a:integer")]), "types: is an attribute that the broker"),
        (with(&[("ce-datacontenttype", "a/b")]), "datacontenttype: goes into the header"),
        (with(&[("ce-ext", "%C0%A0")]), "ext: is not UTF-8"),
        (with(&[("ce-ext", "%00")]), "ext: holds the control character '\\0'"),
        (with(&[("ce-ext", "\"a")]), "ext: begins with a double quote"),
        (with(&[("ce-ext", "\"a\"b\"")]), "ext: begins with a double quote"),
        (with(&[("ce-ext", "\"a\\\"")]), "ext: begins with a double quote"),
        (with(&[("content-type", "é")]), "datacontenttype: "),
    ];
    for (headers, reason) in refusals {
        let message = binary(&headers, Bytes::new()).unwrap_err().to_string();
        assert!(message.starts_with(reason), "{headers:?}: {message}");
    }
}

fn protobuf(bytes: &[u8]) -> Result<NewEvent> {
    super::protobuf::protobuf(&Bytes::copy_from_slice(bytes))
}

fn protobuf_batch(bytes: &[u8], max_events: usize) -> Result<Vec<NewEvent>> {
    super::protobuf::protobuf_batch(&Bytes::copy_from_slice(bytes), max_events)?.collect()
}

fn batched(body: &[u8], max_events: usize) -> Result<Vec<NewEvent>> {
    super::read::batched(body, max_events)?.collect()
}

fn batch_of(events: &[v1::CloudEvent]) -> Vec<u8> {
    let events = events.iter().map(|event| event.encode_to_vec().into());
    v1::CloudEventBatch { events: events.collect() }.encode_to_vec()
}

fn message(attributes: &[(&str, Attr)], data: Option<Data>) -> v1::CloudEvent {
    let value = |(name, attr): &(&str, Attr)| {
        ((*name).to_owned(), CloudEventAttributeValue { attr: Some(attr.clone()) })
    };
    v1::CloudEvent {
        id: "A234-1234-1234".into(),
        source: "/mycontext".into(),
        spec_version: "1.0".into(),
        r#type: "com.example.someevent".into(),
        attributes: attributes.iter().map(value).collect(),
        data,
    }
}

fn at(seconds: i64, nanos: i32) -> Attr {
    Attr::CeTimestamp(prost_types::Timestamp { seconds, nanos })
}

#[test]
fn a_protobuf_message_is_read_as_the_same_event_in_json() {
    let text = |text: &str| Attr::CeString(text.into());
    let attributes = [
        ("time", at(1_522_949_460, 0)),
        ("comexampleextension1", text("value")),
        ("comexampleothervalue", Attr::CeInteger(5)),
    ];
    let plain = [&attributes[..], &[("datacontenttype", text("text/plain"))]].concat();
    let mut event = message(&plain, Some(Data::TextData("hello".into())));
    event.attributes.insert("unset".into(), CloudEventAttributeValue { attr: None });
    let expected = example_event("text/plain", "hello");
    assert_eq!(protobuf(&event.encode_to_vec()).unwrap(), expected);
    let bytes = message(&plain, Some(Data::BinaryData("hello".into())));
    assert_eq!(protobuf(&bytes.encode_to_vec()).unwrap(), expected);
    let batch = batch_of(&[event.clone(), bytes]);
    assert_eq!(protobuf_batch(&batch, MAX_EVENTS).unwrap(), vec![expected; 2]);
    assert_eq!(protobuf_batch(b"", MAX_EVENTS).unwrap(), []);

    let any = prost_types::Any { type_url: "example.com/a.B".into(), value: b"\x08\x01".into() };
    let packed = message(&attributes, Some(Data::ProtoData(any)));
    let mut expected = example_event("application/protobuf", "\x08\x01");
    expected.headers.insert("ce-dataschema".into(), "example.com/a.B".into());
    assert_eq!(protobuf(&packed.encode_to_vec()).unwrap(), expected);

    let typed = [
        ("a", Attr::CeBytes(vec![0, 255].into())),
        ("b", Attr::CeUri("urn:a".into())),
        ("c", Attr::CeUriRef("/a".into())),
        ("d", at(-1, 500)),
        ("e", Attr::CeBoolean(false)),
    ];
    let headers = protobuf(&message(&typed, None).encode_to_vec()).unwrap().headers;
    let values = ["ce-a", "ce-b", "ce-c", "ce-d", "ce-e", "ce-types"].map(|name| &headers[name]);
    assert_eq!(
        values,
        ["AP8=", "urn:a", "/a", "1969-12-31T23:59:59.000000500Z", "false", "e:boolean"]
    );
}

#[test]
fn a_protobuf_message_that_is_wrong_is_refused_with_the_reason() {
    let any = prost_types::Any { type_url: "example.com/a.B".into(), value: Vec::new() };
    let text = |text: &str| Attr::CeString(text.into());
    let refusals = [
        (v1::CloudEvent::default(), "specversion: is empty"),
        (v1::CloudEvent { id: String::new(), ..message(&[], None) }, "id: is empty"),
        (message(&[("id", text("2"))], None), "id: is given twice"),
        (message(&[("subject", Attr::CeInteger(2))], None), "subject: must be a string"),
        (message(&[("Ext", text("2"))], None), "attributes: \"Ext\" is not a valid name"),
        (message(&[("ext", at(i64::MAX, 0))], None), "ext: 9223372036854775807 s"),
        (message(&[("ext", at(0, -1))], None), "ext: 0 s and -1 ns"),
        (message(&[("time", at(-1, 0))], None), "time: \"1969-12-31T23:59:59Z\" is not"),
        (
            message(&[("dataschema", text("a"))], Some(Data::ProtoData(any))),
            "dataschema: \"a\" is not the type of proto_data, \"example.com/a.B\"",
        ),
    ];
    for (event, reason) in refusals {
        let text = protobuf(&event.encode_to_vec()).unwrap_err().to_string();
        assert!(text.starts_with(reason), "{event:?}: {text}");
        let batch = batch_of(&[message(&[], None), event]);
        let text = protobuf_batch(&batch, MAX_EVENTS).unwrap_err().to_string();
        assert!(text.starts_with(&format!("events[1].{reason}")), "{text}");
    }
    let text = protobuf(b"\xff").unwrap_err().to_string();
    assert!(text.starts_with("event: failed to decode"), "{text}");
}

#[test]
fn a_time_may_have_any_offset() {
    let same = [
        "2018-04-05T17:31:00Z",
        "2018-04-05t17:31:00z",
        "2018-04-05T19:31:00+02:00",
        "2018-04-05T12:01:00.0009-05:30",
        "2018-04-05T17:31:00.000-00:00",
    ];
    for text in same {
        assert_eq!(read_time(text).unwrap().as_ms(), 1_522_949_460_000, "{text}");
    }
    assert_eq!(read_time("2016-12-31T23:59:60Z").unwrap().as_ms(), 1_483_228_799_000);
    let refused = [
        "",
        "1522949460000",
        "2018-04-05",
        "2018-04-05T17:31:00",
        "2018-04-05 17:31:00Z",
        "2018-04-05T17:31:00.Z",
        "2018-04-05T17:31:00+02:00Z",
        "2018-04-05T17:31:00.1+00:00+02:00",
        "2018-04-05T17:31:00+24:00",
        "2018-04-05T17:31:00+2:00",
        "2018-04-05T17:31:0é+02:00",
        "2018-02-29T17:31:00Z",
        "1970-01-01T00:30:00+01:00",
        "9999-12-31T23:59:59-01:00",
    ];
    for text in refused {
        assert!(read_time(text).is_err(), "{text}");
    }
}

#[test]
fn an_id_that_is_too_long_becomes_its_hash_and_the_attributes_stay() {
    let long = "x".repeat(MAX_ID_BYTES - "/s ".len());
    let read = |id: &str| {
        let headers = with(&[]);
        let mut headers = HeaderMap::from_iter(headers.into_iter().map(|(n, v)| (n.unwrap(), v)));
        headers.insert("ce-id", id.parse().unwrap());
        binary(&headers, Bytes::new()).unwrap().unwrap()
    };
    assert_eq!(read(&long).id, format!("/s {long}"));
    let longer = format!("{long}x");
    let event = read(&longer);
    let digest = Sha256::digest(format!("/s {longer}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(event.id, format!("sha256:{hex}"));
    assert_eq!(event.headers["ce-id"], longer);
    assert_eq!(written("a", event)["id"], longer);
}

#[test]
fn an_event_that_never_was_a_cloud_event_becomes_one() {
    let headers = [
        ("traceparent", "00-a"),
        ("id", "clashes"),
        ("data", "clashes"),
        ("leftofftopic", "clashes"),
        ("x-other", "no name"),
        ("count", "5"),
    ];
    let event = NewEvent {
        key: "k".into(),
        headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
        content_type: "text/plain".into(),
        payload: "hello".into(),
        ..NewEvent::default()
    };
    let expected = json!({
        "specversion": "1.0",
        "id": "7-9f3c2a1b",
        "source": "/v1/topics/a.%C3%A9%2Fb%25",
        "type": "leftoff.event",
        "subject": "k",
        "time": "1970-01-01T00:00:01.000Z",
        "datacontenttype": "text/plain",
        "traceparent": "00-a",
        "count": "5",
        "leftofftopic": "a.é/b%",
        "leftoffsequence": "7",
        "leftoffposition": "9",
        "data": "hello",
    });
    assert_eq!(Json::Object(written("a.é/b%", event)), expected);
    let bare = json!({
        "specversion": "1.0",
        "id": "7-9f3c2a1b",
        "source": "/v1/topics/a",
        "type": "t",
        "time": "1970-01-01T00:00:00.005Z",
        "leftofftopic": "a",
        "leftoffsequence": "7",
        "leftoffposition": "9",
    });
    let publisher_time = Some(Timestamp::from_ms(5));
    let event = NewEvent { event_type: "t".into(), publisher_time, ..NewEvent::default() };
    assert_eq!(Json::Object(written("a", event)), bare);
}

#[test]
fn headers_that_only_look_like_attributes_make_no_event_invalid() {
    let headers = [
        ("ce-specversion", "0.3"),
        ("ce-id", ""),
        ("ce-source", "a b"),
        ("ce-time", "yesterday"),
        ("ce-type", "other"),
        ("ce-data", "other"),
        ("ce-datacontenttype", "other"),
        ("ce-a-b", "no name"),
        ("ce-count", "wins, though no integer"),
        ("count", "5"),
        ("ce-leftoffsequence", "1"),
        ("ce-types", "count:integer subject:integer :: x"),
    ];
    let event = NewEvent {
        headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
        ..NewEvent::default()
    };
    let plain = written("a", NewEvent::default());
    let mut expected = plain.clone();
    expected.insert("count".into(), "wins, though no integer".into());
    assert_eq!(written("a", event), expected);
}

#[test]
fn a_payload_goes_out_so_that_it_is_read_as_it_was_published() {
    let cases: [(&str, &[u8], (&str, Json)); 9] = [
        ("application/json", b" {\"a\":1}\n", ("data", json!({"a": 1}))),
        ("text/json", b"null", ("data", Json::Null)),
        ("application/json", b"{", ("data_base64", json!("ew=="))),
        ("application/x+json", b"\xff", ("data_base64", json!("/w=="))),
        ("text/plain; a=b", b"null", ("data", json!("null"))),
        ("image/svg+xml", b"<a/>", ("data", json!("<a/>"))),
        ("text/plain", b"\xff", ("data_base64", json!("/w=="))),
        ("image/png", b"a", ("data_base64", json!("YQ=="))),
        ("", b"{}", ("data_base64", json!("e30="))),
    ];
    for (content_type, payload, (member, value)) in cases {
        let content_type = content_type.to_owned();
        let payload = Bytes::from_static(payload);
        let event = NewEvent { content_type, payload, ..NewEvent::default() };
        let object = written("a", event);
        assert_eq!(object.get(member), Some(&value), "{object:?}");
        assert!(object.contains_key("data") != object.contains_key("data_base64"));
    }
}

/// Returns the bytes of the data of an event in JSON.
fn data(object: &Map<String, Json>) -> Vec<u8> {
    use base64::Engine as _;
    let content_type = object.get("datacontenttype").map_or("a/json", |v| v.as_str().unwrap());
    match (object.get("data"), object.get("data_base64")) {
        (None, None) => Vec::new(),
        (None, Some(text)) => {
            base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
        }
        (Some(value), _) if is_json(content_type) => serde_json::to_vec(value).unwrap(),
        (Some(value), _) => value.as_str().unwrap().as_bytes().to_vec(),
    }
}

fn any_text(least: usize, most: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::char::any(), least..most)
        .prop_map(|chars| chars.into_iter().map(|c| if c.is_control() { '?' } else { c }).collect())
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        ".{0,8}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// Returns members for data: any content type, any member, any value.
fn any_data() -> impl Strategy<Value = Vec<(&'static str, Json)>> {
    use base64::Engine as _;
    let base64 =
        |bytes: Vec<u8>| Json::from(base64::engine::general_purpose::STANDARD.encode(bytes));
    let bytes = proptest::collection::vec(any::<u8>(), 1..40).prop_map(base64);
    let json_type = prop_oneof![Just("application/json"), Just("text/json"), Just("A/x+JSON; b=c")];
    let text_type = prop_oneof![Just("text/plain"), Just("application/xml"), Just("image/png")];
    let any_type = prop_oneof![json_type.clone(), text_type.clone()];
    prop_oneof![
        Just(vec![]),
        any_json().prop_map(|value| vec![("data", value)]),
        bytes.clone().prop_map(|value| vec![("data_base64", value)]),
        any_type.prop_map(|kind| vec![("datacontenttype", kind.into())]),
        (json_type, any_json())
            .prop_map(|(kind, value)| vec![("datacontenttype", kind.into()), ("data", value)]),
        (text_type.clone(), ".{1,40}").prop_map(|(kind, value)| {
            vec![("datacontenttype", kind.into()), ("data", value.into())]
        }),
        (text_type, bytes).prop_map(|(kind, value)| {
            vec![("datacontenttype", kind.into()), ("data_base64", value)]
        }),
    ]
}

/// Returns the members of an event in JSON. If `only_texts`, all extensions are texts.
fn any_event(only_texts: bool) -> impl Strategy<Value = Map<String, Json>> {
    let extension = if only_texts {
        any_text(0, 20).prop_map(Json::from).boxed()
    } else {
        prop_oneof![
            any_text(0, 20).prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            any::<bool>().prop_map(Json::from),
        ]
        .boxed()
    };
    let time = prop_oneof![
        Just("2018-04-05T17:31:00Z"),
        Just("2018-04-05t17:31:00.123456789z"),
        Just("2016-12-31T23:59:60+00:00"),
        Just("2018-04-05T17:31:00.5-08:00"),
    ];
    let required = (any_text(1, 30), "[!-~]{1,40}", any_text(1, 20));
    let optional = (
        proptest::option::of(any_text(1, 20)),
        proptest::option::of(time),
        proptest::option::of("[!-~]{1,20}"),
    );
    let extensions = proptest::collection::btree_map("[a-z0-9]{1,12}", extension, 0..6);
    (required, optional, extensions, any_data()).prop_map(
        |((id, source, kind), (subject, time, schema), extensions, data)| {
            let mut event: Map<String, Json> = extensions
                .into_iter()
                .filter(|(name, _)| !CORE.contains(&&**name) && check_name(name).is_ok())
                .collect();
            let mut put = |name: &str, value: Json| event.insert(name.to_owned(), value);
            put("specversion", VERSION.into());
            put("id", id.into());
            put("source", source.into());
            put("type", kind.into());
            subject.map(|subject| put("subject", subject.into()));
            time.map(|time| put("time", time.into()));
            schema.map(|schema| put("dataschema", schema.into()));
            data.into_iter().for_each(|(name, value)| drop(put(name, value)));
            event
        },
    )
}

proptest! {
    /// Goal: a reader gets exactly the event that the publisher gave. Method: any event in JSON is
    /// read, checked against the broker's limits, and written. Every attribute must be there with
    /// its type, the data must be the same, and only the places may be new.
    #[test]
    fn whatever_goes_in_comes_out(event in any_event(false)) {
        let read = structured(&serde_json::to_vec(&event).unwrap()).unwrap();
        LimitsConfig::default().check(std::slice::from_ref(&read)).unwrap();
        let mut out = written("a.b", read);
        prop_assert_eq!(data(&out), data(&event));
        if event.contains_key("data") && !event.contains_key("datacontenttype") {
            prop_assert_eq!(out.remove("datacontenttype"), Some(Json::from("application/json")));
        }
        if !event.contains_key("time") {
            prop_assert_eq!(out.remove("time"), Some(Json::from("1970-01-01T00:00:01.000Z")));
        }
        let places = ["leftofftopic", "leftoffsequence", "leftoffposition"];
        prop_assert_eq!(places.map(|name| out.remove(name).unwrap()), ["a.b", "7", "9"]);
        let attributes = |mut object: Map<String, Json>| {
            object.remove("data");
            object.remove("data_base64");
            object
        };
        prop_assert_eq!(attributes(out), attributes(event));
    }

    #[test]
    fn an_event_is_the_same_in_binary_mode(event in any_event(true)) {
        let read = structured(&serde_json::to_vec(&event).unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in &event {
            if !["data", "data_base64", "datacontenttype"].contains(&&**name) {
                let text = utf8_percent_encode(value.as_str().unwrap(), NON_ALPHANUMERIC);
                let name = HeaderName::try_from(format!("ce-{name}")).unwrap();
                headers.insert(name, text.to_string().parse().unwrap());
            }
        }
        if !read.content_type.is_empty() {
            headers.insert("content-type", read.content_type.parse().unwrap());
        }
        prop_assert_eq!(binary(&headers, read.payload.clone()).unwrap(), Some(read));
    }

    #[test]
    fn no_bytes_and_no_headers_make_a_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in r#"[\[{]?("[a-z_0-9]{0,4}"[:,]("[a-z\\]{0,4}"|-?[0-9.e]{1,12}|null)[,}\]]){0,6}"#,
        values in proptest::collection::vec(
            (0..8usize, proptest::collection::vec(32..=255u8, 0..40)),
            0..6,
        ),
        time in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}.{0,9}",
    ) {
        for bytes in [&bytes[..], text.as_bytes()] {
            structured(bytes).ok();
            batched(bytes, MAX_EVENTS).ok();
            protobuf(bytes).ok();
            protobuf_batch(bytes, MAX_EVENTS).ok();
        }
        read_time(&time).ok();
        let mut headers = with(&[]);
        for (index, value) in values {
            let name = ["ce-specversion", "ce-id", "ce-source", "ce-time", "ce-subject", "ce-ext",
                "content-type", "ce-types"][index];
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(name, value);
            }
        }
        binary(&headers, bytes.clone().into()).ok();
        // A stored event need not have been published as a CloudEvent.
        let content_type = headers.get("ce-ext").and_then(|value| value.to_str().ok());
        written("a", NewEvent {
            headers: [("ce-time".to_owned(), time), ("ce-types".to_owned(), text)].into(),
            content_type: content_type.unwrap_or("application/json").to_owned(),
            payload: bytes.into(),
            ..NewEvent::default()
        });
    }
}

/// Goal: an attribute without a name is refused with a name, whatever its value is.
#[test]
fn an_attribute_without_a_name_is_refused_as_one_of_the_attributes() {
    for json in [r#"{"":42.0}"#, r#"{"":[]}"#, r#"{"":"\ud800"}"#, r#"{"":1}"#] {
        let error = structured(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("attributes: \"\" is not a valid name"), "{json}: {error}");
    }
    let never = Attr::CeTimestamp(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    let error = protobuf(&message(&[("", never)], None).encode_to_vec()).unwrap_err().to_string();
    assert!(error.starts_with("attributes: \"\" is not a valid name"), "{error}");
}

#[test]
fn more_events_or_attributes_than_there_may_be_are_refused_before_any_is_read() {
    let over_events = "events in a batch: 3 is over the limit of 2";
    let error = batched(b"[1,2,3]", 2).unwrap_err().to_string();
    assert_eq!(error, over_events);
    let batch = batch_of(&vec![v1::CloudEvent::default(); 3]);
    let error = protobuf_batch(&batch, 2).unwrap_err().to_string();
    assert_eq!(error, over_events);
    let over_attributes = "attributes: 1025 is over the limit of 1024";
    let members: Vec<String> = (0..1_025).map(|number| format!("\"a{number}\":1")).collect();
    let error = structured(format!("{{{}}}", members.join(",")).as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), over_attributes);
    let attributes = (0..1_025).map(|number| (format!("a{number}"), Default::default()));
    let event = v1::CloudEvent { attributes: attributes.collect(), ..v1::CloudEvent::default() };
    let error = protobuf(&event.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(error, over_attributes);
}
