//! What is sent: signed, in each format, in order of each key, each event until it is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply};
use super::{ask, make, order, settings, shown, until};
use crate::common::Server;

#[tokio::test]
async fn events_are_sent_signed_in_each_format_and_none_is_sent_again() {
    let server = Server::with(settings()).await;
    order(&server, "before", &json!({ "n": 0 })).await;
    for format in ["envelope", "payload", "cloudevents", "cloudevents_binary"] {
        let receiver = Receiver::start().await;
        let made = make(&server, format, &receiver, json!({ "format": format })).await;
        let secret = made["secret"].as_str().unwrap().to_owned();
        order(&server, "k", &json!({ "n": 1 })).await;
        order(&server, "k", &json!({ "n": 2 })).await;
        let received = receiver.got(2).await;
        for (index, one) in received.iter().enumerate() {
            assert!(one.is_signed_with(&secret), "{format}: {one:?}");
            let now = leftoff::Timestamp::now().as_ms() / 1_000;
            let told: u64 = one.header("webhook-timestamp").parse().unwrap();
            assert!(now.abs_diff(told) < 60, "{told}");
            assert!(one.header("user-agent").starts_with("leftoff/"));
            assert_eq!(one.path, "/hook");
            let n = json!({ "n": index + 1 });
            match format {
                "payload" => {
                    assert_eq!(one.json(), n);
                    assert_eq!(one.header("leftoff-key"), "k");
                    assert_eq!(one.header("leftoff-topic"), "orders");
                }
                "cloudevents_binary" => {
                    assert_eq!(one.json(), n);
                    assert_eq!(one.header("ce-subject"), "k");
                    assert_eq!(one.header("ce-type"), "order.paid");
                    assert_eq!(one.header("ce-specversion"), "1.0");
                }
                "cloudevents" => {
                    assert_eq!(one.header("content-type"), "application/cloudevents+json");
                    assert_eq!((&one.json()["data"], &one.json()["subject"]), (&n, &json!("k")));
                }
                _ => {
                    assert_eq!(one.header("content-type"), "application/json");
                    assert_eq!((&one.json()["data"], &one.json()["key"]), (&n, &json!("k")));
                }
            }
        }
        assert_ne!(received[0].id(), received[1].id());
        let state = until(server.address, format, |it| it["state"]["delivered"] == 2).await;
        assert_eq!(state["state"]["failed"], 0, "{state}");
        assert_eq!(receiver.received().len(), 2, "{format}: one was sent again");
    }
    server.stop().await;
}

/// Goal: events of one key are sent one after the other, in their order, also while one of them
/// fails; events of other keys are sent at the same time. The receiver panics if two of a key come
/// at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_key_come_in_their_order_and_keys_do_not_wait_for_each_other() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "keys", &receiver, json!({ "max_in_flight": 8 })).await;
    receiver.usually(Reply::After(Duration::from_millis(5)));
    let (keys, each) = (8, 10);
    for n in 0..each {
        for key in 0..keys {
            order(&server, &format!("k{key}"), &json!({ "n": n })).await;
        }
    }
    receiver.got(keys * each).await;
    until(server.address, "keys", |it| it["state"]["delivered"] == keys * each).await;
    let mut seen = BTreeMap::<String, Vec<u64>>::new();
    for one in receiver.received() {
        let event = one.json();
        let key = event["key"].as_str().unwrap().to_owned();
        seen.entry(key).or_default().push(event["data"]["n"].as_u64().unwrap());
    }
    let all: Vec<u64> = (0..each as u64).collect();
    assert_eq!(seen.len(), keys);
    assert!(seen.values().all(|numbers| *numbers == all), "{seen:?}");
    assert!(receiver.most_at_once() > 1, "keys waited for each other");
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_an_array_that_is_bounded_and_a_failed_event_is_sent_alone() {
    let mut config = settings();
    config.webhooks.max_request_bytes = 1_024;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    for n in 0..6 {
        order(&server, &format!("k{n}"), &json!({ "n": n })).await;
    }
    order(&server, "large", &json!({ "n": 6, "filling": "x".repeat(2_000) })).await;
    order(&server, "last", &json!({ "n": 7 })).await;
    receiver.reply([Reply::Status(500, "")]);
    let more = json!({ "max_batch_events": 4, "max_in_flight": 1, "from": "earliest" });
    let made = make(&server, "batches", &receiver, more).await;
    let secret = made["secret"].as_str().unwrap();
    let state = until(server.address, "batches", |it| it["state"]["delivered"] == 8).await;
    assert_eq!(state["state"]["failed"], 1, "{state}");
    let received = receiver.received();
    let numbers = |body: Value| -> Vec<u64> {
        let events = body.as_array().unwrap().clone();
        events.iter().map(|event| event["data"]["n"].as_u64().unwrap()).collect()
    };
    let batches: Vec<Vec<u64>> = received.iter().map(|one| numbers(one.json())).collect();
    assert_eq!(batches[0], [0, 1, 2, 3], "{batches:?}");
    assert!(received[0].id().starts_with("bat_"));
    assert!(batches.iter().all(|batch| (1..=4).contains(&batch.len())), "{batches:?}");
    for n in 0..4 {
        assert!(batches[1..].contains(&vec![n]), "{n} is not sent alone: {batches:?}");
    }
    let large = batches.iter().find(|batch| batch.contains(&6)).unwrap();
    assert_eq!(large.as_slice(), [6], "it has more bytes than a request may have");
    assert!(received.iter().all(|one| one.is_signed_with(secret)));
    server.stop().await;
}

/// Goal: a filter, a pattern and a place to begin at hold for what is sent.
#[tokio::test]
async fn a_webhook_of_a_pattern_sends_what_its_filter_picks_from_where_it_begins() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    for (topic, kind) in [("a.1", "x"), ("a.2", "y"), ("b.1", "x"), ("a.3", "x")] {
        let path = format!("/v1/topics/{topic}/events?type={kind}");
        assert_eq!(ask(server.address, "POST", &path, &json!(topic)).await.status, 201);
    }
    let wanted = json!({
        "topic": "a.*", "url": receiver.url("/"), "from": "earliest",
        "filter": { "types": ["x"] },
    });
    let made = ask(server.address, "PUT", "/v1/webhooks/some", &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    until(server.address, "some", |it| it["state"]["delivered"] == 2).await;
    let mut topics: Vec<Value> =
        receiver.received().iter().map(|one| one.json()["topic"].clone()).collect();
    topics.sort_by_key(Value::to_string);
    assert_eq!(topics, ["a.1", "a.3"]);
    server.stop().await;
}

/// Goal: one host has no more requests at the same time than the settings say, whatever number of
/// webhooks it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_has_a_bounded_number_of_requests_at_once_of_all_webhooks() {
    let mut config = settings();
    config.webhooks.max_in_flight_per_host = 3;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    receiver.usually(Reply::After(Duration::from_millis(10)));
    for name in ["one", "two", "three"] {
        let url = receiver.url(&format!("/{name}"));
        make(&server, name, &receiver, json!({ "max_in_flight": 8, "url": url })).await;
    }
    for n in 0..10 {
        order(&server, &format!("k{n}"), &json!({ "n": n })).await;
    }
    receiver.got(30).await;
    assert_eq!(receiver.most_at_once(), 3);
    for name in ["one", "two", "three"] {
        until(server.address, name, |it| it["state"]["delivered"] == 10).await;
        assert_eq!(shown(server.address, name).await["state"]["failed"], 0);
    }
    server.stop().await;
}
