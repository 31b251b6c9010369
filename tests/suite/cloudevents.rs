//! CloudEvents over every protocol: an event that is read has every attribute that it was published
//! with.

use leftoff::edge::proto::{NewEvent, PublishRequest};
use serde_json::{Value, json};

use crate::common::{Frame, Server, Sse, get, send, soon, to};

const EVENTS: &str = "/v1/topics/orders/events";

fn cloud_event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.created",
        "subject": "order-7", "time": "2026-01-31T12:00:00.123456Z", "tenant": "eu", "count": 3,
        "datacontenttype": "application/json", "data": {"total": 12.5},
    })
}

/// Returns the attributes that the broker adds: the event's topic, sequence and position.
fn given(topic: &str, sequence: u64) -> [(&'static str, Value); 3] {
    [
        ("leftofftopic", json!(topic)),
        ("leftoffsequence", json!(sequence.to_string())),
        ("leftoffposition", json!(sequence.to_string())),
    ]
}

fn stored(id: &str, sequence: u64) -> Value {
    let mut event = cloud_event(id);
    for (name, value) in given("orders", sequence) {
        event[name] = value;
    }
    event
}

#[tokio::test]
async fn cloud_events_come_out_of_a_stream_as_they_were_published_in_any_mode() {
    let server = Server::start().await;
    let post = |content_type: &str| {
        to(server.address, "POST", EVENTS).header("content-type", content_type)
    };
    let structured = send(post("application/cloudevents+json"), cloud_event("1").to_string());
    assert_eq!(structured.await.json()["sequence"], 1);
    let batch = json!([cloud_event("2"), cloud_event("3"), cloud_event("2")]).to_string();
    let answer = send(post("application/cloudevents-batch+json"), batch).await.json();
    assert_eq!((&answer["count"], &answer["duplicates"]), (&json!(3), &json!(1)));
    let binary = post("application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "4")
        .header("ce-source", "/shop")
        .header("ce-type", "order.created")
        .header("ce-subject", "order-7")
        .header("ce-time", "2026-01-31T12:00:00.123456Z")
        .header("ce-tenant", "eu");
    assert_eq!(send(binary, r#"{"total": 12.5}"#).await.json()["sequence"], 4);
    let again = send(post("application/cloudevents+json"), cloud_event("4").to_string()).await;
    assert_eq!((&again.json()["sequence"], &again.json()["duplicate"]), (&json!(4), &json!(true)));
    let event = NewEvent {
        content_type: "application/cloudevents+json".to_owned(),
        payload: cloud_event("5").to_string().into(),
        ..NewEvent::default()
    };
    let request =
        PublishRequest { topic: "orders".into(), events: vec![event], ..Default::default() };
    server.grpc().await.publish(request).await.unwrap();
    for query in [
        format!("{EVENTS}?from=earliest&format=cloudevents"),
        "/v1/events?topic=*&from=earliest&format=cloudevents".to_owned(),
    ] {
        let mut stream = Sse::open(to(server.address, "GET", &query)).await.unwrap();
        for sequence in 1..=5_u64 {
            let frame = soon(stream.find(Frame::is_event)).await;
            let mut expected = stored(&sequence.to_string(), sequence);
            if sequence == 4 {
                expected.as_object_mut().unwrap().remove("count"); // `ce-count` was not sent.
            }
            assert_eq!(frame.json(), expected, "{query}");
        }
    }
    // The same event in Leftoff's own fields, for readers that filter and read pages.
    let path = format!("{EVENTS}?type=order.created&key=order-7&limit=1");
    let page = crate::common::get(server.address, &path).await.json();
    let event = &page["events"][0];
    assert_eq!((&event["id"], &event["data"]), (&json!("/shop 1"), &json!({"total": 12.5})));
}

#[tokio::test]
async fn a_cloud_event_that_breaks_a_rule_is_refused_by_name_and_nothing_is_stored() {
    let server = Server::start().await;
    let mut nameless = cloud_event("1");
    nameless.as_object_mut().unwrap().remove("source");
    for (content_type, body, words) in [
        ("application/cloudevents+json", nameless.to_string(), "source"),
        ("application/cloudevents+json", "{".to_owned(), "ends before it is complete"),
        ("application/cloudevents-batch+json", json!([cloud_event("1"), {}]).to_string(), "[1]"),
        ("application/cloudevents+protobuf", "x".to_owned(), "Protobuf"),
    ] {
        let request = to(server.address, "POST", EVENTS).header("content-type", content_type);
        let answer = send(request, body).await;
        let problem = answer.json();
        assert_eq!(answer.status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{words}: {problem}");
    }
    let page = crate::common::get(server.address, EVENTS).await;
    assert_eq!(page.status, 404);
}

/// Goal: a CloudEvent in headers is one event, even if its data has a media type for many events.
#[tokio::test]
async fn a_cloud_event_in_headers_is_one_event_whatever_the_type_of_its_data() {
    let server = Server::start().await;
    let post = |media: &str, query: &str, id: &str| {
        to(server.address, "POST", &format!("{EVENTS}{query}"))
            .header("content-type", media)
            .header("ce-specversion", "1.0")
            .header("ce-id", id)
            .header("ce-source", "/shop")
            .header("ce-type", "order.created")
    };
    let data = "{\"data\":1}\n{\"data\":2}\n";
    let types = [
        "application/jsonl",
        "application/x-ndjson",
        "application/json-seq",
        "application/geo+json-seq",
        "text/plain",
    ];
    for media in types {
        let answer = send(post(media, "?atomic=false", media), data).await;
        assert_eq!(answer.status, 201, "{media}: {}", answer.json());
    }
    for media in ["application/json", "application/jsonl", "text/plain"] {
        let refused = send(post(media, "?atomic=true", "x"), "[{\"data\":1}]").await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{media}: {detail}");
        assert!(detail.starts_with("atomic: ") && detail.contains("CloudEvents"), "{detail}");
    }
    let page = get(server.address, EVENTS).await.json();
    let events = page["events"].as_array().unwrap();
    assert_eq!(events.len(), types.len());
    for (event, media) in events.iter().zip(types) {
        assert_eq!(
            (&event["type"], &event["content_type"]),
            (&json!("order.created"), &json!(media))
        );
        assert_eq!(event["headers"]["ce-source"], "/shop", "{event}");
    }
    server.stop().await;
}
