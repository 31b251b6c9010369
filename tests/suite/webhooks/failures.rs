//! Receivers that fail: what is repeated, when, for how long, and what becomes of the events.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply};
use super::{ask, events_of, make, order, settings, shown, until};
use crate::common::Server;

/// The statuses of the last requests of a webhook, the newest first; null without an answer.
fn statuses(shown: &Value) -> Vec<Value> {
    let attempts = shown["state"]["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| attempt["status"].clone()).collect()
}

#[tokio::test]
async fn a_failed_event_is_sent_again_under_the_same_id_until_it_is_taken() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    let made = make(&server, "again", &receiver, json!({})).await;
    let secret = made["secret"].as_str().unwrap();
    receiver.reply([Reply::Status(500, "out of order"), Reply::Status(302, "")]);
    order(&server, "k", &json!({ "n": 1 })).await;
    order(&server, "k", &json!({ "n": 2 })).await;
    let state = until(server.address, "again", |it| it["state"]["delivered"] == 2).await;
    assert_eq!(statuses(&state), [json!(204), json!(204), json!(302), json!(500)]);
    let attempts = &state["state"]["attempts"];
    assert_eq!(attempts[3]["answer"], "out of order");
    assert_eq!((&attempts[3]["tries"], &attempts[1]["tries"]), (&json!(1), &json!(3)));
    assert_eq!(
        (&state["state"]["failed"], &state["state"]["failures_in_a_row"]),
        (&json!(2), &json!(0))
    );
    let received = receiver.received();
    let ids: Vec<&str> = received.iter().map(|one| one.id()).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
    assert!(received.iter().all(|one| one.is_signed_with(secret)));
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it_up_to_the_bound() {
    for (asked, status) in [("1", 429), ("3600", 503)] {
        let mut config = settings();
        config.webhooks.max_retry_after_ms = 1_000;
        let server = Server::with(config).await;
        let receiver = Receiver::start().await;
        make(&server, "later", &receiver, json!({})).await;
        receiver.reply([Reply::Header(status, "retry-after", asked.to_owned())]);
        order(&server, "k", &json!({})).await;
        let received = receiver.got(2).await;
        let pause = received[1].at - received[0].at;
        assert!(pause >= Duration::from_secs(1), "{status}: {pause:?}");
        server.stop().await;
    }
}

/// Goal: whoever resumes a webhook whose receiver failed need not wait for the next try.
#[tokio::test]
async fn what_failed_is_sent_again_at_once_when_somebody_resumes() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "mended", &receiver, json!({ "max_in_flight": 2 })).await;
    receiver.reply([Reply::Header(503, "retry-after", "3600".to_owned())]);
    order(&server, "a", &json!({ "n": 1 })).await;
    until(server.address, "mended", |it| it["queue"]["delayed"] == 1).await;
    let ill = shown(server.address, "mended").await;
    assert_eq!((&ill["state"]["failed"], &ill["queue"]["delayed"]), (&json!(1), &json!(1)));
    let path = "/v1/webhooks/mended/resume";
    let resumed = ask(server.address, "POST", path, &Value::Null).await;
    assert_eq!(resumed.status, 200, "{resumed:?}");
    assert_eq!(resumed.json()["state"]["failures_in_a_row"], 0);
    let well = until(server.address, "mended", |it| it["state"]["delivered"] == 1).await;
    assert_eq!(well["queue"]["delayed"], 0, "{well}");
    assert_eq!(receiver.received().len(), 2);
    server.stop().await;
}

/// Goal: a receiver that never answers is given up after the time of a request, one that is slow
/// within it keeps its event to itself although the lease is shorter, and one whose answer has no
/// end, or never comes, counts by its status.
#[tokio::test]
async fn slow_and_hanging_receivers_and_endless_answers_are_bounded() {
    let mut config = settings();
    config.webhooks.timeout_ms = 3_000;
    config.webhooks.lease_ms = 1_000;
    config.webhooks.max_answer_bytes = 32 << 10;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    make(&server, "slow", &receiver, json!({})).await;
    receiver.reply([
        Reply::Hang,
        Reply::After(Duration::from_millis(2_500)),
        Reply::Endless,
        Reply::Silent,
    ]);
    let started = Instant::now();
    for n in 0..3 {
        order(&server, "k", &json!({ "n": n })).await;
    }
    let state = until(server.address, "slow", |it| it["state"]["delivered"] == 3).await;
    assert!(started.elapsed() >= Duration::from_millis(3_000 + 2_500 + 3_000));
    assert_eq!(statuses(&state), [json!(200), json!(200), json!(204), Value::Null]);
    let hung = &state["state"]["attempts"][3];
    assert_eq!(hung["answer"], "there was no answer within 3000 ms");
    let endless = state["state"]["attempts"][1]["answer"].as_str().unwrap();
    assert_eq!(endless, "x".repeat(512));
    assert_eq!(receiver.received().len(), 4, "a lease ran out while a request was under way");
    server.stop().await;
}

#[tokio::test]
async fn an_event_that_fails_too_often_is_a_dead_letter_and_others_go_on() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "dead", &receiver, json!({ "max_tries": 3 })).await;
    receiver.reply(vec![Reply::Status(422, "not for me"); 3]);
    order(&server, "k", &json!({ "n": 1 })).await;
    order(&server, "k", &json!({ "n": 2 })).await;
    until(server.address, "dead", |it| it["state"]["delivered"] == 1).await;
    let dead = events_of(server.address, "webhooks.dead.dead").await;
    let [dead] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!((&dead["data"], &dead["key"]), (&json!({ "n": 1 }), &json!("k")));
    let headers = dead["headers"].to_string();
    assert!(headers.contains("422 Unprocessable Entity: not for me"), "{headers}");
    assert_eq!(receiver.received().len(), 4);
    server.stop().await;
}

#[tokio::test]
async fn lasting_failure_pauses_with_an_event_and_a_success_ends_the_pause_by_itself() {
    let mut config = settings();
    config.webhooks.pause_after_failures = 3;
    config.webhooks.pause_after_ms = 1;
    config.webhooks.probe_after_ms = 300;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    make(&server, "ill", &receiver, json!({})).await;
    receiver.usually(Reply::Status(503, "ill"));
    order(&server, "k", &json!({ "n": 1 })).await;
    let state = until(server.address, "ill", |it| it["paused"].is_object()).await;
    assert_eq!(state["paused"]["reason"], "failing");
    assert_eq!(state["paused"]["problem"], "503 Service Unavailable: ill");
    let before = receiver.received();
    assert_eq!(before.len(), 3);
    // It is tried again by itself, and stays paused.
    let probes = receiver.got(5).await;
    for pair in probes[2..].windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(290), "no probe, but more");
    }
    assert!(shown(server.address, "ill").await["paused"].is_object());
    receiver.usually(Reply::Status(200, "well"));
    let state = until(server.address, "ill", |it| it["paused"].is_null()).await;
    assert_eq!(state["state"]["failures_in_a_row"], 0);
    order(&server, "k", &json!({ "n": 2 })).await;
    until(server.address, "ill", |it| it["state"]["delivered"] == 2).await;
    let told = events_of(server.address, "%24webhooks.status").await;
    let types: Vec<&Value> = told.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["webhook.created", "webhook.paused", "webhook.resumed"]);
    let expected = json!({
        "webhook": "ill", "reason": "failing", "problem": "503 Service Unavailable: ill",
    });
    assert_eq!((&told[1]["data"], &told[1]["key"]), (&expected, &json!("ill")));
    assert_eq!(told[2]["data"], json!({ "webhook": "ill", "by_itself": true }));
    server.stop().await;
}

/// Goal: a receiver that is gone is asked no more until somebody resumes the webhook, and no event
/// is lost or dead by that; a pause by hand holds, too.
#[tokio::test]
async fn a_receiver_that_is_gone_and_a_pause_by_hand_wait_for_somebody() {
    let mut config = settings();
    config.webhooks.probe_after_ms = 50;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    make(&server, "gone", &receiver, json!({ "max_tries": 1 })).await;
    receiver.reply([Reply::Status(410, "")]);
    order(&server, "k", &json!({ "n": 1 })).await;
    let state = until(server.address, "gone", |it| it["paused"].is_object()).await;
    assert_eq!(state["paused"]["reason"], "gone");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.received().len(), 1, "one that is gone is not tried by itself");
    let resume = async |name: &str| {
        ask(server.address, "POST", &format!("/v1/webhooks/{name}/resume"), &Value::Null).await
    };
    assert_eq!(resume("gone").await.json()["paused"], Value::Null);
    until(server.address, "gone", |it| it["state"]["delivered"] == 1).await;
    assert_eq!(events_of(server.address, "webhooks.gone.dead").await, Vec::<Value>::new());

    let paused = ask(server.address, "POST", "/v1/webhooks/gone/pause", &Value::Null).await;
    assert_eq!(paused.json()["paused"]["reason"], "asked");
    order(&server, "k", &json!({ "n": 2 })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.received().len(), 2, "a paused webhook sends nothing");
    resume("gone").await;
    assert_eq!(receiver.got(3).await[2].json()["data"]["n"], 2);
    server.stop().await;
}

/// Goal: while a receiver is down, one request at a time asks for it, so that few events use up
/// their tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_down_is_asked_with_one_request_at_a_time() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    receiver.usually(Reply::Status(500, ""));
    make(&server, "down", &receiver, json!({ "max_in_flight": 1 })).await;
    order(&server, "first", &json!({})).await;
    until(server.address, "down", |it| it["state"]["failures_in_a_row"].as_u64() > Some(0)).await;
    let change = json!({ "max_in_flight": 8 });
    let changed = ask(server.address, "PATCH", "/v1/webhooks/down", &change).await;
    assert_eq!(changed.json()["max_in_flight"], 8, "{changed:?}");
    for n in 0..20 {
        order(&server, &format!("k{n}"), &json!({})).await;
    }
    receiver.got(30).await;
    assert_eq!(receiver.most_at_once(), 1);
    receiver.usually(Reply::After(Duration::from_millis(20)));
    until(server.address, "down", |it| it["state"]["delivered"] == 21).await;
    assert!(receiver.most_at_once() > 1, "it is well again");
    server.stop().await;
}

/// Goal: what was taken for later requests waits, too, when a receiver asks for time.
#[tokio::test]
async fn nothing_that_waits_is_sent_before_the_time_that_a_receiver_asks_for() {
    let server = Server::with(settings()).await;
    let receiver = Receiver::start().await;
    make(&server, "waits", &receiver, json!({ "max_batch_events": 10, "max_in_flight": 1 })).await;
    let act = async |act: &str| {
        ask(server.address, "POST", &format!("/v1/webhooks/waits/{act}"), &Value::Null).await
    };
    act("pause").await;
    for n in 0..4 {
        order(&server, &format!("k{n}"), &json!({ "n": n })).await;
    }
    let asked = Reply::Header(503, "retry-after", "1".to_owned());
    receiver.reply([Reply::Status(500, ""), Reply::Status(200, ""), asked]);
    act("resume").await;
    let received = receiver.got(4).await;
    let sizes: Vec<usize> =
        received[..4].iter().map(|one| one.json().as_array().unwrap().len()).collect();
    assert_eq!(sizes, [4, 1, 1, 1], "what failed is sent alone");
    let pause = received[3].at - received[2].at;
    assert!(pause >= Duration::from_secs(1), "{pause:?}");
    until(server.address, "waits", |it| it["state"]["delivered"] == 4).await;
    server.stop().await;
}

/// Goal: a receiver that takes the place of another one does not wait for what that one asked for.
#[tokio::test]
async fn another_url_is_tried_at_once() {
    let server = Server::with(settings()).await;
    let (ill, well) = (Receiver::start().await, Receiver::start().await);
    ill.usually(Reply::Header(503, "retry-after", "3600".to_owned()));
    make(&server, "moved", &ill, json!({})).await;
    order(&server, "a", &json!({ "n": 1 })).await;
    until(server.address, "moved", |it| it["state"]["failed"] == 1).await;
    let change = json!({ "url": well.url("/hook") });
    let changed = ask(server.address, "PATCH", "/v1/webhooks/moved", &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    order(&server, "b", &json!({ "n": 2 })).await;
    assert_eq!(well.got(1).await[0].json()["data"]["n"], 2);
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_tried_no_more_also_if_it_has_failed_before() {
    let mut config = settings();
    config.webhooks.pause_after_failures = 1;
    config.webhooks.pause_after_ms = 0;
    config.webhooks.probe_after_ms = 20;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    receiver.reply([Reply::Status(503, ""), Reply::Status(410, "")]);
    receiver.usually(Reply::Status(410, ""));
    make(&server, "ill", &receiver, json!({})).await;
    order(&server, "k", &json!({})).await;
    until(server.address, "ill", |it| it["paused"]["reason"] == "gone").await;
    assert_eq!(receiver.received().len(), 2);
    server.stop().await;
}

/// Goal: a pause holds at once for what waits for room at its host, and gives it back.
#[tokio::test]
async fn what_waits_for_a_busy_host_is_given_back_when_its_webhook_is_paused() {
    let mut config = settings();
    config.webhooks.max_in_flight_per_host = 1;
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    receiver.usually(Reply::Hang);
    make(&server, "first", &receiver, json!({})).await;
    order(&server, "k", &json!({})).await;
    receiver.got(1).await;
    make(&server, "second", &receiver, json!({ "from": "earliest" })).await;
    until(server.address, "second", |it| it["state"]["in_flight"] == 1).await;
    ask(server.address, "POST", "/v1/webhooks/second/pause", &Value::Null).await;
    let given_back = |it: &Value| it["state"]["in_flight"] == 0 && it["queue"]["in_flight"] == 0;
    let paused = until(server.address, "second", given_back).await;
    assert_eq!(paused["lag"]["unfinished"], 1, "{paused}");
    assert_eq!(receiver.received().len(), 1);
    ask(server.address, "DELETE", "/v1/webhooks/first", &Value::Null).await;
    server.stop().await;
}
