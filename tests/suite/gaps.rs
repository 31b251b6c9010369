//! What readers are told of that they have lost: all of it, and nothing else.

use serde_json::{Value, json};

use crate::common::{Server, get, send, to};

/// Has topic `topic` hold events with these numbers for payloads.
async fn publish(server: &Server, topic: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        server.publish(topic, number.to_string()).await;
    }
}

async fn purge(server: &Server, topic: &str, before: u64) {
    let path = format!("/v1/topics/{topic}/events?before={before}");
    assert_eq!(send(to(server.address, "DELETE", &path), "").await.status, 200);
}

fn topics_of(gaps: &Value) -> Vec<&str> {
    gaps.as_array().unwrap().iter().map(|gap| gap["topic"].as_str().unwrap()).collect()
}

/// Goal: a page of many topics tells all that they have lost: in its body, in its header, and in
/// the answer that refuses it.
#[tokio::test]
async fn a_page_over_http_tells_every_gap_that_it_holds() {
    let server = Server::start().await;
    for topic in ["a", "b", "c"] {
        publish(&server, topic, 0..4).await;
        purge(&server, topic, 3).await;
    }
    publish(&server, "whole", 0..1).await;
    let first = "reason=purged, requested=1, earliest=3, tail=5, resume=3";
    let path = "/v1/events?topic=%3E&from=@0";
    let page = get(server.address, path).await;
    assert_eq!(page.header("leftoff-gap"), format!("{first}, more=2"));
    let body = page.json();
    assert_eq!(topics_of(&body["gaps"]), ["a", "b", "c"]);
    assert_eq!(body["events"].as_array().unwrap().len(), 7);

    let refused = get(server.address, &format!("{path}&on_gap=fail")).await;
    assert_eq!(refused.status, 410);
    assert_eq!(refused.header("leftoff-gap"), format!("{first}, more=2"));
    let problem = refused.json();
    assert_eq!(topics_of(&problem["gaps"]), ["a", "b", "c"]);
    let named = ["type", "topic", "topics", "earliest"].map(|name| problem[name].clone());
    assert_eq!(json!(named), json!(["urn:leftoff:problem:gap", "a", 3, 3]));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("3 topics have lost events"), "{detail}");

    let one = get(server.address, "/v1/events?topic=b&topic=whole&from=@0&on_gap=fail").await;
    assert_eq!((one.status.as_u16(), one.header("leftoff-gap")), (410, first));
    assert_eq!((&one.json()["gaps"], &one.json()["topic"]), (&Value::Null, &json!("b")));
}

/// Goal: a client that polls with the tag of what it has is told of a gap all the same.
#[tokio::test]
async fn a_page_with_a_gap_is_never_answered_as_not_modified() {
    let server = Server::start().await;
    publish(&server, "a", 0..9).await;
    purge(&server, "a", 6).await;
    let path = "/v1/topics/a/events?after=2&on_gap=latest";
    let page = get(server.address, path).await;
    assert_eq!((page.status.as_u16(), page.json()["gap"]["lost"].clone()), (200, json!(3)));
    let tag = page.header("etag").to_owned();
    for tag in [tag.as_str(), "*"] {
        let again = send(to(server.address, "GET", path).header("if-none-match", tag), "").await;
        assert_eq!(again.status, 200, "{tag}");
        assert_eq!(again.json()["gap"]["lost"], 3, "{tag}");
        assert!(again.header("leftoff-gap").starts_with("reason=purged"), "{tag}");
    }
    let path = "/v1/topics/a/events?after=9";
    let known = send(to(server.address, "GET", path).header("if-none-match", tag), "").await;
    assert_eq!(known.status, 304);
}
