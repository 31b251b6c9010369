//! A publish that names many topics: over each protocol all of them store its events, or none does.

use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent as WireEvent, PublishRequest, PublishStreamRequest, TopicAck};
use leftoff::{Config, TopicConfig};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::common::{Process, Server, Sse, get, name, post, read_all, run, send, soon, to};
use crate::websocket::Client;

const WAYS: [&str; 4] = ["http", "grpc", "grpc-stream", "websocket"];

/// The topics with the sequence and the position of their first event, and whether it was stored
/// before; or else the reason of the refusal, and its numbers.
type Answered = Result<Vec<(String, u64, u64, bool)>, (String, Value)>;

/// Publishes events to topics over one protocol.
async fn publish(
    server: &Server,
    way: &str,
    topics: &[String],
    events: &[(&str, &str)],
    expected_sequence: Option<u64>,
) -> Answered {
    let json_events: Vec<Value> =
        events.iter().map(|(id, data)| json!({"id": id, "data": data})).collect();
    let body = json!({"topics": topics, "events": json_events});
    let mut body = body.as_object().unwrap().clone();
    body.extend(expected_sequence.map(|number| ("expected_sequence".to_owned(), json!(number))));
    let wire = || {
        let event = |(id, data): &(&str, &str)| WireEvent {
            id: (*id).to_owned(),
            payload: data.to_string().into(),
            ..WireEvent::default()
        };
        events.iter().map(event).collect::<Vec<_>>()
    };
    match way {
        "http" => {
            let request = to(server.address, "POST", "/v1/publish");
            let request = request.header("content-type", "application/json");
            let answer = send(request, json!(body).to_string()).await;
            let is_stored = answer.status == 201;
            if is_stored { Ok(of_json(&answer.json())) } else { Err(refused(&answer.json())) }
        }
        "grpc" => {
            let (topics, events) = (topics.to_vec(), wire());
            let request =
                PublishRequest { topics, events, expected_sequence, ..Default::default() };
            match server.grpc().await.publish(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    assert!(answer.ack.is_none());
                    Ok(of_acks(&answer.acks))
                }
                Err(status) => {
                    let info = status.get_details_error_info();
                    let numbers = info.map(|info| json!(info.metadata)).unwrap_or_default();
                    Err((status.message().to_owned(), numbers))
                }
            }
        }
        "grpc-stream" => {
            let (topics, events) = (topics.to_vec(), wire());
            let request =
                PublishStreamRequest { topics, events, expected_sequence, ..Default::default() };
            let requests = tokio_stream::iter([request]);
            let answers = server.grpc().await.publish_stream(requests).await.unwrap();
            let answer = soon(answers.into_inner().message()).await.unwrap().unwrap();
            match answer.outcome.unwrap() {
                Outcome::Acks(acks) => Ok(of_acks(&acks.acks)),
                Outcome::Error(error) => {
                    let numbers = json!({"actual_sequence": error.actual_sequence});
                    Err((error.message, numbers))
                }
                Outcome::Ack(ack) => panic!("{ack:?}"),
            }
        }
        _ => {
            let mut client = Client::connect(server.address).await;
            body.extend([("type".to_owned(), json!("publish")), ("ref".to_owned(), json!(7))]);
            client.say(json!(body)).await;
            let answer = client.hear().await;
            assert_eq!(answer["ref"], 7, "{answer}");
            match answer["type"].as_str() {
                Some("ack") => Ok(of_json(&answer)),
                _ => Err(refused(&answer["error"])),
            }
        }
    }
}

fn refused(problem: &Value) -> (String, Value) {
    (problem["detail"].as_str().unwrap_or_default().to_owned(), problem.clone())
}

fn of_json(answer: &Value) -> Vec<(String, u64, u64, bool)> {
    let topic = |topic: &Value| {
        let first = if topic["first"].is_null() { topic } else { &topic["first"] };
        let number = |field: &str| first[field].as_u64().unwrap();
        let name = topic["topic"].as_str().unwrap().to_owned();
        (name, number("sequence"), number("position"), first["duplicate"].as_bool().unwrap())
    };
    answer["topics"].as_array().unwrap().iter().map(topic).collect()
}

fn of_acks(acks: &[TopicAck]) -> Vec<(String, u64, u64, bool)> {
    let topic = |of: &TopicAck| {
        let ack = of.ack.as_ref().unwrap();
        let first = ack.first.unwrap();
        (of.topic.clone(), first.sequence, first.position, !ack.duplicates.is_empty())
    };
    acks.iter().map(topic).collect()
}

fn topics(way: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{way}.{name}")).collect()
}

/// Goal: over each protocol each topic gets the events, and the answer has the receipt of each, in
/// the order of the list. What is repeated is not stored again, and what is missing is.
#[tokio::test]
async fn each_topic_stores_the_events_and_has_its_receipt() {
    let server = Server::start().await;
    for way in WAYS {
        let before = server.broker.last_position().get();
        let (b_a, listed) = (topics(way, &["b", "a"]), topics(way, &["b", "a", "b"]));
        let events = [("1", "x"), ("2", "y")];
        let first = publish(&server, way, &listed, &events, Some(0)).await.unwrap();
        let expected =
            [(&b_a[0], before + 1), (&b_a[1], before + 3)].map(|(t, p)| (t.clone(), 1, p, false));
        assert_eq!(first, expected, "{way}");
        let c = format!("{way}.c");
        let all = [b_a.clone(), vec![c.clone()]].concat();
        let again = publish(&server, way, &all, &events, None).await.unwrap();
        let mut repeated = first.map_all(|entry| entry.3 = true);
        repeated.push((c, 1, before + 5, false));
        assert_eq!(again, repeated, "{way}");
        for topic in all {
            let stored = server.broker.topic(&name(&topic)).unwrap().extent;
            assert_eq!((stored.tail.get(), stored.earliest.get()), (3, 1), "{topic}");
        }
    }
    server.stop().await;
}

/// Changes each entry of a list.
trait MapAll {
    fn map_all(self, change: impl Fn(&mut (String, u64, u64, bool))) -> Self;
}

impl MapAll for Vec<(String, u64, u64, bool)> {
    fn map_all(mut self, change: impl Fn(&mut (String, u64, u64, bool))) -> Self {
        self.iter_mut().for_each(change);
        self
    }
}

/// Goal: what is wrong with one topic, or with all of it together, refuses the publish over each
/// protocol; the answer says what and where, and nothing is stored.
#[tokio::test]
async fn a_publish_that_one_topic_refuses_is_stored_in_none() {
    let mut config = Config::default();
    config.limits.max_batch_topics = 4;
    config.limits.max_batch_events = 6;
    config.limits.max_payload_bytes = 1_000;
    config.limits.max_batch_bytes = 2_000;
    config.broker.auto_create = false;
    let server = Server::with(config).await;
    for topic in ["a", "b", "c", "d"] {
        server.broker.create_topic(&name(topic), TopicConfig::default()).await.unwrap();
    }
    server.publish("b", "x").await;
    let before = server.broker.last_position();
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (one, long) = ([("", "x")], "x".repeat(900));
    for way in WAYS {
        let refusals = [
            (list(&["a", "b"]), &one[..], Some(0), "\"b\" is at sequence 1, not at the expected 0"),
            (list(&["a", "b", "nowhere"]), &one[..], None, "there is no topic \"nowhere\""),
            (list(&["a", "$own"]), &one[..], None, "$own"),
            (list(&["a", "b c"]), &one[..], None, "topics[1]: "),
            (list(&["a", "b", "c", "d", "e"]), &one[..], None, "topics in a publish: 5 is over"),
            (
                list(&["a", "b", "c", "d"]),
                &[("", "x"); 2][..],
                None,
                "events in a batch: 8 is over",
            ),
            (list(&["a", "b", "c"]), &[("", &*long)][..], None, "batch bytes: 2"),
            (list(&["a"]), &[][..], None, "events: is empty"),
        ];
        for (topics, events, expected, reason) in refusals {
            let (message, numbers) =
                publish(&server, way, &topics, events, expected).await.unwrap_err();
            assert!(message.contains(reason), "{way}: {message}, not {reason}");
            if expected.is_some() {
                let actual = &numbers["actual_sequence"];
                assert!(*actual == json!(1) || *actual == json!("1"), "{way}: {numbers}");
            }
        }
    }
    let refusals = [
        (json!({"topics": [], "event": {}}), "topics: is empty"),
        (json!({"event": {}}), "topics is missing"),
        (json!({"topics": ["a"]}), "event: write either event or events"),
        (json!({"topics": ["a"], "event": {}, "events": []}), "event: write either"),
        (json!({"topics": ["a"], "event": {"topic": "b"}}), "topic: belongs beside the event"),
        (json!({"topics": ["a"], "event": {}, "ephemeral": true}), "ephemeral"),
        (json!({"topic": "a", "topics": ["b"], "event": {}}), "topic"),
        (json!(["a"]), "body"),
    ];
    for (body, reason) in refusals {
        let answer = post(server.address, "/v1/publish", body.to_string()).await;
        let problem = answer.json();
        let told = problem["detail"].as_str().unwrap_or_default();
        assert!(answer.status == 400 && told.contains(reason), "{body}: {problem}");
    }
    let query = post(server.address, "/v1/publish?topic=a", r#"{"topics":["a"],"event":{}}"#).await;
    assert_eq!(query.status, 400, "{query:?}");
    let ephemeral = PublishRequest {
        topics: list(&["a"]),
        events: vec![WireEvent::default()],
        ephemeral: true,
        ..Default::default()
    };
    let status = server.grpc().await.publish(ephemeral).await.unwrap_err();
    assert!(status.message().contains("ephemeral: is for one topic"), "{status}");
    let both = PublishRequest {
        topic: "a".to_owned(),
        topics: list(&["b"]),
        events: vec![WireEvent::default()],
        ..Default::default()
    };
    let status = server.grpc().await.publish(both).await.unwrap_err();
    assert!(status.message().contains("write either topic or topics"), "{status}");
    assert_eq!(server.broker.last_position(), before, "nothing was stored");
    server.stop().await;
}

/// Goal: "notify these 500 users" is one call, is there for all of them after a crash, and each of
/// them, and a reader of all, gets it.
#[tokio::test]
async fn what_was_told_to_five_hundred_users_is_there_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let users: Vec<String> = (0..500).map(|number| format!("users.{number}.inbox")).collect();
    let mut watched = Sse::follow(process.address, &users[77], "").await;
    let body = json!({"topics": users, "event": {"id": "release-2", "data": "version 2"}});
    let answer = post(process.address, "/v1/publish", body.to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(watched.events(1).await, [(1, "\"version 2\"".to_owned())]);
    process.crash();
    drop(process);
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let page =
        get(process.address, "/v1/events?topic=users.*.inbox&from=earliest&limit=1000").await;
    let events = page.json()["events"].as_array().unwrap().clone();
    let told: Vec<&str> = events.iter().map(|event| event["topic"].as_str().unwrap()).collect();
    assert_eq!(told, users, "in the order of the list");
    let again = post(process.address, "/v1/publish", body.to_string()).await.json();
    let receipts = again["topics"].as_array().unwrap();
    assert!(receipts.len() == 500 && receipts.iter().all(|it| it["duplicate"] == true), "{again}");
    process.kill();
}

/// Goal: a caller's rate counts the events of each topic, so that a list of topics is no way around
/// the rate.
#[tokio::test]
async fn a_rate_counts_the_events_of_each_topic() {
    let directory = tempfile::tempdir().unwrap();
    let settings =
        ["rates.publishes_per_second=1", "rates.burst_ms=6000", "limits.max_batch_events=6"];
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let mut process = Process::serve(directory.path(), &arguments);
    process.until_ready().await;
    let publish = |topics: Value| {
        let body = json!({"topics": topics, "events": [{}, {}]}).to_string();
        async move { post(process.address, "/v1/publish", body).await }
    };
    assert_eq!(publish(json!(["a", "b"])).await.status, 201);
    let refused = publish(json!(["a", "b"])).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.json()["rate"], "publishes");
    assert_eq!(read_all(process.address, "a").await.len(), 2, "nothing of it was stored");
    process.kill();
}

/// Goal: the command line publishes each line to all topics that it is given, and lines that name a
/// topic to that one.
#[tokio::test]
async fn the_command_line_publishes_to_each_topic_that_it_is_given() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    std::fs::write(
        &file,
        "{\"data\":\"1\"}\n{\"topic\":\"other\",\"data\":\"2\"}\n{\"data\":\"3\"}\n",
    )
    .unwrap();
    let (file, url) = (file.to_str().unwrap(), format!("http://{}", server.address));
    let arguments = ["publish", "--topic", "a", "--topic", "b", "--file", file, "--server", &url];
    let output = run(&arguments).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("5 events stored"), "{told}");
    let of = |topic| read_all(server.address, topic);
    let both = [(1, "1".to_owned()), (2, "3".to_owned())];
    assert_eq!((of("a").await, of("b").await), (both.to_vec(), both.to_vec()));
    assert_eq!(of("other").await, [(1, "2".to_owned())]);
    let again = run(&arguments).await;
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("0 events stored, 5 were stored before"), "{told}");
    let both_ways = run(&["publish", "a", "--topic", "b", "--file", file, "--server", &url]).await;
    assert!(!both_ways.status.success());
    server.stop().await;
}
