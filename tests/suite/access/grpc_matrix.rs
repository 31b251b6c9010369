//! Every method of gRPC, by every kind of credential.

use std::path::Path;

use bytes::{BufMut, BytesMut};
use leftoff::edge::{grpc, proto};
use leftoff::permission::Action;
use prost::Message;

use super::credentials::Sent;
use super::kinds::{Credentials, KINDS, Kind, Use};
use super::{CANARY, Outcome, Rule, SECRET, all_of_answer, config};
use crate::common::{Answer, Server, name, send_h2c, soon};

const UNAUTHENTICATED: u32 = 16;
const DENIED: u32 = 7;
const DEADLINE_EXCEEDED: u32 = 4;

/// Returns the rule of a method, its message for a topic, and the status of success.
fn method(call: &str, topic: &str) -> (Rule, Vec<u8>, u32) {
    use Action::{Manage, Presence, Publish, Subscribe};
    use Rule::{Administers, Inside, Lists, Needs, Shows};
    let topic = || topic.to_owned();
    let events = vec![proto::NewEvent::default()];
    let config = || Some(proto::TopicConfig { max_events: Some(9), ..Default::default() });
    let consumer = || {
        let (topic, consumer) = (topic(), "c".to_owned());
        Some(proto::ConsumerRef { topic, consumer, ..proto::ConsumerRef::default() })
    };
    let work = || Some(proto::WorkRef { topic: topic(), consumer: "c".to_owned() });
    let webhook = || "w".to_owned();
    let first = || proto::EventRef { sequence: 1, ..proto::EventRef::default() };
    macro_rules! message {
        ($message:ident { $($field:ident: $value:expr),* }) => {{
            #[allow(unused_mut, reason = "some messages have no field")]
            let mut message = proto::$message::default();
            $(message.$field = $value;)*
            message.encode_to_vec()
        }};
    }
    let (rule, message) = match call {
        "Publish" => (Needs(Publish), message!(PublishRequest { topic: topic(), events: events })),
        "PublishStream" => {
            (Inside, message!(PublishStreamRequest { topic: topic(), events: events }))
        }
        "Subscribe" => (
            Needs(Subscribe),
            message!(SubscribeRequest { topic: topic(), from: "earliest".to_owned() }),
        ),
        "Read" => (Needs(Subscribe), message!(ReadRequest { topics: vec![topic()] })),
        "ReadState" => (Needs(Subscribe), message!(ReadStateRequest { topic: topic() })),
        "GetTopic" => (Shows, message!(GetTopicRequest { topic: topic() })),
        "ListTopics" => (Lists, message!(ListTopicsRequest {})),
        "ListMembers" => (Needs(Presence), message!(ListMembersRequest { topic: topic() })),
        "CreateTopic" => {
            (Needs(Manage), message!(CreateTopicRequest { topic: topic(), config: config() }))
        }
        "UpdateTopic" => {
            (Needs(Manage), message!(UpdateTopicRequest { topic: topic(), config: config() }))
        }
        "PurgeTopic" => {
            (Needs(Manage), message!(PurgeTopicRequest { topic: topic(), before: Some(1) }))
        }
        "DeleteTopic" => (Needs(Manage), message!(DeleteTopicRequest { topic: topic() })),
        "Maintain" => (Administers, message!(MaintainRequest { topic: topic() })),
        "Backup" => (Administers, message!(BackupRequest {})),
        "PutConsumer" => (Needs(Subscribe), message!(PutConsumerRequest { consumer: consumer() })),
        "UpdateConsumer" => {
            (Needs(Subscribe), message!(UpdateConsumerRequest { consumer: consumer() }))
        }
        "GetConsumer" => (Needs(Subscribe), message!(GetConsumerRequest { consumer: consumer() })),
        "ListConsumers" => (Inside, message!(ListConsumersRequest {})),
        "DeleteConsumer" => {
            (Needs(Subscribe), message!(DeleteConsumerRequest { consumer: consumer() }))
        }
        "SetCheckpoint" => {
            let cursor = "1".to_owned();
            let message = message!(SetCheckpointRequest { consumer: consumer(), cursor: cursor });
            (Needs(Subscribe), message)
        }
        "CheckpointStream" => (Inside, message!(CheckpointStreamRequest {})),
        "MarkEvents" => {
            let (mark, events) = (vec!["seen".to_owned()], vec![first()]);
            let message =
                message!(MarkEventsRequest { consumer: consumer(), mark: mark, events: events });
            (Needs(Subscribe), message)
        }
        "GetMarks" => (Needs(Subscribe), message!(GetMarksRequest { consumer: consumer() })),
        "CountEvents" => {
            let asked = proto::ConsumerCounts { consumer: consumer(), filters: Vec::new() };
            (Needs(Subscribe), message!(CountEventsRequest { consumers: vec![asked] }))
        }
        "ReadInbox" => (Needs(Subscribe), message!(ReadInboxRequest { consumer: consumer() })),
        "ReadGroups" => {
            let by = "key".to_owned();
            let message = message!(ReadGroupsRequest { consumer: consumer(), group_by: by });
            (Needs(Subscribe), message)
        }
        "Pull" => {
            let message = message!(PullRequest { of: work(), worker: "w".to_owned() });
            (Needs(Subscribe), message)
        }
        "Settle" => {
            let message = message!(SettleRequest { of: work(), ack: vec!["1-1-1-1".to_owned()] });
            (Needs(Subscribe), message)
        }
        "Work" => {
            let start = proto::WorkStart {
                of: work(),
                worker: "w".to_owned(),
                ..proto::WorkStart::default()
            };
            let start = Some(proto::work_request::Request::Start(start));
            (Needs(Subscribe), message!(WorkRequest { request: start }))
        }
        "GetWork" => (Needs(Subscribe), message!(GetWorkRequest { of: work() })),
        "CreateTicket" => (Inside, message!(CreateTicketRequest { kind: 1 })),
        "Revoke" => (Administers, message!(RevokeRequest { sub: "somebody-else".to_owned() })),
        "ListRevocations" => (Administers, message!(ListRevocationsRequest {})),
        "PutWebhook" => {
            let wanted = Some(proto::WebhookSettings {
                topic: topic(),
                url: "https://localhost:1/".to_owned(),
                ..Default::default()
            });
            (Administers, message!(PutWebhookRequest { webhook: webhook(), settings: wanted }))
        }
        "UpdateWebhook" => {
            let mask = Some(prost_types::FieldMask { paths: vec!["max_tries".to_owned()] });
            let message = message!(UpdateWebhookRequest { webhook: webhook(), update_mask: mask });
            (Administers, message)
        }
        "GetWebhook" => (Administers, message!(GetWebhookRequest { webhook: webhook() })),
        "ListWebhooks" => (Administers, message!(ListWebhooksRequest {})),
        "DeleteWebhook" => (Administers, message!(DeleteWebhookRequest { webhook: webhook() })),
        "PauseWebhook" => (Administers, message!(PauseWebhookRequest { webhook: webhook() })),
        "ResumeWebhook" => (Administers, message!(ResumeWebhookRequest { webhook: webhook() })),
        "RotateWebhook" => (Administers, message!(RotateWebhookRequest { webhook: webhook() })),
        "TestWebhook" => (Administers, message!(TestWebhookRequest { webhook: webhook() })),
        _ => panic!("{call} has no rule"),
    };
    let success = match call {
        "Subscribe" => DEADLINE_EXCEEDED,
        "CreateTopic" => 6,                          // The topic exists.
        "Pull" | "Settle" | "Work" | "GetWork" => 5, // There is no such consumer.
        _ => 0,
    };
    (rule, message, success)
}

/// Returns the paths and the names of all methods of the broker's protos.
fn methods() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/leftoff/v1");
    let mut calls = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split(' ').next().unwrap().to_owned();
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                let name = rest.split('(').next().unwrap().to_owned();
                calls.push((format!("/leftoff.v1.{service}/{name}"), name));
            }
        }
    }
    let files = prost_types::FileDescriptorSet::decode(grpc::DESCRIPTORS).unwrap().file;
    let files = files.iter().filter(|file| file.package() == "leftoff.v1");
    let described = files.flat_map(|file| &file.service).flat_map(|service| &service.method);
    for method in described {
        assert!(calls.iter().any(|(_, name)| name == method.name()), "{method:?}");
    }
    assert!(calls.len() >= 17, "{calls:?}");
    calls
}

/// Calls a method, and returns its status and its answer. Endless calls end by their deadline.
async fn called(server: &Server, sent: &Sent, path: &str, message: &[u8]) -> (u32, Answer) {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    let request = sent.to(server.grpc_address, "POST", path);
    let request = request.header("content-type", "application/grpc");
    let is_endless = path.ends_with("/Subscribe");
    let timeout = if is_endless { "300m" } else { "20S" };
    let request = request.header("te", "trailers").header("grpc-timeout", timeout);
    let answer = soon(send_h2c(request, body.freeze())).await;
    let status = answer.trailers.get("grpc-status").or(answer.headers.get("grpc-status"));
    let status = status.unwrap_or_else(|| panic!("{path}: {answer:?}")).to_str().unwrap();
    (status.parse().unwrap(), answer)
}

async fn topic_of(server: &Server) -> String {
    if server.broker.topic(&name(SECRET)).is_err() {
        server.publish(SECRET, CANARY).await;
    }
    format!("{:?}", server.broker.topic(&name(SECRET)).unwrap())
}

/// Goal: each method of gRPC does what its rule says, for every kind of credential; a refusal
/// changes nothing, shows nothing, and is the same for a topic that does not exist.
#[tokio::test]
async fn every_method_of_grpc_by_every_kind_of_credential() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    let credentials = Credentials::make(&server).await;
    for (path, name) in methods() {
        for kind in KINDS {
            check(&server, &credentials, (&path, &name), kind).await;
        }
    }
    server.stop().await;
}

async fn check(server: &Server, credentials: &Credentials, (path, name): (&str, &str), kind: Kind) {
    let (rule, message, success) = method(name, SECRET);
    if path.contains("WebhookService") {
        // A call before this one may have deleted it.
        let admin = credentials.one(server, Kind::AdminKey).await;
        let put = method("PutWebhook", SECRET).1;
        let (made, _) = called(server, &admin, "/leftoff.v1.WebhookService/PutWebhook", &put).await;
        assert_eq!(made, 0, "{name}");
    }
    let before = topic_of(server).await;
    let sent = credentials.one(server, kind).await;
    let (status, answer) = called(server, &sent, path, &message).await;
    let context = format!("{name} by {kind:?}: {answer:?}");
    let outcome = rule.outcome(kind.standing(Use::Other));
    let expected = match outcome {
        Outcome::Unauthenticated => UNAUTHENTICATED,
        Outcome::Denied => DENIED,
        Outcome::Done => success,
    };
    assert_eq!(status, expected, "{context}");
    let shown = all_of_answer(&answer);
    let may = |action| Rule::Needs(action).outcome(kind.standing(Use::Other)) == Outcome::Done;
    if outcome != Outcome::Done {
        assert_eq!(before, topic_of(server).await, "changed by {context}");
        assert!(answer.body.is_empty() && !shown.contains(CANARY), "{context}");
        let (_, unknown, _) = method(name, "secret.not");
        let sent = credentials.one(server, kind).await;
        let (unknown, other) = called(server, &sent, path, &unknown).await;
        assert_eq!(unknown, status, "{name} of an unknown topic by {kind:?}");
        let told = |answer: &Answer| {
            let of = |name: &str| {
                let value = answer.trailers.get(name).or(answer.headers.get(name));
                value.map(|value| value.to_str().unwrap().replace("secret.not", SECRET))
            };
            of("grpc-message")
        };
        assert_eq!(told(&other), told(&answer), "{name} of an unknown topic by {kind:?}");
    } else if rule == Rule::Lists {
        assert_eq!(shown.contains("secret"), may(Action::Subscribe), "{context}");
    } else if name == "PublishStream" {
        let is_changed = before != topic_of(server).await;
        assert_eq!(is_changed, may(Action::Publish), "{context}");
        assert_eq!(shown.contains("may not publish to"), !is_changed, "{context}");
    } else if ["Subscribe", "Read", "ReadInbox", "ReadGroups"].contains(&name) {
        assert!(shown.contains(CANARY), "{context}");
    }
}
