//! What administrators do with webhooks, over HTTP and gRPC, and what nobody gets to see.

use std::time::Duration;

use leftoff::edge::proto::webhook_service_client::WebhookServiceClient;
use leftoff::edge::proto::{
    DeleteWebhookRequest, GetWebhookRequest, ListWebhooksRequest, PauseWebhookRequest,
    PutWebhookRequest, ResumeWebhookRequest, RotateWebhookRequest, SignatureKind,
    TestWebhookRequest, UpdateWebhookRequest, WebhookFormat, WebhookPauseReason, WebhookSettings,
};
use serde_json::{Value, json};
use tonic::Code;

use super::receiver::Receiver;
use super::{ask, events_of, make, order, settings, shown, until};
use crate::common::{Server, get, send, soon, to};

#[tokio::test]
async fn a_secret_is_told_once_and_the_topic_with_it_is_read_by_nobody() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let made = make(&server, "shy", &receiver, json!({})).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let key = secret.strip_prefix("whsec_").unwrap();
    let again = json!({ "topic": "orders", "url": receiver.url("/other") });
    let again = ask(server.address, "PUT", "/v1/webhooks/shy", &again).await;
    assert_eq!(again.status, 200);
    let change = json!({ "max_in_flight": 2 });
    let answers = [
        again,
        get(server.address, "/v1/webhooks/shy").await,
        get(server.address, "/v1/webhooks").await,
        ask(server.address, "PATCH", "/v1/webhooks/shy", &change).await,
        ask(server.address, "POST", "/v1/webhooks/shy/pause", &Value::Null).await,
        ask(server.address, "POST", "/v1/webhooks/shy/resume", &Value::Null).await,
        ask(server.address, "POST", "/v1/webhooks/shy/test", &Value::Null).await,
        get(server.address, "/v1/topics/%24webhooks.status/events?from=earliest").await,
    ];
    for answer in answers {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(answer.status, 200, "{text}");
        assert!(!text.contains(key), "{text}");
    }
    let keys = &shown(server.address, "shy").await["keys"];
    assert_eq!((&keys[0]["kind"], &keys[0]["secret"]), (&json!("hmac"), &json!("***")));
    for path in [
        "/v1/topics/%24webhooks/events?from=earliest",
        "/v1/topics/%24webhooks/state",
        "/v1/topics/%24webhooks",
        "/v1/topics/%24webhooks/presence",
        "/v1/events?topic=%24webhooks&from=earliest",
        "/v1/events?topic=orders&topic=%24webhooks&from=earliest",
    ] {
        let answer = get(server.address, path).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(answer.status, 404, "{path}: {text}");
        assert!(!text.contains(key), "{path}: {text}");
    }
    for pattern in ["%3E", "*", "%24webhooks.%3E"] {
        let page = get(server.address, &format!("/v1/events?topic={pattern}&from=earliest")).await;
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        assert!(!text.contains(key), "{pattern}: {text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn two_keys_sign_while_a_key_is_changed() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let made = make(&server, "keys", &receiver, json!({})).await;
    let old = made["secret"].as_str().unwrap().to_owned();
    let path = "/v1/webhooks/keys/rotate";
    let rotated = ask(server.address, "POST", path, &json!({ "keep_old_ms": 1_500 })).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let new = rotated.json()["secret"].as_str().unwrap().to_owned();
    assert_ne!(old, new);
    order(&server, "k", &json!({})).await;
    let both = receiver.got(1).await;
    assert!(both[0].is_signed_with(&old) && both[0].is_signed_with(&new));
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    order(&server, "k", &json!({})).await;
    let one = &receiver.got(2).await[1];
    assert!(!one.is_signed_with(&old) && one.is_signed_with(&new));
    let own = format!("whsec_{}", "A".repeat(32));
    let rotated = ask(server.address, "POST", path, &json!({ "secret": own })).await;
    assert_eq!(rotated.json()["secret"], json!(own));
    let to_ed25519 = json!({ "signature": "ed25519", "keep_old_ms": 0 });
    let rotated = ask(server.address, "POST", path, &to_ed25519).await.json();
    assert_eq!(rotated["secret"], Value::Null, "the receiver has the public key");
    assert!(rotated["keys"][0]["public_key"].as_str().unwrap().starts_with("whpk_"));
    order(&server, "k", &json!({})).await;
    let last = &receiver.got(3).await[2];
    assert!(last.header("webhook-signature").starts_with("v1a,"));
    let too_long = json!({ "keep_old_ms": 30_u64 * 86_400_000 + 1 });
    let refused = ask(server.address, "POST", path, &too_long).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn settings_are_changed_by_name_and_what_is_wrong_is_refused_by_name() {
    let mut config = settings();
    config.webhooks.max_webhooks = 2;
    config.webhooks.max_batch_events = 10;
    config.webhooks.max_in_flight = 8;
    config.webhooks.max_tries = 9;
    let server = Server::with(config).await;
    let address = server.address;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    make(&server, "a", &receiver, json!({ "max_tries": 3 })).await;
    let change = json!({ "url": other.url("/b"), "max_tries": null });
    let changed = ask(address, "PATCH", "/v1/webhooks/a", &change).await.json();
    assert_eq!((&changed["url"], &changed["max_tries"]), (&json!(other.url("/b")), &Value::Null));
    order(&server, "k", &json!({})).await;
    assert_eq!(other.got(1).await[0].path, "/b");
    let good = json!({ "topic": "orders", "url": receiver.url("/") });
    let with = |name: &str, value: Value| {
        let mut wanted = good.clone();
        wanted[name] = value;
        wanted
    };
    for (method, path, body, status, word) in [
        ("PUT", "a", with("topic", json!("others")), 400, "topic: is \\\"orders\\\""),
        ("PUT", "a", with("secret", json!(format!("whsec_{}", "A".repeat(32)))), 400, "rotating"),
        ("PUT", "b", with("max_batch_events", json!(11)), 400, "max_batch_events: 11 is not"),
        ("PUT", "b", with("max_in_flight", json!(9)), 400, "max_in_flight: 9 is not from 1 to 8"),
        ("PUT", "b", with("max_tries", json!(10)), 400, "max_tries: 10 is not from 0 to 9"),
        ("PUT", "b", with("colour", json!(1)), 400, "colour"),
        ("PUT", "b", with("topic", json!(">")), 400, "dead_letter"),
        ("PUT", "b", with("topic", json!("$webhooks")), 400, "secrets"),
        ("PUT", "b.c", good.clone(), 400, "webhook: \\\"b.c\\\""),
        ("PUT", "b?x=1", good.clone(), 400, "x"),
        ("PATCH", "none", json!({}), 404, "there is no webhook \\\"none\\\""),
        ("GET", "none", Value::Null, 404, "no webhook"),
        ("DELETE", "none", Value::Null, 404, "no webhook"),
        ("POST", "none/pause", Value::Null, 404, "no webhook"),
        ("POST", "none/test", Value::Null, 404, "no webhook"),
        ("POST", "a/pause", json!({ "for": 1 }), 400, "for"),
    ] {
        let refused = ask(address, method, &format!("/v1/webhooks/{path}"), &body).await;
        let text = String::from_utf8(refused.body.to_vec()).unwrap();
        assert_eq!(refused.status, status, "{method} {path} {body}: {text}");
        assert!(text.contains(word), "{method} {path}: {text}");
    }
    assert_eq!(ask(address, "PUT", "/v1/webhooks/b", &good).await.status, 201);
    let full = ask(address, "PUT", "/v1/webhooks/c", &good).await;
    assert!(full.status.as_u16() >= 400, "{full:?}");
    assert!(full.json()["detail"].as_str().unwrap().contains("there are 2 webhooks"));
    let page = get(address, "/v1/webhooks?limit=1&after=a").await.json();
    assert_eq!(page["webhooks"].as_array().unwrap().len(), 1);
    assert_eq!(page["webhooks"][0]["name"], "b");
    server.stop().await;
}

/// Goal: nobody takes a webhook's events away from it, or says of them that they are finished.
#[tokio::test]
async fn nobody_but_the_broker_works_for_a_webhook() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "own", &receiver, json!({})).await;
    let consumer = "/v1/consumers/webhook:own";
    for (method, path, body) in [
        ("POST", "/pull?topic=orders", json!({ "worker": "thief" })),
        ("POST", "/settle?topic=orders", json!({ "ack": ["1-1-1-1"] })),
        ("PUT", "?topic=orders&shared=true", json!({ "shared": {} })),
        ("DELETE", "?topic=orders&shared=true", Value::Null),
        ("PATCH", "?topic=orders", json!({ "filter": { "keys": ["none"] } })),
        ("DELETE", "?topic=orders", Value::Null),
        ("POST", "/marks?topic=orders", json!({ "mark": ["read"], "events": [1] })),
    ] {
        let refused = ask(server.address, method, &format!("{consumer}{path}"), &body).await;
        let text = String::from_utf8(refused.body.to_vec()).unwrap();
        assert!(
            refused.status == 400 && text.contains("is of a webhook"),
            "{method} {path} {text}"
        );
    }
    order(&server, "k", &json!({ "n": 1 })).await;
    receiver.got(1).await;
    server.stop().await;
}

/// Goal: a webhook that is deleted sends nothing more, and one that is made again begins anew.
#[tokio::test]
async fn a_deleted_webhook_is_gone_with_its_place() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "brief", &receiver, json!({})).await;
    order(&server, "k", &json!({ "n": 1 })).await;
    receiver.got(1).await;
    let deleted = ask(server.address, "DELETE", "/v1/webhooks/brief", &Value::Null).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(get(server.address, "/v1/webhooks/brief").await.status, 404);
    order(&server, "k", &json!({ "n": 2 })).await;
    make(&server, "brief", &receiver, json!({ "from": "earliest" })).await;
    let received = receiver.got(3).await;
    let numbers: Vec<&str> = received.iter().map(|one| one.id()).collect();
    assert_eq!(numbers[0], numbers[1], "the first event again: {numbers:?}");
    let told = events_of(server.address, "%24webhooks.status").await;
    let types: Vec<&Value> = told.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["webhook.created", "webhook.deleted", "webhook.created"]);
    server.stop().await;
}

#[tokio::test]
async fn a_test_sends_a_signed_request_and_counts_for_nothing() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let made = make(&server, "tried", &receiver, json!({})).await;
    let attempt = ask(server.address, "POST", "/v1/webhooks/tried/test", &Value::Null).await.json();
    assert_eq!((&attempt["status"], &attempt["events"]), (&json!(204), &json!(0)));
    let ping = &receiver.got(1).await[0];
    assert!(ping.is_signed_with(made["secret"].as_str().unwrap()));
    assert_eq!(ping.id(), attempt["webhook_id"]);
    assert_eq!(
        (&ping.json()["type"], &ping.json()["data"]["webhook"]),
        (&json!("leftoff.ping"), &json!("tried"))
    );
    let state = &shown(server.address, "tried").await["state"];
    assert_eq!((&state["delivered"], &state["failed"]), (&json!(0), &json!(0)));
    assert_eq!(state["attempts"][0], attempt);
    server.stop().await;
}

#[tokio::test]
async fn all_of_it_is_there_over_grpc() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let mut client =
        WebhookServiceClient::connect(format!("http://{}", server.address)).await.unwrap();
    let webhook = || "rpc".to_owned();
    let settings = WebhookSettings {
        topic: "orders".to_owned(),
        url: receiver.url("/rpc"),
        format: WebhookFormat::Cloudevents.into(),
        ..WebhookSettings::default()
    };
    let request = PutWebhookRequest {
        webhook: webhook(),
        settings: Some(settings.clone()),
        signature: SignatureKind::Hmac.into(),
        ..PutWebhookRequest::default()
    };
    let made = client.put_webhook(request).await.unwrap().into_inner();
    assert!(made.secret.starts_with("whsec_"));
    order(&server, "k", &json!({})).await;
    let sent = &receiver.got(1).await[0];
    assert!(sent.is_signed_with(&made.secret));
    assert_eq!(sent.header("content-type"), "application/cloudevents+json");
    until(server.address, "rpc", |it| it["state"]["delivered"] == 1).await;
    let request = || GetWebhookRequest { webhook: webhook() };
    let shown = client.get_webhook(request()).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!((shown.delivered, shown.attempts.len()), (1, 1));
    assert_eq!(shown.keys[0].kind(), SignatureKind::Hmac);
    let checkpoint = shown.checkpoint.clone();
    assert!(checkpoint.starts_with("1-"), "{checkpoint}");
    let mask = |paths: &[&str]| prost_types::FieldMask {
        paths: paths.iter().map(|it| (*it).to_owned()).collect(),
    };
    let request = UpdateWebhookRequest {
        webhook: webhook(),
        settings: Some(WebhookSettings { max_tries: Some(5), ..settings.clone() }),
        update_mask: Some(mask(&["max_tries"])),
    };
    let updated = client.update_webhook(request).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!(updated.settings.unwrap().max_tries, Some(5));
    let request = UpdateWebhookRequest {
        webhook: webhook(),
        settings: Some(settings),
        update_mask: Some(mask(&["colour"])),
    };
    let refused = client.update_webhook(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let request = PauseWebhookRequest { webhook: webhook() };
    let paused = client.pause_webhook(request).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!(paused.pause_reason(), WebhookPauseReason::Asked);
    let request = ResumeWebhookRequest { webhook: webhook() };
    let resumed = client.resume_webhook(request).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!(resumed.pause_reason(), WebhookPauseReason::Unspecified);
    let request = RotateWebhookRequest { webhook: webhook(), ..RotateWebhookRequest::default() };
    let rotated = client.rotate_webhook(request).await.unwrap().into_inner();
    assert_eq!(rotated.webhook.unwrap().keys.len(), 2);
    let request = TestWebhookRequest { webhook: webhook() };
    let attempt = client.test_webhook(request).await.unwrap().into_inner().attempt.unwrap();
    assert_eq!(attempt.status, Some(204));
    assert!(receiver.got(2).await[1].is_signed_with(&rotated.secret));
    let request = ListWebhooksRequest::default();
    let listed = client.list_webhooks(request).await.unwrap().into_inner();
    assert_eq!(listed.webhooks.len(), 1);
    let request = DeleteWebhookRequest { webhook: webhook() };
    client.delete_webhook(request).await.unwrap();
    let gone = client.get_webhook(request_of("rpc")).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    soon(server.stop()).await;
}

/// Goal: a request that is too large is refused with the limit, over both interfaces.
#[tokio::test]
async fn requests_lists_and_pages_are_bounded() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let padded = |bytes: usize| {
        let mut body = json!({ "topic": "orders", "url": receiver.url("/") }).to_string();
        body.extend(std::iter::repeat_n(' ', bytes - body.len()));
        body
    };
    let put = async |bytes| {
        let request = to(server.address, "PUT", "/v1/webhooks/large");
        send(request.header("content-type", "application/json"), padded(bytes)).await
    };
    let refused = put((64 << 10) + 1).await;
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("limit of 65536"));
    assert_eq!(put(64 << 10).await.status, 201);
    let mut client =
        WebhookServiceClient::connect(format!("http://{}", server.address)).await.unwrap();
    let large = GetWebhookRequest { webhook: "x".repeat(64 << 10) };
    let refused = client.get_webhook(large).await.unwrap_err();
    assert!(![Code::Ok, Code::NotFound].contains(&refused.code()), "{refused:?}");
    let refused = get(server.address, "/v1/webhooks?limit=10001").await;
    assert_eq!(refused.status, 413, "{refused:?}");
    server.stop().await;
}

fn request_of(webhook: &str) -> GetWebhookRequest {
    GetWebhookRequest { webhook: webhook.to_owned() }
}
